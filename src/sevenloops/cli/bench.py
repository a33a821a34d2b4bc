"""`sevenloops bench`: measure problems, print a table or JSON."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..bench.gradients import run_gradients
from ..bench.network_bench import case, run_networks
from ..bench.networks import Layer
from ..bench.report import plain, render, render_starts, render_steps, to_json, write_atomically
from ..bench.results import BenchRun
from ..bench.runner import BenchError, Options, run_bench
from ..bench.training import BATCHES, SIDE, TORCHVISION, TrainingCase, run_training
from ..classify import is_file, load_graph
from .problems import named_shapes

__all__ = [
    "bench_command", "bench_gradients_command", "bench_networks_command", "bench_training_command", "split_names",
]  # fmt: skip

#: a table has a column for each engine; into a file or pipe it is written at this width
PIPE_WIDTH = 200
#: Images of a training step where the network has no number of its own.
DEFAULT_BATCH = 16


def split_names(text: str) -> tuple[str, ...]:
    """`"torch,openvino"` as a tuple; `"none"` and the empty text are no names."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == ("none",) else names


def bench_command(layers: Sequence[Layer], options: Options, json: bool, output: Path | None) -> None:
    """Measure, then print the table (or JSON) and write JSON to `output`."""
    _check_folder(output)
    with Console(stderr=True).status("") as status:
        run = run_bench(layers, options, lambda text: status.update(plain(text)))
    _show(run, json, output)


def bench_gradients_command(
    layers: Sequence[Layer], directions: Sequence[str], options: Options, json: bool, output: Path | None
) -> None:
    """Measure layers in each direction, then print and write as `bench_command` does."""
    _check_folder(output)
    with Console(stderr=True).status("") as status:
        run = run_gradients(layers, options, directions, lambda text: status.update(plain(text)))
    _show(run, json, output)


def bench_networks_command(
    models: Sequence[str], batch: int, shapes: Sequence[str], options: Options, json: bool, output: Path | None
) -> None:
    """Measure whole networks, then print and write as `bench_command` does."""
    _check_folder(output)
    sizes = named_shapes(shapes)
    cases = [case(Path(model).stem if is_file(model) else model, load_graph(model), batch, sizes) for model in models]
    with Console(stderr=True).status("") as status:
        run = run_networks(cases, options, lambda text: status.update(plain(text)))
    _show(run, json, output)
    if not json:
        _console().print(render_starts(run))


def bench_training_command(
    models: Sequence[str], batch: int | None, shapes: Sequence[str], options: Options, json: bool, output: Path | None
) -> None:
    """Measure a training step of whole networks, then print and write as `bench_command` does."""
    _check_folder(output)
    sizes = named_shapes(shapes)
    cases = []
    for model in models or BATCHES:
        images = batch or BATCHES.get(model, DEFAULT_BATCH)
        if model.startswith(TORCHVISION):
            cases.append(TrainingCase(model, None, {"input": (images, 3, SIDE, SIDE), **sizes}))
        else:
            found = case(Path(model).stem if is_file(model) else model, load_graph(model), images, sizes)
            cases.append(TrainingCase(found.name, found.graph, found.sizes))
    with Console(stderr=True).status("") as status:
        run = run_training(cases, options, lambda text: status.update(plain(text)))
    _show(run, json, output)
    if not json:
        _console().print(render_steps(run))


def _check_folder(output: Path | None) -> None:
    if output is not None and not output.absolute().parent.is_dir():  # better now than after minutes of measuring
        raise BenchError(f"cannot write {output}: its folder does not exist")


def _show(run: BenchRun, json: bool, output: Path | None) -> None:
    text = to_json(run)
    if output is not None:
        write_atomically(output, text)
    if json:
        print(text, end="")
    else:
        _console().print(render(run))


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=max(PIPE_WIDTH, shutil.get_terminal_size().columns))
