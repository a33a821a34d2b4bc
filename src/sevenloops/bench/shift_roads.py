"""How libraries without a shift operator compute one: the two roads that the peers are given, the faster one counts.

- `depthwise`: a depthwise convolution whose weights are one at the place that a channel is read from, then the 1x1. It
  takes the stride, so that the 1x1 sees as few pixels as possible.
- `slices`: the image padded, one slice a group (every stride-th pixel), all joined; the weights of the 1x1 are brought
  into the order in which the groups are joined, instead of the channels into theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..errors import Unsupported
from ..inputs import FloatArray
from ..problem import ConvProblem
from ..shift import channel_offsets, channels_of_groups

__all__ = ["ROADS", "DepthwiseRoad", "SlicesRoad", "depthwise_road", "slices_road"]

ROADS = ("depthwise", "slices")


@dataclass(frozen=True)
class DepthwiseRoad:
    """Weights `(c, 1, kh, kw)`, padding on both sides and dilation of the depthwise convolution."""

    weight: FloatArray
    padding: list[int]
    dilation: list[int]


def depthwise_road(problem: ConvProblem) -> DepthwiseRoad:
    """Raises `Unsupported` for even kernels, whose padding is uneven."""
    shift, channels = problem.shift, problem.in_channels
    assert shift is not None
    if any(k % 2 == 0 for k in shift.kernel):
        raise Unsupported("shifts of even kernels are not measured against depthwise convolutions")
    weight = np.zeros((channels, 1, *shift.kernel), problem.dtype)
    for c, offset in enumerate(channel_offsets(shift, channels)):
        place = [by // d + k // 2 for by, d, k in zip(offset, shift.dilation, shift.kernel)]
        weight[(c, 0, *place)] = 1
    return DepthwiseRoad(weight, [k // 2 * d for k, d in zip(shift.kernel, shift.dilation)], list(shift.dilation))


@dataclass(frozen=True)
class SlicesRoad:
    """Padding before and after each axis, and per slice its channels and first pixels in the padded image.

    `channels` are `(first, end, step)`; `order` lists the channels in the order in which the slices join.
    """

    padding: list[tuple[int, int]]
    slices: list[tuple[tuple[int, int, int], tuple[int, ...]]]
    order: list[int]


def slices_road(problem: ConvProblem) -> SlicesRoad:
    """The slices of all groups, and of the channels left over."""
    shift, channels = problem.shift, problem.in_channels
    assert shift is not None
    before = [k // 2 * d for k, d in zip(shift.kernel, shift.dilation)]
    after = [(k - 1 - k // 2) * d for k, d in zip(shift.kernel, shift.dilation)]
    offsets, groups = channel_offsets(shift, channels), channels_of_groups(shift, channels)
    *moved, left = groups
    step = math.prod(shift.kernel) if shift.convention == "modulo" else 1
    slices = []
    for members, stride in [*((group, step) for group in moved), (left, 1)]:
        if members:
            start = tuple(by + b for by, b in zip(offsets[members[0]], before))
            slices.append(((members[0], members[-1] + 1, stride), start))
    return SlicesRoad(list(zip(before, after)), slices, [c for members in groups for c in members])
