"""Sums over all pixels of channels-last arrays, in parts: what batch normalisation and the gradients of biases share.

    total[c] = sum over parts of (sum over the pixels of a part of term[c, pixel])

A part is a run of pixels that fits into L2. Its sums are float32, those over parts float64. The parts belong to the
problem, so the result is the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import halide as hl

from ..machine import Machine
from .base import PARALLEL_ELEMENTS, as_expr, tasks, vectorize, width

__all__ = ["Parts", "side_by_side"]

#: Bytes of one array that a part reads: small enough for L2, so that a second look at it costs no memory traffic.
PART_BYTES = 65536
#: Pixels of a part; sums of more terms would lose digits in float32.
FEWEST, MOST = 16, 256


def side_by_side(channels: int, machine: Machine) -> int:
    """Vectors of channels that are summed side by side: half of the registers, in blocks of nearly equal width."""
    vectors = -(-channels // width(channels, machine.lanes))
    blocks = -(-vectors // (machine.vector_registers // 2))
    return -(-vectors // blocks)


class Parts:
    """The pixels of an array of `(pixels, channels)` in parts."""

    def __init__(self, pixels: int, channels: int, machine: Machine, *, parallel: bool) -> None:
        self.pixels, self.channels, self.machine, self.parallel = pixels, channels, machine, parallel
        self.each = min(pixels, MOST, max(FEWEST, PART_BYTES // (4 * channels)))
        self.count = -(-pixels // self.each)
        self.c, self.p = hl.Var("c"), hl.Var("p")

    def size(self, p: Any) -> Any:
        """Pixels of part `p`."""
        last = self.pixels - (self.count - 1) * self.each
        return hl.select(p == self.count - 1, last, self.each) if last != self.each else hl.i32(self.each)

    def sums(self, name: str, terms: Callable[[Any, Any], Sequence[Any]]) -> tuple[Any, Any]:
        """`(func, domain)`: `func[c, p]` holds the sums of `terms(c, pixel)` over part `p`, not scheduled yet."""
        func, c, p = hl.Func(name), self.c, self.p
        domain = hl.RDom([hl.Range(0, self.each)], f"{name}_r")
        pixel = p * self.each + domain[0]
        if self.pixels % self.each:
            domain.where(pixel < self.pixels)
        values = list(terms(c, pixel))
        if len(values) == 1:
            func[c, p] = hl.f32(0)
            func[c, p] = hl.strict_float(as_expr(func[c, p]) + values[0])
        else:
            func[c, p] = hl.Tuple([hl.f32(0)] * len(values))
            func[c, p] = hl.Tuple([hl.strict_float(func[c, p][at] + value) for at, value in enumerate(values)])
        return func, domain

    def schedule(self, result: Any, stages: Sequence[tuple[Any, Any]]) -> None:
        """Compute `result[c, p]` part by part, with `stages` from `sums` for one block of channels at a time."""
        vectors = side_by_side(self.channels, self.machine)
        result.compute_root()
        block = vectorize(result, self.c, self.channels, self.machine.lanes, vectors)
        if self.parallel:
            tasks(result, [(self.p, self.count)], self.machine)
        lanes = width(self.channels, self.machine.lanes)
        while vectors * lanes > self.channels:
            vectors -= 1
        for func, domain in stages:
            func.compute_at(result, block).bound_extent(self.c, lanes * vectors).vectorize(self.c, lanes).unroll(self.c)
            func.update(0).reorder(self.c, domain[0]).vectorize(self.c, lanes).unroll(self.c)

    def total(self, name: str, term: Callable[[Any, Any], Any]) -> Any:
        """A Func of `c`: the float64 sum of `term(c, p)` over parts, in their order. Scheduled."""
        total, result, c = hl.Func(f"{name}_parts"), hl.Func(name), self.c
        domain = hl.RDom([hl.Range(0, self.count)], f"{name}_p")
        total[c] = hl.f64(0)
        total[c] = hl.strict_float(as_expr(total[c]) + hl.cast(hl.Float(64), term(c, domain[0])))
        result[c] = total[c]
        lanes = width(self.channels, max(1, self.machine.lanes // 2))
        vectors = max(1, min(4, self.channels // lanes))
        result.compute_root()
        block = vectorize(result, c, self.channels, lanes, vectors)
        if self.parallel and self.count * self.channels > PARALLEL_ELEMENTS:
            result.parallel(block)
        total.compute_at(result, block).bound_extent(c, lanes * vectors).vectorize(c, lanes).unroll(c)
        total.update(0).reorder(c, domain[0]).vectorize(c, lanes).unroll(c)
        return result
