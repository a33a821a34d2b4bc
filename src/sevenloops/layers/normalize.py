"""normalize: mean and variance over some axes, then scale and bias.

    y = (x - mean) / sqrt(variance + epsilon) * scale + bias,    variance = mean over the axes of (x - mean)^2

Instance normalisation of channels-last images reduces the middle axes; layer normalisation the last ones; group
normalisation is given as `(n, pixels, groups, channels of a group)` and reduces the second and the last. The mean is found
before the variance, long sums in float64. Limit: memory; the array is read three times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from .base import as_shape, check_float32, collapsed, definition, dims, layer_row, padded_to, tasks, vectorize, width
from .reduce import as_axes, reduction_loops

__all__ = ["NORMALIZE", "Normalize"]

#: Vectors of a kept innermost axis that are reduced side by side.
VECTORS = 4


@dataclass(frozen=True)
class Normalize:
    """Over `axes` of an array of `shape`. `scale` and `bias` are shapes that broadcast to it; None leaves one out.

    Inputs in calling order: the array, then scale and bias where there are any. Raises `ProblemError`.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    scale: tuple[int, ...] | None = None
    bias: tuple[int, ...] | None = None
    epsilon: float = 1e-5
    dtype: str = "float32"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("shape", as_shape("shape", self.shape))
        put("axes", as_axes(self.axes, len(self.shape)))
        put("epsilon", float(self.epsilon))
        for name in ("scale", "bias"):
            value = getattr(self, name)
            if value is None:
                continue
            put(name, as_shape(name, value))
            sizes = padded_to(getattr(self, name), len(self.shape))
            if len(sizes) > len(self.shape) or any(a not in (1, b) for a, b in zip(sizes, self.shape)):
                raise ProblemError(f"the {name} of shape {value} does not broadcast to {self.shape}")
        if not self.axes:
            raise ProblemError("a normalisation needs an axis to take the mean over")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ProblemError(f"epsilon must be a number of at least 0, got {self.epsilon}")
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return tuple(shape for shape in (self.shape, self.scale, self.bias) if shape is not None)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return self.shape

    @property
    def loops(self) -> list[tuple[int, tuple[bool, ...]]]:
        """Axes left when neighbours of a kind are one: `(size, (reduced, in scale, in bias))`, outermost first."""
        rank = len(self.shape)
        sizes = [padded_to(shape, rank) for shape in self.x_shapes[1:]]
        kinds = [(axis in self.axes, *(size[axis] > 1 for size in sizes)) for axis in range(rank)]
        absent = (False,) * len(sizes)
        return reduction_loops(collapsed(self.shape, kinds), (False, *absent), (True, *absent))

    def __str__(self) -> str:
        parts = [f"{name}{dims(shape)}" for name, shape in (("scale", self.scale), ("bias", self.bias)) if shape is not None]
        return " ".join(["normalize", dims(self.shape), f"axes{','.join(map(str, self.axes))}", *parts, repr(self.epsilon)])


def define(problem: Normalize, schedule: Schedule, machine: Machine) -> Definition:
    """Two reductions inside a loop over what is kept, and the array once more."""
    import halide as hl

    from ..algorithms.funcs import image
    from .reduction import Reduction

    loops = problem.loops
    shape, axes = tuple(size for size, _ in loops), [(size, kind[0]) for size, kind in loops]
    names = [hl.Var(f"i{axis}") for axis in range(len(loops))]
    kept = [name for name, (_, reduced) in zip(names, axes) if not reduced]
    share = hl.f32(1 / math.prod(size for size, reduced in axes if reduced))
    x = image("x", shape)
    inputs, factors = _factors(problem, names)
    mean = Reduction("mean", axes, kept, lambda at: x[at[::-1]], "sum", machine.lanes)
    middle = mean.value(kept[::-1]) * share
    apart = lambda at: hl.strict_float((x[at[::-1]] - middle) * (x[at[::-1]] - middle))  # noqa: E731
    spread = Reduction("spread", axes, kept, apart, "sum", machine.lanes)
    factor = hl.Func("factor")
    factor[kept[::-1]] = hl.strict_float(hl.f32(1) / hl.sqrt(spread.value(kept[::-1]) * share + hl.f32(problem.epsilon)))
    value = (x[names[::-1]] - middle) * factor[kept[::-1]]
    for label, operand in factors:
        value = value * operand if label == "scale" else value + operand
    out = hl.Func("out")
    out[names[::-1]] = hl.strict_float(value)
    place, vectors = _schedule(out, names, loops, schedule, machine)
    for stage in (mean, spread):
        stage.compute_at(out, place, vectors)
    factor.compute_at(out, place)
    if not axes[-1][1]:
        factor.bound_extent(kept[-1], mean.lanes * vectors).vectorize(kept[-1], mean.lanes)
    return definition(out, [("x", x, shape), *inputs], shape)


def _factors(problem: Normalize, names: list[Any]) -> tuple[list[tuple[str, Any, tuple[int, ...]]], list[tuple[str, Any]]]:
    """Scale and bias as inputs, and what is read of each at an element."""
    from ..algorithms.funcs import image

    inputs, factors = [], []
    labels = [label for label, given in (("scale", problem.scale), ("bias", problem.bias)) if given is not None]
    for at, label in enumerate(labels):
        present = [axis for axis, (_, kind) in enumerate(problem.loops) if kind[1 + at]]
        size = tuple(problem.loops[axis][0] for axis in present) or (1,)
        param = image(label, size)
        inputs.append((label, param, size))
        factors.append((label, param[[names[axis] for axis in reversed(present)] or [0]]))
    return inputs, factors


def _schedule(out: Any, names: list[Any], loops: list[Any], schedule: Schedule, machine: Machine) -> tuple[Any, int]:
    """Loops over what is kept outside, over what is reduced inside: the loop whose turns share their mean, its vectors."""
    import halide as hl

    *rows, (extent, (inner_reduced, *_)) = loops
    lanes = width(extent, machine.lanes)
    vectors = 1 if inner_reduced else max(1, min(VECTORS, extent // lanes))
    block = vectorize(out, names[-1], extent, machine.lanes, vectors)
    reduced = [name for name, (_, kind) in zip(names, rows) if kind[0]]
    outer = [(name, size) for name, (size, kind) in zip(names, rows) if not kind[0]][::-1]
    inside = [block] if inner_reduced else []
    if not inner_reduced:
        outer.insert(0, (block, -(-extent // (lanes * vectors))))
    out.reorder(hl.Var(f"{names[-1].name()}_lane"), *inside, *reversed(reduced), *(name for name, _ in outer))
    return (tasks(out, outer, machine) if schedule.parallel else outer[0][0]), vectors


NORMALIZE = layer_row(
    "normalize",
    "y = (x - mean) / sqrt(variance + epsilon) * scale + bias",
    Normalize,
    define,
    work=lambda problem: 3 * math.prod(problem.shape),
)
