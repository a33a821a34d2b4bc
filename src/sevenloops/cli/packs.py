"""`sevenloops bench pack`: how fast weights are packed, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from ..bench.networks import Layer
from ..bench.packs import PackTime, measure_packs
from ..machine import Machine
from .accuracy import print_table

__all__ = ["packs_command"]


def packs_command(layers: Sequence[Layer], algorithm: str | None, threads: int | None, rounds: int, markdown: bool) -> None:
    """Measure, and print one row for each kernel and, of several, their sum with each layer as often as it occurs."""
    with Console(stderr=True).status("") as status:
        status.update("measuring the machine's limits")
        bandwidth = Machine.measured().bandwidth_gbs or 0.0
        packs = measure_packs(layers, algorithm, threads, rounds, status.update)
    lines = [_line(pack, bandwidth) for pack in packs]
    if len(packs) > 1:
        total_s = sum(pack.repeats * (pack.timing.median_s or 0.0) for pack in packs)
        total = sum(pack.repeats * pack.moved_bytes for pack in packs)
        count = sum(pack.repeats for pack in packs)
        lines.append(_figures("all", "", count, total, total_s, bandwidth))
    heads = ["layer", "algorithm", "layers", "MB read + written", "ms", "GB/s", f"% of {bandwidth:.3g} GB/s"]
    print_table("packing weights: medians", heads, lines, markdown)


def _line(pack: PackTime, bandwidth: float) -> list[str]:
    return _figures(pack.name, pack.algorithm, pack.repeats, pack.moved_bytes, pack.timing.median_s or 0.0, bandwidth)


def _figures(name: str, algorithm: str, count: int, moved: int, second: float, bandwidth: float) -> list[str]:
    speed = moved / second / 1e9
    share = f"{100 * speed / bandwidth:.0f}" if bandwidth else ""
    return [name, algorithm, str(count), f"{moved / 1e6:.3g}", f"{1e3 * second:.3g}", f"{speed:.3g}", share]
