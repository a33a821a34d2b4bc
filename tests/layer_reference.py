"""The layers computed in NumPy as they are defined, in float64: written to be trusted, not to be fast."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from sevenloops.layers import expression

Array = np.ndarray[Any, Any]


def pool(p: Any, x: Any) -> Array:
    """Every window of every image, tap by tap; what lies outside of the image is left out."""
    y: Any = np.empty(p.y_shape)
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
    return np.asarray(y)


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf, otypes=[float])(x))


def _sigmoid(x: Array) -> Array:
    return np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))


def _softplus(x: Array) -> Array:
    return np.logaddexp(0, x)


def _clip(x: Array, low: float, high: float) -> Array:
    return np.minimum(np.maximum(x, low), high)


#: The operators of `layers.expression`, as ONNX defines them.
OPERATORS: dict[str, Any] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "prelu": lambda x, slope: np.where(x < 0, slope * x, x),
    "neg": np.negative,
    "abs": np.abs,
    "reciprocal": lambda x: 1 / x,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "erf": _erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "softplus": _softplus,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "hard_swish": lambda x: x * _clip(x / 6 + 0.5, 0, 1),
    "silu": lambda x: x * _sigmoid(x),
    "leaky_relu": lambda x, a: np.where(x < 0, a * x, x),
    "elu": lambda x, a: np.where(x < 0, a * np.expm1(x), x),
    "celu": lambda x, a: np.where(x < 0, a * np.expm1(x / a), x),
    "selu": lambda x, a, g: g * np.where(x < 0, a * np.expm1(x), x),
    "hard_sigmoid": lambda x, a, b: _clip(a * x + b, 0, 1),
    "clip": _clip,
    "thresholded_relu": lambda x, a: np.where(x <= a, 0, x),
}


def elementwise(p: Any, *inputs: Array) -> Array:
    """The expression, operator by operator."""

    def value(e: Any) -> Any:
        if not isinstance(e, tuple):
            return np.float64(np.float32(e)) if isinstance(e, float) else inputs[e]
        count = expression.OPERATORS[e[0]].operands
        return OPERATORS[e[0]](*map(value, e[1 : 1 + count]), *e[1 + count :])

    return np.broadcast_to(value(p.expression), p.out_shape).astype(np.float64)


def _logsumexp(x: Array, axis: Any) -> Array:
    largest = x.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total = np.exp(x - largest).sum(axis=axis)
    return np.asarray(np.log(total) + largest.reshape(total.shape))


REDUCTIONS: dict[str, Any] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "l1": lambda x, axis: np.abs(x).sum(axis=axis),
    "l2": lambda x, axis: np.sqrt((x * x).sum(axis=axis)),
    "sumsq": lambda x, axis: (x * x).sum(axis=axis),
    "logsum": lambda x, axis: np.log(x.sum(axis=axis)),
    "logsumexp": _logsumexp,
}


def reduce(p: Any, x: Array) -> Array:
    """NumPy's own reductions; without axes each element is reduced alone."""
    if not p.axes:
        return REDUCTIONS[p.kind](x[..., None], axis=x.ndim).reshape(p.y_shape)  # type: ignore[no-any-return]
    return np.asarray(REDUCTIONS[p.kind](x, axis=p.axes))


def local_norm(p: Any, x: Array) -> Array:
    """Channel by channel, as ONNX defines LRN."""
    y = np.empty_like(x)
    for c in range(x.shape[-1]):
        window = x[..., max(0, c - (p.size - 1) // 2) : c + p.size // 2 + 1]
        y[..., c] = x[..., c] / (p.bias + p.alpha / p.size * (window**2).sum(axis=-1)) ** p.beta
    return y


def softmax(p: Any, x: Array) -> Array:
    """Exponentials of the distance to the largest value, over their sum."""
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    y = powers / powers.sum(axis=1, keepdims=True)
    return np.asarray(x - x.max(axis=1, keepdims=True) - np.log(powers.sum(axis=1, keepdims=True)) if p.log else y)


def move(p: Any, *inputs: Array) -> Array:
    """Permute, Slice, Pad and Concat by NumPy's functions of those names."""
    kind, x = type(p).__name__, inputs[0]
    if kind == "Permute":
        return x.transpose(p.axes)
    if kind == "Slice":
        return x[np.ix_(*(s + st * np.arange(n) for s, st, n in zip(p.starts, p.steps, p.sizes)))]
    if kind == "Concat":
        return np.concatenate(inputs, axis=p.axis)
    cropped = x[tuple(slice(max(0, -b), size + min(0, a)) for size, (b, a) in zip(p.shape, p.pads))]
    more: dict[str, Any] = {"constant_values": np.float32(p.value)} if p.mode == "constant" else {}
    return np.pad(cropped, [(max(0, b), max(0, a)) for b, a in p.pads], mode=p.mode, **more)


def normalize(p: Any, x: Array, *factors: Array) -> Array:
    """Mean and variance by NumPy, then whatever of scale and bias there is."""
    y = (x - x.mean(axis=p.axes, keepdims=True)) / np.sqrt(x.var(axis=p.axes, keepdims=True) + p.epsilon)
    remaining = list(factors)
    y = y * remaining.pop(0) if p.scale is not None else y
    return np.asarray(y + remaining.pop(0) if p.bias is not None else y)
