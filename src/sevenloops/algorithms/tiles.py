"""Which tiles to try: the cost model of the register-tiled product, in cycles. No Halide here.

The hot loop of a `mr x nr` tile (mr pixels, nr channels = v vectors) needs, per tap, `mr * v` FMAs on two ports, `mr`
broadcasts and `v` weight vectors on two load ports, and no less than the latency of an FMA (4 cycles) for its own sum.
The tile may use the vector registers but v for the weights, one for the broadcast and a spare or two (Goto and van de
Geijn, Anatomy of High-Performance Matrix Multiplication, section 6.1, adapted to broadcasts from memory).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule
from .base import ceil_div
from .cost import FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, with_memory_s

__all__ = [
    "FORK_CYCLES",
    "L2_BYTES_PER_CYCLE",
    "L3_BYTES_PER_CYCLE",
    "PARAMETERS",
    "ProductShape",
    "check_tiled",
    "cost_cycles",
    "register_tiles",
    "tap_cycles",
    "tiled_schedules",
    "tiled_seconds",
    "tiled_workspace",
    "tiles_computed",
    "tiles_per_task",
    "weight_streams",
]

Ints = npt.NDArray[np.int64]
FMA_LATENCY = 4
#: share of a task for which a core waits at the end: cores are never evenly fast (80 layers at batch 16 took 2 % less time
#: with the tasks that 0.3 leads to than with those of 0.1)
TAIL_OF_A_TASK = 0.3
#: from here on one core alone need not be considered
ALWAYS_FORKED_MACS = 4_000_000
#: shares of that traffic which the hot loop does not hide: weights come in one burst with the first tile of a panel
EXPOSED_WEIGHTS, EXPOSED_INPUT = 0.6, 0.1
#: pixels whose addresses stay in general registers
ADDRESS_REGISTERS = 10
#: registers left to the compiler, with 16 and with 32 of them: without, it spills sums (seen: 14 x 32 at 70 % of 13 x 32)
SPARE_REGISTERS = (1, 2)
#: cycles for a sum without a register, in each tap: it is loaded, and stored again
SPILL_CYCLES = 1.5
#: up to so many pixels the weights of a panel are used by few tiles: in many blocks, which the second tile finds in L1,
#: 16 rows times 9,216 x 4,096 took a quarter less time; the first four suit all others
FEW_PIXELS, BLOCKS = 64, (1, 2, 4, 8, 16, 32, 64)
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
    """What the model needs to know: sizes, `row` (task_pixels must be a multiple), and bytes read besides the weights.

    `phases` products over the same pixels have `outer_taps` together.
    """

    oc: int
    pixels: int
    slices: int  # groups * depths * images
    inner_taps: int  # extent of the first tap
    outer_taps: int  # product of the others
    row: int = 1
    staged_bytes_per_pixel: float = 0.0
    staged_bytes_per_task: float = 0.0
    phases: int = 1

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
    """Cycles of one tap in the hot loop, from the ports, plus a little for the loop itself; of arrays, an array."""
    largest: Any = np.maximum if hasattr(mr, "shape") else max
    spilled = largest(0, mr - ADDRESS_REGISTERS)  # addresses that must be loaded again
    fma, loads = mr * vectors / 2, (mr + vectors + spilled) / 2
    cycles: float = largest(largest(fma, loads), FMA_LATENCY) + 0.2 * loads + 0.8
    return cycles


def cost_cycles(shape: ProductShape, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole product on all cores."""
    tiling = Tiling(s.tile_pixels, s.tile_channels, s.task_pixels, s.channel_parts, s.k_blocks, s.parallel)
    return float(_cost(shape, tiling, machine))


def tiled_seconds(problem: Problem, shape: ProductShape, s: Schedule, machine: Machine) -> float:
    """Predicted seconds: the cycles at the machine's clock, and memory for what no cache holds."""
    return with_memory_s(machine, cost_cycles(shape, s, machine), problem.unique_bytes)


class Tiling(NamedTuple):
    """Candidates while they are only rows of numbers (each field an array, or a number): thousands are compared."""

    tile_pixels: Any
    tile_channels: Any
    task_pixels: Any
    channel_parts: Any
    k_blocks: Any
    parallel: Any


