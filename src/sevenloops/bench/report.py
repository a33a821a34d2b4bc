"""A benchmark run as a table for people and as JSON for programs. Losing rows are shown like all others."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ..analysis.shares import MARK_MEANS, above_possible, share_text
from ..errors import printable
from .results import OWN, BenchRun, Row, Timing, Work, geometric_mean

__all__ = ["STEP_COLUMNS", "render", "render_starts", "render_steps", "step_cells", "summary", "to_json", "write_atomically"]

#: slowest over fastest round from which on a row says more about the machine's other work than about the engines
NOISY = 1.3


def summary(run: BenchRun) -> dict[str, Any]:
    """The figures over all rows: ratios are the fastest peer's time over ours."""
    ratios = run.ratios
    kinds = {kind: [row.ratio for row in rows if row.ratio is not None] for kind, rows in run.kinds().items()}
    return {
        "rows": len(run.rows),
        **_means(ratios),
        "total_s": {name: run.total_s(name) for name in (OWN, *run.peers)},
        **({"kinds": {kind: _means(values) for kind, values in kinds.items()}} if kinds else {}),
    }


def _means(ratios: list[float]) -> dict[str, Any]:
    return {
        "rows_compared": len(ratios),
        "geometric_mean_ratio": geometric_mean(ratios),
        "least_ratio": min(ratios, default=None),
        "rows_below_1": sum(ratio < 1 for ratio in ratios),
    }


def to_json(run: BenchRun) -> str:
    """The whole run, indented; times in seconds (median of each round, not every iteration), sizes in bytes."""
    document = {
        "environment": run.environment,
        "peak_gflops": run.peak_gflops,
        "bandwidth_gbs": run.bandwidth_gbs,
        "summary": summary(run),
        "rows": [_row_values(row, run) for row in run.rows],
    }
    return json.dumps(document, indent=2) + "\n"


def _row_values(row: Row, run: BenchRun) -> dict[str, Any]:
    peer = row.fastest_peer
    return {
        "name": row.name,
        "problem": str(row.problem),
        "repeats": row.repeats,
        "macs": row.problem.macs,
        "unique_bytes": row.problem.unique_bytes,
        "floor_s": run.floor_s(row.problem),
        "ratio": row.ratio,
        **({"over_unshifted": row.over_unshifted} if row.over_unshifted else {}),
        **({"untuned_over_own": row.untuned_over_own} if row.untuned_over_own else {}),
        "fastest_peer": peer.engine if peer else None,
        "engines": {name: _timing_values(timing, row, run) for name, timing in row.timings.items()},
    }


def _timing_values(timing: Timing, row: Row, run: BenchRun) -> dict[str, Any]:
    if not timing.rounds_s:
        return {"reason": timing.reason}
    gflops = row.gflops(timing.engine)
    return {
        "median_s": timing.median_s,
        "best_s": timing.best_s,
        "spread": timing.spread,
        "iterations": sum(map(len, timing.rounds_s)),
        "round_medians_s": [statistics.median(times) for times in timing.rounds_s],
        "gflops": gflops,
        "share_of_peak": gflops / run.peak_gflops if gflops else None,
        **({"peak_gflops_beside": timing.peak_gflops} if timing.peaks_gflops else {}),
        **({"share_of_peak_beside": run.share_of_peak(row, timing.engine)} if timing.peaks_gflops else {}),
        "above_possible": above_possible(run.share_of_peak(row, timing.engine), row.problem.macs, timing.macs_executed),
        "gbs": 1e-9 * row.problem.unique_bytes / timing.median_s,
        **({"parts_s": timing.part_medians_s} if timing.parts_s else {}),
        "error": timing.error,
        "note": timing.note,
        **({"details": timing.details} if timing.details else {}),
    }


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader, or a crash, sees the old text or the new one, never half.

    Raises `OSError` if the folder cannot be written.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(name, 0o644)  # mkstemp makes private files
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def render(run: BenchRun) -> RenderableType:
    """One row a problem: medians in ms of every engine, and ours over the fastest peer's."""
    table = Table(title_justify="left")
    table.add_column("problem", overflow="fold")
    table.add_column("x", justify="right")
    table.add_column("algorithm", overflow="fold")
    if run.kinds():
        table.add_column("floor\nms", justify="right")
    for name in (OWN, *run.peers):
        table.add_column(f"{name}\nms", justify="right")
    for title in ("GFLOP/s", "% of\npeak", "ratio", "error"):
        table.add_column(title, justify="right")
    for row in run.rows:
        table.add_row(*_cells(row, run))
    return Group(table, *_footer(run))


