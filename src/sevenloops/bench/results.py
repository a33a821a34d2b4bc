"""Measurements as values: what was timed, and the figures that follow from it. Derived figures are never stored."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

__all__ = ["NO_PEERS", "OTHER_RESULTS", "OWN", "BenchRun", "Row", "Timing", "Work", "geometric_mean", "share_beside"]

#: the engine that the others are compared with
OWN = "sevenloops"
#: our own engines, for comparisons of another kind: never a peer
NO_PEERS = ("unshifted", "untuned")
#: those of them that compute something else
OTHER_RESULTS = ("unshifted",)


class Work(Protocol):
    """What is measured: a problem or a network. `str()` of it names it in full."""

    @property
    def macs(self) -> int:
        """Multiply-adds of the definition."""

    @property
    def unique_bytes(self) -> int:
        """Bytes of every operand and result, once."""


@dataclass(frozen=True)
class Timing:
    """All iterations of one engine on one problem, in seconds, one tuple a round; or the reason why there are none."""

    engine: str
    rounds_s: tuple[tuple[float, ...], ...] = ()
    error: float | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    parts_s: dict[str, tuple[float, ...]] = field(default_factory=dict)  # of iterations that have parts
    peaks_gflops: tuple[float, ...] = ()  # the machine's peak, sampled just before and after each round

    @property
    def peak_gflops(self) -> float | None:
        """The median of the peaks sampled beside the rounds."""
        return statistics.median(self.peaks_gflops) if self.peaks_gflops else None

    @property
    def median_s(self) -> float:
        """The median over the iterations of all rounds."""
        return statistics.median([time for times in self.rounds_s for time in times])

    @property
    def part_medians_s(self) -> dict[str, float]:
        """The median of each part of an iteration."""
        return {part: statistics.median(times) for part, times in self.parts_s.items()}

    @property
    def macs_executed(self) -> int | None:
        """Multiply-adds that its code really does; None where that is not known."""
        return self.details.get("macs_executed")

    @property
    def best_s(self) -> float:
        """The fastest iteration."""
        return min(min(times) for times in self.rounds_s)

    @property
    def spread(self) -> float:
        """Slowest over fastest median of a round: 1.0 is a quiet machine."""
        medians = [statistics.median(times) for times in self.rounds_s]
        return max(medians) / min(medians)


@dataclass(frozen=True)
class Row:
    """One problem and the timings of every engine; `repeats` is how often a network has it.

    `kinds` are groups of rows that have means of their own.
    """

    name: str
    problem: Work
    repeats: int
    timings: dict[str, Timing]
    kinds: tuple[str, ...] = ()

    def timed(self, engine: str) -> Timing | None:
        """The timing of an engine that has one."""
        timing = self.timings.get(engine)
        return timing if timing and timing.rounds_s else None

    @property
    def fastest_peer(self) -> Timing | None:
        """The peer with the lowest median."""
        peers = [t for name in self.timings if name not in (OWN, *NO_PEERS) and (t := self.timed(name))]
        return min(peers, key=lambda timing: timing.median_s, default=None)

    @property
    def ratio(self) -> float | None:
        """Fastest peer's time over ours: above 1 we are faster."""
        own, peer = self.timed(OWN), self.fastest_peer
        return peer.median_s / own.median_s if own and peer else None

    @property
    def over_unshifted(self) -> float | None:
        """Our time over that of the same 1x1 convolution without its shift."""
        return self._times(OWN, "unshifted")

    @property
    def untuned_over_own(self) -> float | None:
        """The time of the cost model's own choice over ours."""
        return self._times("untuned", OWN)

    def _times(self, one: str, other: str) -> float | None:
        """How many times as long as the other an engine takes; None unless both were timed."""
        above, below = self.timed(one), self.timed(other)
        return above.median_s / below.median_s if above and below else None

    def gflops(self, engine: str) -> float | None:
        """1e9 FLOP/s by the MACs of the definition; an algorithm that executes fewer can exceed the peak."""
        timing = self.timed(engine)
        return 2e-9 * self.problem.macs / timing.median_s if timing else None


def share_beside(macs: int, rounds_s: Iterable[Sequence[float]], peaks_gflops: Iterable[float]) -> float | None:
    """The median over the rounds of GFLOP/s over the peak that was sampled beside; None without samples."""
    shares = [2e-9 * macs / statistics.median(times) / peak for times, peak in zip(rounds_s, peaks_gflops)]
    return statistics.median(shares) if shares else None


@dataclass(frozen=True)
class BenchRun:
    """Every row of one run, with the machine's limits sampled in that run and the environment."""

    rows: tuple[Row, ...]
    peers: tuple[str, ...]
    peak_gflops: float
    bandwidth_gbs: float
    environment: dict[str, Any]

    @property
    def ratios(self) -> list[float]:
        """The ratios of all rows that have one."""
        return [row.ratio for row in self.rows if row.ratio is not None]

    def share_of_peak(self, row: Row, engine: str) -> float | None:
        """GFLOP/s over the peak: of each round over that sampled around it, the median; else over the best of the run.

        On a shared machine the speed changes from second to second, between all and half of it when two virtual processors
        share a core: a burst that the peak of the run caught is not what a layer had at its time, and a median of the peaks
        is of other rounds than the median of the times.
        """
        gflops, timing = row.gflops(engine), row.timed(engine)
        if not gflops or not timing:
            return None
        return share_beside(row.problem.macs, timing.rounds_s, timing.peaks_gflops) or gflops / self.peak_gflops

    def kinds(self) -> dict[str, list[Row]]:
        """The rows of each kind, in the order of their names."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            for kind in row.kinds:
                found.setdefault(kind, []).append(row)
        return dict(sorted(found.items()))

    def floor_s(self, work: Work) -> float:
        """What the MACs take at the peak, or the unique bytes at the bandwidth, whichever is longer."""
        return max(2e-9 * work.macs / self.peak_gflops, 1e-9 * work.unique_bytes / self.bandwidth_gbs)

    def total_s(self, engine: str) -> float | None:
        """Time of all layers with their repeats, or None if the engine misses one of them."""
        timings = [(row.repeats, row.timed(engine)) for row in self.rows]
        if any(timing is None for _, timing in timings):
            return None
        return sum(repeats * timing.median_s for repeats, timing in timings if timing)


def geometric_mean(values: Iterable[float]) -> float | None:
    """None for no values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else None
