"""im2col: the column matrix stored, then one packed product.

    col[tap, p] = x[address(p, tap)]        y[oc, p] = sum over taps of w[oc, tap] * col[tap, p]

Every output pixel's patch becomes a column, so that a convolution is a matrix product (Chellapilla, Puri, Simard 2006;
"type 1" lowering in Hadjis et al., Caffe con Troll, arXiv 1504.04343). The matrix is about (k/s)^2 times as large as the
input: 9 times for 3x3, and it is written and read again. With `batched` the columns of all images are one matrix and
one product, so tiles run on from image to image: batching is where Caffe con Troll's gain over Caffe comes from.

Wins nowhere against direct, which forms the same columns as addresses; it is here to be measured and understood.
Cannot run: transposed problems, matrix products, float64, and column matrices of 2 GiB or more.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import MAX_TENSOR_BYTES, ConvProblem, Problem
from ..schedule import Schedule
from . import direct
from .base import Algorithm, Buffer, Definition, Geometry, only_conv
from .cost import phase_s
from .lowering import tiled_part
from .tiles import PARAMETERS as TILED
from .tiles import ProductShape, check_tiled, cost_cycles, tiled_macs, tiled_schedules, tiled_seconds, tiled_workspace

PARAMETERS = {
    **TILED,
    "batched": "whether the columns of all images (and depths) are one product, or each image has its own",
}

# ------------------------------------------------------------------------------------------------- supports


def column_bytes(problem: ConvProblem) -> int:
    """Bytes of the column matrix of all images."""
    g = Geometry.of(problem)
    return 4 * g.groups * g.taps * g.pixels * g.slices


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is None and isinstance(problem, ConvProblem) and column_bytes(problem) > MAX_TENSOR_BYTES:
        return f"its column matrix would take {column_bytes(problem):,} bytes, more than {MAX_TENSOR_BYTES:,}"
    return reason


# --------------------------------------------------------------------------------------------------- define


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Columns at the root, then a tiled product over them."""
    import halide as hl

    from .funcs import definition, epilogue_inputs, image, padded_input
    from .tiled import Extents, conv_epilogue, tiled_product

    g, nr = Geometry.of(problem), schedule.tile_channels
    kd, kh, kw = g.kernel
    panels = -(-g.oc // nr)
    images, depths, pixels = (1, 1, g.pixels * g.slices) if schedule.batched else (g.batch, g.out[0], g.pixels)
    x_shape = (g.batch, *g.size, g.groups * g.ic)
    y_shape = (images, depths, pixels, g.groups, g.oc)
    x, packed = image("x", x_shape), image("packed", direct.packed_shape(problem, schedule))
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    e = Extents(g.oc, pixels, g.groups, depths, images, (g.ic, kw, kh, kd))
    finish = conv_epilogue(problem, e, nr, named)

    ic, kx, ky, kz, gr, p, z, n = (hl.Var(v) for v in ("ic", "kx", "ky", "kz", "g", "p", "z", "n"))
    source = padded_input(x, g) if g.padded else x
    col = hl.Func("col")  # col[ic, kx, ky, kz, g, p, z, n]
    oy, oz, mb = p // g.out[2], z, n
    if schedule.batched:
        oy, oz, mb = oy % g.out[1], p // g.pixels % g.out[0], p // (g.pixels * g.out[0])
    at = [p % g.out[2] * g.stride[2] + kx * g.dilation[2], oy * g.stride[1] + ky * g.dilation[1]]
    col[ic, kx, ky, kz, gr, p, z, n] = source[(gr * g.ic + ic, *at, oz * g.stride[0] + kz * g.dilation[0], mb)]

    def term(r: list[Any], c: Any, p: Any, gr: Any, z: Any, n: Any) -> Any:
        weight = packed[c % nr, ((r[3] * kh + r[2]) * kw + r[1]) * g.ic + r[0], gr * panels + c // nr]
        return weight * col[(*r, gr, p, z, n)]

    product = tiled_product(tiled_part(schedule, schedule.k_blocks), machine.lanes, e, term, finish)
    col.compute_root().vectorize(ic, machine.lanes, hl.TailStrategy.GuardWithIf)
    for var, extent in zip((ic, kx, ky, kz, gr, p, z, n), (*e.taps, g.groups, pixels, depths, images)):
        col.bound_extent(var, extent)
    if schedule.parallel:
        col.parallel(p, max(1, pixels // (4 * machine.cores)))
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", direct.packed_shape(problem, schedule)))]
    return definition(problem, product.output, y_shape, operands, (extra, specs), direct.define_pack(problem, schedule))


# ------------------------------------------------------------------------------------------------ schedules


def product_shape(problem: ConvProblem, batched: bool) -> ProductShape:
    """The product over the columns, as the cost model sees it."""
    g = Geometry.of(problem)
    pixels, slices = (g.pixels * g.slices, 1) if batched else (g.pixels, g.slices)
    return ProductShape(g.oc, pixels, g.groups * slices, g.ic, math.prod(g.kernel))


def cost(problem: ConvProblem, schedule: Schedule, machine: Machine) -> float:
    """Seconds: the column matrix is written (into lines that are fetched first, in pages that are new), and read again."""
    written = phase_s(machine, moved_bytes=4.0 * column_bytes(problem), parallel=schedule.parallel)
    return written + tiled_seconds(problem, product_shape(problem, schedule.batched), schedule, machine)


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first; one product for all images is a choice where there are several."""
    found: list[tuple[float, Schedule]] = []
    for batched in (False, True) if Geometry.of(problem).slices > 1 else (False,):
        shape = product_shape(problem, batched)
        for s in tiled_schedules("im2col", shape, machine):
            found.append((cost_cycles(shape, s, machine), Schedule("im2col", batched=batched, **s.params)))
    return [s for _, s in sorted(found, key=lambda row: row[0])]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    if set(schedule.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(schedule.params)}"
    if not isinstance(schedule.batched, bool):
        return f"batched must be True or False, got {schedule.batched!r}"
    return check_tiled(product_shape(problem, schedule.batched), tiled_part(schedule, schedule.k_blocks), machine)


def _macs(problem: ConvProblem, s: Schedule) -> int:
    return tiled_macs(product_shape(problem, s.batched), tiled_part(s, s.k_blocks))


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    tiled = tiled_workspace(product_shape(problem, s.batched), tiled_part(s, s.k_blocks), threads)
    return column_bytes(problem) + tiled


# ------------------------------------------------------------------------------------------------- the row

IM2COL = Algorithm(
    name="im2col",
    equation="col[tap, p] = x[address(p, tap)]; y[oc, p] = sum over taps of w[oc, tap] * col[tap, p]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    cost=cost,
)
