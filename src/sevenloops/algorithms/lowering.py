"""What the lowerings share: products of every input position, stored, then shifted and summed ("lifted").

    r[position, oc, i] = sum over columns of w[oc, position, column] * lowered[column, i]
    y[oc, o] = sum over positions of r[position, oc, o + position*dilation - before]

A lowering writes some axes of the kernel into the columns of a matrix and leaves the others as `positions`. Hadjis et al.,
Caffe con Troll, arXiv 1504.04343, section 2.1, number them: type 1 (im2col) lowers every axis, type 3 (kn2row) none, type
2 (mec) lowers the rows. The products of all positions are one matrix product, of `positions * oc` columns; the sum reads
each of them once more. Strides are refused: products at the pixels that a stride skips would be thrown away.

A transposed convolution has the same products, and another sum: every product belongs to one output, whatever the stride::

    y[oc, o] = sum over the positions k that o sees of r[k, oc, (o + before - k*dilation) / stride]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..machine import Machine
from ..problem import MAX_TENSOR_BYTES, ConvProblem
from ..schedule import Schedule
from .base import Buffer, Definition, Geometry, ceil_div
from .cost import FORK_CYCLES, PERMUTED_BYTES_PER_CYCLE, with_memory_s
from .phases import Axis, by_phase
from .tiles import PARAMETERS, ProductShape, check_tiled, cost_cycles, tiled_macs, tiled_schedules, tiled_workspace

__all__ = ["Lowered"]

#: bytes of products that a core writes and reads again per cycle, as they pass through L3 or memory
LIFT_BYTES_PER_CYCLE = 4.0
#: of the block of weights of all output channels that is packed at once; it stays in L2
BLOCK_BYTES = 128 << 10


@dataclass(frozen=True)
class Lowered:
    """A convolution after a lowering: an image of `size` whose pixels have `columns` values, and what is left of the kernel.

    `columns` are the axes of the matrix, innermost first. Sizes of axes are `(d, h, w)`. Of a `transposed` convolution
    nothing is lowered.
    """

    g: Geometry
    columns: tuple[int, ...]
    size: tuple[int, int, int]
    kernel: tuple[int, int, int]
    dilation: tuple[int, int, int]
    before: tuple[int, int, int]
    transposed: bool = False

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The phases of a transposed convolution: `(z, y, x)`."""
        return tuple(
            Axis(*axis) for axis in zip(self.size, self.g.out, self.kernel, self.g.stride, self.dilation, self.before)
        )

    @property
    def positions(self) -> int:
        """Kernel positions whose products are stored apart."""
        return math.prod(self.kernel)

    @property
    def shape(self) -> ProductShape:
        """The one product, as the cost model sees it."""
        pixels, slices = self.size[1] * self.size[2], self.g.groups * self.g.batch * self.size[0]
        return ProductShape(self.positions * self.g.oc, pixels, slices, self.columns[0], math.prod(self.columns[1:]))

    @property
    def product_bytes(self) -> int:
        """Bytes of the stored products of all images."""
        return 4 * self.shape.oc * self.shape.pixels * self.shape.slices

    @property
    def too_large(self) -> str | None:
        """The reason why the products cannot be stored, or None."""
        if self.product_bytes > MAX_TENSOR_BYTES:
            return f"its stored products would take {self.product_bytes:,} bytes, more than {MAX_TENSOR_BYTES:,}"
        return None

    def cost(self, schedule: Schedule, machine: Machine) -> float:
        """Predicted cycles: the product, and its result written and read once more."""
        tiled = tiled_part(schedule, 1)
        cores = machine.cores if schedule.parallel else 1
        lift = 2 * self.product_bytes / LIFT_BYTES_PER_CYCLE / cores + (FORK_CYCLES if schedule.parallel else 0)
        return cost_cycles(self.shape, tiled, machine) + lift

    def seconds(self, problem: ConvProblem, schedule: Schedule, machine: Machine) -> float:
        """Predicted seconds: the cycles at the machine's clock, and memory for what no cache holds."""
        return with_memory_s(machine, self.cost(schedule, machine), problem.unique_bytes + 2.0 * self.product_bytes)

    def macs(self, schedule: Schedule) -> int:
        """Multiply-accumulates of the product; lifting has none."""
        return tiled_macs(self.shape, tiled_part(schedule, 1))

    def packing(self, schedule: Schedule) -> tuple[int, float]:
        """Bytes of the packed weights, and what a core moves in a cycle while it permutes them."""
        width = self.shape.oc if schedule.products == "stored" else self.g.oc
        panels = self.g.groups * ceil_div(width, schedule.tile_channels)
        terms = self.g.oc * self.g.taps // width
        return 4 * panels * schedule.tile_channels * terms, PERMUTED_BYTES_PER_CYCLE

    def workspace(self, schedule: Schedule, threads: int) -> int:
        """The products, and the sums of one pixel for every thread."""
        sums = 4 * self.g.oc * (threads if schedule.parallel else 1)
        return self.product_bytes + sums + tiled_workspace(self.shape, tiled_part(schedule, 1), threads)


