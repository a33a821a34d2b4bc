"""gemm: packed matrix product, and `pointwise`, the convolution that is one.

    y[m, n] = epilogue(alpha * sum over k of a[m, k] * b[k, n] + beta * c[m, n])

B is packed once in panels of `tile_channels` columns; a tile of rows x columns stays in registers while k runs (Goto and
van de Geijn, Anatomy of High-Performance Matrix Multiplication, 2008; Van Zee and van de Geijn, BLIS, 2015). A is read
where it is, one broadcast per element. A 1x1 convolution in NHWC is the product of its pixels and its weights; with a
stride, the rows of A are the pixels that the stride meets.

Wins for products of some rows, and 1x1 convolutions without padding. Cannot run: float64; products of few rows with a
stored transposed B are read faster by gemv.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from . import direct
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div, only_conv
from .tiles import (
    PARAMETERS,
    ProductShape,
    check_tiled,
    tiled_macs,
    tiled_schedules,
    tiled_seconds,
    tiled_workspace,
    weight_streams,
)

#: of B that are packed at once for all panels, where B is stored with its columns side by side
ROWS = 16

# ------------------------------------------------------------------------------------------------- supports


def supports_gemm(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, GemmProblem):
        return "it computes matrix products, and this is a convolution"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; naive computes float64"
    return None


def supports_pointwise(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is None and isinstance(problem, ConvProblem) and not problem.is_pointwise:
        return "it computes 1x1 kernels without padding only"
    return reason


# --------------------------------------------------------------------------------------------------- define


def define_pack(problem: GemmProblem, schedule: Schedule, streams: int) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, k, stream, panel]` from B; columns past the last one are zero."""
    import halide as hl

    from .funcs import dense, image
    from .packing import pack_rows, parallel_tasks, vector

    nr = schedule.tile_channels
    if problem.trans_b:
        return pack_rows("b", problem.b_shape, nr, streams)
    width = nr // streams
    shape = (ceil_div(problem.n, nr), streams, problem.k, width)
    b = image("b", problem.b_shape)
    lane, k, block, stream, panel = (hl.Var(v) for v in ("lane", "k", "block", "stream", "panel"))
    column = panel * nr + stream * width + lane
    packed = hl.Func("packed")
    if problem.n % nr == 0:
        packed[lane, k, stream, panel] = b[column, k]
    else:
        packed[lane, k, stream, panel] = hl.select(column < problem.n, b[hl.min(column, problem.n - 1), k], hl.f32(0))
    for var, extent in zip((lane, k, stream, panel), reversed(shape)):
        packed.bound(var, 0, extent)
    packed.split(k, block, k, min(ROWS, problem.k), hl.TailStrategy.ShiftInwards).vectorize(lane, vector(width))
    packed.reorder(lane, k, stream, panel, block)  # rows of B are read through, each for all panels
    parallel_tasks(packed, [block], shape)
    dense(packed.output_buffer(), shape)
    return packed, [b], [Buffer("b", problem.b_shape), Buffer("packed", shape)]


