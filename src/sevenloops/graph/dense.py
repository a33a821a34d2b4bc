"""Convolutions, products, pools and norms in plain NumPy, NCHW, any floating dtype: the table `DENSE`, operator -> function.

They are written to be trusted and quick enough for tests of whole networks: one matrix product or sum a tap, no loop over
pixels. Windows have explicit attributes (see `windows.resolve`). Fused attributes are not looked at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..shift import Shift, channel_offsets
from . import windows
from .folding import Fold
from .ir import Node
from .limits import check_types, count_step
from .operands import Operands, Type
from .quantised import QUANTISED, integer_product

__all__ = ["DENSE", "shifted"]

Array = np.ndarray[Any, Any]
ALL = slice(None)


def _window(node: Node, xs: Sequence[Any]) -> tuple[Node, tuple[int, ...]]:
    """The node with explicit attributes, and the sizes of its output."""
    types = [None if x is None else Type(x.shape, x.dtype.name) for x in xs]
    node = windows.resolve(Operands(node, types, xs))
    if node.op != "ConvTranspose":  # the padded input is made
        check_types(node, [Type((*xs[0].shape[:2], *_extended(xs[0], node)), xs[0].dtype.name)])
    rule = {"Conv": windows.conv, "ConvTranspose": windows.conv_transpose}.get(node.op, windows.pool)
    shape = rule(Operands(node, types[:3], xs))[0].shape
    assert shape is not None
    return node, shape[2:]


def _padded(x: Array, pads: Sequence[int], value: float = 0) -> Array:
    """`x` with its last axes padded: begins, then ends; negative ones cut."""
    rank = len(pads) // 2
    pairs = list(zip(pads, pads[rank:]))
    cut: tuple[Any, ...] = tuple(
        slice(max(-low, 0), size - max(-high, 0)) for size, (low, high) in zip(x.shape[-rank:], pairs)
    )
    widths = [(0, 0)] * (x.ndim - rank) + [(max(low, 0), max(high, 0)) for low, high in pairs]
    return np.pad(x[(Ellipsis, *cut)], widths, constant_values=value)


def _taps(node: Node, out: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Each position of the kernel with the padded input that it sees."""
    strides, dilations = node.get("strides"), node.get("dilations")
    for k in itertools.product(*map(range, node.get("kernel_shape"))):
        count_step(node)
        starts = [tap * dilation for tap, dilation in zip(k, dilations)]
        yield k, tuple(slice(lo, lo + (n - 1) * step + 1, step) for lo, n, step in zip(starts, out, strides))