def tiled_part(schedule: Schedule, k_blocks: int) -> Schedule:
    """The parameters of the register-tiled product in a schedule of a lowering."""
    kept = {name: value for name, value in schedule.params.items() if name in PARAMETERS}
    return Schedule(schedule.algorithm, **{**kept, "k_blocks": k_blocks})


def candidates(
    name: str, products: str, shape: ProductShape, machine: Machine, limit: int, cost: Callable[[Schedule], float]
) -> list[tuple[float, Schedule]]:
    """Schedules of a lowering that multiplies without blocks of taps, with their costs."""
    found = [s for s in tiled_schedules(name, shape, machine, limit) if s.k_blocks == 1]
    bare = [{k: v for k, v in s.params.items() if k != "k_blocks"} for s in found]
    listed = [Schedule(name, products=products, **params) for params in bare]
    return [(cost(s), s) for s in listed]


def check_names(schedule: Schedule, parameters: dict[str, str], products: tuple[str, ...]) -> str | None:
    """The reason why a schedule of a lowering has the wrong parameters, or None."""
    if set(schedule.params) != set(parameters):
        return f"the schedule needs exactly the parameters {', '.join(parameters)}; got {', '.join(schedule.params)}"
    if schedule.products not in products:
        return f"products must be one of {', '.join(products)}, got {schedule.products!r}"
    return None


def check_stored(lowered: Lowered, stride: tuple[int, ...], schedule: Schedule, machine: Machine) -> str | None:
    """The reason why products cannot be stored by this schedule, or None."""
    if any(s > 1 for s in stride) and not lowered.transposed:
        return "products='stored' needs unit stride where the products are shifted: others would be thrown away"
    return lowered.too_large or check_tiled(lowered.shape, tiled_part(schedule, 1), machine)


# --------------------------------------------------------------------------------------------------- define


def define_stored_pack(lowered: Lowered, schedule: Schedule) -> tuple[Any, list[Any], list[Buffer]]:
    """`packed[lane, ic, kx, panel]` from `w[ic * taps + tap, oc]`; an output column is `position * oc + channel`.

    The weights of a transposed convolution are `w[oc * taps + tap, ic]`.
    """
    import halide as hl

    from .funcs import dense, image
    from .packing import SQUARE, Turned, channels_of_block, parallel_tasks, vector

    g, nr, width = lowered.g, schedule.tile_channels, lowered.shape.oc
    panels, taps, columns = ceil_div(width, nr), math.prod(g.kernel), math.prod(lowered.columns[1:])
    lane, ic, block, kx, panel, group, c = (hl.Var(v) for v in ("lane", "ic", "block", "kx", "panel", "group", "c"))
    column = panel * nr + lane
    inside = hl.min(column, width - 1) if width % nr else column
    tap, channel = inside // g.oc * columns + kx, inside % g.oc  # columns are the innermost axis of the kernel, or none
    w_shape = (g.groups * g.ic, g.oc * taps) if lowered.transposed else (g.groups * g.oc, g.ic * taps)
    w = image("w", w_shape)
    turned = None if lowered.transposed else Turned(w, c, [group], group * g.oc + hl.min(c, g.oc - 1))
    value = turned.func[channel, ic * taps + tap, group] if turned else w[channel * taps + tap, group * g.ic + ic]
    packed = hl.Func("packed")
    packed[lane, ic, kx, panel, group] = value if width % nr == 0 else hl.select(column < width, value, hl.f32(0))
    shape = (g.groups, panels, columns, g.ic, nr)
    for var, extent in zip((lane, ic, kx, panel, group), reversed(shape)):
        packed.bound(var, 0, extent)
    all_lanes = ceil_div(g.oc, SQUARE) * SQUARE
    depth = channels_of_block(g.ic, taps, all_lanes, BLOCK_BYTES)
    packed.split(ic, block, ic, depth, hl.TailStrategy.ShiftInwards)
    packed.reorder(lane, ic, kx, panel, block, group).vectorize(lane, vector(nr))
    task = parallel_tasks(packed, [block, group], shape)
    if turned:
        turned.schedule_at(packed, task, all_lanes, depth * taps)
    dense(packed.output_buffer(), shape)
    return packed, [w], [Buffer("w", w_shape), Buffer("packed", shape)]


