"""The phases of a transposed convolution: which taps reach which outputs. No Halide until an expression is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..problem import ConvProblem
from .base import Geometry, ceil_div

__all__ = ["Axis", "Phased", "by_phase"]


@dataclass(frozen=True)
class Axis:
    """The phases of one axis. Output `u*stride + r` is output `u` of phase `r`."""

    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int

    @property
    def phases(self) -> range:
        """The phases that have an output."""
        return range(min(self.stride, self.out))

    @property
    def cells(self) -> int:
        """Outputs of phase 0, which has the most."""
        return ceil_div(self.out, self.stride)

    @property
    def residues(self) -> int:
        """Taps this far apart belong to the same phase."""
        return self.stride // math.gcd(self.stride, self.dilation)

    @property
    def step(self) -> int:
        """Inputs between two taps of a phase."""
        return self.dilation // math.gcd(self.stride, self.dilation)

    def last(self, r: int) -> int:
        """The last output of phase `r`."""
        return (self.out - 1 - r) // self.stride

    def first_tap(self, r: int) -> int:
        """The lowest tap k with `k*dilation = r + before` modulo the stride; `kernel` if there is none."""
        taps = (k for k in range(self.kernel) if (k * self.dilation - r - self.before) % self.stride == 0)
        return next(taps, self.kernel)

    def taps(self, r: int) -> int:
        """How many taps phase `r` has."""
        return ceil_div(self.kernel - self.first_tap(r), self.residues)

    @cached_property
    def most_taps(self) -> int:
        """Taps of the phase that has the most, at least 1."""
        return max(1, *map(self.taps, self.phases))

    def first(self, r: int) -> int:
        """The input that output 0 of phase `r` sees through its first tap (it may lie outside)."""
        tap = self.first_tap(r)
        return (r + self.before - tap * self.dilation) // self.stride if tap < self.kernel else 0

    def place(self, r: int) -> int:
        """Where the taps of phase `r` begin when the taps are sorted by residue."""
        tap, (each, more) = self.first_tap(r), divmod(self.kernel, self.residues)
        return tap * each + min(tap, more) if tap < self.kernel else 0

    def sorted_tap(self, place: Any) -> Any:
        """The tap at a place (a Halide expression) of that order."""
        import halide as hl

        each, more = divmod(self.kernel, self.residues)
        if self.residues == 1 or each == 0:
            return place
        rest = place - more * (each + 1)
        tap = more + rest // each + rest % each * self.residues
        if more:
            tap = hl.select(rest < 0, place // (each + 1) + place % (each + 1) * self.residues, tap)
        return hl.unsafe_promise_clamped(tap, 0, self.kernel - 1)

    @property
    def reach(self) -> tuple[int, int]:
        """The lowest and the highest input that output 0 of any phase sees."""
        reached = [r for r in self.phases if self.taps(r)]
        low = min((self.first(r) - (self.taps(r) - 1) * self.step for r in reached), default=0)
        return low, max((self.first(r) for r in reached), default=0)

    @property
    def pads(self) -> bool:
        """Whether a phase reads beyond the input."""
        low, high = self.reach
        return low < 0 or high + self.cells > self.size

    def window(self, r: int) -> int:
        """The first of the `most_taps` neighbouring inputs that output 0 of a phase may see: all alike if possible.

        For phases of at most two taps.
        """
        if self.taps(r) == self.most_taps:
            return self.first(r) - self.taps(r) + 1
        others = [self.first(o) - self.taps(o) + 1 for o in self.phases if self.taps(o) == self.most_taps]
        return self.first(r) - 1 if self.first(r) - 1 in others and self.first(r) not in others else self.first(r)

    def tap_at(self, r: int, place: int) -> int:
        """The tap of phase `r` at a place of its window, or -1."""
        j = self.first(r) - self.window(r) - place
        return self.first_tap(r) + j * self.residues if 0 <= j < self.taps(r) else -1

    def vanishes_at_infinity(self, r: int) -> bool:
        """Whether phase `r` has no tap at the end of a window of two."""
        return self.most_taps > 1 and self.tap_at(r, self.most_taps - 1) < 0

    @property
    def one_to_one(self) -> bool:
        """Whether every input makes `stride` outputs of its own."""
        return self.kernel == self.stride and self.dilation == 1 and not self.before and self.out == self.size * self.stride


@dataclass(frozen=True)
class Phased:
    """A transposed problem by its phases: `oc` channels (those of `merged` phases side by side) of each of `groups`."""

    batch: int
    groups: int
    ic: int
    oc: int
    merged: int
    axes: tuple[Axis, Axis, Axis]  # z, y, x

    @classmethod
    def of(cls, problem: ConvProblem) -> Phased:
        """See the phases of a row as channels where that is possible, and the images as rows."""
        g = Geometry.of(problem)
        z, y, x = (Axis(*axis) for axis in zip(g.size, g.out, g.kernel, g.stride, g.dilation, g.before))
        batch, merged = g.batch, 1
        if x.one_to_one and g.groups == 1 and not problem.out_pitch:
            merged = x.stride
            x = Axis(x.size, x.size, 1, 1, 1, 0)
        if y.one_to_one and z.size == z.out == z.kernel == 1:
            y, batch = replace(y, size=batch * y.size, out=batch * y.out), 1
        return cls(batch, g.groups, g.ic, g.oc * merged, merged, (z, y, x))

    @property
    def pixels(self) -> int:
        """Outputs of one phase in one slice."""
        return self.axes[1].cells * self.axes[2].cells

    @property
    def pads(self) -> bool:
        """Whether the input must be copied with zeros around it."""
        return any(axis.pads for axis in self.axes)

    @property
    def phases(self) -> int:
        """Products over the same pixels."""
        return math.prod(len(axis.phases) for axis in self.axes)

    @property
    def outer_taps(self) -> int:
        """Taps of all phases."""
        return math.prod(sum(map(axis.taps, axis.phases)) for axis in self.axes)


def by_phase(r: Any, values: list[int]) -> Any:
    """`values[r]` for a Halide expression `r`."""
    import halide as hl

    if len(set(values)) == 1:
        return hl.i32(values[0])
    slope = values[1] - values[0]
    if all(value == values[0] + index * slope for index, value in enumerate(values)):
        return values[0] + r * slope
    result = hl.i32(values[-1])
    for index in range(len(values) - 2, -1, -1):
        if values[index] != values[index + 1]:
            result = hl.select(r <= index, values[index], result)
    return result