def conv(node: Node, xs: Sequence[Any]) -> list[Array]:
    """y[n, g, m, o] = sum over c, k of x[n, g, c, o * stride + k * dilation] * w[g, m, c, k], plus bias."""
    x, w, bias = (*xs, None)[:3]
    node, out = _window(node, xs)
    groups, kernel = node.get("group", 1), node.get("kernel_shape")
    x = _padded(x, node.get("pads")).reshape(x.shape[0], groups, x.shape[1] // groups, *_extended(x, node))
    w = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    y = np.zeros((x.shape[0], groups, w.shape[1], math.prod(out)), np.result_type(x, w))
    for k, seen in _taps(node, out):
        part = x[(ALL, ALL, ALL, *seen)].reshape(*x.shape[:3], math.prod(out))
        weights = w[(ALL, ALL, ALL, *k)]
        # A product of one row and column for each channel would be slow as a matrix product.
        y += part * weights if weights.shape[1:] == (1, 1) else np.matmul(weights, part)
    return [_biased(y.reshape(x.shape[0], groups * w.shape[1], *out), bias)]


def _extended(x: Array, node: Node) -> tuple[int, ...]:
    pads, rank = node.get("pads"), x.ndim - 2
    return tuple(size + low + high for size, low, high in zip(x.shape[2:], pads, pads[rank:]))


def conv_transpose(node: Node, xs: Sequence[Any]) -> list[Array]:
    """y[n, g, m, i * stride + k * dilation - before] += x[n, g, c, i] * w[g, c, m, k], plus bias."""
    x, w, bias = (*xs, None)[:3]
    node, out = _window(node, xs)
    groups, kernel, pads = node.get("group", 1), node.get("kernel_shape"), node.get("pads")
    size, batch = x.shape[2:], x.shape[0]
    x = x.reshape(batch, groups, x.shape[1] // groups, -1)
    w = w.reshape(groups, w.shape[0] // groups, w.shape[1], *kernel)
    canvas = tuple(n + low + high for n, low, high in zip(out, pads, pads[len(out) :]))
    y = np.zeros((batch, groups, w.shape[2], *canvas), np.result_type(x, w))
    for k, reached in _taps(node, size):
        weights = np.swapaxes(w[(ALL, ALL, ALL, *k)], 1, 2)
        y[(ALL, ALL, ALL, *reached)] += np.matmul(weights, x).reshape(batch, groups, -1, *size)
    inside = tuple(slice(low, low + n) for low, n in zip(pads, out))
    return [_biased(y[(ALL, ALL, ALL, *inside)].reshape(batch, -1, *out), bias)]


def _biased(y: Array, bias: Array | None) -> Array:
    return y if bias is None else y + bias.reshape(-1, *(1,) * (y.ndim - 2))


def max_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """The largest of each window; padding is never the largest."""
    (x,) = xs
    node, out = _window(node, xs)
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = _padded(x, _with_overhang(node, x, out), least)
    y = np.full((*x.shape[:2], *out), least, x.dtype)
    for _, seen in _taps(node, out):
        y = np.maximum(y, padded[(ALL, ALL, *seen)])
    return [y]


def average_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """The mean of each window: of its elements inside of the input, or (`count_include_pad`) of the padded input."""
    (x,) = xs
    node, out = _window(node, xs)
    pads = _with_overhang(node, x, out)
    given = node.get("pads") if node.get("count_include_pad", 0) else (0,) * len(pads)
    ones = _padded(np.ones(x.shape[2:], x.dtype), given, 1)
    padded, counted = _padded(x, pads), _padded(ones, [all_ - some for all_, some in zip(pads, given)])
    total, count = np.zeros((*x.shape[:2], *out), x.dtype), np.zeros(out, x.dtype)
    for _, seen in _taps(node, out):
        total += padded[(ALL, ALL, *seen)]
        count += counted[seen]
    return [total / count]


def lp_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """The p-norm of each window."""
    (x,) = xs
    node, out = _window(node, xs)
    padded, total = (
        _padded(np.abs(x) ** node.get("p", 2), _with_overhang(node, x, out)),
        np.zeros((*x.shape[:2], *out), x.dtype),
    )
    for _, seen in _taps(node, out):
        total += padded[(ALL, ALL, *seen)]
    return [total ** (1 / node.get("p", 2))]


def _with_overhang(node: Node, x: Array, out: Sequence[int]) -> tuple[int, ...]:
    """Pads with the ends far enough for the last window (`ceil_mode`)."""
    pads, rank = node.get("pads"), len(out)
    extents = [(k - 1) * d + 1 for k, d in zip(node.get("kernel_shape"), node.get("dilations"))]
    needs = [(n - 1) * step + extent for n, step, extent in zip(out, node.get("strides"), extents)]
    return (*pads[:rank], *(max(high, n - size - low) for low, high, n, size in zip(pads, pads[rank:], needs, x.shape[2:])))


def gemm(node: Node, xs: Sequence[Any]) -> list[Array]:
    """alpha * A' B' + beta * C."""
    a, b, c = (*xs, None)[:3]
    product = (a.T if node.get("transA", 0) else a) @ (b.T if node.get("transB", 0) else b)
    y = product if node.get("alpha", 1.0) == 1 else node.get("alpha") * product
    return [np.asarray(y if c is None else y + node.get("beta", 1.0) * c).astype(a.dtype, copy=False)]


def matmul(node: Node, xs: Sequence[Any]) -> list[Array]:
    """A B, plus a bias in fused nodes."""
    y = np.asarray(np.matmul(xs[0], xs[1]))
    return [y if len(xs) < 3 or xs[2] is None else y + xs[2]]


def batch_norm(node: Node, xs: Sequence[Any]) -> list[Array]:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, a channel."""
    x, scale, bias, mean, variance = (v.reshape(-1, *(1,) * (xs[0].ndim - 2)) if at else v for at, v in enumerate(xs))
    return [(x - mean) / np.sqrt(variance + node.get("epsilon", 1e-5)) * scale + bias]


def group_norm(node: Node, xs: Sequence[Any]) -> list[Array]:
    """InstanceNormalization (a group a channel) and GroupNormalization."""
    x, scale, bias = xs
    groups = node.get("num_groups", x.shape[1])
    y = _normal(x.reshape(x.shape[0], groups, -1), -1, node.get("epsilon", 1e-5)).reshape(x.shape)
    scale, bias = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in (scale, bias))
    return [y * scale + bias]


def layer_norm(node: Node, xs: Sequence[Any]) -> list[Array]:
    """Over the axes from `axis` on."""
    x, scale, bias = (*xs, None)[:3]
    axes = tuple(range(node.get("axis", -1) % x.ndim, x.ndim))
    y = _normal(x, axes, node.get("epsilon", 1e-5)) * scale
    return [y if bias is None else y + bias]


def _normal(x: Array, axes: Any, epsilon: float) -> Array:
    mean = x.mean(axes, keepdims=True)
    return np.asarray((x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + epsilon))


def mean_variance(node: Node, xs: Sequence[Any]) -> list[Array]:
    """(x - mean) / (deviation + 1e-9) over `axes`."""
    (x,), axes = xs, tuple(node.get("axes", (0, 2, 3)))
    mean = x.mean(axes, keepdims=True)
    return [(x - mean) / (np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True)) + 1e-9)]


def lrn(node: Node, xs: Sequence[Any]) -> list[Array]:
    """x / (bias + alpha / size * sum of squares over `size` channels) ** beta."""
    (x,) = xs
    size, channels = node.get("size"), x.shape[1]
    squares = np.pad(x**2, [(0, 0), ((size - 1) // 2, size // 2), *[(0, 0)] * (x.ndim - 2)])
    total = sum(squares[:, at : at + channels] for at in range(size))
    return [x / (node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total) ** node.get("beta", 0.75)]


def softmax(node: Node, xs: Sequence[Any]) -> list[Array]:
    """exp(x - m) / sum of it, m the largest; the logarithm for LogSoftmax."""
    (x,), axis = xs, node.get("axis", -1)
    if not x.size:
        return [x]
    rest = x - x.max(axis, keepdims=True)
    if node.op == "LogSoftmax":
        return [rest - np.log(np.exp(rest).sum(axis, keepdims=True))]
    return [np.exp(rest) / np.exp(rest).sum(axis, keepdims=True)]


def global_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """GlobalAveragePool, GlobalMaxPool."""
    axes = tuple(range(2, xs[0].ndim))
    return [(np.max if node.op == "GlobalMaxPool" else np.mean)(xs[0], axes, keepdims=True)]


def global_lp_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """The p-norm of each channel."""
    p = node.get("p", 2)
    return [(np.abs(xs[0]) ** p).sum(tuple(range(2, xs[0].ndim)), keepdims=True) ** (1 / p)]


def max_roi_pool(node: Node, xs: Sequence[Any]) -> list[Array]:
    """The largest of each bin of regions `(image, x1, y1, x2, y2)`, ends included; an empty bin is zero (Fast R-CNN)."""
    x, regions = xs
    rows, columns = node.get("pooled_shape")
    y = np.zeros((len(regions), x.shape[1], rows, columns), x.dtype)
    for r, (image, *corners) in enumerate(regions):
        x1, y1, x2, y2 = (math.floor(corner * node.get("spatial_scale", 1.0) + 0.5) for corner in corners)
        for i, j in itertools.product(range(rows), range(columns)):
            bins = _bin(y1, y2, i, rows, x.shape[2]), _bin(x1, x2, j, columns, x.shape[3])
            part = x[(int(image), ALL, *bins)]
            y[r, :, i, j] = part.max((1, 2)) if part.size else 0
    return [y]


def _bin(first: int, last: int, at: int, count: int, size: int) -> slice:
    each = max(last - first + 1, 1) / count
    low, high = (min(max(first + edge, 0), size) for edge in (math.floor(at * each), math.ceil((at + 1) * each)))
    return slice(low, high)


def shifted(node: Node, xs: Sequence[Any]) -> list[Array]:
    """Our Shift: each channel read a few pixels away, zero outside; with `frames`, a few frames (`passes.temporal`)."""
    (x,) = xs
    frames = node.get("frames", 1)
    if frames > 1:  # images (clips * frames, c, h, w) are clips (clips, c, frames, h * w)
        clips = x.reshape(-1, frames, x.shape[1], x[0, 0].size).swapaxes(1, 2)
        (moved,) = shifted(node.with_attributes(frames=1), [clips])
        return [moved.swapaxes(1, 2).reshape(x.shape)]
    given = (node.get("kernel", (3, 3)), node.get("dilation", (1, 1)), node.get("convention", "contiguous"))
    shift = Shift(*given, node.get("phases", (1, 1)))
    out = np.zeros_like(x)
    for c, offset in enumerate(channel_offsets(shift.of_rank(x.ndim - 2), x.shape[1])):
        axes = list(zip(offset, x.shape[2:]))
        to = tuple(slice(max(0, -by), max(0, size - by)) for by, size in axes)
        out[(ALL, c, *to)] = x[(ALL, c, *(slice(max(0, by), max(0, size + by)) for by, size in axes))]
    return [out]


DENSE: dict[str, Fold] = {
    **QUANTISED,
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvInteger": lambda node, xs: integer_product(node, xs, conv, "Conv", (1, 0)),
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_pool,
    "GroupNormalization": group_norm,
    "InstanceNormalization": group_norm,
    "LRN": lrn,
    "LayerNormalization": layer_norm,
    "LogSoftmax": softmax,
    "LpPool": lp_pool,
    "MatMul": matmul,
    "MatMulInteger": lambda node, xs: integer_product(node, xs, matmul, "MatMul", (-2, -1)),
    "MaxPool": max_pool,
    "MaxRoiPool": max_roi_pool,
    "MeanVarianceNormalization": mean_variance,
    "Softmax": softmax,
}