def define_stored(
    problem: ConvProblem, lowered: Lowered, schedule: Schedule, machine: Machine, value: Callable[..., Any], x: Any
) -> Definition:
    """One product for all positions, stored, then lifted; `value(r, g, ix, iy, iz, n)` is the lowered image."""
    import halide as hl

    from .funcs import apply_epilogue, definition, epilogue_inputs, image
    from .tiled import Extents, tiled_product

    g, nr, shape = lowered.g, schedule.tile_channels, lowered.shape
    _, kh, kw = lowered.kernel
    depth, _, width = lowered.size
    panels = ceil_div(shape.oc, nr)
    packed_shape = (g.groups * panels, *reversed(lowered.columns[1:] or (1,)), g.ic, nr)
    packed = image("packed", packed_shape)
    y_shape = (g.batch, *g.out, g.groups, g.oc)
    extra, specs = epilogue_inputs(problem, problem.out_channels, y_shape)
    named = dict(zip((name for name, _ in specs), extra))

    def term(r: list[Any], c: Any, p: Any, gr: Any, z: Any, n: Any) -> Any:
        weight = packed[c % nr, r[0], r[1] if len(r) > 1 else 0, gr * panels + c // nr]
        return weight * value(r, gr, p % width, p // width, z, n)

    e = Extents(shape.oc, shape.pixels, g.groups, depth, g.batch, lowered.columns)
    product = tiled_product(tiled_part(schedule, 1), machine.lanes, e, term, lambda v, *_: v).output

    c, gr, ox, oy, oz, n = (hl.Var(v) for v in ("c", "g", "ox", "oy", "oz", "n"))
    k, position, coords = seen(lowered, (ox, oy, oz))
    lifted, out = hl.Func("lifted"), hl.Func("y")  # [oc, g, ox, oy, oz, n]
    column = ((position[2] * kh + position[1]) * kw + position[0]) * g.oc + c
    lifted[c, gr, ox, oy, oz, n] += product[column, gr, coords[1] * width + coords[0], coords[2], n]
    residual = named["residual"][c, gr, ox, oy, oz, n] if "residual" in named else None
    bias = named["bias"][gr * g.oc + c] if "bias" in named else None
    out[c, gr, ox, oy, oz, n] = apply_epilogue(problem.epilogue, hl.Expr(lifted[c, gr, ox, oy, oz, n]), bias, residual)
    product.compute_root()
    _schedule_lift(lowered, schedule, machine, (c, gr, ox, oy, oz, n), lifted, out, k)
    operands = [(x[0], Buffer("x", x[1])), (packed, Buffer("packed", packed_shape))]
    return definition(problem, out, y_shape, operands, (extra, specs), define_stored_pack(lowered, schedule))


def seen(lowered: Lowered, output: tuple[Any, Any, Any]) -> tuple[Any, list[Any], list[Any]]:
    """What an output `(ox, oy, oz)` sums: the RDom, and the kernel position and the input of each term, `[x, y, z]`."""
    import halide as hl

    axes = lowered.axes[::-1]
    counts = [axis.most_taps if lowered.transposed else axis.kernel for axis in axes]
    k = hl.RDom([hl.Range(0, count) for count in counts], "k")
    position, coords = [], []
    for index, (axis, o) in enumerate(zip(axes, output)):
        tap, i = k[index], o + k[index] * axis.dilation - axis.before
        if lowered.transposed:
            phase = o % axis.stride
            taps = [axis.taps(r) for r in axis.phases]
            if min(taps) < axis.most_taps:
                k.where(k[index] < by_phase(phase, taps))
            tap = by_phase(phase, [axis.first_tap(r) for r in axis.phases]) + k[index] * axis.residues
            tap = hl.unsafe_promise_clamped(tap, 0, axis.kernel - 1)
            i = o // axis.stride + by_phase(phase, [axis.first(r) for r in axis.phases]) - k[index] * axis.step
        k.where((i >= 0) & (i < axis.size))
        position.append(tap)
        coords.append(hl.clamp(i, 0, axis.size - 1))
    return k, position, coords


def _schedule_lift(low: Lowered, s: Schedule, machine: Machine, dims: Any, lifted: Any, out: Any, k: Any) -> None:
    """Rows on all cores, pixels one by one; those of a transposed convolution phase by phase, so that taps are constants."""
    import halide as hl

    g, (c, gr, ox, oy, oz, n) = low.g, dims
    lanes, guard = min(machine.lanes, g.oc) if low.transposed else machine.lanes, hl.TailStrategy.GuardWithIf
    for var, extent in zip(dims, (g.oc, g.groups, g.out[2], g.out[1], g.out[0], g.batch)):
        out.bound(var, 0, extent)
    at = ox
    out.reorder(c, ox, gr, oy, oz, n).vectorize(c, lanes, guard)
    if low.transposed and g.stride[2] > 1:
        u, at = hl.Var("u"), hl.Var("rx")
        out.split(ox, u, at, g.stride[2], guard).unroll(at)
    out.fuse(oy, oz, oy).fuse(oy, n, oy)
    if s.parallel:
        out.parallel(oy)
    lifted.compute_at(out, at).vectorize(c, lanes, guard)
    hot = lifted.update(0).reorder(c, k[0], k[1], k[2]).vectorize(c, lanes, guard)
    if low.transposed:
        hot.unroll(k[0])
