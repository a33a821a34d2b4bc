"""`sevenloops profile`: a network's layers, measured, as tables, JSON, CSV or a trace."""

from __future__ import annotations

import json as json_format
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..analysis.export import as_csv, as_dict, as_trace
from ..analysis.profile import Profile, profile
from ..analysis.shares import MARK_MEANS
from ..bench.network_bench import random_feeds
from ..bench.report import plain, write_atomically
from ..bench.runner import BenchError
from ..machine import Machine
from .analysis import Loaded, console, mib

__all__ = ["measure_profile", "profile_command"]


def measure_profile(loaded: Loaded, runs: int) -> Profile:
    """The profile of a network on random inputs."""
    with Console(stderr=True).status("measuring"):
        feeds = random_feeds(loaded.case.graph, loaded.case.sizes, seed=0)
        return profile(loaded.session, feeds, runs, machine=Machine.measured(), model=loaded.case.name)


def profile_command(loaded: Loaded, runs: int, *, json: bool, csv: bool, trace: Path | None) -> None:
    """Measure, write the trace, and print."""
    if trace is not None and not trace.absolute().parent.is_dir():
        raise BenchError(f"cannot write {trace}: its folder does not exist")
    found = measure_profile(loaded, runs)
    if trace is not None:
        write_atomically(trace, json_format.dumps(as_trace(found)))
    if json:
        print(json_format.dumps(as_dict(found), indent=2))
    elif csv:
        print(as_csv(found), end="")
    else:
        _print(console(), found)


def _print(out: Console, found: Profile) -> None:
    out.print(_layers(found))
    out.print(_kinds(found))
    sizes = ", ".join(f"{plain(name)} {' x '.join(map(str, shape))}" for name, shape in found.sizes.items())
    out.print(
        f"[bold]{plain(found.model)}[/bold], {sizes}: [bold]{1e3 * found.latency_s:.3f} ms[/bold] a run on {found.threads} "
        f"threads of {found.machine}"
    )
    if found.params is not None and found.macs is not None:
        out.print(f"{found.params:,} parameters, {found.macs:,} multiply-adds in the model's own layers")
    low, high = found.overhead_quartiles
    out.print(
        f"convolutions and fully connected layers take {100 * found.product_share:.1f} % of the time; "
        f"the steps are {100 * found.coverage:.1f} % of a whole run; profiling adds {100 * found.overhead:.1f} % "
        f"(quartiles {100 * low:.1f} and {100 * high:.1f})"
    )
    out.print(
        f"memory: arena {mib(found.arena_bytes)} MiB, most values alive at once {mib(found.peak_bytes)} MiB, "
        f"packed weights {mib(found.constant_bytes)} MiB"
    )
    out.print(f"fusions: {len(found.fused)} made, {len(found.missed)} missed")
    for note in found.missed:
        out.print(f"  {note}", markup=False)


def _layers(found: Profile) -> Table:
    limits = "the machine was not measured"
    if found.peak_gflops and found.bandwidth_gbs:
        limits = f"ceilings measured here: {found.peak_gflops:.0f} GFLOP/s, {found.bandwidth_gbs:.0f} GB/s"
    caption = (
        f"{limits}. Bytes are unique (each operand once). Above 100 %: Winograd executes fewer multiply-adds than the "
        "definition has; operands may lie in a cache. The ceiling that binds is marked *"
    )
    caption += f". {MARK_MEANS}" if any(map(found.above_possible, found.layers)) else ""
    table = Table(caption=caption, caption_justify="left")
    for name in ("layer", "output", "algorithm"):
        table.add_column(name, overflow="fold")
    for name in ("params", "MMACs", "executed", "KiB", "FLOP/B", "µs", "±", "% of time", "GFLOP/s", "% peak", "% GB/s"):
        table.add_column(name, justify="right")
    for layer in found.layers:
        work = [f"{layer.macs / 1e6:.1f}", f"{layer.macs_executed / 1e6:.1f}"] if layer.macs else ["", ""]
        name = layer.name if layer.op != "layout" else f"{layer.name} (layout)"
        bound = found.bound(layer)
        table.add_row(
            plain(name),
            " x ".join(map(str, layer.shape)),
            layer.algorithm,
            f"{layer.params:,}" if layer.params else "",
            *work,
            f"{layer.bytes / 1024:.0f}",
            f"{layer.intensity:.1f}" if layer.macs else "",
            f"{1e6 * layer.seconds:.0f}",
            f"{1e6 * layer.spread_s:.0f}",
            f"{100 * found.share(layer):.1f}",
            f"{layer.gflops:.0f}" if layer.macs else "",
            _percent(found.compute_share(layer), bound == "compute", found.above_possible(layer)) if layer.macs else "",
            _percent(found.bandwidth_share(layer), bound == "memory"),
        )
    table.add_section()
    share = f"{100 * found.around_s / found.steps_s:.1f}"
    table.add_row("around the steps", "", "Python", *[""] * 5, f"{1e6 * found.around_s:.0f}", "", f"+ {share}", *[""] * 3)
    return table


def _percent(share: float | None, binds: bool, is_noise: bool = False) -> str:
    return "" if share is None else f"{100 * share:.0f}{'?' if is_noise else ''}{'*' if binds else ' '}"


def _kinds(found: Profile) -> Table:
    table = Table()
    table.add_column("operator")
    for name in ("steps", "params", "MMACs", "executed", "MiB", "ms", "% of time", "GFLOP/s"):
        table.add_column(name, justify="right")
    for kind in found.kinds():
        table.add_row(
            plain(kind.op),
            str(kind.steps),
            f"{kind.params:,}",
            f"{kind.macs / 1e6:.1f}",
            f"{kind.macs_executed / 1e6:.1f}",
            mib(kind.bytes),
            f"{1e3 * kind.seconds:.3f}",
            f"{100 * kind.seconds / found.steps_s:.1f}",
            f"{kind.gflops:.0f}" if kind.macs else "",
        )
    return table
