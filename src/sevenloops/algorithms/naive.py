"""naive: the seven loops of the definition, compiled as they stand, one output after the other.

    for n, oy, ox, oc:
      for ky, kx, ic:
        y[n, oc, oy, ox] += x[n, ic, oy*sh + ky*dh - pt, ox*sw + kx*dw - pl] * w[oc, ic, ky, kx]

(Goodfellow, Bengio, Courville, Deep Learning, equation 9.7, with stride, dilation, groups and padding.) No tiles, no
vectors, no threads: the lowest rung of the ladder, and the one that computes everything - one to three dimensions,
transposed problems, shifted channels, matrix products, float64. A transposed convolution gathers: input i reaches output
o through tap k where i*s + k*d - before = o. Channels that a shift moves are read at i + offset(ic).

Wins never; it is what the others are compared with. Cannot run: nothing.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry
from .cost import clock_hz

#: a dependent addition, and what stands around it
CYCLES_PER_MAC = 3.0

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """It computes every problem."""
    return None


# --------------------------------------------------------------------------------------------------- define


def _raw_pack(shape: tuple[int, ...], dtype: str) -> tuple[Any, list[Any], list[Buffer]]:
    """The weights as they are, copied."""
    import halide as hl

    from .funcs import dense, image
    from .packing import BLOCK_BYTES, SQUARE, parallel_tasks

    size = math.prod(shape)
    w = image("w", (size,), dtype)
    at, block, inner, packed = hl.Var("at"), hl.Var("block"), hl.Var("inner"), hl.Func("packed")
    packed[at] = w[at]
    packed.bound(at, 0, size)
    if size >= SQUARE:
        part = min(BLOCK_BYTES // 4, size)
        packed.split(at, block, at, part, hl.TailStrategy.ShiftInwards)
        packed.split(at, at, inner, SQUARE, hl.TailStrategy.ShiftInwards).vectorize(inner)
        parallel_tasks(packed, [block], (size,))
    dense(packed.output_buffer(), (size,))
    return packed, [w], [Buffer("w", (size,)), Buffer("packed", (size,))]


def define(problem: Problem, schedule: Schedule, machine: Machine) -> Definition:
    """The definition without a schedule."""
    return _define_gemm(problem) if isinstance(problem, GemmProblem) else _define_conv(problem)


def _define_gemm(problem: GemmProblem) -> Definition:
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, hl_type, image

    a, b = image("a", problem.a_shape, problem.dtype), image("b", problem.b_shape, problem.dtype)
    extra, specs = epilogue_inputs(problem, problem.n, problem.y_shape)
    if problem.beta != 0:
        specs.append(("c", problem.y_shape))
        extra.append(image("c", problem.y_shape, problem.dtype))
    named = dict(zip((name for name, _ in specs), extra))
    t, num = hl_type(problem.dtype), hl.f32 if problem.dtype == "float32" else hl.f64
    n, m = hl.Var("n"), hl.Var("m")
    k = hl.RDom([hl.Range(0, problem.k)], "k")
    sums, out = hl.Func("sums"), hl.Func("out")
    sums[n, m] = hl.cast(t, 0)
    sums[n, m] += (a[m, k[0]] if problem.trans_a else a[k[0], m]) * (b[k[0], n] if problem.trans_b else b[n, k[0]])
    v = hl.Expr(sums[n, m]) * num(problem.alpha) if problem.alpha != 1 else hl.Expr(sums[n, m])
    v = v + named["c"][n, m] * num(problem.beta) if "c" in named else v
    bias = named["bias"][n] if "bias" in named else None
    out[n, m] = apply_epilogue(problem.epilogue, v, bias, named["residual"][n, m] if "residual" in named else None)
    out.bound(n, 0, problem.n).bound(m, 0, problem.m)
    sums.compute_at(out, n)
    operands = [(a, Buffer("a", problem.a_shape)), (b, Buffer("b", problem.b_shape))]
    return definition(problem, out, problem.y_shape, operands, (extra, specs), _raw_pack(problem.b_shape, problem.dtype))


def _define_conv(problem: ConvProblem) -> Definition:
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, hl_type, image, moved_by

    g = Geometry.of(problem)
    x_shape = (g.batch, *g.size, g.groups * g.ic)
    w_shape = (*problem.w_shape[:2], *g.kernel)
    y_shape = (g.batch, *g.out, g.groups * g.oc)
    x, w = image("x", x_shape, problem.dtype), image("w", w_shape, problem.dtype)
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))
    zero = hl.cast(hl_type(problem.dtype), 0)

    c, ox, oy, oz, n = (hl.Var(v) for v in ("c", "ox", "oy", "oz", "n"))
    taps = hl.RDom([hl.Range(0, extent) for extent in (g.ic, *reversed(g.kernel))], "tap")
    moved = moved_by(problem.shift, g.ic, taps[0]) if problem.shift else []
    inside, coords = None, []
    for axis, o in enumerate((ox, oy, oz)):  # innermost first; the geometry's tuples are outermost first
        k, at = taps[axis + 1], 2 - axis
        if problem.transposed:
            steps = o + g.before[at] - k * g.dilation[at]
            i = steps // g.stride[at]
            ok = (steps % g.stride[at] == 0) & (i >= 0) & (i < g.size[at])
        else:
            i = o * g.stride[at] + k * g.dilation[at] - g.before[at] + (moved[axis] if axis < len(moved) else 0)
            ok = (i >= 0) & (i < g.size[at])
        inside = ok if inside is None else inside & ok
        coords.append(hl.clamp(i, 0, g.size[at] - 1))
    group = c // g.oc
    ic = group * g.ic + taps[0]
    value = x[(ic, *coords, n)]
    kernel = (taps[1], taps[2], taps[3])
    weight = w[(*kernel, c % g.oc, ic)] if problem.transposed else w[(*kernel, taps[0], c)]

    sums, out = hl.Func("sums"), hl.Func("out")  # [oc, ox, oy, oz, n]
    sums[c, ox, oy, oz, n] = zero
    sums[c, ox, oy, oz, n] += hl.select(inside, value * weight, zero)
    residual = named["residual"][c, ox, oy, oz, n] if "residual" in named else None
    bias = named["bias"][c] if "bias" in named else None
    out[c, ox, oy, oz, n] = apply_epilogue(problem.epilogue, hl.Expr(sums[c, ox, oy, oz, n]), bias, residual)
    for var, extent in zip((c, ox, oy, oz, n), reversed(y_shape)):
        out.bound(var, 0, extent)
    sums.compute_at(out, c)
    operands = [(x, Buffer("x", x_shape)), (w, Buffer("w", w_shape))]
    return definition(problem, out, y_shape, operands, (extra, specs), _raw_pack(w_shape, problem.dtype))


# ------------------------------------------------------------------------------------------------ schedules


def schedules(problem: Problem, machine: Machine) -> list[Schedule]:
    """There is one, and it has no parameters."""
    return [Schedule("naive")]


def check(problem: Problem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    return f"naive has no parameters, got {schedule.params}" if schedule.params else None


def cost(problem: Problem, schedule: Schedule, machine: Machine) -> float:
    """Seconds: one multiply-add after the other on one core, the address and the test of the borders included."""
    return _macs(problem, schedule) * CYCLES_PER_MAC / clock_hz(machine)


def _macs(problem: Problem, schedule: Schedule) -> int:
    """A transposed problem is gathered with a test at every tap of every output."""
    if isinstance(problem, ConvProblem) and problem.transposed:
        return problem.macs // math.prod(problem.in_size) * math.prod(problem.out_size)
    return problem.macs


# ------------------------------------------------------------------------------------------------- the row

NAIVE = Algorithm(
    name="naive",
    equation="y[oc, o] = sum over ic, k of w[oc, ic, k] * x[ic, o*stride + k*dilation - before]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=lambda problem, s, threads: 0,
    edges="none",
    cost=cost,
    kinds=(ConvProblem, GemmProblem),
    reads_as_stored=True,
)
