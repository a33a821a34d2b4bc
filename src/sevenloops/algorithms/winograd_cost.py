"""Which Winograd schedules to try: candidates and their predicted cycles. No Halide here.

A block of T tiles costs, per panel of channels, P = alpha^2 products of T x ic by ic x tile_channels, with the hot loop that
all tiled products share. Around it:

* the panel of U comes from L3 or memory once per block, unless L2 holds all that a core reads in a call, or is made from raw
  weights, which are r^2 / alpha^2 of its bytes;
* V stays in L2 from panel to panel if it fits, or comes from L3 again;
* the transforms store one vector per point: that, and not their additions, is what they cost;
* images that are larger than the caches are read and written at the speed of memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Geometry, ceil_div
from .tiles import FMA_LATENCY, FORK_CYCLES, L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE, SPARE_REGISTERS
from .winograd_plan import unit_stride

__all__ = ["winograd_cost_cycles", "winograd_schedules"]

# The constants are fitted to the measured times of 640 schedules of 39 layers, on one scale with the other algorithms.
#: cycles per point and vector of channels: input transform, output transform, transform of raw weights
INPUT_CYCLES, OUTPUT_CYCLES, WEIGHT_CYCLES = 20.0, 1.0, 5.5
#: cycles per vector copied with its padding, and per row of a block narrower than an image that is not in L2: measured; the
#: hardware fetches little ahead in short rows
STAGED_CYCLES, ROW_CYCLES = 7.0, 6000.0
GATHER_CYCLES = 40.0  # per vector that is gathered
#: what a core gets per cycle of data that no longer stays in L3 between calls, and of data that another core wrote
MEMORY_BYTES_PER_CYCLE, SHARED_BYTES_PER_CYCLE = 5.0, 1.9
#: shares of traffic that the hot loop does not hide
EXPOSED_U, EXPOSED_V = 0.2, 0.55
#: share of L2 up to which a core keeps what it comes back to
HELD_L2 = 0.76
#: cycles of a task and of a register tile outside their loops
TASK_CYCLES, TILE_CYCLES = 2700, 40
#: tile sizes (m) by kernel size, those with good accuracy
SIZES = {1: (1,), 2: (4, 3, 2), 3: (4, 2, 3), 4: (3, 2, 4), 5: (2, 4, 3), 6: (2,), 7: (2, 1, 4)}
MAX_POINTS = 64
#: alpha from which errors near the tolerance where more than these channels are summed (docs/winograd.md)
LARGE_ALPHA, CHANNELS_AT_LARGE_ALPHA = 8, 512

Ints = npt.NDArray[np.int64]


class Cut(NamedTuple):
    """The parameters of a schedule that cost depends on; names as in `winograd_plan.PARAMETERS`.

    Each is a number, or an array of them: thousands of candidates are compared at once.
    """

    tile_height: Any
    tile_width: Any
    block_rows: Any
    block_columns: Any
    block_images: Any
    tile_tiles: Any
    tile_channels: Any
    channel_parts: Any
    k_blocks: Any
    raw: Any
    shared_input: Any


def _tap_cycles(mr: Any, vectors: Any) -> Any:
    """As `tiles.tap_cycles`; tiles lie at fixed distances, so none of their addresses is ever loaded."""
    loads = (mr + vectors) / 2
    return np.maximum(np.maximum(mr * vectors / 2, loads), FMA_LATENCY) + 0.2 * loads + 0.6


def winograd_cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole convolution on all cores."""
    raw = s.weights == "raw"
    cut = Cut(*(raw if name == "raw" else s.params[name] for name in Cut._fields))
    source = Geometry.of(problem)
    return float(_cost(unit_stride(source), cut, machine, _gathers(source, machine)))


def _gathers(source: Geometry, machine: Machine) -> bool:
    """Whether a vector of channels spans phases of a strided problem, and is gathered element by element."""
    return max(source.stride) > 1 and source.ic % machine.lanes != 0


