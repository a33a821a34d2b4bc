"""Which tiles to try: the cost model of the register-tiled product, in cycles. No Halide here.

The hot loop of a `mr x nr` tile (mr pixels, nr channels = v vectors) needs, per tap, `mr * v` FMAs on two ports, `mr`
broadcasts and `v` weight vectors on two load ports, and no less than the latency of an FMA (4 cycles) for its own sum.
The tile may use the vector registers but v for the weights, one for the broadcast and a spare or two (Goto and van de
Geijn, Anatomy of High-Performance Matrix Multiplication, section 6.1, adapted to broadcasts from memory).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..machine import Machine
from ..schedule import Schedule
from .base import ceil_div

__all__ = ["PARAMETERS", "ProductShape", "check_tiled", "tiled_schedules", "tiled_workspace"]

FMA_LATENCY = 4
#: bytes a core gets per cycle from L2, from L3 and, shared by all cores, from memory; cycles of a fork and join
L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, FORK_CYCLES = 24.0, 8.0, 6_000
TAIL_OF_A_TASK = 0.1
#: shares of that traffic which the hot loop does not hide: weights come in one burst with the first tile of a panel
EXPOSED_WEIGHTS, EXPOSED_INPUT = 0.6, 0.1
#: pixels whose addresses stay in general registers
ADDRESS_REGISTERS = 10
#: registers left to the compiler, with 16 and with 32 of them: without, it spills sums (seen: 14 x 32 at 70 % of 13 x 32)
SPARE_REGISTERS = (1, 2)
#: cycles that a tile spends outside its hot loop: addresses, clearing, epilogue and stores
TILE_OVERHEAD = 30

PARAMETERS = {
    "tile_pixels": "pixels of the register tile",
    "tile_channels": "output channels of the register tile and of a packed weight panel",
    "task_pixels": "output pixels of one task",
    "channel_parts": "into how many parts the panels are divided among tasks",
    "k_blocks": "blocks of input channels whose sums are added up outside the registers",
    "unroll": "taps in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}


@dataclass(frozen=True)
class ProductShape:
    """What the model needs to know: sizes, `row` (task_pixels must be a multiple), and bytes read besides the weights."""

    oc: int
    pixels: int
    slices: int  # groups * depths * images
    inner_taps: int  # extent of the first tap
    outer_taps: int  # product of the others
    row: int = 1
    staged_bytes_per_pixel: float = 0.0
    staged_bytes_per_task: float = 0.0

    @property
    def taps(self) -> int:
        """Length of a sum."""
        return self.inner_taps * self.outer_taps


def register_tiles(machine: Machine, oc: int, pixels: int) -> list[tuple[int, int]]:
    """All (pixels, channels) tiles worth trying: they fit the registers and are not far larger than the problem."""
    lanes, tiles = machine.lanes, []
    for vectors in range(1, 7):
        largest = (machine.vector_registers - SPARE_REGISTERS[machine.vector_registers >= 32] - vectors - 1) // vectors
        if (vectors - 1) * lanes >= oc:
            break
        for mr in range(1, largest + 1):
            if mr <= pixels and (mr * vectors >= 6 or mr == min(largest, pixels)):
                tiles.append((mr, vectors * lanes))
    return tiles


def tap_cycles(mr: int, vectors: int) -> float:
    """Cycles of one tap in the hot loop, from the ports, plus a little for the loop itself."""
    spilled = max(0, mr - ADDRESS_REGISTERS)  # addresses that must be loaded again
    fma, loads = mr * vectors / 2, (mr + vectors + spilled) / 2
    return max(fma, loads, FMA_LATENCY) + 0.2 * loads + 0.8


def cost_cycles(shape: ProductShape, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole product on all cores."""
    tiling = Tiling(s.tile_pixels, s.tile_channels, s.task_pixels, s.channel_parts, s.k_blocks, s.parallel)
    return _cost(shape, tiling, machine)


