"""How gradient_winograd divides its work into tiles, blocks of channels and parts. No Halide here."""

from __future__ import annotations

from dataclasses import dataclass

from ..adjoint import WeightGradient
from ..algorithms.base import Geometry, ceil_div
from ..algorithms.winograd_matrices import Matrices, matrices, points_of
from ..errors import ScheduleError
from ..machine import Machine
from ..schedule import Schedule

__all__ = ["PARAMETERS", "Plan", "check_plan", "winograd_macs", "winograd_workspace"]

PARAMETERS = {
    "tile_height": "rows of a tile of dy",
    "tile_width": "columns of a tile of dy",
    "points": "the set of interpolation points",
    "tile_out": "output channels of the register tile of the products",
    "tile_in": "input channels of the register tile, and of a panel of transformed input",
    "block_out": "output channels of a task",
    "block_panels": "panels of input channels of a task",
    "block_tiles": "tiles that a task transforms at once: the length of the sums in registers",
    "parts": "parts into which the tiles of all images are divided among tasks; their sums are added in order",
    "unroll": "tiles in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}


@dataclass(frozen=True)
class Plan:
    """A problem cut into tiles of `my x mx` pixels of dy; `points` products for each and a pair of channels."""

    g: Geometry
    points_name: str
    my: int
    mx: int
    nr: int  # input channels of a panel
    panels: int  # of a block
    block_out: int
    rows_out: int  # output channels of a block that are computed: whole register tiles
    block_tiles: int
    parts: int

    @classmethod
    def of(cls, problem: WeightGradient, s: Schedule) -> Plan:
        """The plan of a schedule."""
        rows = ceil_div(s.block_out, s.tile_out) * s.tile_out
        return cls(
            Geometry.of(problem.forward), s.points, s.tile_height, s.tile_width, s.tile_in, s.block_panels, s.block_out,
            rows, s.block_tiles, s.parts,
        )  # fmt: skip

    @property
    def ay(self) -> int:
        """Input rows of a tile (alpha)."""
        return self.my + self.g.kernel[1] - 1

    @property
    def ax(self) -> int:
        """Input columns of a tile (alpha)."""
        return self.mx + self.g.kernel[2] - 1

    @property
    def points(self) -> int:
        """Products of a tile and a pair of channels."""
        return self.ay * self.ax

    @property
    def tiles_y(self) -> int:
        """Tiles on top of each other."""
        return ceil_div(self.g.out[1], self.my)

    @property
    def tiles_x(self) -> int:
        """Tiles side by side."""
        return ceil_div(self.g.out[2], self.mx)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.g.batch * self.tiles_y * self.tiles_x

    @property
    def chunks(self) -> int:
        """Blocks of tiles of a part, the last one filled up with zeros."""
        return ceil_div(ceil_div(self.tiles, self.parts), self.block_tiles)

    @property
    def blocks_in(self) -> int:
        """Blocks of the input channels of a group."""
        return ceil_div(self.g.ic, self.panels * self.nr)

    @property
    def blocks_out(self) -> int:
        """Blocks of the output channels of all groups."""
        return self.g.groups * ceil_div(self.g.oc, self.block_out)

    @property
    def tasks(self) -> int:
        """Each accumulates the products of one block of channels over one part of the tiles."""
        return self.blocks_in * self.blocks_out * self.parts

    def matrices(self) -> tuple[Matrices, Matrices]:
        """F(kernel, tile) of the vertical and of the horizontal axis: the filter is a tile of dy, its outputs are taps."""
        _, kh, kw = self.g.kernel
        axes = ((kh, self.my), (kw, self.mx))
        my, mx = (matrices(k, m, points_of(self.points_name, k + m - 2)) for k, m in axes)
        return my, mx


def winograd_macs(problem: WeightGradient, s: Schedule) -> int:
    """Multiply-accumulates of the products; partial tiles, blocks and panels are computed whole."""
    plan = Plan.of(problem, s)
    return plan.tasks * plan.chunks * plan.block_tiles * plan.points * plan.rows_out * plan.panels * plan.nr


def winograd_workspace(problem: WeightGradient, s: Schedule, threads: int) -> int:
    """Bytes of scratch in use at once: transformed tiles of each thread, sums of all parts."""
    plan = Plan.of(problem, s)
    workers = min(threads, plan.tasks) if s.parallel else 1
    width = plan.panels * plan.nr
    sums = workers if plan.parts == 1 else plan.tasks
    return 4 * plan.points * (workers * plan.block_tiles * (width + plan.rows_out) + sums * width * plan.rows_out)


def check_plan(problem: WeightGradient, s: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    if set(s.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(s.params)}"
    for name in set(PARAMETERS) - {"points", "parallel"}:
        if isinstance(s.params[name], bool) or not isinstance(s.params[name], int) or s.params[name] < 1:  # type: ignore[operator]
            return f"{name} must be an integer of at least 1, got {s.params[name]!r}"
    if not isinstance(s.parallel, bool):
        return f"parallel must be True or False, got {s.parallel!r}"
    plan = Plan.of(problem, s)
    g = plan.g
    try:
        plan.matrices()
    except ScheduleError as error:
        return str(error)
    if s.tile_in % machine.lanes:
        return f"tile_in={s.tile_in} must be a multiple of the {machine.lanes} lanes of {machine.isa}"
    if s.tile_out * s.tile_in // machine.lanes > 4 * machine.vector_registers:
        return f"a tile of {s.tile_out} x {s.tile_in} is over four times the {machine.vector_registers} registers"
    width = plan.panels * plan.nr
    if width < g.ic and g.ic % width:
        return f"a block of {width} input channels must divide the {g.ic} of a group, or hold all of them"
    if width - plan.nr >= g.ic:
        return f"block_panels={plan.panels} has panels beyond the {g.ic} input channels of a group"
    if g.oc % s.block_out:
        return f"block_out={s.block_out} must divide the {g.oc} output channels of a group"
    if plan.block_tiles % s.unroll:
        return f"unroll={s.unroll} must divide block_tiles={s.block_tiles}"
    if (plan.parts - 1) * plan.chunks * plan.block_tiles >= plan.tiles:
        return f"parts={plan.parts} has parts without any of the {plan.tiles} tiles"
    return None
