"""Charts by matplotlib, which is an optional extra; the data come from `results.series` and `access.Trace`."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .access import Trace
from .access_text import window
from .results import LadderRun, series
from .table import LINE, LadderError

__all__ = ["check_plot", "draw_access", "draw_ladder"]

FORMATS = (".png", ".svg")


def check_plot(path: Path) -> None:
    """Raise `LadderError` where a chart cannot be drawn: another format than .png and .svg, or no matplotlib."""
    if path.suffix not in FORMATS:
        raise LadderError(f"charts are drawn as {' or '.join(FORMATS)}, got {path.name!r}")
    if importlib.util.find_spec("matplotlib") is None:
        raise LadderError("charts need matplotlib, which is not installed: pip install 'sevenloops[plots]'")


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure


def draw_ladder(run: LadderRun, path: Path) -> None:
    """GFLOP/s of every rung against the size of the product (or as bars for each layer), the peak as the top line.

    Raises `LadderError`, `OSError`.
    """
    check_plot(path)
    figure = _curves(run) if run.kind == "gemm" and len(run.cases) > 1 else _bars(run)
    figure.savefig(path)


def _title(run: LadderRun) -> str:
    environment = run.environment
    return f"{environment['cpu']}, {environment['isa']}, {environment['threads']} threads, {environment['date'][:10]}"


def _curves(run: LadderRun) -> Any:
    figure = _figure(8, 5.5)
    axes = figure.add_subplot()
    axes.axhline(run.peak_gflops, color="black", label="peak")
    found = series(run)
    for index, rung in enumerate(run.rungs):
        if rung.name in found:
            style = "--" if rung.kind == "engine" else "-"
            axes.plot(*zip(*found[rung.name]), style, marker="o", color=f"C{index % 10}", label=rung.name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([case.problem.macs ** (1 / 3) for case in run.cases], [case.name for case in run.cases])
    axes.minorticks_off()
    axes.set(xlabel="rows = columns = depth of the product", ylabel="GFLOP/s", title=_title(run))
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    order = [0, *sorted(range(1, len(labels)), key=lambda i: -found[labels[i]][-1][1])]
    axes.legend([handles[i] for i in order], [labels[i] for i in order], loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _bars(run: LadderRun) -> Any:
    figure = _figure(4 + 4 * len(run.cases), 5)
    for index, case in enumerate(run.cases):
        axes = figure.add_subplot(1, len(run.cases), index + 1)
        points = [p for p in run.points if p.case is case and p.gflops]
        labels = [p.rung.name + (" *" if p.extrapolated else "") for p in points]
        colors = ["C1" if p.rung.kind == "engine" else "C0" for p in points]
        bars = axes.barh(labels, [p.gflops or 0 for p in points], color=colors)
        axes.bar_label(bars, fmt="%.3g", label_type="center", color="white")
        beside = [peak for p in points for peak in p.peaks_gflops]
        axes.axvline(statistics.median(beside) if beside else run.peak_gflops, color="black")
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlim(left=min(p.gflops or 1.0 for p in points) / 10)
        axes.set(xlabel="GFLOP/s by the MACs of the definition", title=case.name)
    figure.suptitle(f"{_title(run)}; the line is the peak")
    return figure


def draw_access(traces: Sequence[Trace], path: Path, touches: int = 600) -> None:
    """The cache lines that each rung touches against time, a column for each rung and a row for each array.

    Raises `LadderError`, `OSError`.
    """
    check_plot(path)
    names = list(dict.fromkeys(name for trace in traces for name in trace.names))
    figure = _figure(2 + 3 * len(traces), 1 + 2 * len(names))
    grid = figure.subplots(len(names), len(traces), squeeze=False)
    for column, trace in enumerate(traces):
        part = window(trace, touches)
        array, store, line = trace.array[part], trace.store[part], trace.first[part] // LINE
        for row, name in enumerate(names):
            axes = grid[row][column]
            if name not in trace.names:
                axes.set_visible(False)
                continue
            mine = array == trace.names.index(name)
            for label, color, chosen in (("load", "C0", mine & ~store), ("store", "C3", mine & store)):
                axes.plot(chosen.nonzero()[0], line[chosen], ".", markersize=2, color=color, label=label)
            axes.set_xlim(0, touches)
            axes.set_ylim(-1, trace.extent[trace.names.index(name)] / LINE)
            axes.invert_yaxis()
            axes.set_title(f"{trace.rung}: {name}", fontsize=9)
            axes.set_ylabel("cache line" if column == 0 else "")
            axes.set_xlabel("touches, in order" if row == len(names) - 1 else "")
    figure.savefig(path)
