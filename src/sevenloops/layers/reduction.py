"""Sums, maxima and products over some axes of an array, as stages that reduce, softmax and normalize put together.

Where the innermost axis stays, it is the vector axis, and several vectors are summed side by side. Where it is reduced, a
row becomes a few vectors of partial results, then one number. Long sums are kept in float64, which costs nothing while
the values come from memory, so their error does not grow with their length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import halide as hl

from .base import as_expr, keep_nan_update, width

__all__ = ["Reduction"]

#: Terms up to which a sum is kept in float32.
MOST_NARROW = 256
#: Vectors of partial results of a row.
PARTIALS = 4

Axes = Sequence[tuple[int, bool]]  # (size, whether it is reduced), outermost first


class Reduction:
    """`result[kept]` (innermost kept axis first) of `read(coordinates)`, coordinates outermost first.

    `operation` is "sum", "max", "min" or "prod". `kept` are the variables of the kept axes, outermost first.
    """

    def __init__(
        self, name: str, axes: Axes, kept: list[Any], read: Callable[[list[Any]], Any], operation: str, lanes: int
    ) -> None:
        self.operation, self.axes, self.kept, self.read = operation, axes, kept, read
        terms = math.prod(size for size, reduced in axes if reduced)
        self.wide = operation == "sum" and terms > MOST_NARROW
        self.result = hl.Func(name)
        self.stages: list[Any] = []
        if axes[-1][1]:
            self._by_rows(name, lanes)
        else:
            self._by_columns(name, lanes)

    def _start(self) -> Any:
        value = {"sum": 0.0, "max": -math.inf, "min": math.inf, "prod": 1.0}[self.operation]
        return hl.f64(value) if self.wide else hl.f32(value)

    def _step(self, before: Any, value: Any) -> Any:
        before = as_expr(before)
        value = hl.cast(hl.Float(64), as_expr(value)) if self.wide else as_expr(value)
        if self.operation in ("max", "min"):
            return keep_nan_update(before, value, 1 if self.operation == "max" else -1)
        # Strictly: what fast-math has summed counts as finite, and what tests it for NaN or infinity would be assumed away.
        return hl.strict_float(before + value if self.operation == "sum" else before * value)

    def _at(self, turns: Sequence[Any], last: Any = None) -> list[Any]:
        """Coordinates, outermost first: `turns` on the reduced axes, except for `last` on the innermost if it is given."""
        kept, turning, found = iter(self.kept), iter(turns), []
        for _, reduced in self.axes[: -1 if last is not None else None]:
            found.append(next(turning) if reduced else next(kept))
        return found if last is None else [*found, last]

    def _by_columns(self, name: str, lanes: int) -> None:
        """The innermost axis is kept."""
        args = list(reversed(self.kept))
        domain = hl.RDom([hl.Range(0, size) for size, reduced in reversed(self.axes) if reduced], f"{name}_r")
        self.turns = [domain[at] for at in range(len(domain))]
        self.result[args] = self._start()
        self.result[args] = self._step(self.result[args], self.read(self._at(self.turns[::-1])))
        self.lanes, self.stages = width(self.axes[-1][0], lanes), [self.result]

    def _by_rows(self, name: str, lanes: int) -> None:
        """The innermost axis is reduced: whole vectors of it, what is left over, then across the partial results."""
        extent, args = self.axes[-1][0], list(reversed(self.kept))
        count = width(extent, lanes * PARTIALS)
        others = [hl.Range(0, size) for size, reduced in reversed(self.axes[:-1]) if reduced]
        self.lane, partial = hl.Var(f"{name}_lane"), hl.Func(f"{name}_partial")
        partial[[self.lane, *args]] = self._start()
        domain = hl.RDom([hl.Range(0, extent // count), *others], f"{name}_r")
        self.turns = [domain[at] for at in range(len(domain))]
        value = self.read(self._at(self.turns[:0:-1], self.turns[0] * count + self.lane))
        partial[[self.lane, *args]] = self._step(partial[[self.lane, *args]], value)
        if extent % count:
            rest = hl.RDom([hl.Range(0, extent % count), *others], f"{name}_rest")
            turns = [rest[at] for at in range(len(rest))]
            value = self.read(self._at(turns[:0:-1], turns[0] + extent // count * count))
            partial[[turns[0], *args]] = self._step(partial[[turns[0], *args]], value)
            partial.update(1).unscheduled()
        across = hl.RDom([hl.Range(0, count)], f"{name}_across")
        self.result[args] = self._start()
        self.result[args] = self._step(self.result[args], partial[[across[0], *args]])
        self.lanes, self.stages = min(count, lanes), [self.result, partial]

    def value(self, at: list[Any]) -> Any:
        """The result at kept coordinates (innermost first) in float32."""
        return hl.cast(hl.Float(32), self.result[at]) if self.wide else as_expr(self.result[at])

    def compute_at(self, consumer: Any, var: Any, vectors: int = 1) -> None:
        """Compute for one turn of a consumer's loop, which takes `vectors` vectors of a kept innermost axis."""
        for stage in self.stages:
            stage.compute_at(consumer, var)
        inner = self.lane if self.axes[-1][1] else self.kept[-1]
        stage = self.stages[-1]
        if not self.axes[-1][1]:
            stage.bound_extent(inner, self.lanes * vectors)
        stage.vectorize(inner, self.lanes).unroll(inner)
        stage.update(0).reorder(inner, *self.turns).vectorize(inner, self.lanes).unroll(inner)
