"""The schedules of gradient_direct: register tiles, blocks of pixels, tasks, and their cost in cycles. No Halide here,
but in the expressions of a tile's channels.

The hot loop of a tile of `height` broadcast values by some vectors needs, for each pixel, `height * vectors` multiply-adds
on two ports, `height + vectors` loads on two, and no less than the latency of a multiply-add for its own sum. All its
addresses are at fixed distances from two, so any tile will do that leaves registers for its operands.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Geometry, ceil_div
from ..algorithms.cost import FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, L3_SHARE
from ..algorithms.tiles import FMA_LATENCY, SPARE_REGISTERS
from ..machine import Machine
from ..schedule import Schedule
from .blocks import Blocks, block_sizes, check_parameters, first_of_tile, pixel_space, unrolled, vector_width

__all__ = ["PARAMETERS", "Tiling", "by_rows", "check", "cost_cycles", "macs_executed", "schedules", "workspace_bytes"]

PARAMETERS = {
    "vectors": "the operand whose channels are vectors, 'dy' or 'x'; the other's are broadcast",
    "tile_x": "channels of x in the register tile",
    "tile_dy": "channels of dy in the register tile",
    "block_rows": "rows of pixels in a block",
    "parts": "parts of the pixels that have sums of their own",
    "splits": "into how many parts the panels of vectors are divided among tasks",
    "stage": "whether a block's pixels are copied in panels, which padding and shifts need",
    "unroll": "pixels in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}

#: cycles to copy a vector, or less than one, into a panel
COPY_CYCLES = 2.0
#: cycles of a tile outside its pixels for each of its vectors, and besides; of a row of pixels
SUM_CYCLES, TILE_CYCLES, ROW_CYCLES = 1.5, 25.0, 4.0
#: cycles of a result in the last stage, for each part that it is added up from, and in PyTorch's order
ADD_CYCLES, PLACE_CYCLES = 0.4, 1.6
#: register tiles that are tried
TILES = 4
#: bytes that a core gets from memory in a cycle
MEMORY_BYTES_PER_CYCLE = 4.0
#: share of a task that a core waits for at the end
TAIL = 0.3


def by_rows(g: Geometry) -> bool:
    """Whether taps and channels of x are one axis: an image, whose few channels would leave tiles half empty."""
    return g.groups == 1 and g.ic < 6 and g.dilation[2] == 1 and g.kernel[2] > 1


@dataclass(frozen=True)
class Tiling:
    """How a schedule divides the channels: of each operand, those of a group, of a tile, and the tiles."""

    g: Geometry
    s: Schedule

    @property
    def rows(self) -> bool:
        """See `by_rows`."""
        return by_rows(self.g)

    @property
    def x(self) -> int:
        """Channels of x in a group, times all taps where these are one axis."""
        return self.g.taps if self.rows else self.g.ic

    @property
    def taps(self) -> tuple[int, int, int]:
        """The loop over taps (x, y, z)."""
        return (1, 1, 1) if self.rows else (self.g.kernel[2], self.g.kernel[1], self.g.kernel[0])

    @property
    def tiles_x(self) -> int:
        """Tiles along x; the last one is moved inwards."""
        return ceil_div(self.x, self.s.tile_x)

    @property
    def tiles_dy(self) -> int:
        """Tiles along dy; the last one is moved inwards."""
        return ceil_div(self.g.oc, self.s.tile_dy)

    @property
    def vector(self) -> tuple[int, int]:
        """Channels of a tile and tiles of the operand in vectors."""
        return (self.s.tile_x, self.tiles_x) if self.s.vectors == "x" else (self.s.tile_dy, self.tiles_dy)

    @property
    def scalar(self) -> tuple[int, int]:
        """The same of the operand that is broadcast."""
        return (self.s.tile_dy, self.tiles_dy) if self.s.vectors == "x" else (self.s.tile_x, self.tiles_x)

    def x_channel(self, u: Any, tile: Any) -> Any:
        """Of x in its group, the channel `u` of a tile."""
        return first_of_tile(tile, self.s.tile_x, self.x) + u

    def dy_channel(self, u: Any, tile: Any) -> Any:
        """The same of dy."""
        return first_of_tile(tile, self.s.tile_dy, self.g.oc) + u

    @property
    def in_order(self) -> bool:
        """Whether the sums of a vector lie side by side in the result."""
        return self.s.vectors == "x" and math.prod(self.taps) == 1 and not self.rows


def hot_cycles(height: int, vectors: int) -> float:
    """Cycles of a pixel in the hot loop: multiply-adds on two ports, loads on two, and the latency of a sum."""
    fma, loads = height * vectors / 2, (height + vectors) / 2
    return max(fma, loads, FMA_LATENCY) + 0.1 * loads + 0.3


def cost_cycles(problem: WeightGradient, s: Schedule, machine: Machine) -> float:
    """Cycles on all cores by the model."""
    g = pixel_space(problem.forward)
    t, blocks = Tiling(g, s), Blocks(g, s.block_rows, s.parts)
    (width, panels), (height, tiles) = t.vector, t.scalar
    vectors, panels = ceil_div(width, machine.lanes), panels // s.splits
    taps = math.prod(t.taps)
    tile_sums = height * vectors
    rows = blocks.pixels // g.out[2]
    tile = blocks.pixels * hot_cycles(height, vectors) + rows * ROW_CYCLES + tile_sums * SUM_CYCLES + TILE_CYCLES
    # What is copied: the operand in vectors for the panels of the task, the other one whole.
    tiles_x = panels if s.vectors == "x" else tiles
    tiles_dy = tiles if s.vectors == "x" else panels
    seen = blocks.staged_pixels()
    copies_x = seen * (g.ic / machine.lanes if t.rows else tiles_x * ceil_div(s.tile_x, machine.lanes))
    copies_dy = blocks.pixels * tiles_dy * ceil_div(s.tile_dy, machine.lanes)
    copies = (copies_x + copies_dy) * s.stage
    x_bytes, dy_bytes = 4 * seen * g.ic, 4 * blocks.pixels * g.oc
    level = L2_BYTES_PER_CYCLE if x_bytes + dy_bytes < 0.7 * machine.l2_bytes else L3_BYTES_PER_CYCLE
    panel_bytes = 4 * (blocks.pixels if s.vectors == "dy" else seen) * width
    tile_bytes = 4 * (seen if s.vectors == "dy" and not t.rows else blocks.pixels) * height
    # A panel is read from L1 if it stays there beside a tile of the other operand, which comes once for all taps.
    tile = max(tile, (panel_bytes / L2_BYTES_PER_CYCLE) * (panel_bytes + 2 * tile_bytes > machine.l1_bytes))
    sums_bytes = 4 * panels * width * tiles * height * taps
    sums_level = L2_BYTES_PER_CYCLE if sums_bytes < 0.4 * machine.l2_bytes else L3_BYTES_PER_CYCLE
    block = panels * tiles * (taps * tile + 0.3 * tile_bytes / level) + copies * COPY_CYCLES
    # A copy waits for L3; the hot loop mostly does not.
    block += sums_bytes / sums_level + (x_bytes + dy_bytes) / L3_BYTES_PER_CYCLE * (1.0 if s.stage else 0.3)
    task = math.prod(blocks.each) * block + 500
    tasks = s.parts * s.splits * g.groups
    results = g.groups * g.oc * g.taps
    last = results * (s.parts * ADD_CYCLES + (0.5 if t.in_order else PLACE_CYCLES))
    if 4 * results * s.parts > L3_SHARE * machine.l3_bytes:  # cleared and read again
        last += 2 * 4 * results * s.parts / MEMORY_BYTES_PER_CYCLE
    if not s.parallel:
        return float(tasks * task + last)
    cores = machine.cores
    return float((ceil_div(tasks, cores) + TAIL) * task + last / cores + FORK_CYCLES * (1 if s.parts == 1 else 3))


def _vectors_of(problem: WeightGradient) -> tuple[str, ...]:
    """The operands whose channels may be vectors: not those of x where they do not lie side by side."""
    return ("dy",) if problem.forward.shift is not None or by_rows(pixel_space(problem.forward)) else ("dy", "x")


def tile_sizes(g: Geometry, machine: Machine, vectors_of: tuple[str, ...]) -> list[tuple[str, int, int]]:
    """The best few tiles `(vectors, tile_x, tile_dy)` that fit the registers, by the cycles of a pixel."""
    found: dict[tuple[str, int, int], float] = {}
    x = g.taps if by_rows(g) else g.ic
    for operand, along, across in (("dy", g.oc, x), ("x", x, g.oc)):
        lanes = vector_width(along, machine.lanes)
        registers = machine.vector_registers - SPARE_REGISTERS[machine.vector_registers >= 32]
        if operand not in vectors_of:
            continue
        for vectors in range(1, min(7 if machine.vector_registers >= 32 else 4, along // lanes + 1)):
            for height in range(1, min(across, (registers - vectors) // vectors) + 1):
                tiles = ceil_div(along, vectors * lanes) * ceil_div(across, height)
                tile = (height, vectors * lanes) if operand == "dy" else (vectors * lanes, height)
                found[(operand, *tile)] = tiles * hot_cycles(height, vectors)
    return sorted(found, key=lambda tile: (found[tile], tile))[:TILES]


def _shares(t: Tiling, count: int, machine: Machine) -> list[tuple[int, int]]:
    """Pairs of `parts` and `splits` that make a few tasks for each core."""
    panels, groups = t.vector[1], t.g.groups
    found = []
    for splits in sorted({d for d in (1, 2, 4, 8, panels) if panels % d == 0}):
        wanted = [p for p in (1, 2, 4, 8, 16, 32) if p <= count]
        enough = [p for p in wanted if 4 * machine.cores <= p * splits * groups <= 32 * machine.cores]
        found += [(p, splits) for p in sorted({*enough[:2], *([1] if splits * groups >= machine.cores else wanted[-1:])})]
    return found


def in_place(problem: WeightGradient, blocks: Blocks, machine: Machine) -> bool:
    """Whether a block is read where it lies: it needs no copy, and fits L1 with both its operands."""
    g = blocks.g
    whole = g.groups == 1 and math.prod(g.kernel) == 1 and not g.padded and problem.forward.shift is None
    return whole and 4 * blocks.pixels * (g.ic + g.oc) <= machine.l1_bytes // 2


def schedules(problem: WeightGradient, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the model."""
    g = pixel_space(problem.forward)
    parallel = machine.cores > 1 and problem.macs > 200_000
    found: dict[Schedule, float] = {}
    for operand, tile_x, tile_dy in tile_sizes(g, machine, _vectors_of(problem)):
        t = Tiling(g, Schedule("", vectors=operand, tile_x=tile_x, tile_dy=tile_dy))
        for block_rows in block_sizes(g):
            for parts, splits in _shares(t, Blocks(g, block_rows, 1).count, machine):
                if Blocks(g, block_rows, parts).reason() is not None:
                    continue
                s = Schedule(
                    "gradient_direct",
                    vectors=operand,
                    tile_x=tile_x,
                    tile_dy=tile_dy,
                    block_rows=block_rows,
                    parts=parts,
                    splits=splits,
                    stage=not in_place(problem, Blocks(g, block_rows, parts), machine),
                    unroll=unrolled(g.out[2]),
                    parallel=parallel,
                )
                found[s] = cost_cycles(problem, s, machine)
    return sorted(found, key=lambda s: (found[s], repr(s)))[:12]


