"""The memory plan: offsets in one arena, so that values that are never needed together share their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ALIGNMENT", "MemoryPlan", "Span", "plan_memory"]

#: A cache line; and vectors may be loaded across the end of a value.
ALIGNMENT = 64
SLACK = 64


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
    placed: list[tuple[int, Span]] = []
    for span in sorted(spans, key=lambda s: (-s.n_bytes, s.first, s.key)):
        size, best, best_gap, end = _rounded(span), None, 0, 0
        for offset, other in placed:
            if not span.overlaps(other):
                continue
            gap = offset - end
            if gap >= size and (best is None or gap < best_gap):
                best, best_gap = end, gap
            end = max(end, offset + _rounded(other))
        placed.append((end if best is None else best, span))
        placed.sort(key=lambda row: (row[0], row[1].key))
    total = max((offset + _rounded(span) for offset, span in placed), default=0)
    return MemoryPlan({span.key: offset for offset, span in placed}, total, _live(spans), tuple(spans))


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