def _cost(shape: ProductShape, t: Tiling, machine: Machine) -> Any:
    panels = ceil_div(shape.oc, t.tile_channels)
    panels_in_task = ceil_div(panels, t.channel_parts)
    tasks = ceil_div(shape.pixels, t.task_pixels) * t.channel_parts * shape.slices
    tiles = ceil_div(t.task_pixels, t.tile_pixels)
    vectors = t.tile_channels // machine.lanes
    registers = machine.vector_registers - SPARE_REGISTERS[machine.vector_registers >= 32]
    spilled = np.maximum(0, (t.tile_pixels + 1) * vectors + 1 - registers)
    hot = shape.taps * (tap_cycles(t.tile_pixels, vectors) + SPILL_CYCLES * spilled)
    weight_bytes = 4 * shape.taps * t.tile_channels
    block_bytes = weight_bytes / (t.k_blocks * shape.phases)
    # The panel comes from L3 once per task, and again for each tile if a block of it does not stay in L2.
    compute = tiles * (hot + TILE_OVERHEAD * t.k_blocks * shape.phases)
    streams = (block_bytes > machine.l1_bytes * 0.6) & (tiles > 1)
    compute = np.where(streams, np.maximum(compute, tiles * weight_bytes / L2_BYTES_PER_CYCLE), compute)
    staged_bytes = shape.staged_bytes_per_pixel * t.task_pixels + shape.staged_bytes_per_task
    input_bytes = staged_bytes if shape.staged_bytes_per_pixel else 4.0 * shape.inner_taps * t.task_pixels
    weights = weight_bytes / L3_BYTES_PER_CYCLE * np.where(block_bytes > machine.l2_bytes * 0.7, tiles, 1)
    overlapped = np.minimum(weights, compute)
    panel = compute + weights - (1 - EXPOSED_WEIGHTS) * overlapped
    spills = block_bytes + input_bytes > machine.l2_bytes * 0.8  # the input comes from L3 again for each panel
    panel = panel + spills * (EXPOSED_INPUT * input_bytes / L3_BYTES_PER_CYCLE)
    task = panel * panels_in_task + staged_bytes / 8 + input_bytes / L3_BYTES_PER_CYCLE + 300
    # Cores never run evenly: at the end one of them waits for part of a task.
    shared = (ceil_div(tasks, machine.cores) + TAIL_OF_A_TASK) * task + FORK_CYCLES
    return np.where(t.parallel, shared, tasks * task)


#: into how many tasks the pixels of a slice may be divided
TASKS = np.array((1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256))


