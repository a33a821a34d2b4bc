"""From a rung's file to machine code: the text is run in a worker process, compiled, and kept in the kernel cache.

Files are compiled with Halide's checks of bounds, because a reader's own schedule may be wrong: then the call returns an
error code instead of writing where it must not.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..algorithms.base import Definition
from ..compile import cache
from ..compile.build import KernelImage, image_of, text_of
from ..compile.store import build_digest, digest_of
from ..compile.workers import TIME_LIMIT_S, run_job
from ..errors import CompileError
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem

__all__ = ["definition_of", "file_image", "file_text", "operands"]


def operands(problem: Problem) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, outermost axis first, of what a rung's code reads: `a, b` of a product, `x, w` of a convolution."""
    if isinstance(problem, GemmProblem):
        return [("a", problem.a_shape), ("b", problem.b_shape)]
    return [("x", problem.x_shape), ("w", problem.w_shape)]


def check_plain(problem: Problem) -> None:
    """Raise `CompileError` for what the files do not compute: groups, epilogues, transposed operands, other ranks."""
    plain = GemmProblem(problem.m, problem.n, problem.k) if isinstance(problem, GemmProblem) else None
    if isinstance(problem, ConvProblem) and problem.rank == 2:
        plain = ConvProblem(  # type: ignore[assignment]
            problem.batch, problem.in_channels, problem.in_size, problem.out_channels, problem.kernel,
            stride=problem.stride, padding=problem.padding, dilation=problem.dilation,
        )  # fmt: skip
    if problem != plain:
        raise CompileError(f"the files of the ladder compute plain float32 products and 2-D convolutions, not {problem}")


def definition_of(text: str, name: str, problem: Problem, machine: Machine) -> Definition:
    """Run a file's `define(problem, machine)`; it gives the output Func and its ImageParams in the order of `operands`.

    Raises `CompileError` for whatever goes wrong in it, with the line.
    """
    import halide as hl

    from ..algorithms.funcs import dense
    from ..layers.base import definition

    check_plain(problem)
    scope: dict[str, Any] = {"__name__": f"ladder_{name}"}
    try:
        exec(compile(text, f"{name}.py", "exec"), scope)
        out, inputs = scope["define"](problem, machine)
        named = [(label, param, shape) for (label, shape), param in zip(operands(problem), _two(inputs))]
        for _, param, shape in named:
            dense(param, shape)
        return definition(out, named, problem.y_shape)
    except hl.HalideError as error:
        raise CompileError(f"Halide refused {name}.py for {problem}: {error}") from None
    except Exception as error:
        raise CompileError(f"{name}.py{_line_of(error, name)}: {type(error).__name__}: {error}") from None


def _two(inputs: Sequence[Any]) -> Sequence[Any]:
    if len(inputs) != 2:
        raise ValueError(f"define() returns (output, [two inputs]), got {len(inputs)} inputs")
    return inputs


def _line_of(error: Exception, name: str) -> str:
    found, at = "", error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == f"{name}.py":
            found = f", line {at.tb_lineno}"
        at = at.tb_next
    return found


def _build(text: str, rung: str, problem: Problem, machine: Machine, name: str) -> KernelImage:
    import halide as hl

    try:
        image = image_of(definition_of(text, rung, problem, machine), machine, name, problem.dtype, asserts=True)
        return image.linked(machine)
    except hl.HalideError as error:
        raise CompileError(f"Halide refused {rung}.py for {problem}: {error}") from None


def _text(text: str, rung: str, problem: Problem, machine: Machine) -> dict[str, str]:
    import halide as hl

    try:
        return text_of(definition_of(text, rung, problem, machine), machine)
    except hl.HalideError as error:
        raise CompileError(f"Halide refused {rung}.py for {problem}: {error}") from None


@functools.lru_cache(maxsize=1)
def _ladder_digest() -> str:
    """Stands for what the files may import of the ladder."""
    return digest_of(sorted(Path(__file__).parent.glob("*.py")))


def file_image(text: str, rung: str, problem: Problem, machine: Machine, time_limit_s: float = TIME_LIMIT_S) -> KernelImage:
    """The code of a file for a problem, from the cache or compiled now. Raises `CompileError`, `CompileTimeout`."""
    parts = ["ladder", text, str(problem), machine.build_key, _ladder_digest(), build_digest()]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:40]
    found = cache.read(key)
    if found:
        return KernelImage.from_parts(*found)
    image: KernelImage = run_job(_build, text, rung, problem, machine, f"k{key[:16]}", time_limit_s=time_limit_s)
    cache.write(key, image.header(), b"".join(image.objects), problem=str(problem), algorithm=f"ladder {rung}")
    return image


def file_text(text: str, rung: str, problem: Problem, machine: Machine) -> dict[str, str]:
    """The loop nest (`"loops"`) and machine code (`"assembly"`) of a file for a problem. Raises `CompileError`."""
    found: dict[str, str] = run_job(_text, text, rung, problem, machine)
    return found
