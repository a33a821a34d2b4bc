"""Calling the shift operator as a layer of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import aligned_empty
from ..layers.shift import SHIFT_LAYER, ShiftLayer
from ..shift import Shift
from .layer import run_layer

__all__ = ["shift_channels"]

Array = np.ndarray[Any, Any]


def shift_channels(x: Array, shift: Shift, channels_last: bool, threads: int, out: Array | None = None) -> Array:
    """Move the channels of a dense `x[n, h, w, c]` (or `x[n, c, h, w]`) into `out`, or into a new array."""
    n, *sizes = x.shape
    channels = sizes.pop() if channels_last else sizes.pop(0)
    problem = ShiftLayer(n, sizes[0], sizes[1], channels, shift, channels_last, x.dtype.name)
    out = aligned_empty(x.shape, x.dtype) if out is None else out
    run_layer(SHIFT_LAYER, problem, threads, x, out)
    return out
