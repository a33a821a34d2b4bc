"""Compiled layers that are neither convolutions nor products."""

from __future__ import annotations

from ..algorithms.base import Algorithm
from ..rows import Rows

__all__ = ["LAYERS"]

#: Every layer by name, and where it is.
LAYERS: Rows[Algorithm] = Rows(
    __name__,
    {
        "transpose": "transpose:TRANSPOSE",
        "shift_layer": "shift:SHIFT_LAYER",
        "copy_slice": "copy_slice:COPY_SLICE",
        "pool": "pool:POOL",
        "elementwise": "elementwise:ELEMENTWISE",
        "reduce": "reduce:REDUCE",
        "lrn": "lrn:LRN_LAYER",
        "softmax": "softmax:SOFTMAX",
        "normalize": "normalize:NORMALIZE",
        "permute": "permute:PERMUTE",
        "slice": "moves:SLICE",
        "pad": "moves:PAD",
        "concat": "moves:CONCAT",
        "resize": "resize:RESIZE",
        "batch_norm": "batch_norm:BATCH_NORM",
        "batch_norm_gradient": "batch_norm:BATCH_NORM_GRADIENT",
        "pool_indices": "pool_gradient:POOL_INDICES",
        "pool_gradient": "pool_gradient:POOL_GRADIENT",
        "lrn_gradient": "lrn_gradient:LRN_GRADIENT",
        "channel_sums": "batch_norm:CHANNEL_SUMS",
    },
)