class Tiling(NamedTuple):
    """A candidate while it is only a row of numbers: thousands are compared for one problem."""

    tile_pixels: int
    tile_channels: int
    task_pixels: int
    channel_parts: int
    k_blocks: int
    parallel: bool


def _cost(shape: ProductShape, t: Tiling, machine: Machine) -> float:
    panels = ceil_div(shape.oc, t.tile_channels)
    panels_in_task = ceil_div(panels, t.channel_parts)
    tasks = ceil_div(shape.pixels, t.task_pixels) * t.channel_parts * shape.slices
    tiles = ceil_div(t.task_pixels, t.tile_pixels)
    hot = shape.taps * tap_cycles(t.tile_pixels, t.tile_channels // machine.lanes)
    weight_bytes = 4 * shape.taps * t.tile_channels
    block_bytes = weight_bytes / t.k_blocks
    # The panel comes from L3 once per task, and again for each tile if a block of it does not stay in L2.
    compute = tiles * (hot + TILE_OVERHEAD * t.k_blocks)
    if block_bytes > machine.l1_bytes * 0.6 and tiles > 1:
        compute = max(compute, tiles * weight_bytes / L2_BYTES_PER_CYCLE)
    staged_bytes = shape.staged_bytes_per_pixel * t.task_pixels + shape.staged_bytes_per_task
    input_bytes = staged_bytes or 4.0 * shape.inner_taps * t.task_pixels
    weights = weight_bytes / L3_BYTES_PER_CYCLE
    if block_bytes > machine.l2_bytes * 0.7:
        weights *= tiles
    overlapped = min(weights, compute)
    panel = compute + weights - (1 - EXPOSED_WEIGHTS) * overlapped
    if block_bytes + input_bytes > machine.l2_bytes * 0.8:  # the input comes from L3 again for each panel
        panel += EXPOSED_INPUT * input_bytes / L3_BYTES_PER_CYCLE
    task = panel * panels_in_task + staged_bytes / 8 + input_bytes / L3_BYTES_PER_CYCLE + 300
    if not t.parallel:
        return tasks * task
    # Cores never run evenly: at the end one of them waits for part of a task.
    return (ceil_div(tasks, machine.cores) + TAIL_OF_A_TASK) * task + FORK_CYCLES


def _task_sizes(shape: ProductShape, mr: int, machine: Machine) -> list[int]:
    rows = shape.pixels // shape.row
    sizes = []
    for parts in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256):
        size = ceil_div(rows, parts) * shape.row
        if shape.row == 1 and size > mr:
            size = min(ceil_div(size, mr) * mr, shape.pixels)
        if size not in sizes and size >= min(mr, shape.pixels):
            sizes.append(size)
    return sizes


def _unroll(extent: int) -> int:
    """Turns of the hot loop that come out even, or four with a remainder where the loop is long enough to hide it."""
    return next((u for u in (4, 3, 5, 7) if extent % u == 0), 4 if extent > 32 else 1 if extent % 2 else 2)


def _tilings(shape: ProductShape, machine: Machine) -> Iterator[Tiling]:
    for mr, nr in register_tiles(machine, shape.oc, shape.pixels):
        panels = ceil_div(shape.oc, nr)
        partial = shape.oc % nr != 0
        divisors = {1, panels} if partial else {d for d in (1, 2, 3, 4, 6, 8, panels) if panels % d == 0}
        for task in _task_sizes(shape, mr, machine):
            for parts in sorted(divisors):
                for blocks in (1, 2, 4, 8):
                    even = shape.inner_taps % blocks == 0 and task % mr == 0 and shape.inner_taps >= 32 * blocks
                    if blocks == 1 or even:
                        yield Tiling(mr, nr, task, parts, blocks, False)
                        if machine.cores > 1:
                            yield Tiling(mr, nr, task, parts, blocks, True)