def check(problem: WeightGradient, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    s, g = schedule, pixel_space(problem.forward)
    reason = check_parameters(s, PARAMETERS, flags=("stage", "parallel"), words={"vectors": ("dy", "x")})
    if reason is not None:
        return reason
    t = Tiling(g, s)
    if s.vectors not in _vectors_of(problem):
        return f"vectors must be 'dy' for a shift or an image of few channels, got {s.vectors!r}"
    for name, tile, channels in (("tile_x", s.tile_x, t.x), ("tile_dy", s.tile_dy, g.oc)):
        if tile > channels:
            return f"{name}={tile} is more than the {channels} channels"
    width, height = t.vector[0], t.scalar[0]
    lanes = vector_width(t.x if s.vectors == "x" else g.oc, machine.lanes)
    if width % lanes:
        return f"tile_{s.vectors}={width} must be a multiple of vectors of {lanes}"
    if height * (width // lanes) > 4 * machine.vector_registers:
        return f"a tile of {height} x {width} is over four times the {machine.vector_registers} registers"
    if t.vector[1] % s.splits:
        return f"splits={s.splits} must divide the {t.vector[1]} panels"
    if not s.stage and (g.padded or problem.forward.shift is not None or by_rows(g)):
        return "stage must be True for a problem with padding or a shift, and for an image of few channels"
    if s.unroll > g.out[2]:
        return f"unroll={s.unroll} is more than the {g.out[2]} pixels of a row"
    return Blocks(g, s.block_rows, s.parts).reason()


def macs_executed(problem: WeightGradient, s: Schedule) -> int:
    """Multiply-accumulates really done: what tiles that overlap compute twice is counted."""
    g = pixel_space(problem.forward)
    t = Tiling(g, s)
    tiles = t.tiles_x * s.tile_x * t.tiles_dy * s.tile_dy * math.prod(t.taps)
    return int(tiles * g.groups * g.slices * g.pixels)


def workspace_bytes(problem: WeightGradient, s: Schedule, threads: int) -> int:
    """The sums of all parts, and the copies of one block in each thread."""
    g = pixel_space(problem.forward)
    t, blocks = Tiling(g, s), Blocks(g, s.block_rows, s.parts)
    at_once = min(threads, s.parts * s.splits * g.groups) if s.parallel else 1
    sums = t.tiles_x * s.tile_x * t.tiles_dy * s.tile_dy * math.prod(t.taps)
    x = g.ic if t.rows else t.tiles_x * s.tile_x
    copies = blocks.staged_pixels() * x + blocks.pixels * t.tiles_dy * s.tile_dy
    return int(4 * (sums * g.groups * s.parts + at_once * copies * s.stage))
