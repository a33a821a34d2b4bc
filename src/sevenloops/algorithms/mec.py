"""mec: lowering along one axis, the rows; the kernel's rows are summed without being lowered.

    col[(kx, ic), ox, iy] = x[ic, ox*sw + kx*dw - pl, iy]
    y[oc, ox, oy] = sum over ky of ( sum over kx, ic of w[oc, ic, ky, kx] * col[(kx, ic), ox, oy*sh + ky*dh - pt] )

The column matrix is about k times as large as the input, not k^2 times as with im2col ("type 2" lowering in Hadjis et al.,
Caffe con Troll, arXiv 1504.04343; Cho and Brand, MEC, arXiv 1706.06873, algorithm 2). Two forms of the sum over ky:

- `products="summed"` (MEC): overlapping blocks of the matrix, one for each kernel row, are summed in registers.
- `products="stored"` (Caffe con Troll): one product for all kernel rows; its kh results are lifted (see `lowering`).
  Unit stride between rows only.

Wins nowhere against direct, which stores no columns; it is here to be measured and understood.
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
from .lowering import Lowered, candidates, check_names, check_stored, define_stored, tiled_part
from .tiles import PARAMETERS as TILED
from .tiles import ProductShape, check_tiled, cost_cycles, tiled_macs, tiled_seconds, tiled_workspace

PRODUCTS = ("summed", "stored")
PARAMETERS = {name: text for name, text in TILED.items() if name != "k_blocks"}
PARAMETERS["products"] = "what becomes of a kernel row's products: 'summed' in registers, or 'stored' and summed later"

# ------------------------------------------------------------------------------------------------- supports


def lowered_rows(g: Geometry) -> tuple[int, int]:
    """Depths and rows of the input that outputs of the summed form read, padding counted."""
    reach = lambda a: (g.out[a] - 1) * g.stride[a] + (g.kernel[a] - 1) * g.dilation[a] + 1  # noqa: E731
    return reach(0), reach(1)


def column_bytes(problem: ConvProblem, products: str) -> int:
    """Bytes of the column matrix of all images; the summed form has columns of padding rows too."""
    g = Geometry.of(problem)
    rows = g.size[:2] if products == "stored" else lowered_rows(g)
    return 4 * g.groups * g.ic * g.kernel[2] * g.out[2] * math.prod(rows) * g.batch


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is None and isinstance(problem, ConvProblem):
        size = max(column_bytes(problem, products) for products in PRODUCTS)
        if size > MAX_TENSOR_BYTES:
            return f"its column matrix would take {size:,} bytes, more than {MAX_TENSOR_BYTES:,}"
    return reason


# --------------------------------------------------------------------------------------------------- define


def lowered(problem: ConvProblem) -> Lowered:
    """An image as wide as the output, of kw * ic values a pixel; kernel rows and depths are left as positions."""
    g = Geometry.of(problem)
    size, kernel = (*g.size[:2], g.out[2]), (*g.kernel[:2], 1)
    return Lowered(g, (g.ic, g.kernel[2]), size, kernel, (*g.dilation[:2], 1), (*g.before[:2], 0))


def _columns(x: Any, g: Geometry, stored: bool, schedule: Schedule, machine: Machine) -> Any:
    """`col[ic, kx, g, ox, iy, iz, n]`, computed for all images; rows in padded coordinates unless stored."""
    import halide as hl

    from .funcs import padded_input

    ic, kx, gr, ox, iy, iz, n = (hl.Var(v) for v in ("ic", "kx", "g", "ox", "iy", "iz", "n"))
    source = padded_input(x, g) if g.padded else x
    up, front = (g.before[1], g.before[0]) if stored else (0, 0)
    col = hl.Func("col")
    col[ic, kx, gr, ox, iy, iz, n] = source[gr * g.ic + ic, ox * g.stride[2] + kx * g.dilation[2], iy + up, iz + front, n]
    col.compute_root().vectorize(ic, machine.lanes, hl.TailStrategy.GuardWithIf)
    depth, height = g.size[:2] if stored else lowered_rows(g)
    for var, extent in zip(col.args(), (g.ic, g.kernel[2], g.groups, g.out[2], height, depth, g.batch)):
        col.bound_extent(var, extent)
    col.fuse(iy, iz, iy).fuse(iy, n, iy)
    if schedule.parallel:
        col.parallel(iy)
    return col


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Columns at the root, then one product over them."""
    from .funcs import image

    g = Geometry.of(problem)
    x_shape = (g.batch, *g.size, g.groups * g.ic)
    x, stored = image("x", x_shape), schedule.products == "stored"
    col = _columns(x, g, stored, schedule, machine)

    def value(r: list[Any], gr: Any, ox: Any, iy: Any, iz: Any, n: Any) -> Any:
        return col[r[0], r[1], gr, ox, iy, iz, n]

    if stored:
        return define_stored(problem, lowered(problem), schedule, machine, value, (x, x_shape))
    return _define_summed(problem, schedule, machine, value, (x, x_shape))


