"""`sevenloops ladder`: from the naive loops to peak, for products and for convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import PLAIN, Json, Output, Threads, numbers, reporting

__all__ = ["ladder_app"]

ladder_app = typer.Typer(help="Climb from the naive loops to the machine's peak, a schedule a rung.", **PLAIN)

RungNames = Annotated[list[str] | None, typer.Option("--rung", help="Only this rung (again for more), shown in full.")]
File = Annotated[Path | None, typer.Option("--schedule", help="A rung of your own: a file as `--rung NAME --code` prints.")]
Code = Annotated[bool, typer.Option("--code", help="Print the code of --rung and stop: the start of a file of your own.")]
Assembly = Annotated[bool, typer.Option("--assembly", help="Add the machine code of the hot loop to --rung or --schedule.")]
Picture = Annotated[bool, typer.Option("--picture", help="Draw which cache lines the inner loops touch, in order.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the ladder into this file (.png or .svg); needs matplotlib.")]
AccessPlot = Annotated[Path | None, typer.Option(help="Draw the cache lines of the rungs into this file (.png or .svg).")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each rung gets its turn.")]
Limit = Annotated[float, typer.Option(help="Leave out a rung whose one call would take longer than so many seconds.")]
Peers = Annotated[bool, typer.Option("--peers/--no-peers", help="Time other libraries beside, where they are installed.")]


@ladder_app.command("gemm")
@reporting
def ladder_gemm(
    size: Annotated[str, typer.Option(help="Sizes of square products, comma-separated.")] = "128,256,512,1024",
    rung: RungNames = None,
    schedule: File = None,
    code: Code = False,
    assembly: Assembly = False,
    picture: Picture = False,
    peers: Peers = True,
    threads: Threads = None,
    rounds: Rounds = 5,
    limit_s: Limit = 10.0,
    plot: Plot = None,
    access_plot: AccessPlot = None,
    json: Json = False,
    output: Output = None,
) -> None:
    """Climb the ladder of the matrix product: `ladder gemm`, one rung with `--rung tile --size 512`."""
    from ..ladder import Options, gemm_cases
    from .ladder import Wanted, ladder_command

    wanted = Wanted("gemm", tuple(rung or ()), schedule, peers, code, assembly, picture, plot, access_plot, json, output)
    ladder_command(wanted, gemm_cases(numbers("size", size)), Options(threads, rounds, limit_s=limit_s))


@ladder_app.command("conv")
@reporting
def ladder_conv(
    layer: Annotated[list[str] | None, typer.Option(help="walkthrough, vgg, or a descriptor; by default both.")] = None,
    rung: RungNames = None,
    schedule: File = None,
    code: Code = False,
    assembly: Assembly = False,
    picture: Picture = False,
    peers: Peers = True,
    threads: Threads = None,
    rounds: Rounds = 5,
    limit_s: Limit = 10.0,
    plot: Plot = None,
    access_plot: AccessPlot = None,
    json: Json = False,
    output: Output = None,
) -> None:
    """Climb the ladder of the convolution, on a first layer of three channels and on a layer of VGG."""
    from ..ladder import Options
    from .ladder import Wanted, conv_cases, ladder_command

    wanted = Wanted("conv", tuple(rung or ()), schedule, peers, code, assembly, picture, plot, access_plot, json, output)
    ladder_command(wanted, conv_cases(layer or []), Options(threads, rounds, limit_s=limit_s))