def _cost(g: Geometry, c: Cut, machine: Machine, gathers: bool) -> Any:
    vectors, points = c.tile_channels // machine.lanes, (c.tile_height + g.kernel[1] - 1) * (c.tile_width + g.kernel[2] - 1)
    tiles, ic_vectors = c.block_rows * c.block_columns * c.block_images, ceil_div(g.ic, machine.lanes)
    panels = ceil_div(g.oc, c.tile_channels)
    blocks = ceil_div(g.out[1], c.block_rows * c.tile_height) * ceil_div(g.out[2], c.block_columns * c.tile_width)
    blocks = blocks * g.groups * g.batch // c.block_images
    panel = _panel_cycles(g, c, machine, points, tiles, panels, blocks)
    panel = panel + tiles * vectors * points * OUTPUT_CYCLES
    # A line of the output is read before it is written.
    panel = panel + 8 * tiles * c.tile_height * c.tile_width * c.tile_channels / _rate(g, g.out, g.oc, machine)
    x_rate = _rate(g, g.size, g.ic, machine)
    staged = max(GATHER_CYCLES if gathers else STAGED_CYCLES, 4 * machine.lanes / x_rate) * ic_vectors
    height = c.block_rows * c.tile_height + g.kernel[1] - 1
    width = c.block_columns * c.tile_width + g.kernel[2] - 1
    own = staged * height * width * c.block_images
    if gathers or x_rate < L2_BYTES_PER_CYCLE:
        own = own + (c.block_columns * c.tile_width < g.out[2]) * (ROW_CYCLES * height * c.block_images)
    transform = tiles * ic_vectors * points * INPUT_CYCLES + np.where(c.shared_input, staged * tiles * points, own)
    task = panel * ceil_div(panels, c.channel_parts) + np.where(c.shared_input, 0, transform) + TASK_CYCLES
    tasks = blocks * c.channel_parts
    if machine.cores == 1:
        return tasks * task + np.where(c.shared_input, blocks * transform, 0)
    before = np.where(c.shared_input, blocks * transform / machine.cores + FORK_CYCLES, 0)
    return before + ceil_div(tasks, machine.cores) * task + FORK_CYCLES


def _rate(g: Geometry, size: tuple[int, ...], channels: int, machine: Machine) -> float:
    """Bytes per cycle at which a core reaches a tensor of the problem: from its L2, from L3 or from memory."""
    n_bytes = 4 * g.batch * g.groups * channels * size[1] * size[2]
    if n_bytes <= 0.4 * machine.l2_bytes * machine.cores:
        return L2_BYTES_PER_CYCLE
    return L3_BYTES_PER_CYCLE if n_bytes <= 0.2 * machine.l3_bytes else MEMORY_BYTES_PER_CYCLE


def _panel_cycles(g: Geometry, c: Cut, machine: Machine, points: Any, tiles: Any, panels: Any, blocks: Any) -> Any:
    """Products of one block with one panel of channels: arithmetic, and the traffic of U, V and M that it does not hide."""
    vectors = c.tile_channels // machine.lanes
    hot = g.ic * _tap_cycles(c.tile_tiles, vectors) + TILE_CYCLES * c.k_blocks
    streams = 4 * g.ic // c.k_blocks * c.tile_channels > machine.l1_bytes * 0.6
    hot = np.maximum(hot, streams * (4 * g.ic * c.tile_channels / L2_BYTES_PER_CYCLE))
    products = points * ceil_div(tiles, c.tile_tiles) * hot
    u_bytes = 4.0 * points * g.ic * c.tile_channels
    # Weights as they are in the call: from nearby, from L3, or from memory.
    read_bytes = np.where(c.raw, 4.0 * g.kernel[1] * g.kernel[2] * g.ic * c.tile_channels, u_bytes)
    all_bytes = panels * g.groups * read_bytes
    v_bytes, m_bytes = 4.0 * points * g.ic * tiles, 4.0 * points * c.tile_channels * tiles
    # What a core comes back to in the next block or call; beyond its L2, more and more of the weights come from L3.
    held = all_bytes / np.where(blocks == 1, np.minimum(c.channel_parts, machine.cores), 1) + v_bytes + m_bytes
    missed = np.clip((held / machine.l2_bytes - HELD_L2) / (1.2 - HELD_L2), 0, 1)
    traffic = read_bytes / np.where(all_bytes > 0.5 * machine.l3_bytes, MEMORY_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE) * missed
    made = products + g.ic * vectors * points * WEIGHT_CYCLES + traffic
    cycles = np.where(c.raw, made, np.maximum(products, traffic) + EXPOSED_U * np.minimum(products, traffic))
    spilled = v_bytes + m_bytes > 0.8 * machine.l2_bytes
    theirs = v_bytes / SHARED_BYTES_PER_CYCLE / np.where(spilled, 1, panels)
    cycles = cycles + np.where(c.shared_input, theirs, spilled * (EXPOSED_V * v_bytes / L3_BYTES_PER_CYCLE))
    return cycles + (m_bytes > 0.5 * machine.l2_bytes) * (2 * EXPOSED_V * m_bytes / L3_BYTES_PER_CYCLE)


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


