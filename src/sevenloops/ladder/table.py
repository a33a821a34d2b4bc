"""The rungs of the two ladders, as tables. A rung is a file of Halide code, an algorithm of ours, or another library."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..algorithms import ALGORITHMS
from ..errors import SevenLoopsError
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from .tiles import own_tile

__all__ = ["CONV", "GEMM", "KINDS", "LADDERS", "LadderError", "Rung", "own_rung", "rungs_named"]

HERE = Path(__file__).parent
LINE = 64  # bytes that a cache fetches at once


class LadderError(SevenLoopsError, ValueError):
    """A rung or a file that does not exist or does not fit."""


#: What must stay in a cache for the reuse that a rung counts on: words -> bytes.
WorkingSets = Callable[[Problem, Machine], dict[str, int]]


def _operands(problem: Problem, machine: Machine) -> dict[str, int]:
    return {"every operand and the result, once": problem.unique_bytes}


@dataclass(frozen=True)
class Rung:
    """One step of a ladder.

    `kind` says where it comes from: "file" (`source` defines it), "algorithm" (`source` empty; a row of `ALGORITHMS`),
    "chosen" (whatever `sevenloops.compile` takes), "engine" (another library, in its own process), "python" (interpreted).
    """

    name: str
    adds: str
    kind: str
    source: Path | None = None
    working_sets: WorkingSets = _operands

    @property
    def compiled(self) -> bool:
        """Whether it is code that Halide compiled here."""
        return self.kind in ("file", "algorithm", "chosen")

    def code(self) -> str:
        """The Halide code: the file as it stands, or the definition of the algorithm; empty for other libraries."""
        if self.source is not None:
            try:
                return self.source.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise LadderError(f"cannot read the schedule {self.source}: {error}") from None
        if self.kind == "algorithm":
            define = ALGORITHMS[self.name].define
            return f"# {inspect.getmodule(define).__name__}\n\n{inspect.getsource(define)}"  # type: ignore[union-attr]
        return ""


# ------------------------------------------------------------------------------------------------- the product


def _gemm(problem: Problem) -> GemmProblem:
    assert isinstance(problem, GemmProblem)
    return problem


def _ijk_sets(problem: Problem, machine: Machine) -> dict[str, int]:
    p = _gemm(problem)
    return {
        "a column of B, a line for each value, for the next 15 columns": LINE * p.k,
        "all of B, for the next row of C": 4 * p.k * p.n,
    }


def _ikj_sets(problem: Problem, machine: Machine) -> dict[str, int]:
    p = _gemm(problem)
    return {"a row of C, for the next k": 4 * p.n, "all of B, for the next row of C": 4 * p.k * p.n}


def _tile_sets(rows: int | None = None, columns: int | None = None) -> WorkingSets:
    def sets(problem: Problem, machine: Machine) -> dict[str, int]:
        p, own = _gemm(problem), own_tile(machine)
        mr, nr = rows or own[0], columns or own[1]
        return {
            f"{mr} x {nr} sums": 4 * mr * nr,
            f"{mr} rows of A, for the next tile": 4 * mr * p.k,
            "all of B, for the next row of tiles": 4 * p.k * p.n,
        }

    return sets


def _packed_sets(problem: Problem, machine: Machine) -> dict[str, int]:
    p, (mr, nr) = _gemm(problem), own_tile(machine)
    return {
        f"{mr} x {nr} sums (registers)": 4 * mr * nr,
        f"a panel of B, {nr} columns, for the next tile": 4 * nr * p.k,
        f"a block of A, {12 * mr} rows, for the next panel": 4 * 12 * mr * p.k,
        "all of B, for the next block": 4 * p.k * p.n,
    }


def _gemm_file(name: str, adds: str, working_sets: WorkingSets) -> Rung:
    return Rung(name, adds, "file", HERE / "gemm" / f"{name}.py", working_sets)


GEMM: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        _gemm_file("ijk", "the definition: a sum over k for each output", _ijk_sets),
        _gemm_file("ikj", "another order: the inner loop runs along rows", _ikj_sets),
        _gemm_file("tile6x16", "a tile of 6 x 16 sums, with k inside", _tile_sets(6, 16)),
        _gemm_file("tile", "the tile that fits this machine's registers", _tile_sets()),
        _gemm_file("vector", "vectors of columns, multiply and add fused", _tile_sets()),
        _gemm_file("parallel", "all cores", _tile_sets()),
        _gemm_file("unroll", "no loops in the tile: its sums are registers", _tile_sets()),
        _gemm_file("packed", "B in panels, rows of A in blocks", _packed_sets),
        Rung("tuned", "sevenloops.compile: a searched schedule, B packed once", "chosen"),
        Rung("numpy", "NumPy's BLAS", "engine"),
    )
}

# --------------------------------------------------------------------------------------------- the convolution


def _conv(problem: Problem) -> ConvProblem:
    assert isinstance(problem, ConvProblem)
    return problem


def _loops_sets(problem: Problem, machine: Machine) -> dict[str, int]:
    p = _conv(problem)
    rows = p.kernel[0] * p.in_size[1] * p.in_channels
    return {
        "the patch under the kernel, for the next channel": 4 * p.in_channels * p.kernel[0] * p.kernel[1],
        "all weights, for the next pixel": 4 * p.out_channels * p.in_channels * p.kernel[0] * p.kernel[1],
        "rows under the kernel, for the next row": 4 * rows,
    }


def _algorithm(name: str, adds: str) -> Rung:
    return Rung(name, adds, "algorithm")


CONV: dict[str, Rung] = {
    rung.name: rung
    for rung in (
        Rung("python", "seven loops, interpreted; a tiny layer, extrapolated by its MACs", "python"),
        Rung("loops", "the seven loops, compiled as they stand", "file", HERE / "conv" / "loops.py", _loops_sets),
        Rung(
            "hand",
            "tile, vectors, unrolling, cores: the steps of the product",
            "file",
            HERE / "conv" / "hand.py",
            _loops_sets,
        ),
        _algorithm("im2col", "patches written out as a matrix, and one product"),
        _algorithm("kn2row", "a product for each tap, shifted sums"),
        _algorithm("direct", "the tiled product reads patches where they lie"),
        _algorithm("fft", "multiplications of spectra"),
        _algorithm("winograd", "fewer multiplications"),
        Rung("tuned", "sevenloops.compile: the fastest of all for this layer", "chosen"),
        Rung("torch", "PyTorch", "engine"),
        Rung("onnxruntime", "ONNX Runtime", "engine"),
    )
}

LADDERS: dict[str, dict[str, Rung]] = {"gemm": GEMM, "conv": CONV}
KINDS: dict[str, type] = {"gemm": GemmProblem, "conv": ConvProblem}


def own_rung(path: Path) -> Rung:
    """A rung that is a reader's own file; raises `LadderError` if there is no such file."""
    if not path.is_file():
        raise LadderError(f"cannot read the schedule {path}: there is no such file")
    return Rung(path.stem, "your own schedule", "file", path.resolve())


def rungs_named(kind: str, names: tuple[str, ...] = ()) -> list[Rung]:
    """The rungs of a ladder ("gemm", "conv") in order, or those named; raises `LadderError` for an unknown name."""
    table = LADDERS[kind]
    unknown = [name for name in names if name not in table]
    if unknown:
        raise LadderError(f"ladder {kind} has no rung {', '.join(unknown)}; the rungs are {', '.join(table)}")
    return [rung for name, rung in table.items() if not names or name in names]
