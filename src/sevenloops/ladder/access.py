"""Which addresses a rung touches, in order: its own code, run with Halide's tracing on a small problem.

Nothing here models a schedule: the loads and stores are those of the scheduled loops, one after the other, on one thread.
So a reader's own schedule is drawn as truly as ours. Two things only the machine code tells (`--assembly`): equal loads of
one turn of a loop, which the compiler merges, are all counted; and what a rung keeps in a tile (its sums) is counted apart,
since it may be a register or the stack.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithms.base import Definition, strides_of
from ..compile.build import define
from ..compile.workers import TIME_LIMIT_S, Worker
from ..errors import CompileError
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .build import definition_of
from .table import LINE, LadderError, Rung
from .tiles import own_tile

__all__ = ["Trace", "small_case", "touches"]

Ints = np.ndarray[Any, np.dtype[np.int64]]
#: A trace of more events would take minutes.
MAX_MACS = 200_000


@dataclass(frozen=True)
class Trace:
    """Every touch of an array, in order: `array` indexes `names`, `first` is its byte there, `size` its bytes.

    `names` begins with the operands and ends with what the rung stores in between (packed panels, columns); `extent` is
    the bytes of each. `local` counts the touches of tiles, which come and go.
    """

    rung: str
    problem: Problem
    names: tuple[str, ...]
    extent: tuple[int, ...]
    array: Ints
    store: np.ndarray[Any, np.dtype[np.bool_]]
    first: Ints
    size: Ints
    local: int

    def lines(self) -> list[tuple[str, int]]:
        """(array, cache line) of every touch in order; a touch that lies across two lines is two."""
        found = []
        for array, first, size in zip(self.array.tolist(), self.first.tolist(), self.size.tolist()):
            found += [(self.names[array], line) for line in range(first // LINE, (first + size - 1) // LINE + 1)]
        return found

    def begin(self) -> int:
        """Where the products begin: when both operands have been loaded (before, outputs are cleared, copies are made)."""
        firsts = [np.flatnonzero((self.array == operand) & ~self.store) for operand in (0, 1)]
        return max(int(found[0]) if found.size else 0 for found in firsts)

    @property
    def bytes_touched(self) -> int:
        """Bytes loaded and stored by the loops, tiles left out."""
        return int(self.size.sum())

    @property
    def intensity(self) -> float:
        """FLOP for each of those bytes: what the load and store units see, where `Case.intensity` is a perfect cache."""
        return 2 * self.problem.macs / self.bytes_touched

    def new_lines(self) -> dict[str, float]:
        """How often an array's next touch is on another line than its last, for 100 multiply-adds of the definition."""
        found = {}
        for index, name in enumerate(self.names):
            lines = self.first[self.array == index] // LINE
            found[name] = 100 * (int(np.count_nonzero(np.diff(lines))) + bool(lines.size)) / self.problem.macs
        return found


def small_case(kind: str) -> Problem:
    """A problem with a few tiles of this machine, small enough to be drawn."""
    if kind == "gemm":
        rows, columns = own_tile(Machine.host())
        return GemmProblem(2 * rows, 2 * columns, 8)
    return ConvProblem(1, 4, (6, 6), 16, (3, 3), padding=((1, 1),))


def touches(rung: Rung, problem: Problem) -> Trace:
    """The trace of a rung of Halide code on a small problem, made in a process of its own (some seconds at most).

    Raises `LadderError` for other libraries and for problems of too many MACs, `CompileError`, `Unsupported`.
    """
    if not rung.compiled:
        raise LadderError(f"{rung.name} is not code of ours, so its addresses are not known")
    if problem.macs > MAX_MACS:
        raise LadderError(f"{problem} has {problem.macs:,} MACs; addresses are traced for at most {MAX_MACS:,}")
    schedule = None if rung.kind == "file" else _schedule(rung, problem)
    worker = Worker()
    try:
        events = worker.run((_trace, (rung.code(), rung.name, schedule, problem, Machine.host())), TIME_LIMIT_S)
    finally:
        worker.stop()
    names, extent, rows, local = events
    table = np.asarray(rows, np.int64).reshape(-1, 4)
    return Trace(rung.name, problem, names, extent, table[:, 0], table[:, 1] == 1, table[:, 2], table[:, 3], local)


def _schedule(rung: Rung, problem: Problem) -> Schedule:
    from ..compile import resolve_schedule

    return resolve_schedule(problem, rung.name if rung.kind == "algorithm" else None, None, Machine.host())[0]


# ---------------------------------------------------------------------------------------------- in the worker


