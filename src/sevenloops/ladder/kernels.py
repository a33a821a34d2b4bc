"""A rung ready to run on given operands, whatever it is made of."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import address, aligned_empty
from ..compile import compile
from ..compile.build import lowered_text
from ..compile.runtime import LoadedKernel, load
from ..compile.workers import run_job
from ..errors import KernelError
from ..inputs import Inputs
from ..machine import Machine
from ..problem import ConvProblem, Problem
from .build import file_image, file_text
from .table import Rung

__all__ = ["Ready", "python_seconds", "rung_text", "tiny", "warm_cache"]

Array = np.ndarray[Any, Any]

#: The checks of bounds that fail in a wrong schedule, by the number that Halide's runtime gives (HalideRuntime.h).
CODES = {
    -4: "it reads beyond an operand, or writes beyond the output",
    -7: "an operand does not lie as was promised",
    -8: "it needs more of an operand than there is",
    -9: "it needs an operand to lie otherwise",
    -11: "out of memory",
    -27: "a size was promised that is too small",
}


@dataclass(frozen=True)
class Ready:
    """`run()` computes `out` once; `note` says what was chosen where something was.

    `macs_executed` are the multiply-adds that it really does; None where only its file says it.
    """

    run: Callable[[], object]
    out: Array
    note: str = ""
    macs_executed: int | None = None

    @classmethod
    def of(cls, rung: Rung, problem: Problem, inputs: Inputs, threads: int) -> Ready:
        """Compile a rung of Halide code (or take it from the cache) and bind it to operands.

        Raises `CompileError`, `Unsupported`.
        """
        if rung.kind == "file":
            return _file(rung, problem, inputs, threads)
        kernel = compile(problem, algorithm=rung.name if rung.kind == "algorithm" else None, threads=threads)
        bound = kernel.bind(inputs.x, kernel.pack(inputs.w), out=_poisoned(problem))
        return cls(bound.run, bound.out, f"{kernel.algorithm}: {kernel.schedule!r}", kernel.macs_executed)


def _poisoned(problem: Problem) -> Array:
    out = aligned_empty(problem.y_shape, problem.dtype)
    out.fill(math.nan)
    return out


def _aligned(array: Array) -> Array:
    copy = aligned_empty(array.shape, array.dtype.name)
    copy[...] = array
    return copy


def _file(rung: Rung, problem: Problem, inputs: Inputs, threads: int) -> Ready:
    loaded = load(file_image(rung.code(), rung.name, problem, Machine.host()), threads)
    arrays = [_aligned(inputs.x), _aligned(inputs.w), _poisoned(problem)]  # all rungs begin on a cache line
    return Ready(_Call(rung, problem, loaded, arrays), arrays[-1])


class _Call:
    """The code of a file with its operands, which live as long as it does."""

    def __init__(self, rung: Rung, problem: Problem, loaded: LoadedKernel, arrays: list[Array]) -> None:
        self.what, self.loaded, self.arrays = f"{rung.name} for {problem}", loaded, arrays
        self.addresses = [address(array) for array in arrays]

    def __call__(self) -> None:
        code = self.loaded.run(*self.addresses)
        if code:
            why = CODES.get(code, "HalideRuntime.h has the meaning")
            raise KernelError(f"{self.what} failed with Halide's code {code}: {why}")


def warm_cache(rung: Rung, problem: Problem, threads: int) -> None:
    """Compile a rung into the cache, so that linking is all that is left."""
    if rung.kind == "file":
        file_image(rung.code(), rung.name, problem, Machine.host())
    elif rung.compiled:
        compile(problem, algorithm=rung.name if rung.kind == "algorithm" else None, threads=threads)


def rung_text(rung: Rung, problem: Problem) -> dict[str, str]:
    """Loop nest (`"loops"`) and machine code (`"assembly"`) of a rung of Halide code. Raises `CompileError`."""
    if rung.kind == "file":
        return file_text(rung.code(), rung.name, problem, Machine.host())
    kernel = compile(problem, algorithm=rung.name if rung.kind == "algorithm" else None)
    text: dict[str, str] = run_job(lowered_text, problem, kernel.schedule, kernel.machine)
    return text


# ------------------------------------------------------------------------------------------- interpreted Python


def tiny(problem: ConvProblem) -> ConvProblem:
    """The layer with at most 3 input channels, 4 outputs channels and 12 x 12 pixels: what Python can loop over."""
    size = tuple(min(extent, 12) for extent in problem.in_size)
    return dataclasses.replace(
        problem, batch=1, in_channels=min(3, problem.in_channels), out_channels=min(4, problem.out_channels), in_size=size
    )


def convolve(x: list[Any], w: list[Any], problem: ConvProblem) -> list[Any]:
    """The seven loops over nested lists, `x[n][iy][ix][ic]` and `w[oc][ic][ky][kx]`; nothing but the definition."""
    (height, width), (oh, ow), (kh, kw) = problem.in_size, problem.out_size, problem.kernel
    (sy, sx), (dy, dx), ((top, _), (left, _)) = problem.stride, problem.dilation, problem.padding
    y = [[[[0.0] * problem.out_channels for _ in range(ow)] for _ in range(oh)] for _ in range(problem.batch)]
    for n in range(problem.batch):
        for oy in range(oh):
            for ox in range(ow):
                for oc in range(problem.out_channels):
                    for ky in range(kh):
                        for kx in range(kw):
                            iy, ix = oy * sy + ky * dy - top, ox * sx + kx * dx - left
                            if 0 <= iy < height and 0 <= ix < width:
                                for ic in range(problem.in_channels):
                                    y[n][oy][ox][oc] += x[n][iy][ix][ic] * w[oc][ic][ky][kx]
    return y


def python_seconds(problem: ConvProblem, inputs: Inputs) -> tuple[float, Array]:
    """Seconds that `convolve` takes for a problem, and its result."""
    x, w = inputs.x.tolist(), inputs.w.tolist()
    start = time.perf_counter()
    y = convolve(x, w, problem)
    return time.perf_counter() - start, np.asarray(y)
