"""`sevenloops run`: photographs in; classes, latency and the time of every layer out."""

from __future__ import annotations

import json as json_format
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from ..analysis.costs import count, total
from ..analysis.layers import LayerTime, latency_s, layer_times
from ..analysis.shares import MARK_MEANS
from ..bench.network_bench import case, run_networks
from ..bench.report import plain
from ..bench.results import OWN, BenchRun
from ..bench.runner import Options
from ..classify import Guess, Network, batches, feeds_of, load_network, read_photo, sample_photos, top
from ..errors import GraphError, printable
from ..graph.shapes import infer
from ..machine import Machine
from ..session import InferenceSession

__all__ = ["RunOptions", "run_command"]


@dataclass(frozen=True)
class RunOptions:
    """How to run: photographs in a batch, threads, accuracy, where weights come from, engines beside, layers or not."""

    batch: int = 8
    threads: int | None = None
    accuracy: str = "fast"
    weights: Path | None = None
    preprocessing: str | None = None
    against: tuple[str, ...] = ("onnxruntime",)
    layers: bool = True


@dataclass(frozen=True)
class _Loaded:
    """A network compiled for the batch, and how long that took."""

    network: Network
    session: InferenceSession
    shapes: dict[str, tuple[int, ...]]
    load_s: float


def run_command(model: str, images: Sequence[Path], options: RunOptions, json: bool) -> None:
    """Classify the photographs, then measure."""
    Options(options.against, options.threads)  # refuses unknown engines before any work
    network = load_network(model, weights=options.weights, preprocessing=options.preprocessing)
    paths = list(images) or sample_photos()
    batch = min(options.batch, len(paths))
    first = read_photo(paths[0], network.preprocessing)
    loaded = _load(network, {name: (batch, *array.shape[1:]) for name, array in feeds_of(network, [first]).items()}, options)
    guesses = _classify(loaded, paths, batch)
    feeds, console = feeds_of(network, [first] * batch), Console(soft_wrap=True, highlight=False)
    if not json:
        _print_classes(console, loaded, guesses)
    latency = latency_s(loaded.session, feeds)
    machine = Machine.measured() if options.layers else Machine.host()
    layers = layer_times(loaded.session, feeds, machine) if options.layers else []
    if not json:
        _print_times(console, loaded, latency, layers, machine)
    beside = _beside(loaded, options) if options.against else None
    if json:
        print(json_format.dumps(_document(loaded, guesses, latency, layers, beside), indent=2))
    elif beside is not None:
        _print_beside(console, beside)


