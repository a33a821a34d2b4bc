"""Quantised operators as DequantizeLinear, the operator on floats, and QuantizeLinear: `QLINEAR`, and `CONTRIB`.

`QLINEAR` has those of ONNX, `CONTRIB` those of ONNX Runtime's domain `MICROSOFT`, which its quantiser writes. Both map an
operator to a function as in `onnx_opsets`. Integer results differ from those of integer arithmetic by one where the sum,
rounded to float32, lies on the other side of a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .ir import Node
from .onnx_opsets import Builder, Normaliser, softmax

__all__ = ["CONTRIB", "MICROSOFT", "QLINEAR"]

MICROSOFT = "com.microsoft"


def _plain(build: Builder, x: Sequence[str], hint: str, axis: int = 1) -> str:
    """A value, its scale and its zero point as floats."""
    return build.add("DequantizeLinear", tuple(x), hint, axis=axis)


def _triple(node: Node, at: int) -> tuple[str, str, str]:
    return node.input(at), node.input(at + 1), node.input(at + 2)


def _write(build: Builder, node: Node, op: str, xs: Sequence[str], to: Sequence[str], **attributes: Any) -> bool:
    """The operator on floats, its result quantised by a scale and a zero point."""
    y = build.add(op, tuple(xs), f"{node.label}.{op.lower()}", **attributes)
    build.nodes.append(Node("QuantizeLinear", (y, *to), node.outputs, {}, node.name))
    return True


def qlinear_conv(build: Builder, node: Node, version: int) -> bool:
    """The bias is int32, of the scales of input and weights multiplied; weights may have a scale a channel."""
    label, scales = node.label, (node.inputs[1], node.inputs[4])
    xs = [_plain(build, _triple(node, 0), f"{label}.x"), _plain(build, _triple(node, 3), f"{label}.w", axis=0)]
    if node.input(8):
        scale = build.add("Mul", scales, f"{label}.scale")
        xs.append(_plain(build, (node.inputs[8], scale), f"{label}.b", axis=0))
    return _write(build, node, "Conv", xs, node.inputs[6:8], **node.attributes)


def qlinear_matmul(build: Builder, node: Node, version: int) -> bool:
    """Scales may be one a row of A and one a column of B."""
    a, b = _plain(build, _triple(node, 0), f"{node.label}.a", -2), _plain(build, _triple(node, 3), f"{node.label}.b", -1)
    return _write(build, node, "MatMul", (a, b), node.inputs[6:8])


def dynamic_quantize(build: Builder, node: Node, version: int) -> bool:
    """Scale and zero point are those of the range of x with zero in it; the scale is 1 where x is all zeros."""
    label, add = node.label, build.add
    zero, one = build.constant(f"{label}.0", 0, np.float32), build.constant(f"{label}.1", 1, np.float32)
    high = add("Max", (add("ReduceMax", (node.inputs[0],), f"{label}.max", keepdims=0), zero), f"{label}.high")
    low = add("Min", (add("ReduceMin", (node.inputs[0],), f"{label}.min", keepdims=0), zero), f"{label}.low")
    span = add("Sub", (high, low), f"{label}.span")
    step = add("Div", (span, build.constant(f"{label}.255", 255, np.float32)), f"{label}.step")
    empty = add("Sub", (one, add("Sign", (span,), f"{label}.sign")), f"{label}.empty")
    outputs = [name or build.fresh(f"{label}.output") for name in (*node.outputs, "", "")[:3]]
    build.nodes.append(Node("Add", (step, empty), (outputs[1],), {}, f"{label}.scale"))
    below = add("Neg", (add("Div", (low, outputs[1]), f"{label}.steps"),), f"{label}.below")
    byte = build.constant(f"{label}.byte", 0, np.uint8)
    build.nodes.append(Node("QuantizeLinear", (below, one, byte), (outputs[2],), {}, f"{label}.zero"))
    build.nodes.append(Node("QuantizeLinear", (node.inputs[0], *outputs[1:]), (outputs[0],), {}, node.name))
    return True


def _unary(op: str) -> Normaliser:
    """X, its scale and zero point, those of the result."""

    def normalise(build: Builder, node: Node, version: int) -> bool:
        if node.get("channels_last", 0):
            return False
        attributes = {name: value for name, value in node.attributes.items() if name not in ("channels_last", "opset")}
        x = _plain(build, _triple(node, 0), f"{node.label}.x")
        return _write(build, node, op, (x,), node.inputs[3:5], **attributes)

    return normalise


def _binary(op: str, first: int = 0) -> Normaliser:
    """Operands of three inputs each behind `first` others, then scale and zero point of the result."""

    def normalise(build: Builder, node: Node, version: int) -> bool:
        xs = [_plain(build, _triple(node, at), f"{node.label}.{at}") for at in (first, first + 3)]
        return _write(build, node, op, (*node.inputs[:first], *xs), node.inputs[first + 6 : first + 8])

    return normalise


def qlinear_concat(build: Builder, node: Node, version: int) -> bool:
    """Scale and zero point of the result come first."""
    xs = [_plain(build, _triple(node, at), f"{node.label}.{at}") for at in range(2, len(node.inputs), 3)]
    return _write(build, node, "Concat", xs, node.inputs[:2], axis=node.get("axis", 0))


def qlinear_softmax(build: Builder, node: Node, version: int) -> bool:
    """As Softmax of the opset in the attribute `opset`."""
    x, label = _plain(build, _triple(node, 0), f"{node.label}.x"), node.label
    y = build.fresh(f"{label}.softmax")
    softmax(build, Node("Softmax", (x,), (y,), {"axis": node.get("axis", -1)}, label), node.get("opset", 13))
    build.nodes.append(Node("QuantizeLinear", (y, *node.inputs[3:5]), node.outputs, {}, label))
    return True


def qgemm(build: Builder, node: Node, version: int) -> bool:
    """C is int32, of the scales of A and B multiplied with alpha; without a scale of its own the result is float."""
    label, alpha = node.label, node.get("alpha", 1.0)
    xs = [
        _plain(build, _triple(node, 0), f"{label}.a"),
        _plain(build, _triple(node, 3), f"{label}.b", axis=0 if node.get("transB", 0) else 1),
    ]
    if node.input(6):
        scale = build.add("Mul", (node.inputs[1], node.inputs[4]), f"{label}.scale")
        scale = build.add("Mul", (scale, build.constant(f"{label}.alpha", alpha, np.float32)), f"{label}.scaled")
        xs.append(_plain(build, (node.inputs[6], scale), f"{label}.c", axis=-1))
    if node.input(7):
        return _write(build, node, "Gemm", xs, node.inputs[7:9], **node.attributes)
    build.nodes.append(Node("Gemm", tuple(xs), node.outputs, node.attributes, node.name))
    return True


def _as_in_onnx(build: Builder, node: Node, version: int) -> bool:
    build.nodes.append(node)
    return True


QLINEAR: dict[str, Normaliser] = {
    "DynamicQuantizeLinear": dynamic_quantize,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}
CONTRIB: dict[str, Normaliser] = {
    "DequantizeLinear": _as_in_onnx,
    "QGemm": qgemm,
    "QLinearAdd": _binary("Add"),
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearConcat": qlinear_concat,
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearMul": _binary("Mul"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearSoftmax": qlinear_softmax,
    "QLinearWhere": _binary("Where", first=1),
    "QuantizeLinear": _as_in_onnx,
}