def _define_summed(problem: ConvProblem, schedule: Schedule, machine: Machine, value: Any, x: Any) -> Definition:
    from .funcs import definition, epilogue_inputs, image
    from .tiled import Extents, conv_epilogue, tiled_product

    g, nr = Geometry.of(problem), schedule.tile_channels
    kd, kh, kw = g.kernel
    panels = -(-g.oc // nr)
    y_shape = (g.batch, g.out[0], g.pixels, g.groups, g.oc)
    packed = image("packed", direct.packed_shape(problem, schedule))
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    e = Extents(g.oc, g.pixels, g.groups, g.out[0], g.batch, (g.ic, kw, kh, kd))
    finish = conv_epilogue(problem, e, nr, named)

    def term(r: list[Any], c: Any, p: Any, gr: Any, z: Any, n: Any) -> Any:
        weight = packed[c % nr, ((r[3] * kh + r[2]) * kw + r[1]) * g.ic + r[0], gr * panels + c // nr]
        row, depth = p // g.out[2] * g.stride[1] + r[2] * g.dilation[1], z * g.stride[0] + r[3] * g.dilation[0]
        return weight * value(r, gr, p % g.out[2], row, depth, n)

    product = tiled_product(tiled_part(schedule, 1), machine.lanes, e, term, finish)
    operands = [(x[0], Buffer("x", x[1])), (packed, Buffer("packed", direct.packed_shape(problem, schedule)))]
    return definition(problem, product.output, y_shape, operands, (extra, specs), direct.define_pack(problem, schedule))


# ------------------------------------------------------------------------------------------------ schedules


def summed_shape(problem: ConvProblem) -> ProductShape:
    """The summed form as the cost model sees it."""
    g = Geometry.of(problem)
    return ProductShape(g.oc, g.pixels, g.groups * g.slices, g.ic, math.prod(g.kernel))


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates of both forms, the best first."""
    shape, image = summed_shape(problem), lowered(problem)
    found = candidates("mec", "summed", shape, machine, 36, lambda s: cost_cycles(shape, tiled_part(s, 1), machine))
    found = found[:8]
    stored = candidates("mec", "stored", image.shape, machine, 36, lambda s: image.cost(s, machine))
    found += [(cycles, s) for cycles, s in stored if check(problem, s, machine) is None][:4]
    return [s for _, s in sorted(found, key=lambda row: (row[0], repr(row[1])))]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    reason = check_names(schedule, PARAMETERS, PRODUCTS)
    if reason is not None:
        return reason
    image = lowered(problem)
    if schedule.products == "stored":
        return check_stored(image, image.g.stride[:2], schedule, machine)
    return check_tiled(summed_shape(problem), tiled_part(schedule, 1), machine)


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    if s.products == "stored":
        return column_bytes(problem, "stored") + lowered(problem).workspace(s, threads)
    return column_bytes(problem, "summed") + tiled_workspace(summed_shape(problem), tiled_part(s, 1), threads)


def _macs(problem: ConvProblem, s: Schedule) -> int:
    return lowered(problem).macs(s) if s.products == "stored" else tiled_macs(summed_shape(problem), tiled_part(s, 1))


def predicted_s(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Seconds: the columns are written and read again, and the product."""
    columns = phase_s(machine, moved_bytes=3.0 * column_bytes(problem, s.products), parallel=s.parallel)
    if s.products == "stored":
        return columns + lowered(problem).seconds(problem, s, machine)
    return columns + tiled_seconds(problem, summed_shape(problem), tiled_part(s, 1), machine)


# ------------------------------------------------------------------------------------------------- the row

MEC = Algorithm(
    name="mec",
    equation="col[(kx, ic), ox, iy] = x[ic, address(ox, kx), iy]; y[oc, o] = sum over ky of w[oc, ky, :] . col[:, o + ky]",
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
