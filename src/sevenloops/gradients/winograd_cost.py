"""Which schedules of gradient_winograd to try: candidates and their predicted cycles. No Halide here.

A task goes through its tiles chunk by chunk. For a chunk of T tiles and a block of C input and D output channels it

* transforms T * (C + D) / lanes vectors, each with alpha^2 points, of pixels that mostly come from L3 or memory;
* computes alpha^2 products of T x C by T x D, with the hot loop that all tiled products share;
* reads and writes the sums M, 4 * alpha^2 * C * D bytes. Long chunks need that less often, but their V and U take
  4 * alpha^2 * T * (C + D) bytes and leave L2 the sooner.

The last two set the blocks: 128 x 128 channels in chunks of 28 tiles have 2.4 MB of M and 1 MB of V and U. Traffic to L3
then takes half as many cycles as the products, and most of it is hidden. Smaller blocks transform each pixel more often.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from ..adjoint import WeightGradient
from ..algorithms.base import Geometry, ceil_div
from ..algorithms.cost import FORK_CYCLES, L3_BYTES_PER_CYCLE, with_memory_s
from ..algorithms.tiles import FMA_LATENCY, SPARE_REGISTERS
from ..machine import Machine
from ..schedule import Schedule
from .winograd_plan import check_plan

__all__ = ["winograd_cost_s", "winograd_schedules"]

# The constants are fitted to 98 measured schedules of seven layers, 3x3 and 5x5, on one core of a busy Zen 3: the first
# choice took 4 % longer than the best of a layer's 14 in the geometric mean, 16 % at most.
#: cycles of a point and vector in both transforms; of a point of the sums, and of an element stored, at the end
TRANSFORM_CYCLES, TOTAL_CYCLES, STORE_CYCLES = 9.0, 5.0, 1.5
#: bytes per cycle at which pixels arrive that L2 does not hold: a tile is short pieces of many rows
FETCHED_BYTES_PER_CYCLE = 1.3
#: share of the traffic of V, U and M that the hot loop does not hide
EXPOSED = 0.33
#: bytes per cycle of what L3 is too small for, and the shares of L3 between which more and more of it is
MEMORY_BYTES_PER_CYCLE, FIRST_AWAY, ALL_AWAY = 1.2, 0.3, 1.0
#: sizes in L2's, between which V, U and M leave it
FIRST_MISSED, ALL_MISSED = 0.2, 10.0
#: cycles of a register tile outside its loop, and of a task
TILE_CYCLES, TASK_CYCLES = 20, 3000
#: tile sizes (m) by kernel size, those with good accuracy (docs/training_gradients.md)
SIZES = {1: (1,), 2: (4, 3, 6, 2), 3: (4, 5, 6, 3, 2), 4: (4, 3, 2), 5: (3, 4, 2)}
CHUNKS = (8, 12, 16, 24, 32, 48, 64)
#: channels of the smallest block that is worth its transforms, where there are so many
SMALLEST_BLOCK = 32
#: tasks for each core that are tried
TASKS_PER_CORE = (1, 2, 4)


class Cut(NamedTuple):
    """The parameters of a schedule that cost depends on; names as in `winograd_plan.PARAMETERS`.

    Each is a number, or an array of them: thousands of candidates are compared at once.
    """

    tile_height: Any
    tile_width: Any
    tile_out: Any
    tile_in: Any
    block_out: Any
    block_panels: Any
    block_tiles: Any
    parts: Any


def _share(value: Any, first: float, last: float) -> Any:
    """0 up to `first`, 1 from `last` on."""
    return np.clip((value - first) / (last - first), 0.0, 1.0)


def _tap_cycles(mr: Any, vectors: Any) -> Any:
    """As `tiles.tap_cycles`; rows lie at fixed distances, so none of their addresses is ever loaded."""
    loads = (mr + vectors) / 2
    return np.maximum(np.maximum(mr * vectors / 2, loads), FMA_LATENCY) + 0.2 * loads + 0.6


def _cycles(problem: WeightGradient, c: Cut, machine: Machine) -> Any:
    g, lanes = Geometry.of(problem.forward), machine.lanes
    _, kh, kw = g.kernel
    points = (c.tile_height + kh - 1) * (c.tile_width + kw - 1)
    tiles = g.batch * ceil_div(g.out[1], c.tile_height) * ceil_div(g.out[2], c.tile_width)
    chunks = ceil_div(ceil_div(tiles, c.parts), c.block_tiles)
    width, rows = c.block_panels * c.tile_in, ceil_div(c.block_out, c.tile_out) * c.tile_out
    tasks = ceil_div(g.ic, width) * ceil_div(g.oc, c.block_out) * g.groups * c.parts
    vectors = c.block_tiles * (width // lanes + ceil_div(rows, lanes))
    transform = vectors * points * TRANSFORM_CYCLES
    if problem.unique_bytes > machine.l2_bytes:
        transform = transform + vectors * c.tile_height * c.tile_width * (4 * lanes / FETCHED_BYTES_PER_CYCLE)
    hot = c.block_tiles * _tap_cycles(c.tile_out, c.tile_in // lanes) + TILE_CYCLES
    products = points * c.block_panels * (rows // c.tile_out) * hot
    held = 4.0 * points * (c.block_tiles * (width + rows) + width * rows)  # V, U and M
    away = _share(held * machine.cores / machine.l3_bytes, FIRST_AWAY, ALL_AWAY)
    traffic = 2 * held * ((1 - away) / L3_BYTES_PER_CYCLE + away / MEMORY_BYTES_PER_CYCLE)
    traffic = traffic * EXPOSED * _share(held / machine.l2_bytes, FIRST_MISSED, ALL_MISSED)
    task = chunks * (transform + products + traffic) + TASK_CYCLES
    end = g.groups * g.oc * ceil_div(g.ic, lanes) * (points * c.parts * TOTAL_CYCLES + kh * kw * lanes * STORE_CYCLES)
    if machine.cores == 1:
        return tasks * task + end
    return ceil_div(tasks, machine.cores) * task + end / machine.cores + 2 * FORK_CYCLES


def winograd_cost_s(problem: WeightGradient, s: Schedule, machine: Machine) -> float:
    """Predicted seconds of one call."""
    cycles = float(_cycles(problem, Cut(*(s.params[name] for name in Cut._fields)), machine))
    return with_memory_s(machine, cycles, problem.unique_bytes)


def _blocks(channels: int, unit: int) -> list[int]:
    """Sizes of blocks: all channels, or parts of whole units that divide them."""
    parts = (channels // d for d in (2, 3, 4, 6, 8, 12, 16) if channels % d == 0)
    return [channels, *(size for size in parts if size % unit == 0 and size >= SMALLEST_BLOCK)]


def _register_tile(machine: Machine, rows: int, vectors: int) -> int:
    """The height of a register tile of so many vectors that computes a block of `rows` output channels fastest."""
    registers = machine.vector_registers - SPARE_REGISTERS[machine.vector_registers >= 32]
    able = range(1, min((registers - vectors - 1) // vectors, rows) + 1)
    return min(able, key=lambda mr: float(ceil_div(rows, mr) * _tap_cycles(mr, vectors)))


def _chunks(tiles: int) -> list[int]:
    """Sizes of chunks that come out nearly even, in fours where they are long."""
    even = {ceil_div(tiles, ceil_div(tiles, size)) for size in CHUNKS}
    return sorted({ceil_div(size, 4) * 4 if size > 4 else size for size in even})


def _candidates(g: Geometry, machine: Machine) -> Iterator[Cut]:
    sizes = [(my, mx) for my in SIZES[g.kernel[1]] for mx in SIZES[g.kernel[2]] if my == mx or min(g.kernel[1:]) == 1]
    for vectors in range(1, 1 + min(3, ceil_div(g.ic, machine.lanes))):
        nr = vectors * machine.lanes
        for width, rows in product(_blocks(g.ic, nr), _blocks(g.oc, 1)):
            mr = _register_tile(machine, rows, vectors)
            blocks = ceil_div(g.ic, width) * ceil_div(g.oc, rows) * g.groups
            many = sorted({1, *(ceil_div(n * machine.cores, blocks) for n in TASKS_PER_CORE)})
            for (my, mx), parts in product(sizes, many):
                tiles = g.batch * ceil_div(g.out[1], my) * ceil_div(g.out[2], mx)
                for chunk in _chunks(ceil_div(tiles, parts)):
                    yield Cut(my, mx, mr, nr, rows, ceil_div(width, nr), chunk, parts)


def _schedule(c: Cut, machine: Machine) -> Schedule:
    unroll = 4 if c.block_tiles % 4 == 0 else 1
    return Schedule("gradient_winograd", points="balanced", unroll=unroll, parallel=machine.cores > 1, **c._asdict())


@lru_cache(maxsize=256)
def _ranked(problem: WeightGradient, machine: Machine, limit: int) -> tuple[Schedule, ...]:
    table = np.array(list(_candidates(Geometry.of(problem.forward), machine)))
    kept: list[Schedule] = []
    seen: Counter[tuple[int, ...]] = Counter()
    for at in np.argsort(_cycles(problem, Cut(*table.T), machine), kind="stable"):
        cut = Cut(*table[at].tolist())
        schedule, kind = _schedule(cut, machine), (cut.tile_height, cut.tile_width, cut.tile_in)
        if seen[kind] < 3 and check_plan(problem, schedule, machine) is None:
            seen[kind] += 1
            kept.append(schedule)
        if len(kept) == limit:
            break
    return tuple(kept)


def winograd_schedules(problem: WeightGradient, machine: Machine, limit: int = 24) -> list[Schedule]:
    """Candidates, the best first by predicted cycles, at most three of each tile."""
    return list(_ranked(problem, machine, limit))
