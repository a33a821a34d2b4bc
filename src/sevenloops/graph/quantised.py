"""QuantizeLinear and DequantizeLinear in NumPy, and the types that they write.

    q = saturate(round(x / scale) + zero)      ties to even, division in float32
    x = (q - zero) * scale

A scale, with its zero point, is one number, or one for each index of `axis`, or one for each block along it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .dtypes import element_of, name_of
from .folding import Fold
from .ir import Node
from .operands import Operands, Shape, Type

__all__ = ["LIMITS", "QUANTISED", "dequantized", "integer_product", "quantized", "spread"]

Array = np.ndarray[Any, Any]
#: The integers that numbers are quantised to, with their range.
LIMITS: dict[str, tuple[int, int]] = {
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (2, 4, 8, 16)},
    **{f"uint{bits}": (0, 2**bits - 1) for bits in (2, 4, 8, 16)},
}


def spread(parameter: Array, shape: Sequence[int], node: Node, axis: int = 1) -> Array:
    """A scale or zero point in a form that broadcasts to a value of `shape`. Raises `ValueError` where it does not fit."""
    if parameter.size == 1:
        return parameter.reshape(())
    axis, block = int(node.get("axis", axis)), int(node.get("block_size", 0))
    if parameter.ndim == 1 and len(shape) != 1:
        return parameter.reshape(tuple(-1 if at == axis % len(shape) else 1 for at in range(len(shape))))
    return np.repeat(parameter, block, axis).take(range(shape[axis]), axis) if block else parameter


def _quantize(node: Node, xs: Sequence[Any]) -> list[Array]:
    """What is no integer of `LIMITS` (float8) is left to the evaluator of onnx."""
    x, scale, zero = (*xs, None)[:3]
    name = _written(node, None if zero is None else zero.dtype.name)
    if name not in LIMITS:
        from .fallback import by_onnx

        return by_onnx(node, [a.astype(np.float32) if a is not None and a.dtype == np.float64 else a for a in xs])
    scaled = x.astype(np.float32) / spread(scale, x.shape, node).astype(np.float32)
    moved = np.rint(scaled) + (0 if zero is None else spread(zero, x.shape, node).astype(np.float32))
    return [np.clip(moved, *LIMITS[name]).astype(name)]


def _dequantize(node: Node, xs: Sequence[Any]) -> list[Array]:
    q, scale, zero = (*xs, None)[:3]
    whole = q.dtype.name in LIMITS or q.dtype == np.int32
    q = q.astype(np.int64 if whole else np.float32)
    if zero is not None:
        q = q - spread(zero, q.shape, node).astype(q.dtype)
    working = np.float64 if scale.dtype == np.float64 else np.float32
    return [(q.astype(working) * spread(scale, q.shape, node).astype(working)).astype(scale.dtype)]


def _written(node: Node, zero: str | None) -> str:
    """The dtype that QuantizeLinear writes: its zero point's, else the one it asks for, else uint8."""
    return zero or name_of(node.get("output_dtype", 0) or element_of("uint8"))


def _check(o: Operands) -> Shape | None:
    """The shape of the value, if it is known; scale and zero point must fit it."""
    x = o.type(0).shape
    for at in (1, 2):
        given = o.type(at).shape if at == 1 or o.has(at) else None
        if x is None or given is None or math.prod(given) == 1:
            continue
        if len(given) == 1 and len(x) != 1:
            wanted: Shape = (x[o.axis(o.node.get("axis", 1), len(x))],)
        else:
            axis, block = o.axis(o.node.get("axis", 1), len(x)) if len(x) > 1 else 0, o.node.get("block_size", 0)
            wanted = tuple(-(-n // block) if block and i == axis else n for i, n in enumerate(x))
            wanted = given if len(given) == len(x) and all(a in (1, b) for a, b in zip(given, wanted)) else wanted
        if given != wanted:
            o.fail(f"input {at} of {given} does not fit {x}: one number or {wanted} is needed")
    return x


def quantized(o: Operands) -> list[Type]:
    """The type that QuantizeLinear writes."""
    return [Type(_check(o), _written(o.node, o.dtype(2) if o.has(2) else None))]


def dequantized(o: Operands) -> list[Type]:
    """The type that DequantizeLinear writes: its scale's."""
    return [Type(_check(o), o.dtype(1))]


def integer_product(node: Node, xs: Sequence[Any], multiply: Fold, op: str, axes: tuple[int, int]) -> list[Array]:
    """ConvInteger and MatMulInteger: the float operator on what is left without the zero points, exact in float64."""
    given = []
    for at, axis in enumerate(axes):
        zero = xs[at + 2] if len(xs) > at + 2 else None
        offset = 0.0 if zero is None else spread(zero, xs[at].shape, node, axis).astype(np.float64)
        given.append(xs[at].astype(np.float64) - offset)
    (y,) = multiply(node.replace(op=op, inputs=node.inputs[:2]), given)
    return [y.astype(np.int64).astype(np.int32)]


QUANTISED: dict[str, Fold] = {"DequantizeLinear": _dequantize, "QuantizeLinear": _quantize}