def _task_sizes(shape: ProductShape, mr: Ints) -> tuple[Ints, Ints]:
    """Pairs (tile_pixels, task_pixels): every tile with every distinct size of a task."""
    sizes = np.broadcast_to(-(-(shape.pixels // shape.row) // TASKS) * shape.row, (len(mr), len(TASKS)))
    tall = mr[:, None]
    if shape.row == 1:
        sizes = np.where(sizes > tall, np.minimum(-(-sizes // tall) * tall, shape.pixels), sizes)
    fits = sizes >= np.minimum(tall, shape.pixels)
    fits[:, 1:] &= sizes[:, 1:] != sizes[:, :-1]  # they fall with the number of tasks, so equal ones are neighbours
    return np.broadcast_to(tall, sizes.shape)[fits], sizes[fits]


def _unroll(extent: int) -> int:
    """Turns of the hot loop that come out even, or four with a remainder where the loop is long enough to hide it."""
    return next((u for u in (4, 3, 5, 7) if extent % u == 0), 4 if extent > 32 else 1 if extent % 2 else 2)


def _tilings(shape: ProductShape, machine: Machine) -> Tiling:
    """All candidates, as columns of one table."""
    tiles, parts = register_tiles(machine, shape.oc, shape.pixels), []
    sums = BLOCKS if shape.pixels <= FEW_PIXELS else BLOCKS[:4]
    blocks = [b for b in sums if b == 1 or (shape.inner_taps % b == 0 and shape.inner_taps >= 32 * b)]
    macs = shape.taps * shape.oc * shape.pixels * shape.slices
    parallel = (0,) if machine.cores == 1 else (0, 1) if macs < ALWAYS_FORKED_MACS else (1,)
    for nr in sorted({nr for _, nr in tiles}):
        mr, task = _task_sizes(shape, np.array([m for m, n in tiles if n == nr]))
        panels = ceil_div(shape.oc, nr)
        whole = (1, 2, 3, 4, 6, 8, panels) if shape.oc % nr == 0 else (1, panels)
        rest = [(d, b, p) for d in sorted({d for d in whole if panels % d == 0}) for b in blocks for p in parallel]
        mr, task = np.repeat(mr, len(rest)), np.repeat(task, len(rest))
        columns = np.tile(np.array(rest).T, len(mr) // len(rest))
        even = (columns[1] == 1) | (task % mr == 0)
        parts.append(np.array((mr, np.full_like(mr, nr), task, *columns))[:, even])
    return Tiling(*np.concatenate(parts, axis=1))


def tiled_schedules(algorithm: str, shape: ProductShape, machine: Machine, limit: int = 12) -> list[Schedule]:
    """Candidates for a product, the best first by `cost_cycles`, at most three of each register tile."""
    table = _tilings(shape, machine)
    costs = _cost(shape, table, machine)
    rows, wanted = np.array(table).T, 32 * limit
    while True:
        few = costs <= np.partition(costs, wanted)[wanted] if wanted < len(costs) else np.ones(len(costs), bool)
        kept = _distinct(sorted(zip(costs[few].tolist(), rows[few].tolist())), limit)
        if len(kept) == limit or few.all():
            break
        wanted *= 8
    return [
        Schedule(algorithm, unroll=_unroll(shape.inner_taps // t.k_blocks), **{**t._asdict(), "parallel": bool(t.parallel)})
        for t in kept
    ]


def _distinct(ranked: list[tuple[float, list[int]]], limit: int) -> list[Tiling]:
    """The first `limit`, at most three of each register tile."""
    kept: list[Tiling] = []
    seen: Counter[tuple[int, int, int]] = Counter()
    for _, row in ranked:
        tiling = Tiling(*row)
        tile = (tiling.tile_pixels, tiling.tile_channels, tiling.k_blocks)
        seen[tile] += 1
        if seen[tile] <= 3:
            kept.append(tiling)
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


def weight_streams(tile_channels: int, machine: Machine) -> int:
    """Into how many streams the packed weights of a panel are divided: two, of whole vectors, where that is possible.

    Weights that come from L3 or memory come faster in two streams than in one: the hardware fetches ahead within a page of
    4 KB, and a page of half the columns lasts twice as long (products of 16 rows took 20 % less time).
    """
    return 2 if tile_channels // machine.lanes % 2 == 0 else 1


def tiles_per_task(extent: int, tile: int, task: int) -> int:
    """How many tiles a task gets where tasks of `task` elements do not divide `extent`.

    A last tile that is not full is shifted inwards, over the one before it. Both belong to one task: what two tasks wrote
    would depend on which of them came last, as the compiler may round the sums of two bodies differently.
    """
    tiles, each = ceil_div(extent, tile), ceil_div(task, tile)
    while extent % tile and each < tiles and (tiles - 1) % each == 0:
        each += 1
    return each


def tiles_computed(extent: int, tile: int, task: int) -> int:
    """Tiles of all tasks: those of each task where tasks divide `extent`, else those of the whole."""
    return extent // task * ceil_div(task, tile) if extent % task == 0 else ceil_div(extent, tile)


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
    tiles = tiles_computed(shape.pixels, s.tile_pixels, s.task_pixels)
    lanes = ceil_div(shape.oc, s.tile_channels) * s.tile_channels
    return int(shape.slices * tiles * s.tile_pixels * lanes * shape.taps)


def tiled_workspace(shape: ProductShape, s: Schedule, threads: int) -> int:
    """Bytes of scratch in use at once: staged input and the sums between blocks, for every thread."""
    per_task = shape.staged_bytes_per_pixel * s.task_pixels + shape.staged_bytes_per_task
    if s.k_blocks > 1:
        per_task += 4 * s.task_pixels * s.tile_channels
    return int(math.ceil(per_task) * (threads if s.parallel else 1))
