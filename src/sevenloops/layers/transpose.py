"""transpose: change the order of two axes, `y[b, c, r] = x[b, r, c]`; how NCHW arrays enter and leave.

Squares of 16 x 16 are read and written whole, so that every cache line that is touched is used up. Limit: memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algorithms.base import Algorithm, Buffer, Definition
from ..machine import Machine
from ..schedule import Schedule

__all__ = ["TRANSPOSE", "Transpose"]

SQUARE = 16


@dataclass(frozen=True)
class Transpose:
    """`batch` matrices of `rows` x `cols` float32 values, to be stored by columns."""

    batch: int
    rows: int
    cols: int
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"transpose mb{self.batch} r{self.rows} c{self.cols}"


def define(problem: Transpose, schedule: Schedule, machine: Machine) -> Definition:
    """The copy, by squares."""
    import halide as hl

    from ..algorithms.funcs import dense, image

    x_shape, y_shape = (problem.batch, problem.rows, problem.cols), (problem.batch, problem.cols, problem.rows)
    x = image("x", x_shape)
    r, c, b, ro, ri, co, ci = (hl.Var(v) for v in ("r", "c", "b", "ro", "ri", "co", "ci"))
    out = hl.Func("out")
    out[r, c, b] = x[c, r, b]
    out.bound(r, 0, problem.rows).bound(c, 0, problem.cols).bound(b, 0, problem.batch)
    square_r, square_c = min(SQUARE, problem.rows), min(SQUARE, problem.cols)
    out.split(r, ro, ri, square_r).split(c, co, ci, square_c).reorder(ri, ci, co, ro, b).vectorize(ri)
    if square_c <= 4:
        out.unroll(ci)
    if schedule.parallel:
        out.fuse(ro, b, ro).parallel(ro, max(1, problem.batch * problem.rows // square_r // (8 * machine.cores)))
    dense(out.output_buffer(), y_shape)
    nothing, w = hl.Func("nothing"), image("w", (1,))
    nothing[r] = w[r]
    dense(nothing.output_buffer(), (1,))
    buffers = [Buffer("x", x_shape), Buffer("y", y_shape)]
    return Definition(out, [x], buffers, nothing, [w], [Buffer("w", (1,)), Buffer("packed", (1,))])


def schedules(problem: Transpose, machine: Machine) -> list[Schedule]:
    """One; small matrices do not pay for the thread pool."""
    n_elements = problem.batch * problem.rows * problem.cols
    return [Schedule("transpose", parallel=machine.cores > 1 and n_elements > 100_000)]


TRANSPOSE = Algorithm(
    name="transpose",
    equation="y[b, c, r] = x[b, r, c]",
    supports=lambda problem: None if isinstance(problem, Transpose) else "it transposes matrices",
    schedules=schedules,
    check=lambda problem, schedule, machine: None,
    define=define,
    macs_executed=lambda problem, schedule: 0,
    workspace_bytes=lambda problem, schedule, threads: 0,
)
