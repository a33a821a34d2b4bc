"""copy_slice: rows of channels into or out of a slice of a larger tensor's channels; how concatenations and splits copy.

Each row is read and written once, in whole vectors. Limit: memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..algorithms.base import Algorithm, Buffer, Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule

__all__ = ["COPY_SLICE", "CopySlice"]


@dataclass(frozen=True)
class CopySlice:
    """`rows` of `channels` float32 values, `in_pitch` values apart where they are read, `out_pitch` where they go."""

    rows: int
    channels: int
    in_pitch: int
    out_pitch: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if min(self.rows, self.channels) < 1 or min(self.in_pitch, self.out_pitch) < self.channels:
            raise ProblemError(f"rows of channels need sizes of at least 1 and pitches of at least the channels, got {self}")

    def __str__(self) -> str:
        return f"copy_slice r{self.rows} c{self.channels} ip{self.in_pitch} op{self.out_pitch}"


def define(problem: CopySlice, schedule: Schedule, machine: Machine) -> Definition:
    """The copy, row by row."""
    import halide as hl

    from ..algorithms.funcs import dense, image, strided

    shape = (problem.rows, problem.channels)
    x = hl.ImageParam(hl.Float(32), 2, "x")
    c, r = hl.Var("c"), hl.Var("r")
    out = hl.Func("out")
    out[c, r] = x[c, r]
    out.bound(c, 0, problem.channels).bound(r, 0, problem.rows)
    lanes = machine.lanes
    while lanes > problem.channels:
        lanes //= 2
    out.vectorize(c, lanes, hl.TailStrategy.ShiftInwards)
    if schedule.parallel:
        out.parallel(r, max(1, problem.rows // (4 * machine.cores)))
    strides = [(pitch, 1) for pitch in (problem.in_pitch, problem.out_pitch)]
    strided(x, shape, strides[0])
    strided(out.output_buffer(), shape, strides[1])
    nothing, i, w = hl.Func("nothing"), hl.Var("i"), image("w", (1,))
    nothing[i] = w[i]
    dense(nothing.output_buffer(), (1,))
    buffers = [Buffer("x", shape, strides[0]), Buffer("y", shape, strides[1])]
    return Definition(out, [x], buffers, nothing, [w], [Buffer("w", (1,)), Buffer("packed", (1,))])


def schedules(problem: CopySlice, machine: Machine) -> list[Schedule]:
    """One; small copies do not pay for the thread pool."""
    return [Schedule("copy_slice", parallel=machine.cores > 1 and problem.rows * problem.channels > 50_000)]


COPY_SLICE = Algorithm(
    name="copy_slice",
    equation="y[r, c] = x[r, c]",
    supports=lambda problem: None if isinstance(problem, CopySlice) else "it copies rows of channels",
    schedules=schedules,
    check=lambda problem, schedule, machine: None,
    define=define,
    macs_executed=lambda problem, schedule: 0,
    workspace_bytes=lambda problem, schedule, threads: 0,
)
