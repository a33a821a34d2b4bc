"""turned_*: transposed convolutions of stride 1 by the algorithms for plain ones, with the weights turned.

    y = plain convolution of x with v,    v[oc, ic, k] = w[ic, oc, K - 1 - k]

(`adjoint.turned`.) Each row is the row of a plain algorithm, which sees the plain problem. Its packing turns the weights
first, at the speed of memory. Turning inside the packing of each algorithm would save that pass, and every algorithm would
need a second way to read its weights.

Wins where the plain algorithm beats `transposed`, which has one phase at stride 1: Winograd for 3x3, `depthwise` for one
channel a group. It is how the gradient of a convolution's input is computed at stride 1.
Cannot run: strides, padding beyond the reach of the kernel, and what the plain algorithm cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ..adjoint import turned, why_not_turned
from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition
from .cost import PERMUTED_BYTES_PER_CYCLE
from .depthwise import DEPTHWISE
from .direct import DIRECT
from .gemm import POINTWISE
from .winograd import WINOGRAD

#: channels on a side of the squares that are read and written whole
SQUARE = 16
#: weights from which a fork is worth its time
PARALLEL_BYTES = 64 << 10


def define_turn(plain: ConvProblem) -> tuple[Any, Any, list[Buffer]]:
    """`v[tap, ic, oc, g] = w[taps - 1 - tap, oc, ic, g]`: the Func, its input, and both buffers."""
    import halide as hl

    from .funcs import dense, image

    taps, groups = math.prod(plain.kernel), plain.groups
    ic, oc = plain.in_channels // groups, plain.out_channels // groups
    source, shape = (groups, ic, oc, taps), (groups, oc, ic, taps)
    w = image("w", source)
    t, i, o, g, io, oo, task = (hl.Var(v) for v in ("t", "i", "o", "g", "io", "oo", "task"))
    v = hl.Func("turned")
    v[t, i, o, g] = w[taps - 1 - t, o, i, g]
    for var, extent in zip((t, i, o, g), reversed(shape)):
        v.bound(var, 0, extent)
    tail = hl.TailStrategy.ShiftInwards
    v.split(i, io, i, min(SQUARE, ic), tail).split(o, oo, o, min(SQUARE, oc), tail)
    if taps == 1:
        v.reorder(t, i, o, io, oo, g).vectorize(i)
    else:
        v.reorder(t, i, o, io, oo, g)
        if taps <= SQUARE:
            v.unroll(t)
    v.fuse(oo, g, task)
    if 4 * math.prod(shape) >= PARALLEL_BYTES:
        v.parallel(task, max(1, math.prod(shape) * 4 // PARALLEL_BYTES // 16) if ic == oc == 1 else 1)
    dense(v.output_buffer(), shape)
    return v, w, [Buffer("w", source), Buffer("turned", shape)]


def _row(plain: Algorithm) -> Algorithm:
    name = f"turned_{plain.name}"

    def same(function: Callable[..., Any]) -> Callable[..., Any]:
        """The plain row's function, for the plain problem and schedule."""
        return lambda problem, s, *rest: function(turned(problem), Schedule(plain.name, **s.params), *rest)

    return replace(
        plain,
        name=name,
        equation=f"transposed, stride 1: {plain.equation}, w turned",
        supports=partial(_supports, plain),
        schedules=partial(_schedules, plain, name),
        check=same(plain.check),
        define=partial(_define, plain),
        macs_executed=same(plain.macs_executed),
        workspace_bytes=same(plain.workspace_bytes),
        spreads=plain.spreads and same(plain.spreads),
        edges="zeros",
        cost=plain.cost and same(plain.cost),
        packing=same(partial(_packing, plain)),
    )


def _supports(plain: Algorithm, problem: Problem) -> str | None:
    if not isinstance(problem, ConvProblem):
        return "it computes convolutions, and this is a matrix product"
    return why_not_turned(problem) or plain.supports(turned(problem))


def _schedules(plain: Algorithm, name: str, problem: ConvProblem, machine: Machine) -> list[Schedule]:
    return [Schedule(name, **s.params) for s in plain.schedules(turned(problem), machine)]


def _define(plain: Algorithm, problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    other = turned(problem)
    return replace(plain.define(other, Schedule(plain.name, **schedule.params), machine), turn=define_turn(other))


def _packing(plain: Algorithm, other: ConvProblem, schedule: Schedule) -> tuple[int, float]:
    """The turned weights are written and read again; the rate is the mean over all bytes."""
    weights = 4 * math.prod(other.w_shape)
    written, rate = plain.packed_bytes(other, schedule)
    cycles = 2 * weights / PERMUTED_BYTES_PER_CYCLE + (weights + written) / rate
    return written + 2 * weights, (3 * weights + written) / cycles


TURNED_DEPTHWISE, TURNED_POINTWISE, TURNED_DIRECT, TURNED_WINOGRAD = map(_row, (DEPTHWISE, POINTWISE, DIRECT, WINOGRAD))
