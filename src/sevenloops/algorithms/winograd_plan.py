"""How winograd divides its work into tiles and blocks. No Halide here."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import ScheduleError
from ..machine import Machine
from ..problem import ConvProblem
from ..schedule import Schedule
from .base import Geometry, ceil_div
from .tiles import check_parts
from .winograd_matrices import Matrices, matrices, points_of

__all__ = ["PARAMETERS", "Plan", "check_plan", "unit_stride", "winograd_macs", "winograd_workspace"]

PARAMETERS = {
    "tile_height": "output rows of a tile: m of F(m, r) down the image",
    "tile_width": "output columns of a tile: m of F(m, r) along the rows",
    "points": "the set of interpolation points",
    "block_rows": "rows of tiles in a block",
    "block_columns": "columns of tiles in a block",
    "block_images": "images in a block; more than one only if a block holds whole images",
    "tile_tiles": "tiles of the register tile of the products",
    "tile_channels": "output channels of the register tile and of a packed weight panel",
    "weight_streams": "into how many streams the packed weights of a panel are divided",
    "channel_parts": "into how many parts the panels are divided among tasks",
    "k_blocks": "blocks of input channels whose products are added up outside the registers",
    "weights": "'transformed' when packed, or 'raw': transformed panel by panel in every call",
    "shared_input": "whether the whole input is transformed first, for all tasks, or by each task for itself",
    "unroll": "input channels in one turn of the hot loop",
    "parallel": "whether tasks run on the thread pool",
}
WEIGHTS = ("transformed", "raw")


def unit_stride(g: Geometry) -> Geometry:
    """The problem of stride 1 that a strided one is (polyphase): each phase of the pixels is an input channel of its own.

    With stride s, `x[.., o*s + k] = x[.., (o + k // s)*s + k % s]`: phase k % s, kernel of ceil(k / s).
    """
    _, sy, sx = g.stride
    return replace(
        g,
        ic=g.ic * sy * sx,
        size=(1, g.out[1] - 1 + ceil_div(g.kernel[1], sy), g.out[2] - 1 + ceil_div(g.kernel[2], sx)),
        kernel=(1, ceil_div(g.kernel[1], sy), ceil_div(g.kernel[2], sx)),
        stride=(1, 1, 1),
    )


@dataclass(frozen=True)
class Plan:
    """A problem cut into tiles of `my x mx` outputs and blocks of `rows x columns` tiles.

    `source` is the geometry as it was asked, `g` that of stride 1.
    """

    source: Geometry
    g: Geometry
    points_name: str
    my: int
    mx: int
    rows: int
    columns: int
    images: int
    panels: int
    stream_lanes: int  # channels of a stream of packed weights
    padded_tiles: int  # tiles of a block that are computed

    @classmethod
    def of(cls, problem: ConvProblem, s: Schedule) -> Plan:
        """The plan of a schedule."""
        tiles = s.block_rows * s.block_columns * s.block_images
        source = Geometry.of(problem)
        return cls(
            source=source,
            g=unit_stride(source),
            points_name=s.points,
            my=s.tile_height,
            mx=s.tile_width,
            rows=s.block_rows,
            columns=s.block_columns,
            images=s.block_images,
            panels=ceil_div(problem.out_channels // problem.groups, s.tile_channels),
            stream_lanes=s.tile_channels // s.weight_streams,
            padded_tiles=ceil_div(tiles, s.tile_tiles) * s.tile_tiles if s.k_blocks > 1 else tiles,
        )

    @property
    def kh(self) -> int:
        """Rows of the kernel at stride 1."""
        return self.g.kernel[1]

    @property
    def kw(self) -> int:
        """Columns of the kernel at stride 1."""
        return self.g.kernel[2]

    @property
    def ay(self) -> int:
        """Input rows of a tile (alpha)."""
        return self.my + self.kh - 1

    @property
    def ax(self) -> int:
        """Input columns of a tile (alpha)."""
        return self.mx + self.kw - 1

    @property
    def points(self) -> int:
        """Products of a tile and a pair of channels."""
        return self.ay * self.ax

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return self.rows * self.columns * self.images

    @property
    def blocks_x(self) -> int:
        """Blocks side by side."""
        return ceil_div(self.g.out[2], self.columns * self.mx)

    @property
    def blocks_y(self) -> int:
        """Blocks on top of each other."""
        return ceil_div(self.g.out[1], self.rows * self.my)

    @property
    def blocks(self) -> int:
        """Blocks of all groups and images."""
        return self.blocks_x * self.blocks_y * self.g.groups * (self.g.batch // self.images)

    def matrices(self) -> tuple[Matrices, Matrices]:
        """Those of the vertical and of the horizontal axis."""
        axes = ((self.my, self.kh, self.ay), (self.mx, self.kw, self.ax))
        my, mx = (matrices(m, r, points_of(self.points_name, alpha - 1)) for m, r, alpha in axes)
        return my, mx


def winograd_macs(problem: ConvProblem, s: Schedule) -> int:
    """Multiply-accumulates of the products; partial tiles, blocks and panels are computed whole."""
    plan = Plan.of(problem, s)
    tiles = ceil_div(plan.tiles, s.tile_tiles) * s.tile_tiles
    return int(plan.blocks * tiles * plan.points * plan.g.ic * plan.panels * s.tile_channels)


def winograd_workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    """Bytes of scratch in use at once: V, M, staged input and transformed panels."""
    plan = Plan.of(problem, s)
    workers = threads if s.parallel else 1
    v = 4 * plan.padded_tiles * plan.points * plan.g.ic
    m = 4 * plan.padded_tiles * plan.points * s.tile_channels
    height, width = plan.rows * plan.my + plan.kh - 1, plan.columns * plan.mx + plan.kw - 1
    staged = 4 * plan.g.ic * (plan.points if s.shared_input else height * width * plan.images)
    u = 4 * plan.points * plan.g.ic // s.k_blocks * s.tile_channels if s.weights == "raw" else 0
    return int(workers * (m + staged + u) + v * (plan.blocks if s.shared_input else workers))


def check_plan(problem: ConvProblem, s: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    if set(s.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(s.params)}"
    for name in set(PARAMETERS) - {"points", "weights", "shared_input", "parallel"}:
        if isinstance(s.params[name], bool) or not isinstance(s.params[name], int) or s.params[name] < 1:  # type: ignore[operator]
            return f"{name} must be an integer of at least 1, got {s.params[name]!r}"
    for name in ("shared_input", "parallel"):
        if not isinstance(s.params[name], bool):
            return f"{name} must be True or False, got {s.params[name]!r}"
    if s.weights not in WEIGHTS:
        return f"weights must be one of {', '.join(WEIGHTS)}, got {s.weights!r}"
    plan = Plan.of(problem, s)
    for m, k, what in ((plan.my, plan.kh, "tile_height"), (plan.mx, plan.kw, "tile_width")):
        if k == 1 and m != 1:
            return f"{what} must be 1 along an axis where the kernel is 1, got {m}"
    try:
        plan.matrices()
    except ScheduleError as error:
        return str(error)
    if s.tile_channels % machine.lanes:
        return f"tile_channels={s.tile_channels} must be a multiple of the {machine.lanes} lanes of {machine.isa}"
    if s.tile_channels % (s.weight_streams * machine.lanes):
        return f"weight_streams={s.weight_streams} must divide tile_channels={s.tile_channels} into whole vectors"
    if s.tile_tiles * s.tile_channels // machine.lanes > 4 * machine.vector_registers:
        return f"a tile of {s.tile_tiles} x {s.tile_channels} is over four times the {machine.vector_registers} registers"
    if s.tile_tiles > plan.tiles:
        return f"tile_tiles={s.tile_tiles} is more than the {plan.tiles} tiles of a block"
    if (plan.rows - 1) * plan.my >= plan.g.out[1] or (plan.columns - 1) * plan.mx >= plan.g.out[2]:
        return f"a block of {plan.rows} x {plan.columns} tiles has tiles outside the image"
    if plan.images > 1 and (plan.blocks_x * plan.blocks_y > 1 or plan.g.batch % plan.images):
        return f"block_images={plan.images} needs blocks of whole images, and must divide the batch of {plan.g.batch}"
    if plan.g.ic % s.k_blocks or s.unroll > plan.g.ic // s.k_blocks:
        return f"k_blocks={s.k_blocks} must divide the {plan.g.ic} input channels, in blocks of at least unroll={s.unroll}"
    return check_parts(plan.g.oc, s)
