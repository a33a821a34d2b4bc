"""The commands that show where time, work and memory go: profile, count, report, filters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import PLAIN, Accuracy, Json, Threads, reporting

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
