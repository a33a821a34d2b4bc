"""The `sevenloops` command: options are read here, the work is done by the library.

Expected errors are one line on standard error and exit status 2; Ctrl-C exits with 130.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ProblemError, printable
from .analysis_app import analysis_app
from .bench_app import bench_app
from .ladder_app import ladder_app
from .options import PLAIN, Accuracy, Algorithm, IsaName, Json, Threads, reporting
from .train_app import train_app

__all__ = ["app", "main"]

app = typer.Typer(help="Convolutions and matrix products at the limit of the CPU.", **PLAIN)
cache_app = typer.Typer(help="The cache of compiled kernels.", **PLAIN)
app.add_typer(analysis_app)
app.add_typer(train_app)
app.add_typer(bench_app, name="bench")
app.add_typer(ladder_app, name="ladder")
app.add_typer(cache_app, name="cache")
tuned_app = typer.Typer(help="The records of tuning: what `tune` found, and what is shipped.", **PLAIN)
app.add_typer(tuned_app, name="tuned")


@app.command("machine")
@reporting
def machine(
    json: Json = False,
    remeasure: Annotated[bool, typer.Option("--remeasure", help="Measure again, more exactly, in 4 s.")] = False,
) -> None:
    """Show this machine: instruction set, caches, and what it can do at most (measured once, in half a second)."""
    from .machine import machine_command

    machine_command(json=json, remeasure=remeasure)


@app.command("run")
@reporting
def run(
    model: Annotated[str, typer.Argument(help="A network of the zoo, or an ONNX file.")],
    images: Annotated[list[Path] | None, typer.Argument(metavar="IMAGE...", help="Photographs; by default samples.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Photographs in one run, at most.")] = 8,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    weights: Annotated[Path | None, typer.Option(help="A state dict (.pth) for a network of the zoo.")] = None,
    preprocessing: Annotated[str | None, typer.Option(help="imagenet, tensorflow, caffe or unit; for ONNX files.")] = None,
    against: Annotated[str, typer.Option(help="Engines to time beside, comma-separated; or none.")] = "onnxruntime",
    layers: Annotated[bool, typer.Option("--layers/--no-layers", help="The table of all layers.")] = True,
    json: Json = False,
) -> None:
    """Classify photographs: the five best classes, the latency, what every layer takes, and ONNX Runtime beside it."""
    from .bench import split_names
    from .run import RunOptions, run_command

    options = RunOptions(batch, threads, accuracy, weights, preprocessing, split_names(against), layers)
    run_command(model, images or [], options, json)


@app.command("compile")
@reporting
def compile_problems(
    problems: Annotated[
        list[str] | None, typer.Argument(metavar="FILE... | PROBLEM...", help="ONNX files, or one-line descriptors.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for --network.")] = 1,
    shape: Annotated[list[str] | None, typer.Option(help="The size of an input of FILE: NAME=1x3x224x224.")] = None,
    algorithm: Algorithm = None,
    isa: IsaName = None,
    accuracy: Accuracy = "fast",
) -> None:
    """Compile into the cache ahead of time; what is done stays done when interrupted.

    Of an ONNX file all that a run needs is kept, packed weights included: `InferenceSession(FILE)` starts from it.
    """
    from ..bench.networks import layers
    from ..classify import is_file
    from .compile import compile_command, compile_model_command
    from .problems import conv_problems

    if problems and all(map(is_file, problems)):
        if network or algorithm or isa:
            raise ProblemError("--network, --algorithm and --isa are for problems; a file takes --shape and --accuracy")
        for model in problems:
            compile_model_command(model, shape or [], accuracy)
        return

    chosen = [*conv_problems(problems or []), *(layer.problem for layer in (layers(network, batch) if network else []))]
    if not chosen:
        raise ProblemError("no problem was given: name descriptors, or --network")
    compile_command(chosen, algorithm, isa, accuracy)


@app.command("tune")
@reporting
def tune_problems(
    problems: Annotated[
        list[str] | None,
        typer.Argument(metavar="MODEL | PROBLEM...", help="A network of the zoo, an ONNX file, or descriptors."),
    ] = None,
    network: Annotated[str | None, typer.Option(help="All layers of a network, such as resnet50.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, for MODEL and --network.")] = 1,
    shape: Annotated[list[str] | None, typer.Option(help="The size of an input of MODEL: NAME=1x3x224x224.")] = None,
    budget: Annotated[float, typer.Option(help="Seconds for one problem, about.")] = 30.0,
    algorithm: Annotated[str | None, typer.Option(help="Comma-separated algorithms to search; by default all.")] = None,
    schedule: Annotated[list[str] | None, typer.Option(help="A schedule of your own to try, as JSON.")] = None,
    isa: IsaName = None,
    again: Annotated[bool, typer.Option("--again", help="Also what was tuned before.")] = False,
    alone: Annotated[bool, typer.Option("--alone", help="Only each layer alone, not also inside MODEL.")] = False,
) -> None:
    """Search the fastest algorithm and schedule for a network's layers, or for problems.

    Each layer is tuned alone; then the best of MODEL's layers are tried inside the network, where weights come from memory.
    What is found is used from the next load on, and stays found when the search is interrupted.
    """
    from ..bench.networks import layers
    from .bench import split_names
    from .problems import is_model, named_shapes, tunable_problems
    from .tune import trial_command, tune_command

    chosen = [
        *tunable_problems(problems or [], batch, shape or []),
        *(layer.problem for layer in (layers(network, batch) if network else [])),
    ]
    names = split_names(algorithm) if algorithm else None
    tune_command(chosen, schedule or [], isa, algorithms=names, budget_s=budget, again=again)
    if problems and is_model(problems) and not (alone or isa):
        trial_command(problems[0], batch, named_shapes(shape or []), again)


@tuned_app.command("list")
@reporting
def tuned_list(json: Json = False) -> None:
    """List the records."""
    from .tune import list_command

    list_command(json=json)


@tuned_app.command("export")
@reporting
def tuned_export(
    file: Annotated[Path, typer.Argument(help="Where to write them, one JSON object a line.")],
    this_machine: Annotated[bool, typer.Option("--this-machine", help="Only records of this kind of machine.")] = False,
) -> None:
    """Write your records to a file, for another machine of this kind or to be shipped; others that it has stay in it."""
    from .tune import export_command

    export_command(file, this_machine)


@tuned_app.command("import")
@reporting
def tuned_import(file: Annotated[Path, typer.Argument(help="A file that export wrote.")]) -> None:
    """Add the records of a file that are newer than yours."""
    from .tune import import_command

    import_command(file)


@tuned_app.command("clear")
@reporting
def tuned_clear() -> None:
    """Remove your records; the shipped ones stay."""
    from .tune import clear_command

    clear_command()


@app.command("explain")
@reporting
def explain(
    problem: Annotated[list[str], typer.Argument(metavar="PROBLEM", help="A one-line descriptor.")],
    algorithm: Algorithm = None,
    isa: IsaName = None,
    threads: Threads = None,
    accuracy: Accuracy = "fast",
    disassembly: Annotated[bool, typer.Option("--disassembly", help="Add the machine code of the hot loop.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="Also time every algorithm here and now.")] = False,
) -> None:
    """Say how a problem is computed: equation, loop nest, register tile, work, and the least time it can take."""
    from .. import Machine, compile
    from .explain import measured_lines
    from .problems import one_problem

    target = Machine.described(isa) if isa else None
    kernel = compile(one_problem(problem), algorithm=algorithm, machine=target, threads=threads, accuracy=accuracy)
    print(kernel.explain(disassembly=disassembly))
    if measure:
        print("\n".join(measured_lines(kernel)))


@cache_app.command("list")
@reporting
def cache_list(json: Json = False) -> None:
    """List the cached kernels."""
    from .cache import list_command

    list_command(json=json)


@cache_app.command("clear")
@reporting
def cache_clear() -> None:
    """Remove the cached kernels."""
    from .cache import clear_command

    clear_command()


@cache_app.command("path")
@reporting
def cache_path() -> None:
    """Print the folder of the cache."""
    from .cache import path_command

    path_command()


@app.command("demo")
@reporting
def demo(
    folder: Annotated[Path, typer.Option(help="Where the pictures go.")] = Path("demo"),
    photo: Annotated[Path | None, typer.Option(help="A photograph of your own.")] = None,
    threads: Threads = None,
) -> None:
    """Convolve a photograph (edges, blur, a trained layer), write the pictures, and time one layer every way."""
    from .demo import demo_command

    demo_command(folder, photo, threads)


def _print_warning(message: Warning | str, *ignored: Any, **also_ignored: Any) -> None:
    print(f"sevenloops: warning: {printable(str(message))}", file=sys.stderr)


def main() -> None:
    """Entry point of the `sevenloops` command."""
    warnings.showwarning = _print_warning
    app()
