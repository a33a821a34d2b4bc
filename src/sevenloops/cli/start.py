"""`sevenloops bench start`: the first result of a process, as tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..bench.network_bench import case
from ..bench.report import plain
from ..bench.results import OWN
from ..bench.start import KEPT, Start, measure_import, measure_starts
from ..classify import is_file, load_graph
from ..compile import resolve_threads
from .accuracy import print_table
from .problems import named_shapes

__all__ = ["start_command"]


def start_command(
    models: Sequence[str],
    batch: int,
    shapes: Sequence[str],
    against: Sequence[str],
    threads: int | None,
    rounds: int,
    markdown: bool,
) -> None:
    """Measure, and print the seconds of each engine, then the milliseconds of our parts."""
    sizes = named_shapes(shapes)
    files = [Path(model) if is_file(model) else None for model in models]
    cases = [case(file.stem if file else model, load_graph(model), batch, sizes) for model, file in zip(models, files)]
    with Console(stderr=True).status("") as status:
        import_s = measure_import(rounds)
        starts = measure_starts(
            list(zip(cases, files)), against, resolve_threads(threads), rounds, lambda text: status.update(plain(text))
        )
    print_table(
        "from `python -c` to the first result, s (median)",
        ["network", "fastest", OWN, KEPT, *against, "speedup"],
        [_row(start, against) for start in starts],
        markdown,
    )
    parts = [["import sevenloops, beyond NumPy", "ms", *[f"{1e3 * import_s:.0f}"] * len(starts)]]
    for part in dict.fromkeys(part for start in starts for part in start.parts):
        medians = (statistics.median(start.parts.get(part, (0.0,))) for start in starts)
        parts.append([part, "ms", *(f"{1e3 * median:.0f}" for median in medians)])
    print_table(f"parts of {OWN}'s start (median)", ["part", "unit", *(start.name for start in starts)], parts, markdown)


def _row(start: Start, against: Sequence[str]) -> list[str]:
    """`speedup` is that of both our rows over the fastest of the others."""
    engines = (OWN, KEPT, *against)
    medians = {engine: median for engine in engines if (median := start.median_s(engine)) is not None}
    others = [median for engine, median in medians.items() if engine not in (OWN, KEPT)]
    speedup = ", ".join(f"{min(others) / medians[engine]:.2f}" for engine in (OWN, KEPT)) if others else "-"
    cells = (f"{medians[engine]:.2f}" if engine in medians else "cannot run" for engine in engines)
    return [start.name, min(medians, key=medians.__getitem__), *cells, speedup]