def define_gemm(problem: GemmProblem, schedule: Schedule, machine: Machine) -> Definition:
    """The product as a tiled product whose pixels are the rows of A."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image
    from .tiled import Extents, channel_bias, clamped_channel, tiled_product

    nr, y_shape = schedule.tile_channels, (1, 1, problem.m, 1, problem.n)
    streams = weight_streams(nr, machine)
    width = nr // streams
    p_shape = (ceil_div(problem.n, nr), streams, problem.k, width)
    a, packed = image("a", problem.a_shape), image("packed", p_shape)
    extra, specs = epilogue_inputs(problem, problem.n, y_shape)
    if problem.beta != 0:
        specs.append(("c", y_shape))
        extra.append(image("c", y_shape))
    named = dict(zip((name for name, _ in specs), extra))
    e = Extents(problem.n, problem.m, 1, 1, 1, (problem.k,))
    bias = channel_bias(named["bias"], e, nr) if "bias" in named else None

    def term(r: list[Any], c: Any, p: Any, g: Any, z: Any, n: Any) -> Any:
        weight = packed[c % width, r[0], c % nr // width, c // nr]
        return weight * (a[p, r[0]] if problem.trans_a else a[r[0], p])

    def finish(v: Any, c: Any, p: Any, g: Any, z: Any, n: Any) -> Any:
        at = (clamped_channel(c, problem.n, nr), g, p, z, n)
        v = v * hl.f32(problem.alpha) if problem.alpha != 1 else v
        v = v + named["c"][at] * hl.f32(problem.beta) if "c" in named else v
        residual = named["residual"][at] if "residual" in named else None
        return apply_epilogue(problem.epilogue, v, bias(c, 0) if bias else None, residual)

    product = tiled_product(schedule, machine.lanes, e, term, finish)
    operands = [(a, Buffer("a", problem.a_shape)), (packed, Buffer("packed", p_shape))]
    return definition(problem, product.output, y_shape, operands, (extra, specs), define_pack(problem, schedule, streams))


def define_pointwise(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """At stride 1 all pixels of all images are rows of one matrix; otherwise `direct` reads the pixels in steps."""
    return direct.define(flattened(problem), schedule, machine)


# ------------------------------------------------------------------------------------------------ schedules


def gemm_shape(problem: GemmProblem) -> ProductShape:
    """The product as the cost model sees it."""
    return ProductShape(problem.n, problem.m, 1, problem.k, 1)


def flattened(problem: ConvProblem) -> ConvProblem:
    """The same 1x1 convolution over one long row, if its strides are 1; the memory is the same."""
    if max(problem.stride) > 1:
        return problem
    return ConvProblem(
        batch=1,
        in_channels=problem.in_channels,
        in_size=(problem.batch * math.prod(problem.in_size),),
        out_channels=problem.out_channels,
        kernel=(1,),
        groups=problem.groups,
        epilogue=problem.epilogue,
        out_pitch=problem.out_pitch,
    )


def pointwise_shape(problem: ConvProblem) -> ProductShape:
    """The problem as the cost model sees it; nothing is staged, so a task need not be whole rows."""
    g = Geometry.of(flattened(problem))
    return ProductShape(g.oc, g.pixels, g.groups * g.slices, g.ic, 1)


# ------------------------------------------------------------------------------------------------ the rows

GEMM = Algorithm(
    name="gemm",
    equation="y[m, n] = alpha * sum over k of a[m, k] * b[k, n] + beta * c[m, n]",
    supports=supports_gemm,
    schedules=lambda problem, machine: tiled_schedules("gemm", gemm_shape(problem), machine),
    check=lambda problem, s, machine: check_tiled(gemm_shape(problem), s, machine),
    define=define_gemm,
    macs_executed=lambda problem, s: tiled_macs(gemm_shape(problem), s),
    workspace_bytes=lambda problem, s, threads: tiled_workspace(gemm_shape(problem), s, threads),
    parameters=PARAMETERS,
    cost=lambda problem, s, machine: tiled_seconds(problem, gemm_shape(problem), s, machine),
    kinds=(GemmProblem,),
)

POINTWISE = Algorithm(
    name="pointwise",
    equation="y[oc, p] = sum over ic of w[oc, ic] * x[ic, p]",
    supports=supports_pointwise,
    schedules=lambda problem, machine: tiled_schedules("pointwise", pointwise_shape(problem), machine),
    check=lambda problem, s, machine: check_tiled(pointwise_shape(problem), s, machine),
    define=define_pointwise,
    macs_executed=lambda problem, s: tiled_macs(pointwise_shape(problem), s),
    workspace_bytes=lambda problem, s, threads: tiled_workspace(pointwise_shape(problem), s, threads),
    parameters=PARAMETERS,
    cost=lambda problem, s, machine: tiled_seconds(problem, pointwise_shape(problem), s, machine),
)
