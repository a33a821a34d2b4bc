"""The same seven loops with the steps of the product: a tile in registers, vectors, unrolling, all cores.

The vectors run along the output channels, so the weights are turned around first (that copy is part of the time); a tile
is a few neighbouring pixels of a row by one or more vectors of channels.
"""

from __future__ import annotations

import math
from typing import Any

import halide as hl

from sevenloops.ladder.tiles import own_tile


def define(problem: Any, machine: Any) -> Any:
    """The convolution (channels last, weights as oc, ic, ky, kx), and its schedule."""
    x, w = hl.ImageParam(hl.Float(32), 4, "x"), hl.ImageParam(hl.Float(32), 4, "w")
    oc, ox, oy, n, ic, kx, ky = (hl.Var(v) for v in ("oc", "ox", "oy", "n", "ic", "kx", "ky"))
    turned, padded, sums, y = hl.Func("turned"), hl.Func("padded"), hl.Func("sums"), hl.Func("y")
    (sy, sx), (dy, dx), ((top, _), (left, _)) = problem.stride, problem.dilation, problem.padding
    (height, width), (kh, kw) = problem.in_size, problem.kernel
    taps = hl.RDom([hl.Range(0, problem.in_channels), hl.Range(0, kw), hl.Range(0, kh)], "tap")
    edge = hl.BoundaryConditions.constant_exterior(
        x, 0.0, [(0, problem.in_channels), (0, width), (0, height), (0, problem.batch)]
    )
    turned[oc, ic, kx, ky] = w[kx, ky, ic, oc]
    padded[ic, ox, oy, n] = edge[ic, ox - left, oy - top, n]
    sums[oc, ox, oy, n] = 0.0
    at = taps[0], ox * sx + taps[1] * dx, oy * sy + taps[2] * dy
    sums[oc, ox, oy, n] += padded[(*at, n)] * turned[oc, taps[0], taps[1], taps[2]]
    y[oc, ox, oy, n] = sums[oc, ox, oy, n]

    pixels, channels = own_tile(machine)
    pixels, channels = min(pixels, problem.out_size[1]), min(channels, problem.out_channels)
    lanes = math.gcd(channels, machine.lanes)
    tile, pixel, panel, lane = hl.Var("tile"), hl.Var("pixel"), hl.Var("panel"), hl.Var("lane")
    y.split(ox, tile, pixel, pixels).split(oc, panel, lane, channels).reorder(lane, pixel, tile, panel, oy, n)
    y.vectorize(lane, lanes).unroll(lane).unroll(pixel).fuse(oy, n, oy).parallel(oy)
    sums.compute_at(y, tile).bound_extent(oc, channels).bound_extent(ox, pixels)
    sums.vectorize(oc, lanes).unroll(oc).unroll(ox)
    sums.update().reorder(oc, ox, taps[0], taps[1], taps[2]).vectorize(oc, lanes).unroll(oc).unroll(ox)
    turned.compute_root().vectorize(oc, lanes, hl.TailStrategy.GuardWithIf).parallel(ky)
    padded.compute_at(y, oy)
    return y, [x, w]