def render_starts(run: BenchRun) -> RenderableType:
    """Of whole networks: one row an engine, its error, what its start took (load, compile, first run), and its memory."""
    table = Table(title_justify="left")
    for title in ("network", "engine", "best way"):
        table.add_column(title)
    for title in ("ms", "times ours", "error", "start, s", "peak memory, MB"):
        table.add_column(title, justify="right")
    for row in run.rows:
        own = row.timed(OWN)
        for name in row.timings:
            timing = row.timed(name)
            if timing is None:
                continue
            ratio = f"{timing.median_s / own.median_s:.2f}" if own else "-"
            error = "-" if timing.error is None else f"{timing.error:.1e}"
            start, peak = timing.details.get("start_s"), timing.details.get("peak_bytes")
            cells = ["-" if start is None else f"{start:.2f}", "-" if peak is None else f"{peak / 1e6:.0f}"]
            table.add_row(
                plain(row.name), name, plain(timing.note or "-"), f"{1e3 * timing.median_s:.4g}", ratio, error, *cells
            )
    against = {
        str(t.details["error_against"]) for row in run.rows for t in row.timings.values() if "error_against" in t.details
    }
    return Group(table, *(Text(f"errors are against {text}, relative to the largest output") for text in sorted(against)))


#: One row an engine that trains; the difference is of its loss, relative, to that of PyTorch's eager steps.
STEP_COLUMNS = (
    "network", "engine", "ms", "forward", "backward", "optimizer", "times ours", "loss differs by", "first step, s",
    "memory, MB",
)  # fmt: skip


def step_cells(name: str, engine: str, values: dict[str, Any], own_s: float | None) -> list[str]:
    """The cells of `STEP_COLUMNS`, from an engine's part of the JSON."""
    if "median_s" not in values:
        return [name, engine, *["-"] * (len(STEP_COLUMNS) - 2)]
    details, seconds = values.get("details", {}), (values["median_s"], *values.get("parts_s", {}).values())
    difference, start = values["error"], details.get("start_s")
    before, peak = details.get("resident_before_bytes"), details.get("peak_bytes")
    return [
        name,
        engine,
        *(f"{1e3 * second:.4g}" for second in seconds),
        "-" if own_s is None else f"{values['median_s'] / own_s:.2f}",
        "-" if difference is None else f"{difference:.1e}",
        "-" if start is None else f"{start:.3g}",
        "-" if peak is None or before is None else f"{1e-6 * (peak - before):.0f}",
    ]


def render_steps(run: BenchRun) -> RenderableType:
    """Of training: one row an engine, with the parts of its step, and below what the engines say of themselves."""
    table = Table(title_justify="left")
    for title in STEP_COLUMNS:
        table.add_column(title, justify="left" if title in STEP_COLUMNS[:2] else "right")
    notes = []
    for row in run.rows:
        own = row.timed(OWN)
        for name, timing in row.timings.items():
            values = _timing_values(timing, row, run)
            table.add_row(*map(plain, step_cells(row.name, name, values, own.median_s if own else None)))
            if timing.note:
                notes.append(f"{row.name}, {name}: {timing.note}")
    return Group(table, *(Text("\n".join(map(printable, note.splitlines()))) for note in notes))


def plain(text: str) -> str:
    """A name from a model or a file, for rich: no control characters get through, and brackets are no markup."""
    return escape(printable(text))


def _cells(row: Row, run: BenchRun) -> list[RenderableType]:
    own = row.timings.get(OWN)
    gflops = row.gflops(OWN)
    share = run.share_of_peak(row, OWN)
    best = min((t.median_s for name in row.timings if (t := row.timed(name))), default=None)
    return [
        plain(row.name if row.name == str(row.problem) else f"{row.name}: {short(row.problem)}"),
        str(row.repeats),
        plain(_first_line(own.note)) if own and own.note else "-",
        *([f"{1e3 * run.floor_s(row.problem):.4g}"] if run.kinds() else []),
        *[_time_cell(row.timings.get(name), best) for name in (OWN, *run.peers)],
        f"{gflops:.0f}" if gflops else "-",
        share_text(share, row.problem.macs, own.macs_executed if own else None),
        _ratio_cell(row.ratio),
        f"{own.error:.1e}" if own and own.error is not None else "-",
    ]


