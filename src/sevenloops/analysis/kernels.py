"""What the kernels of a plan are, in words: `Kernel.explain` of the convolutions and products, loop nests of all."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..compile import Kernel
from ..compile.explain import explain, explain_layer
from ..compile.workers import compile_all
from ..errors import CompileError
from ..graph.plan import Plan
from ..machine import Machine

__all__ = ["kernel_texts"]


def kernel_texts(plan: Plan, on_done: Callable[[int, int], None] = lambda done, total: None) -> dict[str, str]:
    """Schedule, work and loop nest of each distinct kernel of a plan, by its problem, in order of the steps.

    Halide lowers each of them again, about a second apiece, as many at once as there are cores. A text that cannot be had
    says why.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for planned in plan.steps:
        if planned.kernel is not None:
            found.setdefault(str(planned.problem), (planned.problem, planned.kernel))
    tasks = [functools.partial(_text, problem, kernel) for problem, kernel in found.values()]
    texts: list[Any] = [None] * len(tasks)
    for done, (at, text) in enumerate(compile_all(tasks, Machine.host().cores), 1):
        if isinstance(text, Exception) and not isinstance(text, CompileError):
            raise text
        texts[at] = str(text)
        on_done(done, len(tasks))
    return dict(zip(found, texts))


def _text(problem: Any, kernel: Any) -> str:
    return explain(kernel) if isinstance(kernel, Kernel) else explain_layer(problem)
