"""How transposed_winograd divides its work, and what that costs in cycles: phases, tiles, blocks. No Halide here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Geometry, ceil_div
from .phases import Axis
from .tiles import (
    FORK_CYCLES,
    L2_BYTES_PER_CYCLE,
    L3_BYTES_PER_CYCLE,
    TAIL_OF_A_TASK,
    TILE_OVERHEAD,
    check_parts,
    register_tiles,
    tap_cycles,
)
from .winograd_matrices import Matrices, matrices, points_of

__all__ = ["PARAMETERS", "Plan", "check_plan", "cost_cycles", "macs_executed", "plan_schedules", "workspace_bytes"]

PARAMETERS = {
    "tile_height": "outputs of a phase in a tile, down the image: m of F(m, 2)",
    "tile_width": "outputs of a phase in a tile, along the rows: m of F(m, 2)",
    "block_rows": "rows of tiles in a block",
    "block_columns": "columns of tiles in a block",
    "tile_tiles": "tiles of the register tile of the products",
    "tile_channels": "output channels of the register tile and of a packed weight panel",
    "channel_parts": "into how many parts the panels are divided among tasks",
    "shared_input": "whether the whole input is transformed first, for all tasks, or by each task for itself",
    "unroll": "input channels in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}
#: m of F(m, 2) to try; beyond 4 the matrices lose digits faster than multiplications
SIZES = (2, 3, 4)
#: cycles per point and vector of channels of the input (with its copy) and of the output transform
INPUT_CYCLES, OUTPUT_CYCLES = 6.0, 4.0
ROW_CYCLES = 300.0  # for each row that a block reads and writes: short ones are slow
#: what a core gets per cycle of weights that do not stay in L3 between calls: those larger than this share of it
MEMORY_BYTES_PER_CYCLE, L3_SHARE = 4.0, 0.3
#: shares of the traffic of transformed weights and inputs that the hot loop does not hide
EXPOSED_U, EXPOSED_V = 0.6, 0.4


@dataclass(frozen=True)
class Plan:
    """A problem cut into tiles of `m` outputs of a phase on each axis, and blocks of `rows x columns` tiles."""

    batch: int
    groups: int
    ic: int
    oc: int
    axes: tuple[Axis, Axis]  # y, x
    m: tuple[int, int]
    rows: int
    columns: int
    panels: int

    @staticmethod
    def axes_of(problem: ConvProblem) -> tuple[Axis, Axis]:
        """The two inner axes (of one-dimensional problems, the outer one is trivial)."""
        g = Geometry.of(problem)
        _, y, x = (Axis(*axis) for axis in zip(g.size, g.out, g.kernel, g.stride, g.dilation, g.before))
        return y, x

    @classmethod
    def of(cls, problem: ConvProblem, s: Schedule) -> Plan:
        """The plan of a schedule."""
        g, m = Geometry.of(problem), (s.tile_height, s.tile_width)
        panels = ceil_div(g.oc, s.tile_channels)
        axes = cls.axes_of(problem)
        return cls(g.batch, g.groups, g.ic, g.oc, axes, m, s.block_rows, s.block_columns, panels)

    @property
    def alpha(self) -> tuple[int, int]:
        """Inputs, and points, of a tile on each axis."""
        y, x = (m + axis.most_taps - 1 for m, axis in zip(self.m, self.axes))
        return y, x

    @property
    def points(self) -> int:
        """Products of a tile and a pair of channels, of a phase with all its taps."""
        return math.prod(self.alpha)

    @property
    def matrices(self) -> tuple[Matrices, Matrices]:
        """Those of either axis."""
        axes = zip(self.m, self.axes, self.alpha)
        y, x = (matrices(m, axis.most_taps, points_of("integers", alpha - 1)) for m, axis, alpha in axes)
        return y, x

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.rows * self.columns

    @property
    def blocks_x(self) -> int:
        """Blocks side by side."""
        return ceil_div(self.axes[1].cells, self.columns * self.m[1])

    @property
    def blocks(self) -> int:
        """Blocks of one image and group."""
        return self.blocks_x * ceil_div(self.axes[0].cells, self.rows * self.m[0])

    def used(self, which: int) -> list[int]:
        """The points of an axis that each phase needs: one less where its filter vanishes at infinity."""
        axis, alpha = self.axes[which], self.alpha[which]
        return [alpha - axis.vanishes_at_infinity(r) for r in axis.phases]

    @property
    def phases(self) -> int:
        """Phases of both axes."""
        return math.prod(len(axis.phases) for axis in self.axes)

    @property
    def one_window(self) -> bool:
        """Whether all phases see the same inputs through their windows, so that one transform serves them all."""
        return all(map(_one_window, self.axes))

    @property
    def products(self) -> int:
        """Products of a tile and a pair of channels, of all phases."""
        return math.prod(map(_products, self.axes, self.m))


@cache
def _one_window(axis: Axis) -> bool:
    return len({axis.window(r) for r in axis.phases}) == 1


@cache
def _products(axis: Axis, m: int) -> int:
    return sum(m + axis.most_taps - 1 - axis.vanishes_at_infinity(r) for r in axis.phases)


def _tapless(axis: Axis) -> bool:
    """Whether an axis has a phase that no tap reaches (stride and dilation have a common factor)."""
    return any(all(axis.tap_at(r, place) < 0 for place in range(axis.most_taps)) for r in axis.phases)


def macs_executed(problem: ConvProblem, s: Schedule) -> int:
    """Multiply-accumulates of the products; partial tiles, blocks and panels are computed whole."""
    plan = Plan.of(problem, s)
    tiles = ceil_div(plan.tiles, s.tile_tiles) * s.tile_tiles * plan.blocks * plan.groups * plan.batch
    return int(tiles * plan.products * plan.ic * plan.panels * s.tile_channels)


def workspace_bytes(problem: ConvProblem, s: Schedule, threads: int) -> int:
    """Bytes of scratch in use at once: transformed inputs V and products M."""
    plan = Plan.of(problem, s)
    v = 4 * plan.tiles * plan.points * plan.ic * (1 if plan.one_window or not s.shared_input else plan.phases)
    m = 4 * plan.tiles * plan.points * s.tile_channels
    workers = threads if s.parallel else 1
    return int(workers * m + v * (plan.blocks * plan.groups * plan.batch if s.shared_input else workers))


def check_plan(problem: ConvProblem, s: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    if set(s.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(s.params)}"
    for name in set(PARAMETERS) - {"parallel", "shared_input"}:
        if isinstance(s.params[name], bool) or not isinstance(s.params[name], int) or s.params[name] < 1:  # type: ignore[operator]
            return f"{name} must be an integer of at least 1, got {s.params[name]!r}"
    for name in ("parallel", "shared_input"):
        if not isinstance(s.params[name], bool):
            return f"{name} must be True or False, got {s.params[name]!r}"
    plan = Plan.of(problem, s)
    for axis, m, n, what in zip(plan.axes, plan.m, (plan.rows, plan.columns), ("height", "width")):
        if m > max(SIZES) or (axis.most_taps == 1 and m != 1):
            return f"tile_{what} must be at most {max(SIZES)}, and 1 along an axis whose phases have one tap; got {m}"
        if (n - 1) * m >= axis.cells:
            return f"a block of {plan.rows} x {plan.columns} tiles has tiles outside the image"
    if not s.shared_input and not plan.one_window and any(map(_tapless, plan.axes)):
        return "shared_input must be True where a phase has no tap: windows of the others would differ in size"
    if s.tile_channels % machine.lanes:
        return f"tile_channels={s.tile_channels} must be a multiple of the {machine.lanes} lanes of {machine.isa}"
    if s.tile_tiles * s.tile_channels // machine.lanes > 4 * machine.vector_registers:
        return f"a tile of {s.tile_tiles} x {s.tile_channels} is over four times the {machine.vector_registers} registers"
    if s.tile_tiles > plan.tiles:
        return f"tile_tiles={s.tile_tiles} is more than the {plan.tiles} tiles of a block"
    if s.unroll > plan.ic:
        return f"unroll={s.unroll} is more than the {plan.ic} input channels of a group"
    return check_parts(plan.oc, s)


# ------------------------------------------------------------------------------------------------ candidates


def cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles of the whole convolution on all cores."""
    plan, lanes = Plan.of(problem, s), machine.lanes
    vectors, ic_vectors = s.tile_channels // lanes, ceil_div(plan.ic, lanes)
    products = plan.products
    hot = plan.ic * tap_cycles(s.tile_tiles, vectors)
    if 4 * plan.ic * s.tile_channels > machine.l1_bytes * 0.6:
        hot = max(hot, 4 * plan.ic * s.tile_channels / L2_BYTES_PER_CYCLE)
    panel = products * ceil_div(plan.tiles, s.tile_tiles) * (hot + TILE_OVERHEAD)
    u_bytes = 4.0 * products * plan.ic * s.tile_channels
    outside_l3 = u_bytes * plan.panels * plan.groups > L3_SHARE * machine.l3_bytes
    traffic = u_bytes / (MEMORY_BYTES_PER_CYCLE if outside_l3 else L3_BYTES_PER_CYCLE)
    panel = max(panel, traffic) + EXPOSED_U * min(panel, traffic)
    panel += products * plan.tiles * vectors * OUTPUT_CYCLES
    v_bytes, m_bytes = 4.0 * plan.points * plan.ic * plan.tiles, 4.0 * plan.points * s.tile_channels * plan.tiles
    far = s.shared_input or v_bytes + m_bytes > 0.6 * machine.l2_bytes
    if far:
        panel += EXPOSED_V * plan.phases * v_bytes / L3_BYTES_PER_CYCLE
    transforms = 1.0 * (1 if plan.one_window else plan.phases) * plan.tiles * plan.points * ic_vectors
    transforms *= INPUT_CYCLES + (2 * 4 * lanes / L3_BYTES_PER_CYCLE if far else 0)
    task = panel * ceil_div(plan.panels, s.channel_parts) + (0 if s.shared_input else transforms)
    task += 500 + ROW_CYCLES * plan.rows * (plan.m[0] + 1)
    blocks = plan.blocks * plan.groups * plan.batch
    tasks, cores = blocks * s.channel_parts, machine.cores if s.parallel else 1
    before = blocks * transforms / cores + (FORK_CYCLES if s.parallel else 0) if s.shared_input else 0
    rounds = tasks if cores == 1 else ceil_div(tasks, cores) + TAIL_OF_A_TASK
    return float(before + rounds * task + (FORK_CYCLES if s.parallel else 0))


