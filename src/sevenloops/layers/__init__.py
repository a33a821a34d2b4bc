"""Compiled layers that are neither convolutions nor products."""

from __future__ import annotations

from .copy_slice import COPY_SLICE
from .elementwise import ELEMENTWISE
from .lrn import LRN_LAYER
from .moves import CONCAT, PAD, SLICE
from .normalize import NORMALIZE
from .permute import PERMUTE
from .pool import POOL
from .reduce import REDUCE
from .resize import RESIZE
from .shift import SHIFT_LAYER
from .softmax import SOFTMAX
from .transpose import TRANSPOSE

__all__ = ["LAYERS"]

ROWS = (
    TRANSPOSE,
    SHIFT_LAYER,
    COPY_SLICE,
    POOL,
    ELEMENTWISE,
    REDUCE,
    LRN_LAYER,
    SOFTMAX,
    NORMALIZE,
    PERMUTE,
    SLICE,
    PAD,
    CONCAT,
    RESIZE,
)
#: Every layer by name.
LAYERS = {row.name: row for row in ROWS}
