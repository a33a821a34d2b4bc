"""Packing: weights as they are stored become panels of output channels, at the speed of memory.

Where the weights of an output channel lie in one run, `w[k, oc]` with k fastest, and a panel has the channel fastest,
packing is a transposition. A task takes a block of k for the channels of a panel, reads each channel's run through and
turns it in squares of 8 x 8 that stay in registers (`Turned`). The block is then in L1, channel fastest, and whatever comes
next is loads and stores of whole vectors: another order of the taps, or a transform.

Tasks are blocks of input channels of a panel, so that few panels keep all cores busy too.
"""

from __future__ import annotations

import math
from typing import Any

import halide as hl

from .base import Buffer, ceil_div
from .funcs import dense, image

__all__ = ["Turned", "channels_of_block", "pack_rows", "parallel_tasks", "vector"]

#: of a square that is turned in registers, and of the vectors that are stored
SQUARE = 8
#: of a turned block: half of a small L1, as what is made of it lies beside it
BLOCK_BYTES = 8 << 10
#: packed weights from which a fork is worth its time: some microseconds of one core
PARALLEL_BYTES = 64 << 10


def vector(width: int) -> int:
    """Lanes of the vectors in which panels of `width` channels are stored."""
    return math.gcd(width, SQUARE)


def channels_of_block(channels: int, taps: int, width: int, block_bytes: int = BLOCK_BYTES) -> int:
    """How many input channels a block has: as many as fit, in blocks of one size and whole squares if there are so many."""
    most = max(1, block_bytes // (4 * taps * width), ceil_div(SQUARE, taps))
    unit = SQUARE if most >= SQUARE else 1
    each = ceil_div(channels, ceil_div(channels, most // unit * unit))
    return min(channels, ceil_div(each, unit) * unit)


def parallel_tasks(packed: Any, loops: list[Any], shape: tuple[int, ...]) -> Any:
    """Fuse loops, the innermost first, into the tasks of a packing; on all cores if the packed weights are many."""
    task = loops[0]
    for loop in loops[1:]:
        packed.fuse(task, loop, task)
    if 4 * math.prod(shape) >= PARALLEL_BYTES:
        packed.parallel(task)
    return task


class Turned:
    """`func[lane, k, *rest] = w[k, row]` as a block in L1; `row` is an expression of `lane` and `rest`."""

    def __init__(self, w: Any, lane: Any, rest: list[Any], row: Any) -> None:
        self.lane, self.k = lane, hl.Var("k")
        self.func, self._loaded = hl.Func("turned"), hl.Func("loaded")
        self._loaded[(self.k, lane, *rest)] = w[self.k, row]
        self.func[(lane, self.k, *rest)] = self._loaded[(self.k, lane, *rest)]

    def schedule_at(self, func: Any, var: Any, width: int, depth: int) -> None:
        """Compute blocks of `width` lanes and `depth` values of k at a loop level."""
        lanes, lane, k = vector(width), self.lane, self.k
        lo, li, ko, ki = (hl.Var(name) for name in ("lo", "li", "ko", "ki"))
        self.func.compute_at(func, var).bound_extent(lane, width).split(lane, lo, li, lanes).vectorize(li)
        if depth < SQUARE:
            return
        self.func.split(k, ko, ki, SQUARE, hl.TailStrategy.ShiftInwards).reorder(li, ki, ko, lo).unroll(ki)
        self._loaded.compute_at(self.func, ko).vectorize(k, SQUARE).unroll(lane)


def pack_rows(name: str, shape: tuple[int, int], nr: int, streams: int = 1) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, k, stream, panel]` from `w[k, row]` of `shape` (rows, k), `nr` rows a panel, zero past the last row."""
    (rows, length), width = shape, nr // streams
    w = image(name, shape)
    lane, k, block, stream, panel = (hl.Var(v) for v in ("lane", "k", "block", "stream", "panel"))
    row = panel * nr + stream * width + lane
    turned = Turned(w, lane, [stream, panel], hl.min(row, rows - 1))
    value = turned.func[lane, k, stream, panel]
    packed = hl.Func("packed")
    packed[lane, k, stream, panel] = value if rows % nr == 0 else hl.select(row < rows, value, hl.f32(0))
    out_shape = (ceil_div(rows, nr), streams, length, width)
    for var, extent in zip((lane, k, stream, panel), reversed(out_shape)):
        packed.bound(var, 0, extent)
    depth = channels_of_block(length, 1, width)
    packed.split(k, block, k, depth, hl.TailStrategy.ShiftInwards)
    packed.reorder(lane, k, block, stream, panel).vectorize(lane, vector(width))
    turned.schedule_at(packed, parallel_tasks(packed, [block, stream, panel], out_shape), width, depth)
    dense(packed.output_buffer(), out_shape)
    return packed, [w], [Buffer(name, shape), Buffer("packed", out_shape)]