def short(problem: Work) -> str:
    """The descriptor without its epilogue, which is the same all over a network."""
    return " ".join(word for word in str(problem).split() if word != "bias" and not word.startswith("act="))


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _time_cell(timing: Timing | None, best: float | None) -> RenderableType:
    if timing is None or not timing.rounds_s:
        return Text("-", style="dim")
    return Text(f"{1e3 * timing.median_s:.4g}", style="bold" if timing.median_s == best else "")


def _ratio_cell(ratio: float | None) -> RenderableType:
    if ratio is None:
        return Text("-", style="dim")
    return Text(f"{ratio:.2f}", style="green" if ratio >= 1 else "red")


def _footer(run: BenchRun) -> list[Text]:
    figures, environment = summary(run), run.environment
    lines = []
    if figures["rows_compared"]:
        lines.append(
            f"fastest peer / sevenloops: geometric mean {figures['geometric_mean_ratio']:.3f}, "
            f"least {figures['least_ratio']:.3f}, {figures['rows_below_1']} of {figures['rows_compared']} rows below 1"
        )
    lines += [
        f"{kind}: geometric mean {means['geometric_mean_ratio']:.3f}, least {means['least_ratio']:.3f}, "
        f"{means['rows_below_1']} of {means['rows_compared']} rows below 1"
        for kind, means in figures.get("kinds", {}).items()
        if means["rows_compared"]
    ]
    over = [row.over_unshifted for row in run.rows if row.over_unshifted]
    if over:
        lines.append(
            f"sevenloops / the same 1x1 without its shift: geometric mean {geometric_mean(over):.3f}, most {max(over):.3f}"
        )
    untuned = [row.untuned_over_own for row in run.rows if row.untuned_over_own]
    if untuned:
        lines.append(
            f"the model's own choice / sevenloops: geometric mean {geometric_mean(untuned):.3f}, most {max(untuned):.3f}"
        )
    totals = [f"{name} {1e3 * total:.2f} ms" for name, total in figures["total_s"].items() if total is not None]
    if len(run.rows) > 1 and totals:
        lines.append("all layers with their repeats: " + ", ".join(totals))
    lines.append(
        f"{environment['cpu']}, {environment['isa']}, {environment['threads']} threads; its peak is "
        f"{run.peak_gflops:.0f} GFLOP/s, and it reads {run.bandwidth_gbs:.0f} GB/s; {environment['date']}"
    )
    beside = [timing.peak_gflops for row in run.rows if (timing := row.timed(OWN)) and timing.peak_gflops]
    if beside:
        lines.append(f"% of peak is of that sampled beside each row: {min(beside):.0f} to {max(beside):.0f} GFLOP/s")
    if any(_is_above_possible(row, run) for row in run.rows):
        lines.append(MARK_MEANS)
    lines.append("versions: " + ", ".join(f"{name} {text}" for name, text in environment["engines"].items()))
    noisy = sum(_is_noisy(row) for row in run.rows)
    if noisy:
        lines.append(f"noisy: in {noisy} row(s) a round of ours or of the fastest peer was {NOISY}x slower than another")
    return [Text(printable(line)) for line in lines + _reasons(run)]


def _is_noisy(row: Row) -> bool:
    return any(timing.spread > NOISY for timing in (row.timed(OWN), row.fastest_peer) if timing)


def _is_above_possible(row: Row, run: BenchRun) -> bool:
    own = row.timed(OWN)
    return own is not None and above_possible(run.share_of_peak(row, OWN), row.problem.macs, own.macs_executed)


def _reasons(run: BenchRun) -> list[str]:
    """Why an engine has no time, each reason once with the number of rows."""
    counts: dict[tuple[str, str], int] = {}
    for row in run.rows:
        for name, timing in row.timings.items():
            if timing.reason is not None:
                counts[name, timing.reason] = counts.get((name, timing.reason), 0) + 1
    return [f"no time for {name} in {count} row(s): {reason}" for (name, reason), count in counts.items()]
