"""transposed_depthwise: transposed convolutions of each channel separately, phase by phase.

    y[n, c, u*s + r] = sum over j < T(r) of x[n, c, u + first(r) - j*step] * w[c, k0(r) + j*residues]

The phases of `transposed` (see `phases`), with channels as the vector axis, as in `depthwise`. The s x s outputs of a cell
are unrolled, so each has its own taps and no tap is multiplied by a zero between pixels. Memory is the limit.

Wins for depthwise layers; with a stride it is how the gradient of their input is computed.
Cannot run: anything but one channel in and one out in each group, three spatial axes, float64.
"""

from __future__ import annotations

import math
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Buffer, Definition, Geometry, ceil_div
from .cost import FORK_CYCLES, with_memory_s
from .phases import Phased

PARAMETERS = {
    "tile_channels": "channels of a vector, and of a panel of packed weights",
    "parallel": "whether tasks run on the thread pool",
}
#: cycles of a vector: for each of its taps, and to store it
TAP_CYCLES, STORE_CYCLES = 2.0, 6.0
#: outputs of a cell (the product of the strides) that are unrolled
MOST_UNROLLED = 16
#: multiply-adds from which a fork is worth its time
PARALLEL_MACS = 30_000

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    if isinstance(problem, GemmProblem) or not problem.transposed:
        return "it computes transposed convolutions only"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; naive computes float64"
    if not problem.groups == problem.in_channels == problem.out_channels > 1:
        return f"it needs one channel in and out in each group, and more than one group, got {problem}"
    if problem.rank == 3:
        return "it runs over one or two spatial axes, and this problem has three"
    if math.prod(problem.stride) > MOST_UNROLLED:
        return f"it unrolls the {math.prod(problem.stride)} outputs of a cell, and {MOST_UNROLLED} are the most"
    return None


# --------------------------------------------------------------------------------------------------- define


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Each output of a cell is the sum of its phase's taps; the cells at the borders test what is inside."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image
    from .packing import pack_rows

    g, channels, nr = Geometry.of(problem), problem.out_channels, schedule.tile_channels
    _, down, across = Phased.of(problem).axes
    x_shape, y_shape = (g.batch, *g.size[1:], channels), (g.batch, *g.out[1:], channels)
    taps = math.prod(g.kernel)
    p_shape = (ceil_div(channels, nr), 1, taps, nr)
    x, packed = image("x", x_shape), image("packed", p_shape)
    extra, specs = epilogue_inputs(problem, channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))

    c, ox, oy, n = (hl.Var(v) for v in ("c", "ox", "oy", "n"))
    channel = c if channels % nr == 0 else hl.min(c, channels - 1)

    def product(ix: Any, iy: Any, weight: Any) -> Any:
        """A pixel times a weight; left out where the pixel lies outside, so that no NaN comes from there."""
        inside, place = None, []
        for at, axis in ((ix, across), (iy, down)):
            place.append(hl.clamp(hl.likely(at), 0, axis.size - 1) if axis.pads else at)
            ok = (at >= 0) & (at < axis.size) if axis.pads else None
            inside = ok if inside is None else inside if ok is None else inside & ok
        value = x[(channel, *place, n)] * weight
        return value if inside is None else hl.select(hl.likely(inside), value, hl.f32(0))

    def sum_of(ry: int, rx: int) -> Any:
        """The taps of a phase."""
        total = hl.f32(0)
        for jy in range(down.taps(ry)):
            for jx in range(across.taps(rx)):
                tap = (down.first_tap(ry) + jy * down.residues) * across.kernel + across.first_tap(rx) + jx * across.residues
                iy = oy // down.stride + down.first(ry) - jy * down.step
                ix = ox // across.stride + across.first(rx) - jx * across.step
                total = total + product(ix, iy, packed[c % nr, tap, 0, c // nr])
        return total

    value = sum_of(down.phases[-1], across.phases[-1])
    for ry in reversed(down.phases):
        for rx in reversed(across.phases):
            value = hl.select((oy % down.stride == ry) & (ox % across.stride == rx), sum_of(ry, rx), value)
    residual = named["residual"][channel, ox, oy, n] if "residual" in named else None
    bias = named["bias"][channel] if "bias" in named else None
    out = hl.Func("out")
    out[c, ox, oy, n] = apply_epilogue(problem.epilogue, value, bias, residual)

    for var, extent in zip((c, ox, oy, n), reversed(y_shape)):
        out.bound(var, 0, extent)
    vectors, xi, yi, task = (hl.Var(v) for v in ("vectors", "xi", "yi", "task"))
    guard = hl.TailStrategy.GuardWithIf
    out.split(c, vectors, c, nr, guard).split(ox, ox, xi, across.stride, guard).split(oy, oy, yi, down.stride, guard)
    out.reorder(c, xi, yi, vectors, ox, oy, n).vectorize(c).unroll(xi).unroll(yi).fuse(oy, n, task)
    if schedule.parallel:
        out.parallel(task)
    pack = pack_rows("w", (channels, taps), nr)
    operands = [(x, Buffer("x", x_shape)), (packed, Buffer("packed", p_shape))]
    return definition(problem, out, y_shape, operands, (extra, specs), pack)


# ------------------------------------------------------------------------------------------------- the row


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Whole vectors, or half of one where those divide the channels and whole ones do not."""
    parallel = machine.cores > 1 and problem.macs > PARALLEL_MACS
    widths = [w for w in (machine.lanes, machine.lanes // 2) if w == machine.lanes or problem.out_channels % w == 0]
    listed = [Schedule("transposed_depthwise", tile_channels=w, parallel=parallel) for w in widths]
    return sorted(listed, key=lambda s: cost_cycles(problem, s, machine))


def check(problem: ConvProblem, s: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    if set(s.params) != set(PARAMETERS):
        return f"the schedule needs exactly the parameters {', '.join(PARAMETERS)}; got {', '.join(s.params)}"
    if isinstance(s.tile_channels, bool) or not isinstance(s.tile_channels, int) or not isinstance(s.parallel, bool):
        return f"tile_channels must be an integer and parallel True or False, got {s.params}"
    if s.tile_channels not in (machine.lanes, machine.lanes // 2):
        return f"tile_channels must be {machine.lanes} or {machine.lanes // 2} ({machine.isa}), got {s.tile_channels}"
    return None


def cost_cycles(problem: ConvProblem, s: Schedule, machine: Machine) -> float:
    """Predicted cycles on all cores."""
    vectors = problem.batch * math.prod(problem.out_size) * ceil_div(problem.out_channels, s.tile_channels)
    taps = math.prod(problem.kernel) / math.prod(problem.stride)
    cycles = vectors * (taps * TAP_CYCLES + STORE_CYCLES)
    return cycles / machine.cores + FORK_CYCLES if s.parallel else cycles


TRANSPOSED_DEPTHWISE = Algorithm(
    name="transposed_depthwise",
    equation="y[n, c, u*s + r] = sum over taps of phase r of x[n, c, u + first - j*step] * w[c, tap]",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=lambda problem, s: (
        problem.macs // problem.out_channels * ceil_div(problem.out_channels, s.tile_channels) * s.tile_channels
    ),
    workspace_bytes=lambda problem, s, threads: 0,
    edges="none",
    parameters=PARAMETERS,
    cost=lambda problem, s, machine: with_memory_s(machine, cost_cycles(problem, s, machine), problem.unique_bytes),
)
