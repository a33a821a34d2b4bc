"""kn2row: one 1x1 product for each kernel position, shifted and summed.

    y[oc, o] = sum over positions k of ( sum over ic of w[oc, ic, k] * x[ic, o*stride + k*dilation - before] )

A k x k convolution is k^2 pointwise convolutions, and nothing is copied into columns (Vasudevan, Anderson, Gregg, Parallel
Multi Channel Convolution using General Matrix Multiplication, arXiv 1704.04428; "type 3" lowering in Hadjis et al., Caffe
con Troll, arXiv 1504.04343). Two forms:

- `products="stored"`: all products of all input pixels by one matrix product, then lifted (see `lowering`). Workspace:
  k^2 * oc values for every input pixel. Unit stride only.
- `products="accumulated"`: the products of one position after the other are added to the sums of a task, which stay in
  cache (the accumulating form of section 3). Strides and dilation are steps of the addresses. Workspace: the sums.

Transposed convolutions have the stored form only, with any stride: the results of one matrix product are added up where
they overlap (col2im, as most libraries do it). The columns of all positions fill the lanes that three channels do not.

Wins where the input has far more channels than the output (stored); otherwise it is here to be measured and understood.
Cannot run: matrix products, float64, and transposed problems whose products take 2 GiB or more.
"""

from __future__ import annotations

from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from . import direct, transposed
from .base import Algorithm, Definition, Geometry, only_conv
from .lowering import (
    Lowered,
    candidates,
    check_names,
    check_stored,
    define_stored,
    tiled_part,
)
from .tiles import PARAMETERS as TILED
from .tiles import ProductShape, check_tiled, cost_cycles, tiled_macs, tiled_seconds

PRODUCTS = ("accumulated", "stored")
PARAMETERS = {name: text for name, text in TILED.items() if name != "k_blocks"}
PARAMETERS["products"] = "what becomes of a position's products: 'stored' and summed later, or 'accumulated' in cache"

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if isinstance(problem, ConvProblem) and problem.transposed:
        return transposed.supports(problem) or lowered(problem).too_large
    return only_conv(problem)


# --------------------------------------------------------------------------------------------------- define


def lowered(problem: ConvProblem) -> Lowered:
    """Nothing is lowered: the image itself, and the whole kernel as positions."""
    g = Geometry.of(problem)
    return Lowered(g, (g.ic,), g.size, g.kernel, g.dilation, g.before, problem.transposed)


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Stored: a product and its lifting; accumulated: a tiled product in as many blocks of taps as positions."""
    from .funcs import image

    if schedule.products == "accumulated":
        return direct.define(problem, tiled_part(schedule, lowered(problem).positions), machine, by_position=True)
    g = Geometry.of(problem)
    x_shape = (g.batch, *g.size, g.groups * g.ic)
    x = image("x", x_shape)

    def value(r: list[Any], gr: Any, ix: Any, iy: Any, iz: Any, n: Any) -> Any:
        return x[gr * g.ic + r[0], ix, iy, iz, n]

    return define_stored(problem, lowered(problem), schedule, machine, value, (x, x_shape))


# ------------------------------------------------------------------------------------------------ schedules


def accumulated_shape(problem: ConvProblem) -> ProductShape:
    """The accumulating form as the cost model sees it: all taps on one axis, in as many blocks as positions."""
    g = Geometry.of(problem)
    staged = 4.0 * g.ic * g.stride[1] * g.stride[2] * g.kernel[0] if g.padded else 0.0
    return ProductShape(g.oc, g.pixels, g.groups * g.slices, g.taps, 1, staged_bytes_per_pixel=staged)


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates of both forms, the best first."""
    found = [] if problem.transposed else _accumulated(problem, machine)
    image = lowered(problem)
    stored = candidates("kn2row", "stored", image.shape, machine, 36, lambda s: image.cost(s, machine))
    found += [(cycles, s) for cycles, s in stored if check(problem, s, machine) is None][: 12 - len(found)]
    return [s for _, s in sorted(found, key=lambda row: (row[0], repr(row[1])))]


def _accumulated(problem: ConvProblem, machine: Machine) -> list[tuple[float, Schedule]]:
    """At least one, with the predicted cycles."""
    shape, positions = accumulated_shape(problem), lowered(problem).positions
    one = ProductShape(shape.oc, shape.pixels, shape.slices, Geometry.of(problem).ic, positions)
    cost = lambda s: cost_cycles(shape, tiled_part(s, positions), machine)  # noqa: E731
    found = candidates("kn2row", "accumulated", one, machine, 60, cost)
    found = [(cycles, s) for cycles, s in found if check(problem, s, machine) is None]
    if not found:
        plain = Schedule("kn2row", tile_pixels=1, tile_channels=machine.lanes, task_pixels=1, channel_parts=1, unroll=1,
                         parallel=False, products="accumulated")  # fmt: skip
        found = [(cost(plain), plain)]
    return sorted(found, key=lambda row: (row[0], repr(row[1])))[:8]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    reason = check_names(schedule, PARAMETERS, PRODUCTS)
    if reason is not None:
        return reason
    image = lowered(problem)
    if schedule.products == "stored":
        return check_stored(image, image.g.stride, schedule, machine)
    if problem.transposed:
        return "products='accumulated' computes plain convolutions, and this one is transposed"
    if image.positions > 1 and schedule.task_pixels % schedule.tile_pixels:
        return f"tile_pixels={schedule.tile_pixels} must divide task_pixels={schedule.task_pixels}: sums are added up apart"
    return check_tiled(accumulated_shape(problem), tiled_part(schedule, image.positions), machine)


def staged_rows(g: Geometry, task_pixels: int) -> int:
    """Input rows that the tasks of one slice copy at most: tasks begin anywhere in a row."""
    starts = {min(start, g.pixels - task_pixels) for start in range(0, g.pixels, task_pixels)}
    rows = max((start + task_pixels - 1) // g.out[2] - start // g.out[2] for start in starts)
    return rows * g.stride[1] + (g.kernel[1] - 1) * g.dilation[1] + 1


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    image, g = lowered(problem), Geometry.of(problem)
    if s.products == "stored":
        return image.workspace(s, threads)
    sums = 4 * s.task_pixels * s.tile_channels if image.positions > 1 else 0
    width = (g.out[2] - 1) * g.stride[2] + (g.kernel[2] - 1) * g.dilation[2] + 1
    staged = 4 * g.ic * width * staged_rows(g, s.task_pixels) * g.kernel[0] if g.padded else 0
    return (sums + staged) * (threads if s.parallel else 1)


def _macs(problem: ConvProblem, s: Schedule) -> int:
    image = lowered(problem)
    if s.products == "stored":
        return image.macs(s)
    return tiled_macs(accumulated_shape(problem), tiled_part(s, image.positions))


def predicted_s(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Seconds by the cost model."""
    image = lowered(problem)
    if s.products == "stored":
        return image.seconds(problem, s, machine)
    return tiled_seconds(problem, accumulated_shape(problem), tiled_part(s, image.positions), machine)


# ------------------------------------------------------------------------------------------------- the row

KN2ROW = Algorithm(
    name="kn2row",
    equation="y[oc, o] = sum over k of (sum over ic of w[oc, ic, k] * x[ic, o*stride + k*dilation - before])",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    edges="either",
    cost=predicted_s,
    packing=lambda problem, s: lowered(problem).packing(s),
)
