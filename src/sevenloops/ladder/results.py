"""What a climb of the ladder gave: points of rung and problem, with the figures that follow from them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from ..analysis.shares import above_possible
from ..bench.results import share_beside
from ..problem import GemmProblem, Problem
from .table import Rung

__all__ = ["Case", "LadderRun", "Point", "series"]


@dataclass(frozen=True)
class Case:
    """A problem of a ladder with the name that its column has: `512`, `walkthrough`."""

    name: str
    problem: Problem

    @property
    def intensity(self) -> float:
        """FLOP for each byte of the operands and the result, each moved once (a perfect cache)."""
        return 2 * self.problem.macs / self.problem.unique_bytes


@dataclass(frozen=True)
class Point:
    """One rung on one problem: all times in seconds, a tuple for each round; or the reason why there are none.

    `peaks_gflops` is the machine's peak sampled beside the rounds, `error` the largest one relative to the largest
    output. `extrapolated` says what the time was computed from, where it was not measured. `macs_executed` is None where
    it is not known what the code does of a convolution.
    """

    rung: Rung
    case: Case
    rounds_s: tuple[tuple[float, ...], ...] = ()
    error: float | None = None
    note: str = ""
    reason: str | None = None
    extrapolated: str | None = None
    peaks_gflops: tuple[float, ...] = ()
    macs_executed: int | None = None

    @property
    def median_s(self) -> float | None:
        """The median of all iterations."""
        times = [time for times in self.rounds_s for time in times]
        return statistics.median(times) if times else None

    @property
    def spread(self) -> float | None:
        """Slowest over fastest median of a round."""
        medians = [statistics.median(times) for times in self.rounds_s if times]
        return max(medians) / min(medians) if medians else None

    @property
    def gflops(self) -> float | None:
        """1e9 FLOP/s by the MACs of the definition: an algorithm that multiplies less can exceed the peak."""
        return 2e-9 * self.case.problem.macs / self.median_s if self.median_s else None

    @property
    def share_of_peak(self) -> float | None:
        """The median over the rounds of GFLOP/s over the peak that was sampled beside."""
        return share_beside(self.case.problem.macs, self.rounds_s, self.peaks_gflops)

    @property
    def best_share(self) -> float | None:
        """The fastest iteration over the best of those peaks: what the code reached while nobody else had the cores."""
        if not self.rounds_s or not self.peaks_gflops:
            return None
        return 2e-9 * self.case.problem.macs / min(map(min, self.rounds_s)) / max(self.peaks_gflops)

    @property
    def work(self) -> tuple[int, int | None]:
        """Multiply-adds of the definition and executed ones; of a product nothing executes fewer."""
        macs = self.case.problem.macs
        return macs, macs if isinstance(self.case.problem, GemmProblem) else self.macs_executed

    @property
    def above_possible(self) -> bool:
        """Whether one of the shares cannot be, so that the peaks beside are noise."""
        return any(above_possible(share, *self.work) for share in (self.share_of_peak, self.best_share))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        peak = statistics.median(self.peaks_gflops) if self.peaks_gflops else None
        return {
            "rung": self.rung.name, "case": self.case.name, "problem": str(self.case.problem),
            "macs": self.case.problem.macs, "intensity": self.case.intensity, "median_s": self.median_s,
            "spread": self.spread, "runs": sum(map(len, self.rounds_s)), "gflops": self.gflops,
            "share_of_peak": self.share_of_peak, "best_share": self.best_share,
            "macs_executed": self.work[1], "above_possible": self.above_possible,
            "peak_gflops_beside": peak, "error": self.error, "note": self.note,
            "reason": self.reason, "extrapolated": self.extrapolated,
        }  # fmt: skip


@dataclass(frozen=True)
class LadderRun:
    """All points of one climb, in the order of the rungs, and the machine at the time."""

    kind: str
    rungs: tuple[Rung, ...]
    cases: tuple[Case, ...]
    points: tuple[Point, ...]
    peak_gflops: float
    environment: dict[str, Any]

    def point(self, rung: str, case: str) -> Point | None:
        """The point of a rung and a case by their names."""
        return next((p for p in self.points if (p.rung.name, p.case.name) == (rung, case)), None)

    def climb(self, case: str) -> float | None:
        """How many times as fast the last rung compiled here is as the first, on a case."""
        own = [p.gflops for p in self.points if p.case.name == case and p.rung.compiled and p.gflops]
        return own[-1] / own[0] if own else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "ladder": self.kind, "environment": self.environment, "peak_gflops": self.peak_gflops,
            "rungs": [{"name": rung.name, "adds": rung.adds, "kind": rung.kind} for rung in self.rungs],
            "climb": {case.name: self.climb(case.name) for case in self.cases},
            "points": [point.to_dict() for point in self.points],
        }  # fmt: skip


def series(run: LadderRun) -> dict[str, list[tuple[float | str, float]]]:
    """What the charts draw: for each rung its (x, GFLOP/s); x is the size of a square product, else the case's name."""
    found: dict[str, list[tuple[float | str, float]]] = {}
    for point in run.points:
        if point.gflops:
            problem = point.case.problem
            x = problem.m if isinstance(problem, GemmProblem) and point.case.name.isdigit() else point.case.name
            found.setdefault(point.rung.name, []).append((x, point.gflops))
    return found
