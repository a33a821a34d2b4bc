"""permute: the axes of an array in another order, `y[i0, i1, ..] = x[i at the axes' places]`.

Axes that stay neighbours become one. Where the innermost axis moves, squares of 16 x 16 are read and written whole, as in
`transpose`. Limit: memory. (ONNX operator Transpose.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from .base import as_integers, as_shape, check_float32, definition, dims, layer_row, tasks, vectorize

__all__ = ["PERMUTE", "Permute"]

SQUARE = 16


@dataclass(frozen=True)
class Permute:
    """NumPy's `transpose(axes)`: axis `i` of the output is axis `axes[i]` of the input. Raises `ProblemError`."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", as_shape("shape", self.shape))
        object.__setattr__(self, "axes", as_integers("axes", self.axes, len(self.shape)))
        if sorted(self.axes) != list(range(len(self.shape))):
            raise ProblemError(f"axes must be each of {tuple(range(len(self.shape)))} once, got {self.axes}")
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return (self.shape,)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def blocks(self) -> tuple[list[int], list[int]]:
        """`(sizes of the input's axes, order)` once axes that stay neighbours are one and those of size one are gone."""
        axes = [axis for axis in self.axes if self.shape[axis] > 1]
        groups: list[list[int]] = []
        for axis in axes:
            follows = groups and axis > groups[-1][-1] and all(self.shape[a] == 1 for a in range(groups[-1][-1] + 1, axis))
            if follows:
                groups[-1].append(axis)
            else:
                groups.append([axis])
        placed = sorted(range(len(groups)), key=lambda g: groups[g][0])
        sizes = [math.prod(self.shape[axis] for axis in groups[g]) for g in placed]
        return sizes or [1], [placed.index(g) for g in range(len(groups))] or [0]

    def __str__(self) -> str:
        return f"permute {dims(self.shape)} to {','.join(map(str, self.axes))}"


def define_permute(problem: Permute, schedule: Schedule, machine: Machine) -> Definition:
    """One loop nest over the output."""
    import halide as hl

    from ..algorithms.funcs import image

    sizes, order = problem.blocks
    shape = tuple(sizes[axis] for axis in order)
    x = image("x", tuple(sizes))
    names = [hl.Var(f"i{at}") for at in range(len(order))]  # outermost first, of the output
    source = [names[order.index(axis)] for axis in range(len(order))]
    out = hl.Func("out")
    out[names[::-1]] = x[source[::-1]]
    inner, across = names[-1], names[order.index(len(order) - 1)]
    if inner is across:
        vectorize(out, inner, shape[-1], machine.lanes, 4)
        outer = [(names[at], shape[at]) for at in range(len(shape) - 2, -1, -1)]
    else:
        at = order.index(len(order) - 1)
        ro, ri, co, ci = (hl.Var(v) for v in ("ro", "ri", "co", "ci"))
        square_r, square_c = min(SQUARE, shape[-1]), min(SQUARE, shape[at])
        out.split(inner, ro, ri, square_r, hl.TailStrategy.ShiftInwards)
        out.split(across, co, ci, square_c, hl.TailStrategy.ShiftInwards)
        rest = [names[a] for a in range(len(shape) - 2, -1, -1) if a != at]
        out.reorder(ri, ci, co, ro, *rest).vectorize(ri)
        if square_c <= 4:
            out.unroll(ci)
        outer = [(ro, -(-shape[-1] // square_r))] + [(names[a], shape[a]) for a in range(len(shape) - 2, -1, -1) if a != at]
    if schedule.parallel and outer:
        tasks(out, outer, machine)
    return definition(out, [("x", x, tuple(sizes))], shape)


PERMUTE = layer_row(
    "permute", "y[i0, i1, ..] = x[i at the axes' places]", Permute, define_permute, work=lambda p: math.prod(p.shape)
)
