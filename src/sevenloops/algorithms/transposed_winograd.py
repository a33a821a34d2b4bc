"""transposed_winograd: the phases of a transposed convolution by minimal filtering F(m, 2), fused over blocks of tiles.

    Y(r) = AT [ sum over ic of (G g(r) GT) * (BT d(r) B) ] A       for each phase r and each tile of m x m of its outputs

With a kernel up to twice the stride, every phase of an axis is a convolution of stride one with one or two taps. Those with
two take m + 1 multiplications for m outputs instead of 2 m; those with one take m, because their filter vanishes at
infinity (Winograd 1980; Lavin and Gray, arXiv 1509.09308; phases as in `transposed`). 4x4/2 takes 2.25 (m = 2), 1.78 (m = 3)
or 1.56 (m = 4) multiplications an output for 4; 3x3/2 takes 1.56, 1.36 or 1.27 for 2.25. The points 0, 1 and 0, 1, -1 make
matrices of 0, 1 and 1/2: the errors are nearly those of the definition.

Wins for 3x3/2 and 4x4/2 with enough channels. Cannot run: plain convolutions, three spatial axes, phases of three or more
taps or of single taps only, float64.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, Problem
from ..schedule import Schedule
from . import transposed
from .base import Algorithm, Buffer, Definition, Geometry
from .cost import TRANSFORMED_BYTES_PER_CYCLE, with_memory_s
from .phases import Axis, by_phase
from .transposed_plan import PARAMETERS, Plan, check_plan, cost_cycles, macs_executed, plan_schedules, workspace_bytes

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = transposed.supports(problem)
    if reason is not None:
        return reason
    assert isinstance(problem, ConvProblem)
    if problem.rank == 3:
        return "it tiles one or two spatial axes, and this problem has three"
    most = [axis.most_taps for axis in Plan.axes_of(problem)]
    if max(most) == 1:
        return "every phase has one tap, which leaves nothing to save"
    if max(most) > 2:
        return f"it computes phases of one or two taps, and here an axis has phases of {max(most)}"
    if any(axis.step > 1 for axis in Plan.axes_of(problem) if axis.most_taps > 1):
        return f"the taps of a phase must see neighbouring inputs, and the dilation {problem.dilation} spreads them"
    return None


# --------------------------------------------------------------------------------------------------- define


def packed_shape(problem: ConvProblem, schedule: Schedule) -> tuple[int, ...]:
    """`(panels of all groups, phases y, phases x, points, ic, tile_channels)`."""
    plan = Plan.of(problem, schedule)
    phases = (len(axis.phases) for axis in plan.axes)
    return (plan.groups * plan.panels, *phases, plan.points, plan.ic, schedule.tile_channels)


def chosen(index: Any, values: list[Any]) -> Any:
    """`values[index]` of expressions; `index` is a constant once its loop is unrolled."""
    import halide as hl

    return values[0] if len(values) == 1 else hl.mux(index, values)


def combination(row: tuple[Fraction, ...], terms: list[Any], dtype: Any) -> Any:
    """The sum of `row[k] * terms[k]`, zeros left out."""
    import halide as hl

    total = None
    for factor, term in zip(row, terms):
        if factor:
            part = term if abs(factor) == 1 else term * hl.cast(dtype, hl.f64(float(abs(factor))))
            total = (part if factor > 0 else -part) if total is None else (total + part if factor > 0 else total - part)
    return total


def define_pack(problem: ConvProblem, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, ic, p, rx, ry, panel]` = G g GT of each phase, in float64 and rounded once."""
    import halide as hl

    from .funcs import dense, image
    from .packing import channels_of_block, parallel_tasks, vector

    plan, nr = Plan.of(problem, schedule), schedule.tile_channels
    w_shape = (plan.groups * plan.ic, plan.oc, *Geometry.of(problem).kernel)
    w = image("w", w_shape)
    names = ("lane", "ic", "block", "p", "rx", "ry", "panel", "vectors")
    lane, ic, block, p, rx, ry, panel, vectors = (hl.Var(v) for v in names)
    channel = (panel % plan.panels) * nr + lane
    partial = plan.oc % nr != 0
    inside = hl.min(channel, plan.oc - 1) if partial else channel
    zero = hl.f64(0)

    def taps(axis: Axis, phase: Any) -> list[tuple[Any, Any]]:
        """The kernel's index at each place of the window of two (or one), and whether there is one."""
        found = []
        for place in range(axis.most_taps):
            index = [axis.tap_at(r, place) for r in axis.phases]
            found.append((by_phase(phase, [max(k, 0) for k in index]), by_phase(phase, [int(k >= 0) for k in index]) == 1))
        return found

    columns = []
    for x, has_x in taps(plan.axes[1], rx):
        rows = []
        for y, has_y in taps(plan.axes[0], ry):
            place = [hl.unsafe_promise_clamped(x, 0, w_shape[4] - 1), hl.unsafe_promise_clamped(y, 0, w_shape[3] - 1)]
            value = hl.cast(hl.Float(64), w[(*place, 0, inside, (panel // plan.panels) * plan.ic + ic)])
            has = has_x & has_y
            rows.append(hl.select(has & (channel < plan.oc) if partial else has, value, zero))
        columns.append(chosen(p // plan.alpha[1], [combination(row, rows, hl.Float(64)) for row in plan.matrices[0].g]))
    value = chosen(p % plan.alpha[1], [combination(row, columns, hl.Float(64)) for row in plan.matrices[1].g])
    packed, point = hl.Func("packed"), hl.Func("point")
    point[lane, p, rx, ry, ic, panel] = hl.cast(hl.Float(32), value)
    packed[lane, ic, p, rx, ry, panel] = point[lane, p, rx, ry, ic, panel]
    shape = packed_shape(problem, schedule)
    for var, extent in zip((lane, ic, p, rx, ry, panel), reversed(shape)):
        packed.bound(var, 0, extent)
    packed.split(ic, block, ic, channels_of_block(plan.ic, math.prod(w_shape[2:]), nr), hl.TailStrategy.ShiftInwards)
    packed.reorder(lane, ic, p, rx, ry, block, panel).vectorize(lane, vector(nr))
    point.compute_at(packed, parallel_tasks(packed, [block, panel], shape)).bound_extent(lane, nr)
    point.bound_extent(p, plan.points).split(lane, vectors, lane, vector(nr)).vectorize(lane)
    point.reorder(lane, p, rx, ry, vectors, ic).unroll(p)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Input transform, products, output transform and epilogue, phase by phase."""
    from .funcs import definition, epilogue_inputs, image
    from .transposed_funcs import pipeline

    plan = Plan.of(problem, schedule)
    (y, x_axis), (batch, groups) = plan.axes, (plan.batch, plan.groups)
    x_shape, y_shape = (batch, y.size, x_axis.size, groups, plan.ic), (batch, y.out, x_axis.out, groups, plan.oc)
    x, packed = image("x", x_shape), image("packed", packed_shape(problem, schedule))
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    out = pipeline(problem, plan, schedule, machine, x, packed, dict(zip((name for name, _ in specs), extra)))
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", packed_shape(problem, schedule)))]
    return definition(problem, out, y_shape, operands, (extra, specs), define_pack(problem, schedule))


# ------------------------------------------------------------------------------------------------- the row

TRANSPOSED_WINOGRAD = Algorithm(
    name="transposed_winograd",
    equation="Y(r) = AT [ sum over ic of (G g(r) GT) * (BT d(r) B) ] A for each phase r, tile by tile",
    supports=supports,
    schedules=plan_schedules,
    check=check_plan,
    define=define,
    macs_executed=macs_executed,
    workspace_bytes=workspace_bytes,
    parameters=PARAMETERS,
    tolerance=1e-5,
    exact_on_integers=False,
    accumulates_as_defined=False,
    spreads=lambda problem, s: (s.tile_height * problem.stride[0], s.tile_width * problem.stride[-1]),
    cost=lambda p, s, machine: with_memory_s(machine, cost_cycles(p, s, machine), p.unique_bytes),
    packing=lambda p, s: (4 * math.prod(packed_shape(p, s)), TRANSFORMED_BYTES_PER_CYCLE),
)