def _divided(extent: int, parts: tuple[int, ...]) -> list[int]:
    return sorted({ceil_div(extent, part) for part in parts if part <= extent})


def _register_tiles(machine: Machine, oc: int, tiles: int) -> list[tuple[int, int]]:
    """The cheapest register tiles for a block, one for each number of vectors."""
    best: dict[int, tuple[float, int]] = {}
    for mr, nr in register_tiles(machine, oc, tiles):
        cycles = ceil_div(tiles, mr) * tap_cycles(mr, nr // machine.lanes) * ceil_div(oc, nr)
        best[nr] = min(best.get(nr, (cycles, mr)), (cycles, mr))
    return [(mr, nr) for _, mr, nr in sorted((cycles, mr, nr) for nr, (cycles, mr) in best.items())[:3]]


def _candidates(problem: ConvProblem, machine: Machine) -> Iterator[Schedule]:
    y, x = Plan.axes_of(problem)
    g = Geometry.of(problem)
    unroll = next((u for u in (4, 3, 5, 7) if g.ic % u == 0), 4 if g.ic > 32 else 1)
    for m in SIZES:
        my, mx = (m if axis.most_taps > 1 else 1 for axis in (y, x))
        tall, wide = ceil_div(y.cells, my), ceil_div(x.cells, mx)
        for rows in _divided(tall, (1, 2, 4, 7, 8, 14, 16, 32, 64)):
            for columns in _divided(wide, (1, 2, 4, 8)):
                if rows * columns > 256 or (rows * columns < 6 and rows * columns < tall * wide):
                    continue
                for mr, nr in _register_tiles(machine, g.oc, rows * columns):
                    panels = ceil_div(g.oc, nr)
                    for parts in {1, panels} if g.oc % nr else {d for d in (1, 2, 4, panels) if panels % d == 0}:
                        for shared in (False, True):
                            yield Schedule(
                                "transposed_winograd", tile_height=my, tile_width=mx, block_rows=rows,
                                block_columns=columns, tile_tiles=mr, tile_channels=nr, channel_parts=parts,
                                shared_input=shared, unroll=unroll, parallel=machine.cores > 1,
                            )  # fmt: skip


def plan_schedules(problem: ConvProblem, machine: Machine, limit: int = 12) -> list[Schedule]:
    """Candidates, the best first by `cost_cycles`, at most three of each tile."""
    fitting = (s for s in _candidates(problem, machine) if check_plan(problem, s, machine) is None)
    costs = {s: cost_cycles(problem, s, machine) for s in fitting}
    kept: list[Schedule] = []
    seen: Counter[tuple[object, ...]] = Counter()
    for s in sorted(costs, key=lambda s: (costs[s], repr(s))):
        kind = (s.tile_height, s.tile_width, s.tile_tiles, s.tile_channels, s.shared_input)
        seen[kind] += 1
        if seen[kind] <= 3:
            kept.append(s)
        if len(kept) == limit:
            break
    return kept
