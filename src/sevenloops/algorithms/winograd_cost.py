"""Which Winograd schedules to try: candidates and their predicted cycles. No Halide here.

A block of T tiles costs, per panel of channels, P = alpha^2 products of T x ic by ic x tile_channels, with the hot loop that
all tiled products share. Around it:

* the panel of U comes from L3 or memory once per block, or is made from raw weights, which are r^2 / alpha^2 of its bytes;
* V stays in L2 from panel to panel if it fits, or comes from L3 again;
* the transforms store one vector per point: that, and not their additions, is what they cost;
* images that are larger than the caches are read and written at the speed of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Geometry, ceil_div
from .tiles import (
    FMA_LATENCY,
    FORK_CYCLES,
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    SPARE_REGISTERS,
    TAIL_OF_A_TASK,
    TILE_OVERHEAD,
)
from .winograd_plan import check_plan, unit_stride

__all__ = ["winograd_cost_cycles", "winograd_schedules"]

#: cycles per point and vector of channels: input transform, output transform, transform of raw weights
INPUT_CYCLES, OUTPUT_CYCLES, WEIGHT_CYCLES = 8.0, 5.5, 6.0
#: cycles per vector copied with its padding, and per row of a block narrower than an image that is not in L2: measured; the
#: hardware fetches little ahead in short rows
STAGED_CYCLES, ROW_CYCLES = 4.0, 5000.0
GATHER_CYCLES = 40.0  # per vector that is gathered
#: what a core gets per cycle of data that no longer stays in L3 between calls, and of data that another core wrote
MEMORY_BYTES_PER_CYCLE, SHARED_BYTES_PER_CYCLE = 5.0, 4.0
#: shares of traffic that the hot loop does not hide
EXPOSED_U, EXPOSED_V = 0.5, 0.4
TASK_CYCLES = 500
#: tile sizes (m) by kernel size, those with good accuracy
SIZES = {1: (1,), 2: (4, 3, 2), 3: (4, 2, 3), 4: (3, 2, 4), 5: (2, 4, 3), 6: (2,), 7: (2, 1, 4)}
MAX_POINTS = 64
#: alpha from which errors near the tolerance where more than these channels are summed (docs/winograd.md)
LARGE_ALPHA, CHANNELS_AT_LARGE_ALPHA = 8, 512


class Cut(NamedTuple):
    """The parameters of a schedule that cost depends on; names as in `winograd_plan.PARAMETERS`."""

    tile_height: int
    tile_width: int
    block_rows: int
    block_columns: int
    block_images: int
    tile_tiles: int
    tile_channels: int
    channel_parts: int
    k_blocks: int
    raw: bool
    shared_input: bool


def _tap_cycles(mr: int, vectors: int) -> float:
    """As `tiles.tap_cycles`; tiles lie at fixed distances, so none of their addresses is ever loaded."""
    fma, loads = mr * vectors / 2, (mr + vectors) / 2
    return max(fma, loads, FMA_LATENCY) + 0.2 * loads + 0.6


def winograd_cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole convolution on all cores."""
    raw = s.weights == "raw"
    cut = Cut(*(raw if name == "raw" else s.params[name] for name in Cut._fields))  # type: ignore[arg-type]
    source = Geometry.of(problem)
    return _cost(unit_stride(source), cut, machine, _gathers(source, machine))


def _gathers(source: Geometry, machine: Machine) -> bool:
    """Whether a vector of channels spans phases of a strided problem, and is gathered element by element."""
    return max(source.stride) > 1 and source.ic % machine.lanes != 0


def _cost(g: Geometry, c: Cut, machine: Machine, gathers: bool) -> float:
    vectors, points = c.tile_channels // machine.lanes, (c.tile_height + g.kernel[1] - 1) * (c.tile_width + g.kernel[2] - 1)
    tiles, ic_vectors = c.block_rows * c.block_columns * c.block_images, ceil_div(g.ic, machine.lanes)
    panels = ceil_div(g.oc, c.tile_channels)
    blocks = ceil_div(g.out[1], c.block_rows * c.tile_height) * ceil_div(g.out[2], c.block_columns * c.tile_width)
    blocks *= g.groups * g.batch // c.block_images
    panel = _panel_cycles(g, c, machine, points, tiles, vectors, panels)
    panel += tiles * vectors * points * OUTPUT_CYCLES
    # A line of the output is read before it is written.
    panel += 8 * tiles * c.tile_height * c.tile_width * c.tile_channels / _rate(g, g.out, g.oc, machine)
    x_rate = _rate(g, g.size, g.ic, machine)
    transform = tiles * ic_vectors * points * INPUT_CYCLES
    staged = max(GATHER_CYCLES if gathers else STAGED_CYCLES, 4 * machine.lanes / x_rate) * ic_vectors
    if c.shared_input:
        transform += staged * tiles * points
    else:
        height = c.block_rows * c.tile_height + g.kernel[1] - 1
        width = c.block_columns * c.tile_width + g.kernel[2] - 1
        transform += staged * height * width * c.block_images
        narrow = c.block_columns * c.tile_width < g.out[2] and (gathers or x_rate < L2_BYTES_PER_CYCLE)
        transform += ROW_CYCLES * height * c.block_images if narrow else 0
    task = panel * ceil_div(panels, c.channel_parts) + (0 if c.shared_input else transform) + TASK_CYCLES
    tasks = blocks * c.channel_parts
    if machine.cores == 1:
        return tasks * task + (blocks * transform if c.shared_input else 0)
    before = blocks * transform / machine.cores + FORK_CYCLES if c.shared_input else 0
    return before + (ceil_div(tasks, machine.cores) + TAIL_OF_A_TASK) * task + FORK_CYCLES


