"""gradient_naive: the gradient of the weights as it is defined, one weight after the other.

    dw[oc, ic, k] = sum over n, o of dy[n, oc, o] * x[n, ic, o*stride + k*dilation - before]

Wins never; it is what the others are compared with, and the one that computes float64. Cannot run: nothing.
"""

from __future__ import annotations

from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Algorithm, Definition, Geometry
from ..algorithms.cost import clock_hz
from ..machine import Machine
from ..schedule import Schedule

#: a dependent addition, and what stands around it
CYCLES_PER_MAC = 4.0


def supports(problem: Any) -> str | None:
    """It computes every gradient of weights."""
    return None if isinstance(problem, WeightGradient) else "it computes gradients of weights"


def define(problem: WeightGradient, schedule: Schedule, machine: Machine) -> Definition:
    """The definition without a schedule."""
    import halide as hl

    from ..algorithms.funcs import hl_type, image, moved_by
    from ..layers.base import definition

    forward = problem.forward
    g = Geometry.of(forward)
    x_shape, dy_shape = (g.batch, *g.size, g.groups * g.ic), (g.batch, *g.out, g.groups * g.oc)
    w_shape = (g.groups * g.oc, g.ic, *g.kernel)
    x, dy = image("x", x_shape, problem.dtype), image("dy", dy_shape, problem.dtype)
    zero = hl.cast(hl_type(problem.dtype), 0)
    kx, ky, kz, ic, oc = (hl.Var(v) for v in ("kx", "ky", "kz", "ic", "oc"))
    pixel = hl.RDom([hl.Range(0, extent) for extent in (*reversed(g.out), g.batch)], "pixel")
    channel = oc // g.oc * g.ic + ic
    moved = moved_by(forward.shift, g.ic, ic) if forward.shift else []
    inside, coords = None, []
    for axis, k in enumerate((kx, ky, kz)):  # innermost first; the geometry's tuples are outermost first
        at = 2 - axis
        i = pixel[axis] * g.stride[at] + k * g.dilation[at] - g.before[at] + (moved[axis] if axis < len(moved) else 0)
        ok = (i >= 0) & (i < g.size[at])
        inside = ok if inside is None else inside & ok
        coords.append(hl.clamp(i, 0, g.size[at] - 1))
    sums, out = hl.Func("sums"), hl.Func("out")  # [kx, ky, kz, ic, oc]
    term = x[(channel, *coords, pixel[3])] * dy[oc, pixel[0], pixel[1], pixel[2], pixel[3]]
    sums[kx, ky, kz, ic, oc] = zero
    sums[kx, ky, kz, ic, oc] += hl.select(inside, term, zero)
    out[kx, ky, kz, ic, oc] = sums[kx, ky, kz, ic, oc]
    sums.compute_at(out, kx)
    return definition(out, [("x", x, x_shape), ("dy", dy, dy_shape)], w_shape)


def cost(problem: WeightGradient, schedule: Schedule, machine: Machine) -> float:
    """Seconds: one multiply-add after the other on one core."""
    return problem.macs * CYCLES_PER_MAC / clock_hz(machine)


NAIVE = Algorithm(
    name="gradient_naive",
    equation="dw[oc, ic, k] = sum over n, o of dy[n, oc, o] * x[n, ic, o*stride + k*dilation - before]",
    supports=supports,
    schedules=lambda problem, machine: [Schedule("gradient_naive")],
    check=lambda problem, schedule, machine: f"it has no parameters, got {schedule.params}" if schedule.params else None,
    define=define,
    macs_executed=lambda problem, schedule: problem.macs,
    workspace_bytes=lambda problem, schedule, threads: 0,
    cost=cost,
    kinds=(WeightGradient,),
)
