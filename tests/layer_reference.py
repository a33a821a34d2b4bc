"""The layers computed in NumPy as they are defined, in float64: written to be trusted, not to be fast."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pool(p: Any, x: Array) -> Array:
    """Every window of every image, tap by tap; what lies outside of the image is left out."""
    y = np.empty(p.y_shape)
    for o in itertools.product(*map(range, p.out_size)):
        total = np.full((p.batch, p.channels), -np.inf if p.kind == "max" else 0.0)
        count = 0
        for k in itertools.product(*map(range, p.kernel)):
            at = [oo * s + kk * d - b for oo, s, kk, d, (b, _) in zip(o, p.stride, k, p.dilation, p.padding)]
            padded = all(-b <= i < size + a for i, size, (b, a) in zip(at, p.in_size, p.padding))
            inside = all(0 <= i < size for i, size in zip(at, p.in_size))
            count += padded if p.count_include_pad else inside
            if inside:
                pixel = x[(slice(None), *at)]
                total = np.maximum(total, pixel) if p.kind == "max" else total + pixel
        y[(slice(None), *o)] = total if p.kind == "max" else total / count
    return y
