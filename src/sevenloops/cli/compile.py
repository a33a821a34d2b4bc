"""`sevenloops compile`: fill the cache ahead of time, with a progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..compile import Kernel, compile_many
from ..machine import Machine
from ..problem import Problem

__all__ = ["compile_command"]


def compile_command(problems: Sequence[Problem], algorithm: str | None, isa: str | None, accuracy: str) -> None:
    """Compile every problem; one line each says what was chosen."""
    columns = (TextColumn("compiling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(problems))

        def done(problem: Problem, result: Kernel | Exception) -> None:
            progress.advance(task)

        machine = Machine.described(isa) if isa else None
        kernels = compile_many(problems, algorithm=algorithm, machine=machine, accuracy=accuracy, on_done=done)
    for kernel in kernels:
        print(f"{kernel.problem}: {kernel.schedule!r}")
