"""Compiling and running the layers that have no weights (`sevenloops.layers`): transposes, shifts, pools and their like."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithms import Algorithm
from ..arrays import address
from ..errors import KernelError
from ..layers import LAYERS
from ..machine import Machine
from .runtime import LoadedKernel, load
from .store import kernel_image
from .workers import TIME_LIMIT_S

__all__ = ["compile_layer", "layer_of", "run_layer"]

_loaded: dict[tuple[Any, int], LoadedKernel] = {}


def layer_of(problem: Any) -> Algorithm:
    """The row of `LAYERS` that computes a problem."""
    return next(row for row in LAYERS.values() if row.supports(problem) is None)


def compile_layer(problem: Any, threads: int, row: Algorithm | None = None) -> LoadedKernel:
    """A layer's best schedule, compiled on first use and then kept. Raises `CompileError`."""
    kernel = _loaded.get((problem, threads))
    if kernel is None:
        machine, row = Machine.host(), row or layer_of(problem)
        image = kernel_image(problem, row.schedules(problem, machine)[0], machine, TIME_LIMIT_S)
        kernel = _loaded.setdefault((problem, threads), load(image, threads))
    return kernel


def run_layer(row: Algorithm, problem: Any, threads: int, *arrays: np.ndarray[Any, Any]) -> None:
    """Run a layer on arrays in calling order. Raises `KernelError`."""
    if compile_layer(problem, threads, row).run(*map(address, arrays)):
        raise KernelError(f"{problem} failed (out of memory?)")