def _register_tiles(machine: Machine, oc: int, tiles: Ints) -> tuple[Ints, Ints, Ints]:
    """(row, tile_tiles, tile_channels) worth trying for blocks of so many tiles: the three of the fewest cycles for each."""
    lanes, spare = machine.lanes, SPARE_REGISTERS[machine.vector_registers >= 32]
    able, costs = [], []
    for vectors in range(1, 5):
        if (vectors - 1) * lanes >= oc:
            break
        mr = np.arange(1, (machine.vector_registers - spare - vectors - 1) // vectors + 1)
        cycles = -(-tiles[:, None] // mr) * (_tap_cycles(mr, vectors) * ceil_div(oc, vectors * lanes))
        cycles = np.where(mr <= tiles[:, None], cycles + 1e-6 * mr, np.inf)  # of equals, the fewer tiles and more channels
        few = np.argsort(cycles, axis=1, kind="stable")[:, :2]
        costs.append(np.take_along_axis(cycles, few, axis=1))
        able.append((few + 1) * 8 + vectors)
    cycles, packed = np.concatenate(costs, axis=1), np.concatenate(able, axis=1)
    few = np.argsort(cycles, axis=1, kind="stable")[:, :3]
    row, at = np.nonzero(np.isfinite(np.take_along_axis(cycles, few, axis=1)))
    packed = packed[row, few[row, at]]
    return row, packed // 8, packed % 8 * lanes


def _tile_sizes(g: Geometry) -> Iterator[tuple[int, int]]:
    for my in SIZES[g.kernel[1]]:
        for mx in SIZES[g.kernel[2]]:
            alphas = (my + g.kernel[1] - 1, mx + g.kernel[2] - 1)
            if max(alphas) >= LARGE_ALPHA and g.ic > CHANNELS_AT_LARGE_ALPHA:
                continue
            if alphas[0] * alphas[1] <= MAX_POINTS and (abs(my - mx) <= 1 or min(g.kernel[1:]) == 1):
                yield my, mx


def _candidates(g: Geometry, machine: Machine) -> Cut:
    """All candidates, as columns of one table."""
    blocks = np.array([(my, mx, *block) for my, mx in _tile_sizes(g) for block in _blocks(g, my, mx)])
    row, mr, nr = _register_tiles(machine, g.oc, blocks[:, 2:].prod(axis=1))
    my, mx, rows, columns, images = sizes = blocks[row].T
    count = -(-g.out[1] // (my * rows)) * -(-g.out[2] // (mx * columns)) * (g.batch * g.groups // images)
    points = (my + g.kernel[1] - 1) * (mx + g.kernel[2] - 1)
    table = []
    for width in sorted(set(nr.tolist())):
        at = np.nonzero(nr == width)[0]
        panels, partial = ceil_div(g.oc, width), g.oc % width != 0
        whole = np.array([d for d in range(1, panels + 1) if panels % d == 0 and (not partial or d in (1, panels))])
        first = np.minimum(np.searchsorted(whole, -(-machine.cores // count[at])), len(whole) - 1)
        parts = np.stack((whole[first], whole[np.minimum(first + 1, len(whole) - 1)], np.full(len(at), panels)))
        new = np.stack((np.ones(len(at), bool), parts[1] > parts[0], parts[2] > parts[1]))
        which, index = np.nonzero(new)
        table.append(np.stack((at[index], parts[which, index])))
    at, parts = np.concatenate(table, axis=1)
    fixed = np.stack((*(column[at] for column in (*sizes, mr, nr)), parts))
    k_blocks = _raw_blocks(g, machine, points[at], nr[at])
    choices = []
    for shared in (False, True):
        for raw in (False, True):
            keep = ((parts > 1) | (not shared)) & ((k_blocks > 0) | (not raw))
            blocks_k = k_blocks[keep] if raw else np.ones(int(keep.sum()), int)
            choices.append(
                np.stack((*fixed[:, keep], blocks_k, np.full_like(blocks_k, raw), np.full_like(blocks_k, shared)))
            )
    columns = Cut(*np.concatenate(choices, axis=1))
    return columns._replace(raw=columns.raw.astype(bool), shared_input=columns.shared_input.astype(bool))


def _raw_blocks(g: Geometry, machine: Machine, points: Ints, nr: Ints) -> Ints:
    """Into how many blocks of input channels raw weights are taken, so that a transformed one stays in L2; 0 for none."""
    found = np.zeros_like(nr)
    for k in (32, 16, 8, 4, 2, 1):
        if g.ic % k == 0:
            fits = 4 * points * g.ic * nr / k <= 0.5 * machine.l2_bytes
            found = np.where(fits, k if g.ic // k >= 16 else 0, found)
    return found


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
    table = _candidates(g, machine)
    kept: list[Schedule] = []
    seen: Counter[tuple[object, ...]] = Counter()
    for at in np.argsort(_cost(g, table, machine, gathers), kind="stable"):
        cut = Cut(*(column[at].item() for column in table))
        kind = (*cut[:2], *cut[5:7], cut.raw)
        seen[kind] += 1
        if seen[kind] <= 3:
            kept.append(_schedule(cut, g, machine))
        if len(kept) == limit:
            break
    return tuple(kept)


def winograd_schedules(problem: ConvProblem, machine: Machine, limit: int = 48) -> list[Schedule]:
    """Candidates, the best first by `winograd_cost_cycles`, at most three of each tile."""
    return list(_ranked(problem, machine, limit))
