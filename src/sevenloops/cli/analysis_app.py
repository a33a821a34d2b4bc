"""The commands that show where time, work and memory go: profile, count, report, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import PLAIN, Accuracy, Json, Threads, numbers, reporting

__all__ = ["analysis_app"]

analysis_app = typer.Typer(**PLAIN)
Model = Annotated[str, typer.Argument(help="A network of the zoo, or an ONNX file.")]
Batch = Annotated[int, typer.Option(min=1, help="Images in a batch, where the model leaves it open.")]
Shape = Annotated[list[str] | None, typer.Option("--shape", help="The size of an input: NAME=1x3x224x224.")]
Runs = Annotated[int, typer.Option(min=1, help="Profiled runs, each in turn with a whole run.")]


@analysis_app.command("profile")
@reporting
def profile(
    model: Model,
    batch: Batch = 1,
    shape: Shape = None,
    runs: Runs = 15,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a row a layer, instead of a table.")] = False,
    trace: Annotated[Path | None, typer.Option(help="Also write a trace to this file, for Perfetto.")] = None,
) -> None:
    """Measure every layer: time, speed, work, bytes, shares of the machine's ceilings, memory, fusions."""
    from .analysis import load
    from .profile import profile_command

    profile_command(load(model, batch, shape or [], threads, accuracy), runs, json=json, csv=csv, trace=trace)


@analysis_app.command("count")
@reporting
def count(
    model: Model,
    batch: Batch = 1,
    shape: Shape = None,
    training: Annotated[str | None, typer.Option(help="Batches, with commas: also the memory of training.")] = None,
    optimizer: Annotated[str, typer.Option(help="For --training: sgd, momentum or adam.")] = "momentum",
    devices: Annotated[bool, typer.Option("--devices", help="Also the roofline's prediction for other devices.")] = False,
    json: Json = False,
) -> None:
    """Count parameters, multiply-adds and bytes of every layer, without running anything."""
    from .analysis import load_case
    from .count import count_command

    batches = numbers("training", training) if training else ()
    found = load_case(model, batch, shape or [])
    count_command(found, batches=batches, optimizer=optimizer, devices=devices, json=json)


@analysis_app.command("report")
@reporting
def report(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page to write.")] = Path("report.html"),
    batch: Batch = 1,
    shape: Shape = None,
    runs: Runs = 15,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    against: Annotated[str, typer.Option(help="Engines to time beside, comma-separated; or none.")] = "none",
    kernels: Annotated[bool, typer.Option("--kernels/--no-kernels", help="The loop nest of every kernel.")] = True,
    ladder: Annotated[list[Path] | None, typer.Option(help="A climb to chart too: a file of `ladder --output`.")] = None,
    training: Annotated[list[Path] | None, typer.Option(help="Curves of a training too: a log.jsonl of `train`.")] = None,
    picture: Annotated[list[Path] | None, typer.Option(help="A PNG or SVG to show too, as of `--access-plot`.")] = None,
) -> None:
    """Write one page that explains where a network's time goes: roofline, table, charts, filters, kernels."""
    from .analysis import load
    from .bench import split_names
    from .report import Extras, report_command

    extras = Extras.read(split_names(against), kernels, ladder or [], training or [], picture or [])
    report_command(load(model, batch, shape or [], threads, accuracy), output, runs, extras)


@analysis_app.command("filters")
@reporting
def filters(
    model: Model,
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture: .png or .svg.")] = Path("filters.png"),
    image: Annotated[Path | None, typer.Option(help="A photograph: draw what a layer sees in it.")] = None,
    layer: Annotated[str | None, typer.Option(help="For --image: a layer by name; by default the first.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A state dict (.pth) for a network of the zoo.")] = None,
    scale: Annotated[int, typer.Option(min=1, help="Pixels for each weight.")] = 16,
) -> None:
    """Draw the filters of the first convolution as colour tiles, or the feature maps of a layer."""
    from .filters import filters_command

    filters_command(model, output, image, layer, weights, scale)
