"""Which pixels of a shifted image are computed together, and from which channels: tables of numbers, no Halide here.

At the border a channel that moves in from outside is zero, so there is nothing to multiply. Pixels that see the same
channels are of one class: the inside of the image is one, the first row another, each corner one more. A register tile
takes pixels of one class, and its hot loop walks the list of channels that this class sees. So no zero is ever stored or
multiplied, and the border costs less than the inside instead of more.

A task is a band of whole output lines (a line is one row of one depth). Bands whose tiles lie alike share a pattern, so
the tables stay small: for most images there are three, the first band, the last one, and all between.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from dataclasses import dataclass

from ..problem import ConvProblem
from ..shift import channel_offsets
from .base import Geometry, ceil_div

__all__ = ["Plan", "bands", "class_tiles", "plan", "table_entries"]

Sees = frozenset[int]


@dataclass(frozen=True)
class View:
    """What each output position of a problem sees.

    `lines[l]` and `columns[x]` are the offsets that stay inside, as indices into the distinct pairs `(dz, dy)` of all
    channels and into the distinct `dx`. `channels[ic]` is the index of its pair and that of its `dx`; `steps[ic]` how far
    away in memory it is read, its own place in the pixel included.
    """

    g: Geometry
    lines: list[Sees]
    columns: list[Sees]
    channels: list[tuple[int, int]]
    steps: list[int]

    def taps(self, line: Sees, column: Sees) -> list[int]:
        """The channels that are seen from lines and columns of a class, in order."""
        return [ic for ic, (pair, dx) in enumerate(self.channels) if pair in line and dx in column]


@functools.lru_cache(maxsize=256)
def view(problem: ConvProblem) -> View:
    """Work out what is inside; a channel that moves beyond the image is seen from nowhere."""
    assert problem.shift is not None
    g = Geometry.of(problem)
    lift = (0,) * (3 - problem.rank)
    moves = [(*lift, *offset) for offset in channel_offsets(problem.shift, g.ic)]
    pairs = list(dict.fromkeys((z, y) for z, y, _ in moves))
    across = list(dict.fromkeys(x for *_, x in moves))
    inside = lambda axis, at: 0 <= at < g.size[axis]  # noqa: E731
    lines = [
        frozenset(
            index
            for index, (dz, dy) in enumerate(pairs)
            if inside(0, z * g.stride[0] + dz) and inside(1, y * g.stride[1] + dy)
        )
        for z in range(g.out[0])
        for y in range(g.out[1])
    ]
    columns = [
        frozenset(index for index, dx in enumerate(across) if inside(2, x * g.stride[2] + dx)) for x in range(g.out[2])
    ]
    channels = [(pairs.index((z, y)), across.index(x)) for z, y, x in moves]
    steps = [((z * g.size[1] + y) * g.size[2] + x) * g.ic + ic for ic, (z, y, x) in enumerate(moves)]
    return View(g, lines, columns, channels, steps)


def bands(problem: ConvProblem, task_pixels: int) -> list[range]:
    """The output lines of each task; the last band is shorter where they do not come out even."""
    g = Geometry.of(problem)
    total, size = g.out[0] * g.out[1], task_pixels // g.out[2]
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


@functools.lru_cache(maxsize=4096)
def class_tiles(problem: ConvProblem, tile_pixels: int, task_pixels: int) -> tuple[int, int]:
    """Tiles of all bands of one image, and the sum of their taps."""
    seen = view(problem)
    columns = Counter(seen.columns)
    tiles = taps = 0
    for lines, times in Counter(
        frozenset(Counter(seen.lines[i] for i in b).items()) for b in bands(problem, task_pixels)
    ).items():
        for line, height in lines:
            for column, width in columns.items():
                count = ceil_div(height * width, tile_pixels) * times
                tiles += count
                taps += count * n_taps(problem, line, column)
    return tiles, taps


@functools.lru_cache(maxsize=4096)
def n_taps(problem: ConvProblem, line: Sees, column: Sees) -> int:
    """How many channels a class sees."""
    return len(view(problem).taps(line, column))


@dataclass(frozen=True)
class Plan:
    """The tables of a schedule, each flat.

    Of a band: its `pattern`, where its first pixel lies in the output (`band_out`, in pixels) and in the input (`band_in`,
    in elements), and the number of its `tiles`; `slots` is the most of any. Of a tile of a band: `first` and `count` of
    its taps. Of a pixel of a tile of a pattern: its place behind the band's first pixel, `pixel_out` and `pixel_in`. Of a
    tap: `tap_in`, from the pixel to what it reads, in elements, and `tap_channel`.
    """

    pattern: list[int]
    band_out: list[int]
    band_in: list[int]
    tiles: list[int]
    slots: int
    first: list[int]
    count: list[int]
    pixel_out: list[int]
    pixel_in: list[int]
    tap_in: list[int]
    tap_channel: list[int]


Tile = tuple[int, tuple[int, ...], tuple[int, ...]]  # class, pixels in the output, pixels in the input


def plan(problem: ConvProblem, tile_pixels: int, task_pixels: int) -> Plan:
    """Lay out the tiles of every band. A tile that its class does not fill repeats its last pixel."""
    seen = view(problem)
    g = seen.g
    classes: dict[tuple[Sees, Sees], int] = {}
    patterns: dict[tuple[Tile, ...], int] = {}
    pattern, band_out, band_in = [], [], []
    for band in bands(problem, task_pixels):
        start_out, start_in = band[0] * g.out[2], _address(g, band[0], 0)
        members: dict[tuple[Sees, Sees], list[tuple[int, int]]] = {}
        for line in band:
            for x, column in enumerate(seen.columns):
                place = (line * g.out[2] + x - start_out, _address(g, line, x) - start_in)
                members.setdefault((seen.lines[line], column), []).append(place)
        tiles: list[Tile] = []
        for key, places in members.items():
            number = classes.setdefault(key, len(classes))
            for i in range(0, len(places), tile_pixels):
                tile = places[i : i + tile_pixels]
                out, into = zip(*tile, *[tile[-1]] * (tile_pixels - len(tile)))
                tiles.append((number, out, into))
        ordered = tuple(sorted(tiles, key=lambda tile: tile[1]))
        pattern.append(patterns.setdefault(ordered, len(patterns)))
        band_out.append(start_out)
        band_in.append(start_in)
    return _tables(seen, list(classes), list(patterns), tile_pixels, (pattern, band_out, band_in))


def _address(g: Geometry, line: int, x: int) -> int:
    """The element of the input where an output pixel's own channels begin."""
    z, y = divmod(line, g.out[1])
    row = z * g.stride[0] * g.size[1] + y * g.stride[1]
    return (row * g.size[2] + x * g.stride[2]) * g.ic


