"""Which Winograd schedules to try: candidates and their predicted cycles. No Halide here.

A block of T tiles costs, per panel of channels, P = alpha^2 products of T x ic by ic x tile_channels, with the hot loop that all
tiled products share (`tiles.tap_cycles`). Around it:

* the panel of U comes from L3 or memory once per block, or is made from raw weights, which are r^2 / alpha^2 of its bytes;
* V stays in L2 from panel to panel if it fits, or comes from L3 again;
* the transforms store one vector per point: that, and not their additions, is what they cost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Geometry, ceil_div
from .tiles import (
    FORK_CYCLES,
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    TAIL_OF_A_TASK,
    TILE_OVERHEAD,
    register_tiles,
    tap_cycles,
)
from .winograd_plan import Plan, check_plan

__all__ = ["winograd_cost_cycles", "winograd_schedules"]

#: cycles per point and vector of channels: input transform, output transform, transform of raw weights
INPUT_CYCLES, OUTPUT_CYCLES, WEIGHT_CYCLES = 8.0, 5.5, 6.0
STAGED_CYCLES = 4.0  # per vector copied with its padding
#: what a core gets per cycle of data that no longer stays in L3 between calls
MEMORY_BYTES_PER_CYCLE = 4.0
#: shares of traffic that the hot loop does not hide
EXPOSED_U, EXPOSED_V = 0.6, 0.4
#: (tile_height, tile_width) by kernel size, those with good accuracy
SIZES = {1: (1,), 2: (4, 3, 2), 3: (4, 2, 3), 4: (3, 2, 4), 5: (2, 4, 3), 6: (2,), 7: (2, 4)}
MAX_POINTS = 64


def winograd_cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole convolution on all cores."""
    plan, lanes = Plan.of(problem, s), machine.lanes
    ic, nr, vectors, points = plan.g.ic, s.tile_channels, s.tile_channels // lanes, plan.points
    tiles = ceil_div(plan.tiles, s.tile_tiles)
    panels_in_task = ceil_div(plan.panels, s.channel_parts)
    hot = ic * tap_cycles(s.tile_tiles, vectors) + TILE_OVERHEAD * s.k_blocks
    u_bytes = 4.0 * points * ic * nr
    if 4 * ic // s.k_blocks * nr > machine.l1_bytes * 0.6:
        hot = max(hot, 4 * ic * nr / L2_BYTES_PER_CYCLE)
    products = points * tiles * hot
    far = plan.panels * plan.g.groups * u_bytes > 0.3 * machine.l3_bytes
    u_rate = MEMORY_BYTES_PER_CYCLE if far else L3_BYTES_PER_CYCLE
    if s.weights == "raw":
        panel = products + ic * vectors * points * WEIGHT_CYCLES + u_bytes * plan.kh * plan.kw / points / u_rate
        panel += 0.15 * u_bytes / L2_BYTES_PER_CYCLE if u_bytes / s.k_blocks > 0.7 * machine.l2_bytes else 0
    else:
        traffic = u_bytes / u_rate
        panel = max(products, traffic) + EXPOSED_U * min(products, traffic)
    v_bytes = 4.0 * points * ic * plan.tiles
    m_bytes = 4.0 * points * nr * plan.tiles
    if v_bytes + m_bytes > 0.8 * machine.l2_bytes or s.shared_input:
        panel += EXPOSED_V * v_bytes / L3_BYTES_PER_CYCLE
    if m_bytes > 0.5 * machine.l2_bytes:
        panel += 2 * EXPOSED_V * m_bytes / L3_BYTES_PER_CYCLE
    panel += plan.tiles * vectors * points * OUTPUT_CYCLES
    transform = plan.tiles * ceil_div(ic, lanes) * points * INPUT_CYCLES
    pixels = (plan.rows * plan.my + plan.kh - 1) * (plan.columns * plan.mx + plan.kw - 1) * plan.images
    staged = STAGED_CYCLES * ceil_div(ic, lanes) * (plan.tiles * points if s.shared_input else pixels)
    task = panel * panels_in_task + (0 if s.shared_input else transform + staged) + 500
    tasks = plan.blocks * s.channel_parts
    cores = machine.cores if s.parallel else 1
    before = plan.blocks * (transform + staged) / cores + FORK_CYCLES if s.shared_input else 0
    rounds = tasks if cores == 1 else ceil_div(tasks, cores) + TAIL_OF_A_TASK
    return before + rounds * task + (FORK_CYCLES if s.parallel else 0)


def _divided(extent: int, parts: tuple[int, ...]) -> list[int]:
    """The extent cut into about so many equal parts, each size once."""
    return sorted({ceil_div(extent, part) for part in parts if part <= extent})


