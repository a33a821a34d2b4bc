"""Rules for our own operators in graphs of inference, as `accelerate` and our modules bring them. See `backend_aten`."""

from __future__ import annotations

import math
from typing import Any

from ..graph.ir import OWN
from .backend_translation import Rule, Shape, Translation, shape_of
from .convolution import CONVOLUTION
from .products import LINEAR
from .shifting import SHIFT, SHIFT_CONVOLUTION

__all__ = ["OURS"]


def _convolution(
    t: Translation, node: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any,
    transposed: bool, extra: Any, groups: int,
) -> str:  # fmt: skip
    window = {"strides": tuple(stride), "pads": (*padding[::2], *padding[1::2]), "dilations": tuple(dilation)}
    more: dict[str, Any] = {"output_padding": tuple(extra)} if transposed else {}
    op, kernel = "ConvTranspose" if transposed else "Conv", shape_of(weight)[2:]
    operands = [x, weight] if bias is None else [x, weight, bias]
    return t.node(op, operands, shape_of(node), node.name, kernel_shape=kernel, group=groups, **window, **more)


def _linear(t: Translation, node: Any, x: Any, weight: Any, bias: Any) -> str:
    shape = shape_of(node)
    rows, width = math.prod(shape[:-1]), shape_of(x)[-1]
    operands = [t.reshaped(x, (rows, width), f"{node.name} rows"), weight, *([] if bias is None else [bias])]
    product = t.node("Gemm", operands, (rows, shape[-1]), f"{node.name} product", transB=1)
    return t.reshaped(product, shape, node.name)


def _moved(t: Translation, x: Any, kernel: Any, dilation: Any, convention: str, name: str) -> str:
    moved = {"kernel": tuple(kernel), "dilation": tuple(dilation), "convention": convention}
    return t.node("Shift", [x], shape_of(x), name, domain=OWN, **moved)


def _shift(t: Translation, node: Any, x: Any, kernel: Any, dilation: Any, convention: str, stride: Any) -> str:
    value, shape = _moved(t, x, kernel, dilation, convention, f"{node.name} moved"), list(shape_of(x))
    for axis, step in enumerate(stride, 2):
        end, shape[axis] = shape[axis], shape_of(node)[axis]
        if step > 1:
            value = t.cut(value, tuple(shape), axis, 0, end, step, f"{node.name} axis {axis}")
    return value


def _shift_convolution(
    t: Translation, node: Any, x: Any, weight: Any, bias: Any, kernel: Any, dilation: Any, convention: str, stride: Any
) -> str:
    value = _moved(t, x, kernel, dilation, convention, f"{node.name} moved")
    operands = [value, weight] if bias is None else [value, weight, bias]
    window: dict[str, Shape] = {"kernel_shape": (1, 1), "strides": tuple(stride), "pads": (0,) * 4, "dilations": (1, 1)}
    return t.node("Conv", operands, shape_of(node), node.name, group=1, **window)


OURS: dict[Any, Rule] = {
    CONVOLUTION.forward.op: _convolution,
    LINEAR.forward.op: _linear,
    SHIFT.op: _shift,
    SHIFT_CONVOLUTION.forward.op: _shift_convolution,
}