def _trace(text: str, name: str, schedule: Schedule | None, problem: Problem, machine: Machine) -> Any:
    """Run the definition with tracing. Raises `CompileError`."""
    os.environ["HL_NUM_THREADS"] = "1"  # read by Halide's runtime; this process does nothing else
    import contextlib

    import halide as hl

    d = define(problem, schedule, machine) if schedule else definition_of(text, name, problem, machine)
    target = hl.Target(machine.halide_target())
    for feature in ("JIT", "TraceLoads", "TraceStores", "TraceRealizations"):
        target = target.with_feature(getattr(hl.TargetFeature, feature))
    shapes = [_seen(buffer.shape, param.dimensions()) for buffer, param in zip(d.buffers, (*d.inputs, d.output))]
    arrays = [np.ones(shape, problem.dtype) for shape in shapes]
    reader = _Reader(d, shapes, arrays[0].itemsize)
    try:
        for param, array in zip(d.inputs, arrays):
            param.set(hl.Buffer(array))
        with contextlib.redirect_stdout(reader):
            d.output.realize(hl.Buffer(arrays[-1]), target)
    except hl.HalideError as error:
        raise CompileError(f"Halide refused {name} for {problem}: {error}") from None
    return reader.result()


def _seen(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A buffer's sizes as a definition with `rank` axes sees them: some (direct) take pixel and channel as one axis."""
    while len(shape) > rank:
        shape = (*shape[:-2], shape[-2] * shape[-1])
    return shape


class _Reader:
    """Reads the trace as Halide prints it: `Load b.0(<0, 1>, <0, 0>) = ...`, `Begin realization panels.0(0, 64, ...)`."""

    EVENT = re.compile(r"(Load|Store|Begin realization) ([\w$.]+?)\.\d+\((.*?)\)")

    def __init__(self, d: Definition, shapes: list[tuple[int, ...]], item: int) -> None:
        self.item, self.rest, self.local = item, "", 0
        params = [*d.inputs, d.output]
        self.names = [param.name() for param in params]
        self.shown = [buffer.name for buffer in d.buffers]
        self.strides = [tuple(reversed(strides_of(shape))) for shape in shapes]
        self.mins = [(0,) * len(shape) for shape in shapes]
        self.extent = [item * int(np.prod(shape)) for shape in shapes]
        self.realized: dict[str, int] = {}
        self.rows: list[tuple[int, int, int, int]] = []

    def write(self, text: str) -> int:
        """Take in what was printed, line by line."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            found = self.EVENT.match(line)
            if found:
                self._event(*found.groups())
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _event(self, what: str, name: str, at: str) -> None:
        if what == "Begin realization":
            self._realization(name, [int(number) for number in at.split(",")])
        elif name in self.names:
            self._touch(what == "Store", self.names.index(name), at)
        else:
            self.local += 1

    def _realization(self, name: str, bounds: list[int]) -> None:
        self.realized[name] = self.realized.get(name, 0) + 1
        if name == self.names[-1] or name in self.names:
            return
        if self.realized[name] > 1 or not bounds:  # it comes and goes: a tile
            return
        extents = bounds[1::2]
        self.names.append(name)
        self.shown.append(re.sub(r"\$\d+$", "", name))
        self.strides.append(tuple(int(np.prod(extents[:axis])) for axis in range(len(extents))))
        self.mins.append(tuple(bounds[::2]))
        self.extent.append(self.item * int(np.prod(extents)))

    def _touch(self, store: bool, index: int, at: str) -> None:
        axes = [[int(number) for number in axis.strip("<>").split(",")] for axis in re.findall(r"<[^>]*>|-?\d+", at)]
        lanes = max(map(len, axes))
        offsets = [0] * lanes
        for values, stride, least in zip(axes, self.strides[index], self.mins[index]):
            for lane in range(lanes):
                offsets[lane] += ((values[lane] if len(values) > 1 else values[0]) - least) * stride
        if offsets == list(range(offsets[0], offsets[0] + lanes)):
            self.rows.append((index, store, self.item * offsets[0], self.item * lanes))
        else:
            self.rows += [(index, store, self.item * offset, self.item) for offset in offsets]

    def result(self) -> tuple[tuple[str, ...], tuple[int, ...], list[tuple[int, int, int, int]], int]:
        """Names, bytes, touches and the number of touches of tiles; what was realized more than once counts as a tile."""
        tiles = {index for index, name in enumerate(self.names) if self.realized.get(name, 0) > 1}
        kept = [index for index in range(len(self.names)) if index not in tiles]
        moved = {old: new for new, old in enumerate(kept)}
        rows = [(moved[row[0]], *row[1:]) for row in self.rows if row[0] in moved]
        local = self.local + len(self.rows) - len(rows)
        return tuple(self.shown[i] for i in kept), tuple(self.extent[i] for i in kept), rows, local