def _blocks(g: Geometry, my: int, mx: int) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, images) of blocks, of 4 to 256 tiles where the problem has so many."""
    tall, wide = ceil_div(g.out[1], my), ceil_div(g.out[2], mx)
    for rows in _divided(tall, (1, 2, 3, 4, 7, 8, 14, 28, 56)):
        for columns in _divided(wide, (1, 2, 4)):
            whole = rows == tall and columns == wide
            for images in sorted({1, *(d for d in (2, 4, 8, 16) if whole and g.batch % d == 0)}):
                if 4 <= rows * columns * images <= 256 or ((rows, columns) == (tall, wide) and images == 1):
                    yield rows, columns, images


def _tiles_of(machine: Machine, g: Geometry, tiles: int) -> list[tuple[int, int]]:
    """Register tiles worth trying for a block: the two cheapest per channel for each number of vectors."""
    best: dict[int, list[tuple[float, int]]] = {}
    for mr, nr in register_tiles(machine, g.oc, tiles):
        cycles = ceil_div(tiles, mr) * tap_cycles(mr, nr // machine.lanes) * ceil_div(g.oc, nr)
        best.setdefault(nr, []).append((cycles, mr))
    ranked = sorted((cycles, mr, nr) for nr, found in best.items() for cycles, mr in sorted(found)[:2])
    return [(mr, nr) for _, mr, nr in ranked[:4]]


def _candidates(problem: ConvProblem, machine: Machine) -> Iterator[Schedule]:
    g = Geometry.of(problem)
    for my in SIZES[g.kernel[1]]:
        for mx in SIZES[g.kernel[2]]:
            points = (my + g.kernel[1] - 1) * (mx + g.kernel[2] - 1)
            if points > MAX_POINTS or (abs(my - mx) > 2 and min(g.kernel[1:]) > 1):
                continue
            for rows, columns, images in _blocks(g, my, mx):
                for mr, nr in _tiles_of(machine, g, rows * columns * images):
                    yield from _divisions(g, machine, points, (my, mx, rows, columns, images, mr, nr))


def _divisions(g: Geometry, machine: Machine, points: int, sizes: tuple[int, ...]) -> Iterator[Schedule]:
    """The ways to divide channels and weights among tasks and blocks."""
    my, mx, rows, columns, images, mr, nr = sizes
    panels, partial = ceil_div(g.oc, nr), g.oc % nr != 0
    blocks = ceil_div(g.out[1], my * rows) * ceil_div(g.out[2], mx * columns) * g.batch // images * g.groups
    whole = [d for d in range(1, panels + 1) if panels % d == 0 and (not partial or d in (1, panels))]
    enough = [d for d in whole if d * blocks >= machine.cores] or whole[-1:]
    fits = 0.5 * machine.l2_bytes
    for parts in sorted({enough[0], enough[min(1, len(enough) - 1)], enough[-1]}):
        for shared in (False, True) if parts > 1 else (False,):
            yield _schedule((my, mx, rows, columns, images, mr, nr), g, parts, 1, "transformed", shared, machine)
            k_blocks = next((k for k in (1, 2, 4, 8, 16, 32) if g.ic % k == 0 and 4 * points * g.ic * nr / k <= fits), 0)
            if k_blocks and g.ic // k_blocks >= 16:
                yield _schedule((my, mx, rows, columns, images, mr, nr), g, parts, k_blocks, "raw", shared, machine)


def _schedule(
    sizes: tuple[int, ...], g: Geometry, parts: int, k_blocks: int, weights: str, shared: bool, machine: Machine
) -> Schedule:
    my, mx, rows, columns, images, mr, nr = sizes
    depth = g.ic // k_blocks
    unroll = next((u for u in (4, 3, 5, 7) if depth % u == 0), 4 if depth > 32 else 1)
    return Schedule(
        "winograd", tile_height=my, tile_width=mx, points="balanced", block_rows=rows, block_columns=columns,
        block_images=images, tile_tiles=mr, tile_channels=nr, channel_parts=parts, k_blocks=k_blocks, weights=weights,
        shared_input=shared, unroll=unroll, parallel=machine.cores > 1,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _ranked(problem: ConvProblem, machine: Machine, limit: int) -> tuple[Schedule, ...]:
    costs = {s: winograd_cost_cycles(problem, s, machine) for s in _candidates(problem, machine)}
    kept: list[Schedule] = []
    seen: Counter[tuple[object, ...]] = Counter()
    for s in sorted(costs, key=lambda s: (costs[s], repr(s))):
        kind = (s.tile_height, s.tile_width, s.tile_tiles, s.tile_channels, s.weights)
        seen[kind] += 1
        if seen[kind] <= 3 and check_plan(problem, s, machine) is None:
            kept.append(s)
        if len(kept) == limit:
            break
    return tuple(kept)


def winograd_schedules(problem: ConvProblem, machine: Machine, limit: int = 16) -> list[Schedule]:
    """Candidates, the best first by `winograd_cost_cycles`, at most three of each tile."""
    return list(_ranked(problem, machine, limit))
