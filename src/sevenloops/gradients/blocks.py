"""Blocks of output pixels: what a gradient of weights sums up at a time. No Halide here, but in the functions.

The sum over images, depths, rows and columns is long, and its operands are read many times. So it is cut into blocks of
whole rows whose operands stay in cache, and a sum goes to memory once per block. Blocks are numbered through the images;
a fixed number of parts (of the schedule, never of the threads) share them, and each part has sums of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from ..algorithms.base import Geometry, ceil_div
from ..problem import ConvProblem
from ..schedule import Schedule

__all__ = [
    "Blocks",
    "add_parts",
    "block_sizes",
    "check_parameters",
    "first_of_tile",
    "over_parts",
    "pixel_space",
    "unrolled",
    "vector_width",
]

#: Pixels of a row where those of all images are one axis.
ROW_PIXELS = 64
#: Pixels of a block from which on its sums are worth storing.
LEAST_PIXELS = 64
#: The longest sum of one term after the other (see `algorithms.tiled.LONG_SUM`).
LONG_SUM = 2048


@cache
def pixel_space(problem: ConvProblem) -> Geometry:
    """The geometry; of a kernel with one tap, stride 1 and no padding with the pixels of all images as one long axis."""
    g = Geometry.of(problem)
    if math.prod(g.kernel) > 1 or math.prod(g.stride) > 1 or g.padded or problem.shift is not None:
        return g
    pixels = g.slices * g.pixels
    row = max(d for d in range(1, ROW_PIXELS + 1) if pixels % d == 0)
    if row < min(g.out[2], 16):
        return g
    size = (1, pixels // row, row)
    return replace(g, batch=1, size=size, out=size)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `rows` rows: some rows of a slice, or whole slices, or whole images; `parts` share them."""

    g: Geometry
    rows: int
    parts: int

    @property
    def extent(self) -> tuple[int, int, int]:
        """Rows, depths and images of a block."""
        depth, height = self.g.out[:2]
        rows = min(self.rows, height)
        depths = min(max(1, self.rows // height), depth)
        return rows, depths, max(1, self.rows // (height * depth))

    @property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along rows, depths and images."""
        depth, height = self.g.out[:2]
        rows, depths, images = self.extent
        return ceil_div(height, rows), ceil_div(depth, depths), ceil_div(self.g.batch, images)

    @property
    def count(self) -> int:
        """All blocks."""
        return math.prod(self.counts)

    @property
    def shares(self) -> tuple[int, int, int]:
        """Parts along rows, depths and images: images are divided first."""
        found, rest = [], self.parts
        for count in reversed(self.counts):
            found.append(max(d for d in range(1, min(rest, count) + 1) if rest % d == 0))
            rest //= found[-1]
        return found[2], found[1], found[0]

    @property
    def each(self) -> tuple[int, int, int]:
        """Blocks of a part along rows, depths and images; the last part of an axis may have fewer."""
        rows, depths, images = (ceil_div(count, share) for count, share in zip(self.counts, self.shares))
        return rows, depths, images

    @property
    def pixels(self) -> int:
        """Pixels of a whole block."""
        return math.prod(self.extent) * self.g.out[2]

    def reason(self) -> str | None:
        """Why these blocks cannot be, or None."""
        depth, height = self.g.out[:2]
        if self.rows > height * depth * self.g.batch:
            return f"block_rows={self.rows} is more than the {height * depth * self.g.batch} rows of all images"
        if math.prod(self.extent) != self.rows:
            return f"block_rows={self.rows} must be rows of an image of {height}, or whole depths, or whole images"
        if math.prod(self.shares) != self.parts:
            return f"parts={self.parts} does not divide blocks of {self.counts} (rows, depths, images)"
        return None

    def staged_pixels(self) -> int:
        """Pixels of the input that a block sees, padding counted."""
        reach = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip((*self.extent[1::-1], self.g.out[2]), self.g.stride, self.g.kernel, self.g.dilation)
        ]
        return math.prod(reach) * self.extent[2]

    def of_part(self, part: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The reduction over the blocks of a part, and the place of its block, along rows, depths and images."""
        import halide as hl

        r = hl.RDom([hl.Range(0, each) for each in self.each], "block")
        at = tuple(p * each + r[axis] for axis, (p, each) in enumerate(zip(part, self.each)))
        for place, each, share, count in zip(at, self.each, self.shares, self.counts):
            if each * share != count:
                r.where(place < count)
        return r, at

    def pixel(self, block: tuple[Any, ...]) -> tuple[Any, tuple[Any, Any, Any, Any]]:
        """The reduction over the pixels of the block at a place, and the pixel `(ox, oy, oz, n)` of a step of it."""
        import halide as hl

        extent, (depth, height, width) = self.extent, self.g.out
        r = hl.RDom([hl.Range(0, size) for size in (width, *extent)], "pixel")
        at = [i * size + r[axis + 1] for axis, (i, size) in enumerate(zip(block, extent))]
        for place, size, whole, count in zip(at, extent, (height, depth, self.g.batch), self.counts):
            if size * count != whole:
                r.where(place < whole)
        return r, (hl.Expr(r[0]), at[0], at[1], at[2])


def block_sizes(g: Geometry, least: int = LEAST_PIXELS) -> list[int]:
    """Numbers of rows that a block may have, each about twice the one before, and sums no longer than `LONG_SUM`."""
    depth, height, width = g.out
    found = [d for d in range(1, height + 1) if height % d == 0 or d in (2, 4, 8, 16)]
    found += [height * d for d in range(2, depth + 1) if depth % d == 0]
    found += [height * depth * d for d in range(2, g.batch + 1) if g.batch % d == 0]
    kept: list[int] = []
    for rows in found:
        if least <= rows * width <= LONG_SUM and (not kept or rows >= 1.6 * kept[-1]):
            kept.append(rows)
    return kept or [next((rows for rows in reversed(found) if rows * width <= LONG_SUM), 1)]


def unrolled(extent: int) -> int:
    """Pixels of a turn of the hot loop, which divide a row if possible."""
    if extent <= 7:
        return extent
    return next((u for u in (4, 7, 5, 3, 6) if extent % u == 0), 1 if extent < 32 else 4)


def vector_width(channels: int, lanes: int) -> int:
    """The widest vector that so many channels fill."""
    while lanes > channels:
        lanes //= 2
    return lanes


def first_of_tile(index: Any, tile: int, extent: int) -> Any:
    """The first element of a tile; the last tile is moved inwards."""
    import halide as hl

    return index * tile if extent % tile == 0 else hl.min(index * tile, extent - tile)


def odd_rows(copy: Any, var: Any, pixels: int) -> None:
    """Give the rows of a copy room for an odd number of pixels, so that its panels are not a power of two apart.

    They are written in turn, and would share a few sets of the caches.
    """
    copy.align_storage(var, pixels | 1)


def add_parts(blocks: Blocks, sums: Any, total: Any, dims: Sequence[Any], part: tuple[Any, ...]) -> Any:
    """Define `total[*dims, *part]` as the sum of `sums[*dims, *block]` over the blocks of a part; returns its reduction."""
    import halide as hl

    r, place = blocks.of_part(part)
    total[(*dims, *part)] = hl.f32(0)
    total[(*dims, *part)] += sums[(*dims, *place)]
    return r


def over_parts(blocks: Blocks, total: Any, at: Sequence[Any]) -> Any:
    """The sum over all parts of `total[*at, *part]`, one after the other."""
    import halide as hl

    value = None
    for part in itertools.product(*map(range, blocks.shares)):
        of_part = hl.Expr(total[(*at, *part)])
        value = of_part if value is None else value + of_part
    return value


def check_parameters(
    s: Schedule, parameters: Iterable[str], flags: tuple[str, ...], words: dict[str, tuple[str, ...]] | None = None
) -> str | None:
    """The reason why a schedule lacks a parameter or has one of the wrong type, or None; all others are counts."""
    if set(s.params) != set(parameters):
        return f"the schedule needs exactly the parameters {', '.join(parameters)}; got {', '.join(s.params)}"
    for name, value in s.params.items():
        if name in flags:
            if not isinstance(value, bool):
                return f"{name} must be True or False, got {value!r}"
        elif words and name in words:
            if value not in words[name]:
                return f"{name} must be one of {', '.join(words[name])}, got {value!r}"
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{name} must be an integer of at least 1, got {value!r}"
    return None
