"""Rules for ATen's layers: convolutions, products, normalisation, pools, reductions, resizing. See `backend_aten`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .backend_kept import kept
from .backend_translation import Names, Rule, Shape, Translation, need, shape_of

__all__ = ["LAYERS"]

aten = torch.ops.aten


def _full(values: Sequence[int], rank: int) -> Shape:
    """Numbers for each axis, of which PyTorch may give one for all."""
    return tuple(values) * rank if len(values) == 1 else tuple(values)


def _scale(t: Translation, node: Any, value: Any, channels: int, default: float, what: str) -> Any:
    """A weight or bias of channels, which PyTorch may leave out."""
    return t.build.constant(f"{node.name} {what}", np.full(channels, default, np.float32)) if value is None else value


# ---- layers with weights --------------------------------------------------------------------------------------------


def _convolution(
    t: Translation, node: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, extra: Any, groups: int,
) -> str:  # fmt: skip
    rank = len(shape_of(x)) - 2
    pads = _full(padding, rank)
    window: dict[str, Any] = {"strides": _full(stride, rank), "pads": pads * 2, "dilations": _full(dilation, rank)}
    if transposed:
        window["output_padding"] = _full(extra, rank)
    operands = [x, weight] if bias is None else [x, weight, bias]
    kernel = shape_of(weight)[2:]
    op = "ConvTranspose" if transposed else "Conv"
    return t.node(op, operands, shape_of(node), node.name, kernel_shape=kernel, group=groups, **window)


def _is_t(node: Any) -> bool:
    """Whether a node is a matrix transposed, as in every linear layer: Gemm has an attribute for that."""
    return node.op == "call_function" and node.target == aten.t.default and len(shape_of(node)) == 2


def _addmm(t: Translation, node: Any, c: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> str:
    turned = _is_t(b) and b.args[0] in t.names
    operands = [a, b.args[0] if turned else b] + ([] if c is None else [c])
    return t.node("Gemm", operands, shape_of(node), node.name, transB=int(turned), alpha=float(alpha), beta=float(beta))


def _mm(t: Translation, node: Any, a: Any, b: Any) -> str:
    return _addmm(t, node, None, a, b)


def _bmm(t: Translation, node: Any, a: Any, b: Any) -> str:
    return t.node("MatMul", [a, b], shape_of(node), node.name)


# ---- normalisation --------------------------------------------------------------------------------------------------


def _batch_norm(
    t: Translation, node: Any, x: Any, weight: Any, bias: Any, mean: Any, variance: Any, momentum: float, epsilon: float
) -> Names:
    channels = shape_of(x)[1]
    scale, shift = _scale(t, node, weight, channels, 1.0, "weight"), _scale(t, node, bias, channels, 0.0, "bias")
    y = t.node("BatchNormalization", [x, scale, shift, mean, variance], shape_of(x), node.name, epsilon=float(epsilon))
    return y, None, None


def _layer_norm(t: Translation, node: Any, x: Any, sizes: Any, weight: Any, bias: Any, epsilon: float) -> Names:
    shape = shape_of(x)
    operands = [x, t.build.constant(f"{node.name} ones", np.ones(sizes, np.float32)) if weight is None else weight]
    operands += [] if bias is None else [bias]
    axis = len(shape) - len(sizes)
    return t.node("LayerNormalization", operands, shape, node.name, axis=axis, epsilon=float(epsilon)), None, None


def _group_norm(
    t: Translation, node: Any, x: Any, weight: Any, bias: Any, n: int, channels: int, pixels: int, groups: int,
    epsilon: float,
) -> Names:  # fmt: skip
    need(len(shape_of(x)) > 2, f"it normalises {shape_of(x)}; three axes or more are compiled")
    scale, shift = _scale(t, node, weight, channels, 1.0, "weight"), _scale(t, node, bias, channels, 0.0, "bias")
    attributes = {"num_groups": groups, "epsilon": float(epsilon)}
    return t.node("GroupNormalization", [x, scale, shift], shape_of(x), node.name, **attributes), None, None


def _softmax(op: str) -> Rule:
    def rule(t: Translation, node: Any, x: Any, axis: int, half: bool) -> str:
        return t.node(op, [x], shape_of(x), node.name, axis=axis)

    return rule


def _lrn(t: Translation, node: Any, x: Any, size: int, alpha: float, beta: float, k: float) -> str:
    need(size % 2 == 1, f"it sums over {size} channels; PyTorch and ONNX place even windows differently")
    need(len(shape_of(x)) > 2, f"it normalises {shape_of(x)}; three axes or more are compiled")
    return t.node("LRN", [x], shape_of(x), node.name, size=size, alpha=float(alpha), beta=float(beta), bias=float(k))


# ---- pools, reductions, resizing ------------------------------------------------------------------------------------


def _window(x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, rank: int) -> dict[str, Any]:
    need(len(shape_of(x)) == rank + 2, f"its input is {shape_of(x)}; images without a batch axis are not compiled")
    full = _full(kernel, rank)
    strides = _full(stride, rank) if stride else full
    return {"kernel_shape": full, "strides": strides, "pads": _full(padding, rank) * 2, "ceil_mode": int(ceil)}


def _max_pool(rank: int) -> Rule:
    def rule(t: Translation, node: Any, x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil: bool) -> Names:
        window = _window(x, kernel, stride, padding, ceil, rank)
        shape = tuple(node.meta["val"][0].shape)
        return t.node("MaxPool", [x], shape, node.name, **window, dilations=_full(dilation, rank)), None

    return rule


def _average_pool(rank: int) -> Rule:
    def rule(
        t: Translation, node: Any, x: Any, kernel: Any, stride: Any, padding: Any, ceil: bool, counted: bool, divisor: Any
    ) -> str:
        need(divisor is None, "it divides by a number of its own")
        window = _window(x, kernel, stride, padding, ceil, rank)
        return t.node("AveragePool", [x], shape_of(node), node.name, **window, count_include_pad=int(counted))

    return rule


def _adaptive(op: str, x: Any, out: Shape) -> dict[str, Any]:
    """The window of an adaptive pool, which is the same everywhere where the sizes divide."""
    sizes = shape_of(x)[2:]
    whole = len(sizes) == len(out) and not any(size % parts for size, parts in zip(sizes, out))
    need(whole, f"{op} makes {out} of {shape_of(x)}; sizes that divide are compiled")
    kernel = tuple(size // parts for size, parts in zip(sizes, out))
    return {"kernel_shape": kernel, "strides": kernel, "pads": (0,) * (2 * len(out)), "ceil_mode": 0}


def _adaptive_average(t: Translation, node: Any, x: Any, out: Any) -> str:
    return t.node("AveragePool", [x], shape_of(node), node.name, **_adaptive("it", x, tuple(out)))


def _adaptive_max(t: Translation, node: Any, x: Any, out: Any) -> Names:
    shape = tuple(node.meta["val"][0].shape)
    return t.node("MaxPool", [x], shape, node.name, **_adaptive("it", x, tuple(out))), None


def _reduce(op: str) -> Rule:
    def rule(t: Translation, node: Any, x: Any, axes: Any = None, keep: bool = False, dtype: Any = None) -> str:
        rank = len(shape_of(x))
        need(rank > 0, "it reduces a single number")
        given = [axes] if isinstance(axes, int) else axes
        where = sorted(axis % rank for axis in given) if given else list(range(rank))
        return t.node(op, [x, t.sizes(f"{node.name} axes", where)], shape_of(node), node.name, keepdims=int(keep))

    return rule


#: Mode of F.interpolate -> mode, coordinates and rounding of ONNX's Resize.
RESIZES = {
    "nearest": ("nearest", "asymmetric", "floor"),
    "nearest-exact": ("nearest", "half_pixel", "round_prefer_ceil"),
    **dict.fromkeys(("linear", "bilinear", "trilinear"), ("linear", "half_pixel", "floor")),
    "bicubic": ("cubic", "half_pixel", "floor"),
}


def _check_nearest(sizes: Shape, out: Shape, factors: Any, start: float) -> None:
    """PyTorch looks for the nearest pixel in float32; where that rounds across a border, only PyTorch finds the same."""
    for at, (size, length) in enumerate(zip(sizes, out)):
        theirs = size / length if factors is None else 1 / factors[at]
        ours = size / length if factors is None else 1 / float(np.float32(factors[at]))  # a constant of the graph
        pixels = np.arange(length) + start
        same = np.floor(pixels.astype(np.float32) * np.float32(theirs)) == np.floor(pixels * ours)
        need(bool(same.all()), f"from {size} pixels to {length}, PyTorch's rounding picks other ones")


def _resize(
    t: Translation, node: Any, x: Any, size: Any, factors: Any, mode: str, corners: Any, recompute: Any, antialias: bool
) -> str:
    need(mode in RESIZES and not antialias, f"the mode is {mode!r}{', antialiased' if antialias else ''}")
    given_factors = None if factors is None or recompute else _full(factors, len(shape_of(x)) - 2)
    if mode.startswith("nearest"):
        _check_nearest(shape_of(x)[2:], shape_of(node)[2:], given_factors, 0.5 if mode == "nearest-exact" else 0.0)
    how, coordinates, rounding = RESIZES[mode]
    shape = shape_of(node)
    attributes = {
        "mode": how, "coordinate_transformation_mode": "align_corners" if corners else coordinates,
        "nearest_mode": rounding, "cubic_coeff_a": -0.75,
    }  # fmt: skip
    if given_factors is not None:
        scales = np.asarray((1.0, 1.0, *given_factors), np.float32)
        given = [x, "", t.build.constant(f"{node.name} scales", scales)]
    else:
        given = [x, "", "", t.sizes(f"{node.name} sizes", shape)]
    return t.node("Resize", given, shape, node.name, **attributes)


#: Overloads of ATen, and operators of `backend_kept`, to their rules.
LAYERS: dict[Any, Rule] = {
    aten.convolution.default: _convolution,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten._softmax.default: _softmax("Softmax"),
    aten._log_softmax.default: _softmax("LogSoftmax"),
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
    aten.avg_pool1d.default: _average_pool(1),
    aten.avg_pool2d.default: _average_pool(2),
    aten.avg_pool3d.default: _average_pool(3),
    aten._adaptive_avg_pool2d.default: _adaptive_average,
    aten._adaptive_avg_pool3d.default: _adaptive_average,
    aten.adaptive_max_pool2d.default: _adaptive_max,
    aten.adaptive_max_pool3d.default: _adaptive_max,
    aten.mean.default: _reduce("ReduceMean"),
    aten.mean.dim: _reduce("ReduceMean"),
    aten.sum.default: _reduce("ReduceSum"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    aten.amax.default: _reduce("ReduceMax"),
    aten.amin.default: _reduce("ReduceMin"),
    kept.interpolate.default: _resize,
    kept.local_response_norm.default: _lrn,
}
