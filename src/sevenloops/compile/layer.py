"""Running the compiled layers, which have no weights (`sevenloops.layers`): any number of inputs, one output."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..algorithms import Algorithm
from ..arrays import address
from ..errors import KernelError
from ..layers import LAYERS
from ..machine import Machine
from ..recent import Recent
from ..schedule import Schedule
from .build import TIME_LIMIT_S
from .runtime import LoadedKernel, load
from .store import kept_image, kernel_image

__all__ = ["compile_layer", "layer_kept", "layer_kernel", "layer_of", "run_layer"]

_loaded: Recent[tuple[Any, int], LoadedKernel] = Recent()


def layer_of(problem: Any) -> Algorithm:
    """The row of `LAYERS` that computes a problem."""
    return next(row for row in LAYERS.values() if row.supports(problem) is None)


def layer_kernel(
    row: Algorithm, problem: Any, threads: int, *, machine: Machine | None = None, schedule: Schedule | None = None
) -> LoadedKernel:
    """A layer compiled and linked: `run` takes the addresses of the inputs in calling order and of the output.

    `machine` is this one, `schedule` the layer's best, where they are left out. Raises `CompileError`.
    """
    machine = machine or Machine.host()
    schedule = schedule or row.schedules(problem, machine)[0]
    return load(kernel_image(problem, schedule, machine, TIME_LIMIT_S), threads)


def layer_kept(problem: Any, threads: int) -> LoadedKernel | None:
    """As `compile_layer` if the code is in this process or in the cache, which takes a millisecond; else None."""
    kernel = _loaded.find((problem, threads))
    if kernel is None:
        machine = Machine.host()
        image = kept_image(problem, layer_of(problem).schedules(problem, machine)[0], machine)
        kernel = None if image is None else _loaded.keep((problem, threads), load(image, threads))
    return kernel


def compile_layer(problem: Any, threads: int) -> LoadedKernel:
    """The best schedule of the layer that computes a problem; compiled on first use, then kept."""
    kernel = _loaded.find((problem, threads))
    if kernel is None:
        kernel = _loaded.keep((problem, threads), layer_kernel(layer_of(problem), problem, threads))
    return kernel


def run_layer(row: Algorithm, problem: Any, threads: int, *arrays: np.ndarray[Any, Any]) -> None:
    """Run a layer's best schedule on dense float32 arrays: the inputs in calling order, then the output.

    Nothing is checked: shapes and dtypes must be the problem's. Compiled on first use, then kept. Raises `KernelError`.
    """
    kernel = _loaded.find((problem, threads))
    if kernel is None:
        kernel = _loaded.keep((problem, threads), layer_kernel(row, problem, threads))
    if kernel.run(*map(address, arrays)):
        raise KernelError(f"{problem} failed (out of memory?)")
