"""The memory plan: offsets in one arena, so that values that are never needed together share their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ALIGNMENT", "MemoryPlan", "Span", "plan_memory"]

#: A cache line; and vectors may be loaded across the end of a value.
ALIGNMENT = 64
SLACK = 64
#: In place of gaps that do not fit.
TOO_LARGE = 2**62


@dataclass(frozen=True)
class Span:
    """A piece of memory that is needed from step `first` to step `last`, both included."""

    key: int
    n_bytes: int
    first: int
    last: int

    def overlaps(self, other: Span) -> bool:
        """Whether both are needed at the same time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes by key, and the size of the arena; `live_bytes` is the least that any plan needs.

    `spans` are what was placed, in the order given.
    """

    offsets: dict[int, int]
    total_bytes: int
    live_bytes: int
    spans: tuple[Span, ...] = ()

    def live_at(self, step: int) -> int:
        """Bytes of the values that are needed at a step, without what rounding adds."""
        return sum(span.n_bytes for span in self.spans if span.first <= step <= span.last)


def plan_memory(spans: Sequence[Span]) -> MemoryPlan:
    """Place the largest spans first, each into the smallest gap that fits (Pisarchyk and Lee, arXiv 2001.03288, 5.2)."""
    rows = np.zeros((4, len(spans)), np.int64)  # of those placed, by offset: offset, end, first and last step
    offsets: dict[int, int] = {}
    for count, span in enumerate(sorted(spans, key=lambda s: (-s.n_bytes, s.first, s.key))):
        size, placed = _rounded(span), rows[:, :count]
        begins, ends, *_ = placed[:, (placed[2] <= span.last) & (placed[3] >= span.first)]
        free = np.maximum.accumulate(np.append(0, ends))  # where the gap before each of them begins, and the last
        gaps = begins - free[:-1]
        gaps[gaps < size] = TOO_LARGE
        best = int(gaps.argmin()) if gaps.size else -1
        offset = int(free[best if gaps.size and gaps[best] < TOO_LARGE else -1])
        offsets[span.key] = offset
        at = placed[0].searchsorted(offset)
        rows[:, at + 1 : count + 1] = rows[:, at:count]
        rows[:, at] = offset, offset + size, span.first, span.last
    return MemoryPlan(offsets, int(rows[1].max(initial=0)), _live(spans), tuple(spans))


def _rounded(span: Span) -> int:
    return -(-(span.n_bytes + SLACK) // ALIGNMENT) * ALIGNMENT


def _live(spans: Sequence[Span]) -> int:
    changes: dict[int, int] = {}
    for span in spans:
        changes[span.first] = changes.get(span.first, 0) + _rounded(span)
        changes[span.last + 1] = changes.get(span.last + 1, 0) - _rounded(span)
    live = most = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most