def _tables(
    seen: View,
    classes: list[tuple[Sees, Sees]],
    patterns: list[tuple[Tile, ...]],
    tile_pixels: int,
    of_bands: tuple[list[int], list[int], list[int]],
) -> Plan:
    firsts, taps = [], list[int]()
    for line, column in classes:
        firsts.append(len(taps))
        taps += seen.taps(line, column)
    ends = [*firsts[1:], len(taps)]
    slots = max(map(len, patterns))
    first, count, pixel_out, pixel_in = list[int](), list[int](), list[int](), list[int]()
    for number in of_bands[0]:
        unused = [0] * (slots - len(patterns[number]))
        first += [firsts[kind] for kind, *_ in patterns[number]] + unused
        count += [ends[kind] - firsts[kind] for kind, *_ in patterns[number]] + unused
    for tiles in patterns:
        for _, out, into in tiles:
            pixel_out += out
            pixel_in += into
        pixel_out += [0] * ((slots - len(tiles)) * tile_pixels)
        pixel_in += [0] * ((slots - len(tiles)) * tile_pixels)
    tap_in = [seen.steps[ic] for ic in taps]
    n_tiles = [len(patterns[number]) for number in of_bands[0]]
    return Plan(*of_bands, n_tiles, slots, first, count, pixel_out, pixel_in, tap_in, taps)


def table_entries(problem: ConvProblem) -> int:
    """Taps of all classes together: what the tables of an image take whatever the schedule."""
    seen = view(problem)
    lines, columns = (Counter(itertools.chain(*set(kinds))) for kinds in (seen.lines, seen.columns))
    return sum(lines[pair] * columns[dx] for pair, dx in seen.channels)
