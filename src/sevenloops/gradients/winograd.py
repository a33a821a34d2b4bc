"""gradient_winograd: the gradient of the weights by minimal filtering F(k x k, m x m).

    dw = AT [ sum over tiles of (G dy-tile GT) * (BT x-tile B) ] A      for tiles of m x m pixels of dy, alpha = k + m - 1

Along one axis the gradient of k taps from m pixels of dy and alpha pixels of x is the correlation that F(k, m) computes,
with dy as the filter (Lavin and Gray, arXiv 1509.09308, section 4). Its alpha^2 products stand for k^2 m^2: F(3, 4) needs 36
for 144. The sum over tiles and images is taken between the transforms, so AT and A are applied once for each weight.

A task has a block of input and of output channels, and a part of the tiles. It transforms a few dozen tiles of x and dy into
V and U, multiplies them for each of the alpha^2 points into the sums M of its block, and goes on with the next tiles. No
transformed tile is used by another task. The sums of several parts are added at the end, in order.

Wins for 3x3 and 5x5 with enough channels. Its sums are not those of the definition: errors are larger, by the points chosen
(docs/training_gradients.md).
Cannot run: strides, dilation, three spatial axes, shifted problems, 1x1 kernels, float64.
"""

from __future__ import annotations

from typing import Any

from ..adjoint import WeightGradient
from ..algorithms.base import Algorithm, Definition
from ..machine import Machine
from ..schedule import Schedule
from .winograd_cost import winograd_cost_s, winograd_schedules
from .winograd_plan import PARAMETERS, Plan, check_plan, winograd_macs, winograd_workspace

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Any) -> str | None:
    """None, or the reason why not."""
    if not isinstance(problem, WeightGradient):
        return "it computes gradients of weights"
    forward = problem.forward
    if forward.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {forward.dtype}; gradient_naive computes float64"
    if forward.shift is not None:
        return "it does not shift channels; gradient_naive does"
    if forward.rank == 3:
        return "it tiles one or two spatial axes, and this problem has three"
    if any(v != 1 for v in (*forward.stride, *forward.dilation)):
        return f"it computes stride 1 and dilation 1, got stride {forward.stride} and dilation {forward.dilation}"
    if max(forward.kernel) == 1:
        return "a kernel of one pixel has nothing to save"
    if max(forward.kernel) > 5:
        return f"rounding errors grow with the kernel: 5 is the largest, and this one is {forward.kernel}"
    return None


# --------------------------------------------------------------------------------------------------- define


def define(problem: WeightGradient, schedule: Schedule, machine: Machine) -> Definition:
    """Both transforms, products, and the transform of their sums."""
    from ..algorithms.funcs import image
    from ..layers.base import definition
    from .winograd_funcs import gradient_pipeline

    plan = Plan.of(problem, schedule)
    g = plan.g
    x_shape = (g.batch, g.size[1], g.size[2], g.groups, g.ic)
    dy_shape = (g.batch, g.out[1], g.out[2], g.groups, g.oc)
    x, dy = image("x", x_shape), image("dy", dy_shape)
    out = gradient_pipeline(plan, schedule, machine, x, dy)
    return definition(out, [("x", x, x_shape), ("dy", dy, dy_shape)], (g.groups * g.oc, g.ic, *g.kernel[1:]))


# ------------------------------------------------------------------------------------------------- the row

WINOGRAD = Algorithm(
    name="gradient_winograd",
    equation="dw = AT [ sum over tiles of (G dy GT) * (BT x B) ] A",
    supports=supports,
    schedules=winograd_schedules,
    check=check_plan,
    define=define,
    macs_executed=winograd_macs,
    workspace_bytes=winograd_workspace,
    parameters=PARAMETERS,
    kinds=(WeightGradient,),
    tolerance=2e-5,
    exact_on_integers=False,
    accumulates_as_defined=False,
    cost=winograd_cost_s,
)
