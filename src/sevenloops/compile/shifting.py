"""Calling the shift operator as a layer of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import address, aligned_empty
from ..errors import KernelError
from ..layers.shift import SHIFT_LAYER, ShiftLayer
from ..machine import Machine
from ..shift import Shift
from .runtime import LoadedKernel, load
from .store import kernel_image
from .workers import TIME_LIMIT_S

__all__ = ["shift_channels"]

Array = np.ndarray[Any, Any]
_loaded: dict[tuple[ShiftLayer, int], LoadedKernel] = {}


def shift_channels(x: Array, shift: Shift, channels_last: bool, threads: int, out: Array | None = None) -> Array:
    """Move the channels of a dense `x[n, h, w, c]` (or `x[n, c, h, w]`) into `out`, or into a new array."""
    n, *sizes = x.shape
    channels = sizes.pop() if channels_last else sizes.pop(0)
    problem = ShiftLayer(n, sizes[0], sizes[1], channels, shift, channels_last, x.dtype.name)
    kernel = _loaded.get((problem, threads))
    if kernel is None:
        machine = Machine.host()
        image = kernel_image(problem, SHIFT_LAYER.schedules(problem, machine)[0], machine, TIME_LIMIT_S)  # type: ignore[arg-type]
        kernel = _loaded.setdefault((problem, threads), load(image, threads))
    out = aligned_empty(x.shape, x.dtype) if out is None else out
    if kernel.run(address(x), address(out)):
        raise KernelError(f"{problem} failed (out of memory?)")
    return out
