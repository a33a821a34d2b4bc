"""Operators on constants in plain NumPy: the table `FOLDS`, operator -> function.

These are the ones that shape arithmetic is made of, so that graphs fold without the `onnx` package. The sizes have been
checked by the operator's shape rule before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .dtypes import name_of
from .ir import Node
from .moving import broadcast, slices_of, target_shape
from .operands import Operands, Type

__all__ = ["FOLDS", "Fold"]

Array = np.ndarray[Any, Any]
#: Dtypes that NumPy converts as ONNX does.
PLAIN_DTYPES = {
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
#: Gets the node and its inputs (None where one is left out), returns its first outputs.
Fold = Callable[[Node, Sequence[Any]], list[Array]]


def _plain(function: Callable[..., Any]) -> Fold:
    """An operator that is a function of its inputs alone; the result has the dtype of the first."""

    def fold(node: Node, xs: Sequence[Any]) -> list[Array]:
        return [np.asarray(function(*xs)).astype(xs[0].dtype, copy=False)]

    return fold


def _test(function: Callable[..., Any]) -> Fold:
    return lambda node, xs: [np.asarray(function(*xs))]


def _variadic(function: Callable[[Any, Any], Any]) -> Fold:
    def fold(node: Node, xs: Sequence[Any]) -> list[Array]:
        out = xs[0]
        for x in xs[1:]:
            out = np.asarray(function(out, x))
        return [out]

    return fold


def _reduction(function: Callable[..., Any]) -> Fold:
    def fold(node: Node, xs: Sequence[Any]) -> list[Array]:
        x, axes = xs[0], xs[1] if len(xs) > 1 else None
        if axes is None or not axes.size:
            if node.get("noop_with_empty_axes", 0):
                return [x]
            axes = np.arange(x.ndim)
        if not x.size:  # what the largest of nothing is, onnx knows
            from .fallback import by_onnx

            return by_onnx(node, xs)
        out = function(x, axis=tuple(int(a) for a in axes), keepdims=bool(node.get("keepdims", 1)))
        return [np.asarray(out).astype(x.dtype, copy=False)]

    return fold


def _operands(node: Node, xs: Sequence[Any]) -> Operands:
    return Operands(node, [None if x is None else Type(x.shape, x.dtype.name) for x in xs], xs)


def divide(a: Array, b: Array) -> Array:
    """Integers are divided towards zero, as in C; floats as IEEE 754 says."""
    if a.dtype.kind not in "iu":
        return np.asarray(np.divide(a, b))
    quotient = np.floor_divide(np.abs(a), np.abs(b)) if a.dtype.kind == "i" else np.floor_divide(a, b)
    return np.asarray(quotient * np.sign(a) * np.sign(b)).astype(a.dtype)


def _mod(node: Node, xs: Sequence[Any]) -> list[Array]:
    return [np.asarray((np.fmod if node.get("fmod", 0) else np.mod)(*xs))]


def _cast(node: Node, xs: Sequence[Any]) -> list[Array]:
    """Strings and the small floats, which saturate, are left to the evaluator of onnx."""
    name = name_of(node.get("to"))
    if name not in PLAIN_DTYPES or xs[0].dtype.name not in PLAIN_DTYPES:
        from .fallback import by_onnx

        return by_onnx(node, xs)
    return [xs[0].astype(name)]


def _clip(node: Node, xs: Sequence[Any]) -> list[Array]:
    out, low, high = (*xs, None, None)[:3]
    out = out if low is None else np.maximum(out, low)
    return [np.asarray(out if high is None else np.minimum(out, high))]


def _constant_of_shape(node: Node, xs: Sequence[Any]) -> list[Array]:
    value = np.asarray(node.get("value", np.zeros(1, np.float32))).ravel()
    return [np.full(tuple(int(size) for size in xs[0]), value[0], value.dtype)]


def _slice(node: Node, xs: Sequence[Any]) -> list[Array]:
    found = slices_of(_operands(node, xs))
    out = xs[0]
    for axis, (first, count, step) in enumerate(found):
        if (first, count, step) != (0, out.shape[axis], 1):
            out = np.take(out, first + step * np.arange(count), axis)
    return [out]


def _split(node: Node, xs: Sequence[Any]) -> list[Array]:
    from .moving import split

    axis = node.get("axis", 0)
    ends = np.cumsum([t.shape[axis] for t in split(_operands(node, xs)) if t.shape])
    return list(np.split(xs[0], ends[:-1], axis))


def _unsqueeze(node: Node, xs: Sequence[Any]) -> list[Array]:
    return [np.expand_dims(xs[0], tuple(int(axis) for axis in xs[1].ravel()))]


def _squeeze(node: Node, xs: Sequence[Any]) -> list[Array]:
    return [np.squeeze(xs[0], tuple(int(axis) for axis in xs[1].ravel()) if len(xs) > 1 and xs[1] is not None else None)]


def _expand(node: Node, xs: Sequence[Any]) -> list[Array]:
    shape = broadcast(_operands(node, xs), [xs[0].shape, tuple(int(size) for size in xs[1])])
    return [np.array(np.broadcast_to(xs[0], shape))]


def _flatten(node: Node, xs: Sequence[Any]) -> list[Array]:
    axis = node.get("axis", 1)
    rows = int(np.prod(xs[0].shape[: axis if axis >= 0 else axis + xs[0].ndim], dtype=np.int64))
    return [xs[0].reshape(rows, xs[0].size // rows if rows else 0)]


def _range(node: Node, xs: Sequence[Any]) -> list[Array]:
    start, limit, step = (x.ravel()[0] for x in xs)
    return [np.arange(start, limit, step, dtype=xs[0].dtype)]


def _gather(node: Node, xs: Sequence[Any]) -> list[Array]:
    size = xs[0].shape[node.get("axis", 0)]
    if xs[1].size and not -size <= int(xs[1].min()) <= int(xs[1].max()) < size:
        _operands(node, xs).fail(f"an index lies outside of {size} elements")
    return [np.asarray(np.take(xs[0], xs[1], node.get("axis", 0)))]


def _scatter_nd(node: Node, xs: Sequence[Any]) -> list[Array]:
    data, indices, updates = xs
    out, places = data.copy(), tuple(np.moveaxis(indices, -1, 0))
    combine = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}.get(node.get("reduction", "none"))
    if combine is None:
        out[places] = updates
    else:
        combine.at(out, places, updates)
    return [out]


FOLDS: dict[str, Fold] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "And": _test(np.logical_and),
    "Cast": _cast,
    "Ceil": _plain(np.ceil),
    "Clip": _clip,
    "Concat": lambda node, xs: [np.concatenate(xs, node.get("axis", 0))],
    "ConstantOfShape": _constant_of_shape,
    "Div": _plain(divide),
    "Equal": _test(np.equal),
    "Exp": _plain(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(np.floor),
    "Gather": _gather,
    "Greater": _test(np.greater),
    "GreaterOrEqual": _test(np.greater_equal),
    "Identity": lambda node, xs: [xs[0]],
    "Less": _test(np.less),
    "LessOrEqual": _test(np.less_equal),
    "Log": _plain(np.log),
    "MatMul": lambda node, xs: [np.asarray(np.matmul(xs[0], xs[1]))],
    "Max": _variadic(np.maximum),
    "Min": _variadic(np.minimum),
    "Mod": _mod,
    "Mul": _plain(np.multiply),
    "Neg": _plain(np.negative),
    "Not": _test(np.logical_not),
    "Or": _test(np.logical_or),
    "Pow": _plain(np.power),
    "Range": _range,
    "Reciprocal": _plain(np.reciprocal),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _reduction(np.prod),
    "ReduceSum": _reduction(np.sum),
    "Reshape": lambda node, xs: [xs[0].reshape(target_shape(_operands(node, xs)))],
    "Round": _plain(np.rint),
    "ScatterND": _scatter_nd,
    "Shape": lambda node, xs: [np.array(xs[0].shape, np.int64)[node.get("start", 0) : node.get("end")]],
    "Size": lambda node, xs: [np.array(xs[0].size, np.int64)],
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _plain(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(np.subtract),
    "Sum": _variadic(np.add),
    "Tile": lambda node, xs: [np.tile(xs[0], tuple(int(count) for count in xs[1]))],
    "Transpose": lambda node, xs: [np.transpose(xs[0], node.get("perm"))],
    "Unsqueeze": _unsqueeze,
    "Where": lambda node, xs: [np.asarray(np.where(xs[0], xs[1], xs[2]))],
}