def _rate(g: Geometry, size: tuple[int, ...], channels: int, machine: Machine) -> float:
    """Bytes per cycle at which a core reaches a tensor of the problem: from its L2, from L3 or from memory."""
    n_bytes = 4 * g.batch * g.groups * channels * size[1] * size[2]
    if n_bytes <= 0.4 * machine.l2_bytes * machine.cores:
        return L2_BYTES_PER_CYCLE
    return L3_BYTES_PER_CYCLE if n_bytes <= 0.2 * machine.l3_bytes else MEMORY_BYTES_PER_CYCLE


def _panel_cycles(g: Geometry, c: Cut, machine: Machine, points: int, tiles: int, vectors: int, panels: int) -> float:
    """Products of one block with one panel of channels: arithmetic, and the traffic of U, V and M that it does not hide."""
    hot = g.ic * _tap_cycles(c.tile_tiles, vectors) + TILE_OVERHEAD * c.k_blocks
    if 4 * g.ic // c.k_blocks * c.tile_channels > machine.l1_bytes * 0.6:
        hot = max(hot, 4 * g.ic * c.tile_channels / L2_BYTES_PER_CYCLE)
    products = points * ceil_div(tiles, c.tile_tiles) * hot
    u_bytes = 4.0 * points * g.ic * c.tile_channels
    all_bytes = panels * g.groups * u_bytes
    if c.raw:
        raw_bytes = u_bytes * g.kernel[1] * g.kernel[2] / points
        far = all_bytes * raw_bytes / u_bytes > 0.5 * machine.l3_bytes
        cycles = products + g.ic * vectors * points * WEIGHT_CYCLES
        cycles += raw_bytes / (MEMORY_BYTES_PER_CYCLE if far else L3_BYTES_PER_CYCLE)
    else:
        near = all_bytes < 0.5 * machine.l2_bytes
        far = all_bytes > 0.5 * machine.l3_bytes
        traffic = 0 if near else u_bytes / (MEMORY_BYTES_PER_CYCLE if far else L3_BYTES_PER_CYCLE)
        cycles = max(products, traffic) + EXPOSED_U * min(products, traffic)
    v_bytes, m_bytes = 4.0 * points * g.ic * tiles, 4.0 * points * c.tile_channels * tiles
    if c.shared_input:
        cycles += v_bytes / SHARED_BYTES_PER_CYCLE / (1 if v_bytes + m_bytes > 0.8 * machine.l2_bytes else panels)
    elif v_bytes + m_bytes > 0.8 * machine.l2_bytes:
        cycles += EXPOSED_V * v_bytes / L3_BYTES_PER_CYCLE
    if m_bytes > 0.5 * machine.l2_bytes:
        cycles += 2 * EXPOSED_V * m_bytes / L3_BYTES_PER_CYCLE
    return cycles


def _divided(extent: int, parts: tuple[int, ...]) -> list[int]:
    """The extent cut into about so many equal parts, each size once."""
    return sorted({ceil_div(extent, part) for part in parts if part <= extent})


