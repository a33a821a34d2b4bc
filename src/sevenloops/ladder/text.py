"""A ladder as a table for people, and one rung in full."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..analysis.shares import MARK_MEANS, share_text
from ..bench.report import plain
from ..compile.explain import hot_loop, loop_nest
from ..machine import Machine
from ..problem import Problem
from .kernels import rung_text
from .results import Case, LadderRun, Point
from .table import Rung

__all__ = ["byte_text", "fits", "render", "rung_lines", "working_set_lines"]

NOISY = 1.3


def byte_text(size: int) -> str:
    """`3.5 KiB`."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift:
            return f"{size / (1 << shift):.4g} {unit}"
    return f"{size} bytes"


def fits(size: int, machine: Machine) -> str:
    """The first cache that so many bytes fit into."""
    for name, cache in (("L1", machine.l1_bytes), ("L2", machine.l2_bytes), ("L3", machine.l3_bytes)):
        if size <= cache:
            return name
    return "memory"


def working_set_lines(rung: Rung, problem: Problem, machine: Machine) -> list[str]:
    """What has to stay in a cache, how large it is, and which cache holds it."""
    sets = rung.working_sets(problem, machine)
    return [f"{what}: {byte_text(size)}, fits {fits(size, machine)}" for what, size in sets.items()]


def render(run: LadderRun) -> RenderableType:
    """A row for each rung and a column of GFLOP/s for each case, then what the climb came to."""
    table = Table(title_justify="left")
    for title in ("rung", "what it adds"):
        table.add_column(title, overflow="fold")
    for case in run.cases:
        table.add_column(f"{case.name}\nGFLOP/s", justify="right")
    last = run.cases[-1].name
    for title in (f"{last}\nms", "% of\npeak", "at\nbest", "times\nfirst"):
        table.add_column(title, justify="right")
    first = next((p.gflops for p in run.points if p.case.name == last and p.rung.compiled and p.gflops), None)
    for rung in run.rungs:
        points = [run.point(rung.name, case.name) for case in run.cases]
        table.add_row(plain(rung.name), rung.adds, *map(_gflops_cell, points), *_last_cells(points[-1], first))
    table.add_section()
    table.add_row(
        "peak", "measured beside, the best of all samples", *[f"{run.peak_gflops:.1f}"] * len(run.cases), "", "", "", ""
    )
    return Group(table, *map(Text, _footer(run)))


def _gflops_cell(point: Point | None) -> str:
    if point is None or point.gflops is None:
        return "-"
    return f"{point.gflops:.3g}" + ("*" if point.extrapolated else "") if point.gflops < 100 else f"{point.gflops:.0f}"


def _last_cells(point: Point | None, first: float | None) -> list[str]:
    if point is None or point.gflops is None or point.median_s is None:
        return ["-", "-", "-", "-"]
    shares = [share_text(share, *point.work, digits=1) for share in (point.share_of_peak, point.best_share)]
    return [f"{1e3 * point.median_s:.4g}", *shares, f"{point.gflops / first:.3g}" if first else "-"]


def _footer(run: LadderRun) -> list[str]:
    environment = run.environment
    lines = ["at best: the fastest run over the best peak; % of peak: the median of the rounds"]
    lines += [MARK_MEANS] if any(point.above_possible for point in run.points) else []
    lines += [f"{case.name}: {case.problem}: {case.problem.macs:,} MACs, {case.intensity:.1f} FLOP per byte moved once"
             for case in run.cases]  # fmt: skip
    for case in run.cases:
        climb = run.climb(case.name)
        if climb and sum(rung.compiled for rung in run.rungs) > 1:
            lines.append(f"{case.name}: the last rung compiled here is {climb:.1f} times as fast as the first")
    said: dict[str, list[str]] = {}
    for point in run.points:
        if point.extrapolated:
            lines.append(f"* {point.rung.name}, {point.case.name}: extrapolated, {point.extrapolated}")
        if point.reason:
            said.setdefault(f"{point.rung.name}: {point.reason}", []).append(point.case.name)
        elif point.rung.kind == "chosen":
            lines.append(f"{point.rung.name}, {point.case.name}: {point.note}")
        if point.spread and point.spread > NOISY:
            said.setdefault(f"noisy, a round was {NOISY} times as long as another", []).append(
                f"{point.rung.name} {point.case.name}"
            )
    lines += [f"{what} ({', '.join(cases)})" for what, cases in said.items()]
    threads = environment["threads"]
    lines.append(f"{environment['cpu']}, {environment['isa']}, {threads} threads; {environment['date']}")
    return lines


def rung_lines(rung: Rung, case: Case, *, code: bool = True, loops: bool = True, assembly: bool = False) -> list[str]:
    """A rung on a case: code, loop nest, hot loop, working sets, arithmetic intensity."""
    machine, lines = Machine.host(), [f"{rung.name}: {rung.adds}"]
    if code and rung.code():
        lines += [f"code ({rung.source or 'sevenloops.algorithms'})", *("  " + line for line in rung.code().splitlines())]
    if rung.compiled and (loops or assembly):
        text = rung_text(rung, case.problem)
        if loops:
            lines += [f"loop nest for {case.problem}", *("  " + line for line in loop_nest(text["loops"]))]
        if assembly:
            lines += ["hot loop", *("  " + line for line in hot_loop(text["assembly"]))]
    lines += ["working sets", *("  " + line for line in working_set_lines(rung, case.problem, machine))]
    lines.append(f"arithmetic intensity: {case.intensity:.1f} FLOP per byte, if every byte moves once")
    return lines