def tiled_schedules(algorithm: str, shape: ProductShape, machine: Machine, limit: int = 12) -> list[Schedule]:
    """Candidates for a product, the best first by `cost_cycles`, at most three of each register tile."""
    ranked = sorted((_cost(shape, tiling, machine), tiling) for tiling in _tilings(shape, machine))
    kept: list[Schedule] = []
    seen: Counter[tuple[int, int, int]] = Counter()
    for _, tiling in ranked:
        tile = (tiling.tile_pixels, tiling.tile_channels, tiling.k_blocks)
        seen[tile] += 1
        if seen[tile] <= 3:
            unroll = _unroll(shape.inner_taps // tiling.k_blocks)
            kept.append(Schedule(algorithm, unroll=unroll, **tiling._asdict()))
        if len(kept) == limit:
            break
    return kept


def check_tiled(shape: ProductShape, s: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit a product, or None."""
    missing = [name for name in PARAMETERS if name not in s.params]
    if missing or set(s.params) - set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(s.params)}"
    numbers = [name for name in PARAMETERS if name != "parallel"]
    for name in numbers:
        if isinstance(s.params[name], bool) or not isinstance(s.params[name], int) or s.params[name] < 1:  # type: ignore[operator]
            return f"{name} must be an integer of at least 1, got {s.params[name]!r}"
    if not isinstance(s.parallel, bool):
        return f"parallel must be True or False, got {s.parallel!r}"
    if s.tile_channels % machine.lanes:
        return f"tile_channels={s.tile_channels} must be a multiple of the {machine.lanes} lanes of {machine.isa}"
    if s.tile_pixels * s.tile_channels // machine.lanes > 4 * machine.vector_registers:
        return f"a tile of {s.tile_pixels} x {s.tile_channels} is over four times the {machine.vector_registers} registers"
    if not s.tile_pixels <= s.task_pixels <= shape.pixels:
        return f"tile_pixels <= task_pixels <= {shape.pixels} (the pixels of a slice) does not hold"
    if s.task_pixels % shape.row and s.task_pixels != shape.pixels:
        return f"task_pixels={s.task_pixels} must be whole rows of {shape.row} pixels"
    if shape.inner_taps % s.k_blocks:
        return f"k_blocks={s.k_blocks} must divide the {shape.inner_taps} inner taps (input channels of a group)"
    if s.unroll > shape.inner_taps // s.k_blocks:
        return f"unroll={s.unroll} is more than the {shape.inner_taps // s.k_blocks} inner taps of a block"
    if s.k_blocks > 1 and s.task_pixels % s.tile_pixels:
        return f"with k_blocks > 1, tile_pixels={s.tile_pixels} must divide task_pixels={s.task_pixels}"
    return check_parts(shape.oc, s)


def check_parts(oc: int, s: Schedule) -> str | None:
    """The reason why `channel_parts` cannot divide the panels evenly, or None."""
    panels = ceil_div(oc, s.tile_channels)
    if panels % s.channel_parts:
        return f"channel_parts={s.channel_parts} must divide the {panels} panels"
    if oc % s.tile_channels and s.channel_parts not in (1, panels):
        return f"the last panel of {oc} channels is partial, so channel_parts must be 1 or {panels}"
    return None


def tiled_macs(shape: ProductShape, s: Schedule) -> int:
    """Multiply-accumulates really done: partial tiles and panels are computed whole."""
    tiles = ceil_div(s.task_pixels, s.tile_pixels) * ceil_div(shape.pixels, s.task_pixels)
    lanes = ceil_div(shape.oc, s.tile_channels) * s.tile_channels
    return int(shape.slices * tiles * s.tile_pixels * lanes * shape.taps)


def tiled_workspace(shape: ProductShape, s: Schedule, threads: int) -> int:
    """Bytes of scratch in use at once: staged input and the sums between blocks, for every thread."""
    per_task = shape.staged_bytes_per_pixel * s.task_pixels + shape.staged_bytes_per_task
    if s.k_blocks > 1:
        per_task += 4 * s.task_pixels * s.tile_channels
    return int(math.ceil(per_task) * (threads if s.parallel else 1))