def _blocks(g: Geometry, my: int, mx: int) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, images) of blocks, of 4 to 256 tiles where the problem has so many."""
    tall, wide = ceil_div(g.out[1], my), ceil_div(g.out[2], mx)
    for rows in _divided(tall, (1, 2, 3, 4, 7, 8, 14, 28, 56)):
        for columns in _divided(wide, (1, 2)):
            whole = rows == tall and columns == wide
            for images in sorted({1, *(d for d in (2, 4, 8, 16) if whole and g.batch % d == 0)}):
                if 4 <= rows * columns * images <= 256 or ((rows, columns) == (tall, wide) and images == 1):
                    yield rows, columns, images


@lru_cache(maxsize=4096)
def _register_tiles(machine: Machine, oc: int, tiles: int) -> list[tuple[int, int]]:
    """(tile_tiles, tile_channels) worth trying for a block: the three that compute it in the fewest cycles."""
    spare = SPARE_REGISTERS[machine.vector_registers >= 32]
    ranked = []
    for vectors in range(1, 5):
        nr = vectors * machine.lanes
        if nr - machine.lanes >= oc:
            break
        largest = (machine.vector_registers - spare - vectors - 1) // vectors
        found = []
        for mr in range(1, min(largest, tiles) + 1):
            found.append((ceil_div(tiles, mr) * _tap_cycles(mr, vectors) * ceil_div(oc, nr), mr, nr))
        ranked += sorted(found)[:2]
    return [(mr, nr) for _, mr, nr in sorted(ranked)[:3]]


def _candidates(g: Geometry, machine: Machine) -> Iterator[Cut]:
    for my in SIZES[g.kernel[1]]:
        for mx in SIZES[g.kernel[2]]:
            alphas = (my + g.kernel[1] - 1, mx + g.kernel[2] - 1)
            points = alphas[0] * alphas[1]
            if max(alphas) >= LARGE_ALPHA and g.ic > CHANNELS_AT_LARGE_ALPHA:
                continue
            if points > MAX_POINTS or (abs(my - mx) > 1 and min(g.kernel[1:]) > 1):
                continue
            for rows, columns, images in _blocks(g, my, mx):
                for mr, nr in _register_tiles(machine, g.oc, rows * columns * images):
                    yield from _divisions(g, machine, points, (my, mx, rows, columns, images, mr, nr))


def _divisions(g: Geometry, machine: Machine, points: int, sizes: tuple[int, int, int, int, int, int, int]) -> Iterator[Cut]:
    """The ways to divide channels and weights among tasks and blocks."""
    my, mx, rows, columns, images, _, nr = sizes
    panels, partial = ceil_div(g.oc, nr), g.oc % nr != 0
    blocks = ceil_div(g.out[1], my * rows) * ceil_div(g.out[2], mx * columns) * g.batch // images * g.groups
    whole = [d for d in range(1, panels + 1) if panels % d == 0 and (not partial or d in (1, panels))]
    enough = [d for d in whole if d * blocks >= machine.cores] or whole[-1:]
    fits = 0.5 * machine.l2_bytes
    for parts in sorted({enough[0], enough[min(1, len(enough) - 1)], enough[-1]}):
        for shared in (False, True) if parts > 1 else (False,):
            yield Cut(*sizes, parts, 1, False, shared)
            k_blocks = next((k for k in (1, 2, 4, 8, 16, 32) if g.ic % k == 0 and 4 * points * g.ic * nr / k <= fits), 0)
            if k_blocks and g.ic // k_blocks >= 16:
                yield Cut(*sizes, parts, k_blocks, True, shared)


def _schedule(c: Cut, g: Geometry, machine: Machine) -> Schedule:
    depth, vectors = g.ic // c.k_blocks, c.tile_channels // machine.lanes
    unroll = next((u for u in (4, 3, 5, 7) if depth % u == 0), 4 if depth > 32 else 1)
    fields = c._asdict()
    weights = "raw" if fields.pop("raw") else "transformed"
    return Schedule(
        "winograd", points="balanced", weights=weights, weight_streams=2 if vectors % 2 == 0 else 1, unroll=unroll,
        parallel=machine.cores > 1, **fields,
    )  # fmt: skip


@lru_cache(maxsize=256)
def _ranked(problem: ConvProblem, machine: Machine, limit: int) -> tuple[Schedule, ...]:
    source = Geometry.of(problem)
    g, gathers = unit_stride(source), _gathers(source, machine)
    kept: list[Schedule] = []
    seen: Counter[tuple[object, ...]] = Counter()
    for _, cut in sorted((_cost(g, cut, machine, gathers), cut) for cut in _candidates(g, machine)):
        kind = (*cut[:2], *cut[5:7], cut.raw)
        seen[kind] += 1
        if seen[kind] <= 3:
            schedule = _schedule(cut, g, machine)
            if schedule not in kept and check_plan(problem, schedule, machine) is None:
                kept.append(schedule)
        if len(kept) == limit:
            break
    return tuple(kept)


def winograd_schedules(problem: ConvProblem, machine: Machine, limit: int = 16) -> list[Schedule]:
    """Candidates, the best first by `winograd_cost_cycles`, at most three of each tile."""
    return list(_ranked(problem, machine, limit))
