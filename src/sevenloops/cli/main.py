"""The `sevenloops` command: options are read here, the work is done by the library.

Expected errors are one line on standard error and exit status 2; Ctrl-C exits with 130.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ..errors import ProblemError, SevenLoopsError

__all__ = ["app", "main"]

INTERRUPTED = 130
PEERS = "onnxruntime,openvino,torch"
Command = TypeVar("Command", bound=Callable[..., Any])

PLAIN: dict[str, Any] = {"no_args_is_help": True, "add_completion": False, "pretty_exceptions_enable": False}
app = typer.Typer(help="Convolutions and matrix products at the limit of the CPU.", **PLAIN)
bench_app = typer.Typer(help="Time problems against other libraries, each in its own process, in turn.", **PLAIN)
cache_app = typer.Typer(help="The cache of compiled kernels.", **PLAIN)
app.add_typer(bench_app, name="bench")
app.add_typer(cache_app, name="cache")
tuned_app = typer.Typer(help="The records of tuning: what `tune` found, and what is shipped.", **PLAIN)
app.add_typer(tuned_app, name="tuned")

Problems = Annotated[list[str] | None, typer.Argument(metavar="PROBLEM...", help="One-line descriptors.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Algorithm = Annotated[str | None, typer.Option(help="Force an algorithm by name.")]
IsaName = Annotated[str | None, typer.Option(help="Compile for a lesser instruction set: avx2, sse4.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads; by default every core this process may use.")]
Accuracy = Annotated[str, typer.Option(help="strict: only algorithms that accumulate as the definition does; or fast.")]
Against = Annotated[str, typer.Option(help="Comma-separated peers; also torch-nchw, numpy, sevenloops:ALGORITHM, none.")]
Rounds = Annotated[int, typer.Option(min=1, help="How often each engine gets its turn.")]
Output = Annotated[Path | None, typer.Option(help="Also write the results to this file, as JSON.")]


def _reporting(command: Command) -> Command:
    """Turn expected errors into one line and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (SevenLoopsError, OSError) as error:
            if isinstance(error, BrokenPipeError):  # `sevenloops ... | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            print(f"sevenloops: {error}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    return run  # type: ignore[return-value]


@app.command("machine")
@_reporting
def machine(
    json: Json = False, remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure again.")] = False
) -> None:
    """Show this machine: instruction set, caches, and what it can do at most (measured once, in about 3 s)."""
    from .machine import machine_command

    machine_command(json=json, remeasure=remeasure)


