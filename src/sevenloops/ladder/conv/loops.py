"""The seven loops, compiled as they stand: image, row, column, output channel; kernel row, kernel column, input channel."""

from __future__ import annotations

from typing import Any

import halide as hl


def define(problem: Any, machine: Any) -> Any:
    """The convolution (channels last, weights as oc, ic, ky, kx), and its schedule."""
    x, w = hl.ImageParam(hl.Float(32), 4, "x"), hl.ImageParam(hl.Float(32), 4, "w")  # x[c, x, y, n], w[kx, ky, ic, oc]
    oc, ox, oy, n, y = hl.Var("oc"), hl.Var("ox"), hl.Var("oy"), hl.Var("n"), hl.Func("y")
    (sy, sx), (dy, dx), ((top, _), (left, _)) = problem.stride, problem.dilation, problem.padding
    (height, width), (kh, kw) = problem.in_size, problem.kernel
    taps = hl.RDom([hl.Range(0, problem.in_channels), hl.Range(0, kw), hl.Range(0, kh)], "tap")
    ic, kx, ky = taps[0], taps[1], taps[2]
    padded = hl.BoundaryConditions.constant_exterior(
        x, 0.0, [(0, problem.in_channels), (0, width), (0, height), (0, problem.batch)]
    )
    y[oc, ox, oy, n] = 0.0
    y[oc, ox, oy, n] += padded[ic, ox * sx + kx * dx - left, oy * sy + ky * dy - top, n] * w[kx, ky, ic, oc]

    y.update().reorder(ic, kx, ky, oc, ox, oy, n)
    return y, [x, w]
