"""Running the compiled layers that have no weights (`sevenloops.layers`): transposes and shifts."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithms import Algorithm
from ..arrays import address
from ..errors import KernelError
from ..machine import Machine
from .runtime import LoadedKernel, load
from .store import kernel_image
from .workers import TIME_LIMIT_S

__all__ = ["run_layer"]

_loaded: dict[tuple[Any, int], LoadedKernel] = {}


def run_layer(row: Algorithm, problem: Any, threads: int, *arrays: np.ndarray[Any, Any]) -> None:
    """Run a layer's best schedule on arrays in calling order; compiled on first use, then kept. Raises `KernelError`."""
    kernel = _loaded.get((problem, threads))
    if kernel is None:
        machine = Machine.host()
        image = kernel_image(problem, row.schedules(problem, machine)[0], machine, TIME_LIMIT_S)
        kernel = _loaded.setdefault((problem, threads), load(image, threads))
    if kernel.run(*map(address, arrays)):
        raise KernelError(f"{problem} failed (out of memory?)")
