"""Compiled gradients of a convolution's weights. (That of its input is a convolution: `sevenloops.adjoint`.)"""

from __future__ import annotations

from ..algorithms.base import Algorithm
from ..rows import Rows

__all__ = ["GRADIENTS"]

#: Every algorithm for a `WeightGradient` by name, and where it is; the order decides only between equal predictions.
GRADIENTS: Rows[Algorithm] = Rows(
    __name__,
    {
        "gradient_direct": "direct:DIRECT",
        "gradient_depthwise": "depthwise:DEPTHWISE",
        "gradient_winograd": "winograd:WINOGRAD",
        "gradient_naive": "naive:NAIVE",
    },
)
