"""What an algorithm is, and the geometry that all convolution algorithms share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .cost import PERMUTED_BYTES_PER_CYCLE, pack_s, phase_s

__all__ = ["Algorithm", "Buffer", "Definition", "Geometry"]


@dataclass(frozen=True)
class Buffer:
    """One argument of a compiled function: its name and shape, outermost axis first.

    `strides`, in elements, are given where it is not dense in C order; `dtype` where it is not the problem's.
    """

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Definition:
    """Scheduled Halide code, ready to compile.

    `output` is the Func, or a Pipeline where there are several; `inputs` are its ImageParams in calling order, `buffers`
    describes the inputs and then the outputs.
    `pack_*` is the same for the function that packs the weights once: raw weights in, packed weights out. With `turn`, its
    Func, input and two buffers, raw weights go through that first.
    """

    output: Any
    inputs: list[Any]
    buffers: list[Buffer]
    pack_output: Any
    pack_inputs: list[Any]
    pack_buffers: list[Buffer]
    turn: tuple[Any, Any, list[Buffer]] | None = None


@dataclass(frozen=True)
class Algorithm:
    """One way to compute a problem; a row of the table `ALGORITHMS`.

    `supports(problem)` returns None or the reason why not. `schedules(problem, machine)` lists candidates,
    the best first by the cost model. `check(problem, schedule, machine)` returns None or the reason why a schedule (a
    user's own, perhaps) does not fit. `define` writes the Halide code. `tolerance` bounds the error relative to the
    largest output; `kinds` are the classes of problems it is for, and
    `exact_on_integers` says that small integers give the exact result.

    `accumulates_as_defined` says that every output is the sum of the definition's products, in some order of its terms:
    what `accuracy="strict"` keeps to. Algorithms that transform their input (Winograd, FFT) say False.

    `spreads` and `edges` say which outputs a NaN or an infinity can reach. `spreads(problem, schedule)` gives the outputs of
    a tile along each axis, for algorithms that transform: an input that one of them sees reaches all of them, and a weight
    all outputs of its channel. None: only outputs that have a product with it. `edges` is what becomes of a weight whose
    tap lies outside the image: `"zeros"` multiplies it by zero, which is NaN if it is not finite, `"none"` leaves the
    product out, `"either"` depends on the schedule and the output, but for transposed problems, where it is `"none"`.

    `cost(problem, schedule, machine)` predicts the seconds of one call on all cores, weights packed, inputs where the
    call before left them (in the caches, if they fit); by it algorithms are compared where nothing has been tuned. It is a
    sum of `cost.phase_s`, one for each loop over all cores; it must be quick (some 0.1 ms), measure nothing, and depend on
    its arguments alone. `schedules` should rank by the same model. Without one, `predicted_s` takes the executed MACs and
    twice the workspace as one phase.

    `packing(problem, schedule)` gives the bytes of the packed weights, and how many bytes (read and written) a core moves in
    a cycle while it makes them. Without one, weights are permuted into panels of `tile_channels` output channels; an
    algorithm that `reads_as_stored` packs nothing in a call whose weights are new.
    """

    name: str
    equation: str
    supports: Callable[[Any], str | None]
    schedules: Callable[[Any, Machine], list[Schedule]]
    check: Callable[[Any, Schedule, Machine], str | None]
    define: Callable[[Any, Schedule, Machine], Definition]
    macs_executed: Callable[[Any, Schedule], int]
    workspace_bytes: Callable[[Any, Schedule, int], int]
    parameters: dict[str, str] = field(default_factory=dict)
    kinds: tuple[type, ...] = (ConvProblem,)
    tolerance: float = 3e-6
    exact_on_integers: bool = True
    accumulates_as_defined: bool = True
    spreads: Callable[[Any, Schedule], tuple[int, ...]] | None = None
    edges: str = "zeros"
    cost: Callable[[Any, Schedule, Machine], float] | None = None
    packing: Callable[[Any, Schedule], tuple[int, float]] | None = None
    reads_as_stored: bool = False

    def pack_s(self, problem: Problem, schedule: Schedule, machine: Machine) -> float:
        """Seconds of packing weights in a call by the cost model."""
        if self.reads_as_stored:
            return 0.0
        written, rate = self.packed_bytes(problem, schedule)
        return pack_s(machine, _weight_bytes(problem), written, rate)

    def packed_bytes(self, problem: Problem, schedule: Schedule) -> tuple[int, float]:
        """Bytes of the packed weights, and how many a core moves in a cycle while it makes them."""
        if self.packing is not None:
            return self.packing(problem, schedule)
        columns = problem.n if isinstance(problem, GemmProblem) else problem.out_channels // problem.groups
        padded = ceil_div(columns, schedule.tile_channels) * schedule.tile_channels
        return _weight_bytes(problem) // columns * padded, PERMUTED_BYTES_PER_CYCLE

    def predicted_s(self, problem: Any, schedule: Schedule, machine: Machine) -> float:
        """Seconds of one call by the cost model, not corrected by records."""
        if self.cost is not None:
            return self.cost(problem, schedule, machine)
        workspace = self.workspace_bytes(problem, schedule, machine.cores)
        moved = problem.unique_bytes + 2.0 * workspace
        return phase_s(machine, macs=self.macs_executed(problem, schedule), moved_bytes=moved)


def _weight_bytes(problem: Problem) -> int:
    return 4 * math.prod(problem.b_shape if isinstance(problem, GemmProblem) else problem.w_shape)


@dataclass(frozen=True)
class Geometry:
    """A convolution seen as three-dimensional: the missing outer axes have size one, kernel one and no padding."""

    batch: int
    groups: int
    ic: int  # input channels of one group
    oc: int  # output channels of one group
    size: tuple[int, int, int]  # (d, h, w)
    out: tuple[int, int, int]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    dilation: tuple[int, int, int]
    before: tuple[int, int, int]
    padded_axes: tuple[bool, bool, bool]

    @classmethod
    def of(cls, problem: ConvProblem) -> Geometry:
        """Lift a 1-D, 2-D or 3-D problem."""
        lift = lambda values, fill: (fill,) * (3 - problem.rank) + tuple(values)  # noqa: E731
        return cls(
            batch=problem.batch,
            groups=problem.groups,
            ic=problem.in_channels // problem.groups,
            oc=problem.out_channels // problem.groups,
            size=lift(problem.in_size, 1),
            out=lift(problem.out_size, 1),
            kernel=lift(problem.kernel, 1),
            stride=lift(problem.stride, 1),
            dilation=lift(problem.dilation, 1),
            before=lift((before for before, _ in problem.padding), 0),
            padded_axes=lift(map(any, problem.padding), False),
        )

    @property
    def padded(self) -> bool:
        """Whether any axis has padding."""
        return any(self.padded_axes)

    @property
    def taps(self) -> int:
        """Length of one sum: input channels of a group times kernel positions."""
        return self.ic * math.prod(self.kernel)

    @property
    def pixels(self) -> int:
        """Output positions of one slice (one image and one depth)."""
        return self.out[1] * self.out[2]

    @property
    def slices(self) -> int:
        """Images times output depths."""
        return self.batch * self.out[0]


def strides_of(shape: tuple[int, ...], channels: int = 0, pitch: int = 0) -> tuple[int, ...]:
    """Strides in elements of an array whose innermost axes make up `channels`, with `pitch` from pixel to pixel.

    A pitch of 0 is dense.
    """
    strides, stride, inner, inside = [], 1, 1, bool(pitch)
    for extent in reversed(shape):
        strides.append(stride)
        inner *= extent
        stride *= extent
        if inside and inner == channels:
            stride, inside = pitch, False
    return tuple(reversed(strides))


def only_conv(problem: Problem) -> str | None:
    """The reason why a problem is no plain convolution in float32, or None."""
    if isinstance(problem, GemmProblem):
        return "it computes convolutions, and this is a matrix product"
    if problem.shift is not None:
        return "it does not shift channels; shift and naive do"
    if problem.transposed:
        return "it computes plain convolutions, and this one is transposed"
    if problem.dtype != "float32":
        return f"it is compiled for float32 only, and the problem is {problem.dtype}; naive computes float64"
    return None


def ceil_div(a: int, b: int) -> int:
    """The quotient rounded up."""
    return -(-a // b)