def _load(network: Network, shapes: dict[str, tuple[int, ...]], options: RunOptions) -> _Loaded:
    """With a progress bar, as kernels that are not in the cache are compiled."""
    start = time.perf_counter()
    columns = (TextColumn("compiling"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        session = InferenceSession(
            network.graph,
            threads=options.threads,
            accuracy=options.accuracy,
            shapes=shapes,
            progress=lambda label, done, total: bar.update(task, description=printable(label), completed=done, total=total),
        )
    return _Loaded(network, session, shapes, time.perf_counter() - start)


def _classify(loaded: _Loaded, paths: Sequence[Path], batch: int) -> dict[Path, list[Guess]]:
    columns = (TextColumn("photographs"), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(paths))
        scores = batches(loaded.network, loaded.session, paths, batch, lambda done: bar.update(task, completed=done))
        return {path: top(values, loaded.network.names) for path, values in scores}


def _beside(loaded: _Loaded, options: RunOptions) -> BenchRun | str:
    """Every engine in a process of its own, in turn, on the same ONNX file; a text says why there is no comparison."""
    network = loaded.network
    measured = Options(options.against, options.threads, rounds=3, slice_s=0.1, accuracy=options.accuracy)
    try:
        with Console(stderr=True).status("") as status:
            return run_networks(
                [case(network.name, network.graph, shapes=loaded.shapes)], measured, lambda text: status.update(plain(text))
            )
    except GraphError as error:  # the package onnx, which writes the file for the others, is not installed
        return str(error)


def _document(
    loaded: _Loaded, guesses: dict[Path, list[Guess]], latency: float, layers: list[LayerTime], beside: BenchRun | str | None
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": loaded.network.name,
        "weights": loaded.network.weights,
        "trained": loaded.network.trained,
        "inputs": {name: list(shape) for name, shape in loaded.shapes.items()},
        "threads": loaded.session.threads,
        "load_s": loaded.load_s,
        "latency_s": latency,
        "photographs": [{"file": str(path), "classes": [asdict(g) for g in found]} for path, found in guesses.items()],
        "layers": [
            {
                **asdict(layer),
                "gflops": layer.gflops,
                "share_of_roofline": layer.share,
                "above_possible": layer.above_possible,
            }
            for layer in layers
        ],
    }
    if isinstance(beside, str):
        document["no_comparison"] = beside
    elif beside is not None:
        row = beside.rows[0]
        document["engines"] = {
            name: {"reason": timing.reason} if timing.reason else {"median_s": timing.median_s, "error": timing.error}
            for name, timing in row.timings.items()
        }
        document["ratio"] = row.ratio
    return document


def _print_classes(console: Console, loaded: _Loaded, guesses: dict[Path, list[Guess]]) -> None:
    network = loaded.network
    costs = total(count(infer(network.graph, loaded.shapes)))
    console.print(
        f"[bold]{plain(network.name)}[/bold]: {costs.params / 1e6:.2f} M parameters ({plain(network.weights)}), "
        f"{costs.macs / 1e9:.3f} G multiply-adds; loaded in {loaded.load_s:.2f} s"
    )
    if not network.trained:
        console.print("random weights: the classes below mean nothing, the times do")
    for path, found in guesses.items():
        console.print(f"\n{plain(path.name)}")
        for guess in found:
            console.print(f"  {100 * guess.probability:5.1f} %  {plain(guess.name or f'class {guess.index}')}")


def _print_times(console: Console, loaded: _Loaded, latency: float, layers: Sequence[LayerTime], machine: Machine) -> None:
    batch = next(iter(loaded.shapes.values()))[0]
    what = "one photograph" if batch == 1 else f"a batch of {batch}"
    each = "" if batch == 1 else f" ({1e3 * latency / batch:.2f} ms each)"
    console.print(f"\nlatency of {what}: [bold]{1e3 * latency:.2f} ms[/bold]{each}, {loaded.session.threads} threads")
    if layers:
        console.print(_table(layers, machine))


def _table(layers: Sequence[LayerTime], machine: Machine) -> Table:
    limits = "the machine was not measured"
    if machine.peak_gflops and machine.bandwidth_gbs:
        limits = f"roofline: {machine.peak_gflops:.0f} GFLOP/s, {machine.bandwidth_gbs:.0f} GB/s, measured here"
    caption = f"{limits}. More than 100 %: Winograd executes fewer multiply-adds, and operands may lie in a cache already"
    caption += f". {MARK_MEANS}" if any(layer.above_possible for layer in layers) else ""
    table = Table(caption=caption, caption_justify="left")
    for name in ("layer", "output", "algorithm"):
        table.add_column(name, overflow="fold")
    for name in ("MMACs", "µs", "% of time", "GFLOP/s", "% of roofline"):
        table.add_column(name, justify="right")
    whole = sum(layer.seconds for layer in layers)
    for layer in layers:
        work = [f"{layer.macs / 1e6:.1f}", f"{layer.gflops:.0f}"] if layer.macs else ["", ""]
        share = "" if layer.share is None else f"{100 * layer.share:.0f}{'?' if layer.above_possible else ''}"
        label = layer.label if layer.op != "layout" else f"{layer.label} (layout)"
        part = f"{100 * layer.seconds / whole:.1f}"
        shape = " x ".join(map(str, layer.shape))
        table.add_row(plain(label), shape, layer.algorithm, work[0], f"{1e6 * layer.seconds:.0f}", part, work[1], share)
    return table


def _print_beside(console: Console, run: BenchRun | str) -> None:
    """One line an engine, ours first."""
    if isinstance(run, str):
        console.print(f"no other engine beside: {plain(run)}")
        return
    row = run.rows[0]
    console.print("side by side, each in its own process, in turn, on the same ONNX file:")
    for name, timing in row.timings.items():
        if timing.reason is not None:
            console.print(f"  {name}: {plain(timing.reason)}")
            continue
        own = row.timed(OWN)
        ratio = f", {timing.median_s / own.median_s:.2f} times ours" if own and name != OWN else ""
        error = "" if timing.error is None else f", error {timing.error:.1e} against {timing.details['error_against']}"
        console.print(f"  {name}: {1e3 * timing.median_s:.2f} ms{ratio}{error}")
