"""How an image is divided into transforms: the sizes of one axis, and of both. No Halide here."""

from __future__ import annotations

from dataclasses import dataclass

from ..problem import ConvProblem
from .base import Geometry, ceil_div

__all__ = ["SIZES", "Axis", "Plan", "axis", "plan"]

#: Transform sizes and their two radices. The first is even, so that real rows can be paired; radices stay below 13, so
#: that a butterfly's values fit the vector registers or nearly so.
SIZES: dict[int, tuple[int, int]] = {
    8: (4, 2), 12: (4, 3), 16: (4, 4), 20: (4, 5), 24: (4, 6), 28: (4, 7), 32: (4, 8), 36: (6, 6), 40: (8, 5),
    48: (6, 8), 56: (8, 7), 60: (6, 10), 64: (8, 8), 72: (8, 9), 80: (8, 10), 96: (8, 12),
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One axis of the image, divided into `tiles` that overlap by the kernel's reach (overlap-save).

    Window index j of tile t is image coordinate `t * outputs * stride + origin + j`; output o of a tile is index
    `o * stride` of the result; kernel tap k stands at index `k * dilation - shift`, modulo `size`. A single tile has its
    origin at the image, so that its padding is the zeros that the circle of the transform has anyway.
    """

    size: int
    tiles: int
    outputs: int
    stride: int
    dilation: int
    origin: int
    shift: int
    live_in: int  # window indices from here on are zero
    taps: tuple[int, int]  # first tap that ever meets the image, and the number of those that do

    @property
    def radices(self) -> tuple[int, int]:
        """The two radices."""
        return SIZES[self.size]

    @property
    def live_out(self) -> int:
        """Results of a tile up to the last that is wanted."""
        return (self.outputs - 1) * self.stride + 1


def axis(size: int, out: int, image: int, kernel: int, stride: int, dilation: int, before: int) -> Axis | None:
    """The axis with transforms of `size` points, or None if the kernel reaches too far for them (or meets no pixel)."""
    alive = [k for k in range(kernel) if (out - 1) * stride + k * dilation >= before and k * dilation - before < image]
    if not alive:
        return None
    first, count = alive[0], len(alive)
    low = before - first * dilation  # padding before, as far as a live tap sees it
    reach = (count - 1) * dilation + 1
    window = (out - 1) * stride + reach
    used = max(1, min(image, window - low))
    # An index outside the image must not meet the image again on its way around the circle.
    if size >= max(low + used, window - low, (out - 1) * stride + 1):
        return Axis(size, 1, out, stride, dilation, 0, before, used, (first, count))
    if size < reach:
        return None
    tiles = ceil_div(out, (size - reach) // stride + 1)
    outputs = ceil_div(out, tiles)
    live = min(size, (outputs - 1) * stride + reach)
    tiles = ceil_div(out, outputs)
    return Axis(size, tiles, outputs, stride, dilation, -low, first * dilation, live, (first, count))


@dataclass(frozen=True)
class Plan:
    """Both axes, and the channels: of a depthwise problem, all channels are one group without a sum."""

    x: Axis
    y: Axis
    batch: int
    groups: int
    ic: int
    oc: int
    depthwise: bool

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.x.tiles * self.y.tiles * self.batch

    @property
    def columns(self) -> int:
        """Columns of the half spectrum."""
        return self.x.size // 2 + 1

    @property
    def frequencies(self) -> int:
        """Complex values of a tile's half spectrum."""
        return self.columns * self.y.size

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.oc if self.depthwise else self.groups * self.ic


def plan(problem: ConvProblem, size_x: int, size_y: int) -> Plan | None:
    """The plan with transforms of `size_y` x `size_x` points, or None if the kernel reaches too far for them."""
    g = Geometry.of(problem)
    x, y = (
        axis(size, g.out[a], g.size[a], g.kernel[a], g.stride[a], g.dilation[a], g.before[a])
        for size, a in ((size_x, 2), (size_y, 1))
    )
    if x is None or y is None:
        return None
    depthwise = problem.is_depthwise and g.oc == 1
    if depthwise:
        return Plan(x, y, g.batch, 1, 1, g.groups, True)
    return Plan(x, y, g.batch, g.groups, g.ic, g.oc, False)