@bench_app.command("conv")
@_reporting
def bench_conv(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 1,
    against: Against = PEERS,
    threads: Threads = None,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time convolutions: `sevenloops bench conv mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1`, or `--network resnet50`."""
    from ..bench.networks import layers
    from ..bench.runner import Options, as_layers
    from .bench import bench_command, split_names
    from .problems import conv_problems

    chosen = as_layers(conv_problems(problems or [])) + (layers(network, batch) if network else [])
    bench_command(chosen, Options(split_names(against), threads, algorithm, isa, rounds, accuracy=accuracy), json, output)


@bench_app.command("shift")
@_reporting
def bench_shift(
    network: Annotated[str, typer.Option(help="Networks whose shifts are measured.")] = "shiftresnet20,shiftneta",
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch.")] = 1,
    against: Against = f"{PEERS},unshifted",
    threads: Threads = None,
    isa: IsaName = None,
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time shifts fused with their 1x1 convolution; `unshifted` is the same 1x1 alone, peers take their faster road."""
    from ..bench.networks import shift_layers
    from ..bench.runner import Options
    from .bench import bench_command, split_names

    chosen = [layer for name in split_names(network) for layer in shift_layers(name, batch)]
    bench_command(chosen, Options(split_names(against), threads, None, isa, rounds), json, output)


@bench_app.command("gemm")
@_reporting
def bench_gemm(
    problems: Problems = None,
    against: Against = f"{PEERS},numpy",
    threads: Threads = None,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
    rounds: Rounds = 7,
    json: Json = False,
    output: Output = None,
) -> None:
    """Time matrix products: `sevenloops bench gemm 512 509x1021x512` (MxNxK), or descriptors."""
    from ..bench.runner import Options, as_layers
    from .bench import bench_command, split_names
    from .problems import gemm_problems

    chosen = as_layers(gemm_problems(problems or []))
    bench_command(chosen, Options(split_names(against), threads, algorithm, isa, rounds, accuracy=accuracy), json, output)


@bench_app.command("accuracy")
@_reporting
def bench_accuracy(
    kernels: Annotated[str, typer.Option("--kernels", help="Comma-separated sizes of square kernels.")] = "3,5",
    channels: Annotated[str, typer.Option("--channels", help="Comma-separated numbers of input channels.")] = "64,256,512",
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Measure rounding errors against float64: every algorithm, and Winograd with every tile and set of points."""
    from .accuracy import accuracy_command

    accuracy_command(_numbers("kernels", kernels), _numbers("channels", channels), markdown)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise typer.BadParameter(f"--{name} takes positive integers with commas between, got {text!r}")
    return numbers


@bench_app.command("markdown")
@_reporting
def bench_markdown(files: Annotated[list[Path], typer.Argument(help="Files that --output wrote.")]) -> None:
    """Print kept results as a Markdown page, every row of them."""
    from ..bench.markdown import page, read_documents

    print(page(read_documents(files)), end="")


@app.command("compile")
@_reporting
def compile_problems(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 1,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
) -> None:
    """Compile convolutions into the cache ahead of time; what is done stays done when interrupted."""
    from ..bench.networks import layers
    from .compile import compile_command
    from .problems import conv_problems

    chosen = [*conv_problems(problems or []), *(layer.problem for layer in (layers(network, batch) if network else []))]
    if not chosen:
        raise ProblemError("no problem was given: name descriptors, or --network")
    compile_command(chosen, algorithm, isa, accuracy)


@app.command("tune")
@_reporting
def tune_problems(
    problems: Problems = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 1,
    budget: Annotated[float, typer.Option(help="Seconds for one problem, about.")] = 30.0,
    algorithm: Annotated[str | None, typer.Option(help="Comma-separated algorithms to search; by default all.")] = None,
    schedule: Annotated[list[str] | None, typer.Option(help="A schedule of your own to try, as JSON.")] = None,
    isa: IsaName = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was tuned before.")] = False,
) -> None:
    """Search the fastest algorithm and schedule for problems here; what is found stays found when interrupted."""
    from ..bench.networks import layers
    from .bench import split_names
    from .problems import any_problems
    from .tune import tune_command

    chosen = [*any_problems(problems or []), *(layer.problem for layer in (layers(network, batch) if network else []))]
    names = split_names(algorithm) if algorithm else None
    tune_command(chosen, schedule or [], isa, algorithms=names, budget_s=budget, again=again)


@tuned_app.command("list")
@_reporting
def tuned_list(json: Json = False) -> None:
    """List the records."""
    from .tune import list_command

    list_command(json=json)


@tuned_app.command("export")
@_reporting
def tuned_export(
    file: Annotated[Path, typer.Argument(help="Where to write them, one JSON object a line.")],
    this_machine: Annotated[bool, typer.Option("--this-machine", help="Only records of this kind of machine.")] = False,
) -> None:
    """Write your records to a file, for another machine of this kind or to be shipped."""
    from .tune import export_command

    export_command(file, this_machine)


@tuned_app.command("import")
@_reporting
def tuned_import(file: Annotated[Path, typer.Argument(help="A file that export wrote.")]) -> None:
    """Add the records of a file that are newer than yours."""
    from .tune import import_command

    import_command(file)


@tuned_app.command("clear")
@_reporting
def tuned_clear() -> None:
    """Remove your records; the shipped ones stay."""
    from .tune import clear_command

    clear_command()


@app.command("explain")
@_reporting
def explain(
    problem: Annotated[list[str], typer.Argument(metavar="PROBLEM", help="A one-line descriptor.")],
    algorithm: Algorithm = None,
    isa: IsaName = None,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    disassembly: Annotated[bool, typer.Option("--disassembly", help="Add the machine code.")] = False,
) -> None:
    """Say how a problem is computed: equation, loop nest, register tile, work, and the least time it can take."""
    from .. import Machine, compile
    from .problems import one_problem

    target = Machine.described(isa) if isa else None
    kernel = compile(one_problem(problem), algorithm=algorithm, machine=target, threads=threads, accuracy=accuracy)
    print(kernel.explain(disassembly=disassembly))


@cache_app.command("list")
@_reporting
def cache_list(json: Json = False) -> None:
    """List the cached kernels."""
    from .cache import list_command

    list_command(json=json)


@cache_app.command("clear")
@_reporting
def cache_clear() -> None:
    """Remove the cached kernels."""
    from .cache import clear_command

    clear_command()


@cache_app.command("path")
@_reporting
def cache_path() -> None:
    """Print the folder of the cache."""
    from .cache import path_command

    path_command()


@app.command("demo")
@_reporting
def demo(
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("demo"),
    photo: Annotated[Path | None, typer.Option(help="A photograph of your own.")] = None,
    threads: Threads = None,
) -> None:
    """Convolve a photograph (edges, blur, a trained layer), write the pictures, and time one layer every way."""
    from .demo import demo_command

    demo_command(folder, photo, threads)


def _print_warning(message: Warning | str, *ignored: Any, **also_ignored: Any) -> None:
    print(f"sevenloops: warning: {message}", file=sys.stderr)


def main() -> None:
    """Entry point of the `sevenloops` command."""
    warnings.showwarning = _print_warning
    app()
