"""`sevenloops compile`: fill the cache ahead of time, with a progress bar; for a model, all that a run needs."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..compile import Kernel, compile_many
from ..errors import GraphError
from ..graph.kept import folder
from ..machine import Machine
from ..problem import Problem
from ..session import InferenceSession
from .problems import named_shapes

__all__ = ["compile_command", "compile_model_command"]

COLUMNS = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


def compile_command(problems: Sequence[Problem], algorithm: str | None, isa: str | None, accuracy: str) -> None:
    """Compile every problem; one line each says what was chosen."""
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(problems))

        def done(problem: Problem, result: Kernel | Exception) -> None:
            progress.advance(task)

        machine = Machine.described(isa) if isa else None
        kernels = compile_many(problems, algorithm=algorithm, machine=machine, accuracy=accuracy, on_done=done)
    for kernel in kernels:
        print(f"{kernel.problem}: {kernel.schedule!r}")


def compile_model_command(model: str, shapes: Sequence[str], accuracy: str) -> None:
    """Compile an ONNX file and keep its program; one line says how large that is, and how to use it."""
    sizes = named_shapes(shapes)
    with Progress(*COLUMNS, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=None)
        session = InferenceSession(
            model,
            accuracy=accuracy,
            shapes=sizes or None,
            cache_weights=True,
            progress=lambda label, done, total: progress.update(task, completed=done, total=total),
        )
    if not session.kept_bytes:
        raise GraphError(f"{model}: the kernels are compiled, but no program is kept; the warning says why")
    given = f", shapes={sizes}" if sizes else ""
    options = f', accuracy="{accuracy}"' if accuracy != "fast" else ""
    print(
        f"{model}: {session.kept_bytes / 2**20:.1f} MiB in {folder()}, used by InferenceSession({model!r}{given}{options})"
    )
