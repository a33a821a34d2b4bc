"""The shift operator (arXiv 1711.08141) as functions of arrays: alone, and fused with the 1x1 convolution behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import as_array, check_output
from .compile import resolve_threads
from .compile.shifting import shift_channels
from .errors import ArrayError, DtypeError, ProblemError
from .functional import LAYOUTS, Array, _conv
from .problem import DTYPES
from .shift import Shift

__all__ = ["shift2d", "shift_conv2d"]


def shift2d(
    x: Any,
    kernel_size: Any = 3,
    dilation: Any = 1,
    convention: str = "contiguous",
    *,
    layout: str = "NCHW",
    out: Any = None,
    threads: int | None = None,
) -> Array:
    """Move the channels of `x`: `out[n, c, y, x] = x[n, c, y + dy(c), x + dx(c)]`, zero outside (arXiv 1711.08141).

    Args:
        x: float32 or float64, `(n, c, h, w)`, or `(n, h, w, c)` with `layout="NHWC"`.
        kernel_size: one integer or one per axis: as many groups of channels as positions, each moved to its position.
        dilation: how many pixels lie between neighbouring positions; one integer or one per axis.
        convention: `"contiguous"` (groups one after the other, as in the paper) or `"modulo"` (channel c is in group c
            mod K^2, as in shiftnet_cuda_v2); see `sevenloops.shift`. Channels left over do not move.
        layout: `"NCHW"` (default) or `"NHWC"`. An NCHW array whose memory is channels-last gives such a result.
        out: where to write, dense in `layout`; must not overlap `x`.
        threads: at most this many threads; never more than the process may use.

    Returns an array of the shape of `x`. Raises `ProblemError`, `ArrayError`, `DtypeError`, `CompileError`.
    """
    x = as_array("x", x)
    shift = Shift(kernel_size, dilation, convention).of_rank(2)
    if layout not in LAYOUTS:
        raise ProblemError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if x.ndim != 4 or not x.size:
        raise ArrayError(f"x must have 4 axes, none of them empty, got shape {x.shape}")
    if x.dtype.name not in DTYPES:
        raise DtypeError(f"x must be float32 or float64, got {x.dtype}")
    n_threads = resolve_threads(threads)
    view = np.moveaxis(x, 1, -1)
    if layout == "NCHW" and out is None and view.flags.c_contiguous and view.flags.aligned and not x.flags.c_contiguous:
        return np.moveaxis(shift_channels(view, shift, True, n_threads), -1, 1)
    dense = np.require(x, requirements=("C", "A"))
    if out is not None:
        check_output(out, x.shape, x.dtype, {"x": x})
    return shift_channels(dense, shift, layout == "NHWC", n_threads, out)


def shift_conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    kernel_size: Any = 3,
    dilation: Any = 1,
    convention: str = "contiguous",
    stride: Any = 1,
    **options: Any,
) -> Array:
    """`conv2d(shift2d(x), weight, bias, stride)` in one step, without storing what lies between.

    Args:
        x: float32 (or float64: computed by naive), `(n, ic, h, w)`, or `(n, h, w, ic)` with `layout="NHWC"`.
        weight: `(oc, ic, 1, 1)` in either layout.
        bias: `(oc,)` or None.
        kernel_size, dilation, convention: of the shift, as in `shift2d`.
        stride: of the convolution; one integer or one per axis.

    Options (layout, activation, residual, out, threads, algorithm, schedule), result and errors as `conv2d`.
    """
    shift = Shift(kernel_size, dilation, convention).of_rank(2)
    return _conv(2, x, weight, bias, stride, 0, 1, 1, shift=shift, **options)
