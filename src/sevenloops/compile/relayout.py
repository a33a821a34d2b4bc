"""Between NCHW and NHWC: views where the memory already lies that way, compiled transposes elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import aligned_empty
from ..layers.transpose import TRANSPOSE, Transpose
from .layer import run_layer

__all__ = ["channels_first", "channels_last"]

Array = np.ndarray[Any, Any]
#: NumPy's own strided copy is faster for so few elements, as nothing has to be looked up.
SMALL = 4096
#: The axes in the other order, by their number: a small call has no time to put them together.
_TO_LAST = {ndim: (0, *range(2, ndim), 1) for ndim in range(3, 6)}
_TO_FIRST = {ndim: (0, ndim - 1, *range(1, ndim - 1)) for ndim in range(3, 6)}


def channels_last(x: Array, threads: int) -> Array:
    """`(n, c, *spatial)` to a dense `(n, *spatial, c)`; no copy when the memory is in that order already."""
    view = x.transpose(_TO_LAST[x.ndim])
    if view.flags.c_contiguous:
        return view
    if x.size <= SMALL or x.dtype != np.float32 or not (x.flags.c_contiguous and x.flags.aligned):
        return np.ascontiguousarray(view)
    out = aligned_empty(view.shape)
    run_layer(TRANSPOSE, Transpose(x.shape[0], x.shape[1], x[0, 0].size), threads, x, out)
    return out


def channels_first(y: Array, threads: int, out: Array | None = None) -> Array:
    """A dense `(n, *spatial, c)` to a dense `(n, c, *spatial)`, into `out` if it is given."""
    view = y.transpose(_TO_FIRST[y.ndim])
    small = y.size <= SMALL or y.dtype != np.float32
    if out is None:
        if small:
            return view.copy(order="C")
        out = aligned_empty(view.shape, y.dtype)
    if small:
        out[...] = view
        return out
    run_layer(TRANSPOSE, Transpose(y.shape[0], y[0, ..., 0].size, y.shape[-1]), threads, y, out)
    return out
