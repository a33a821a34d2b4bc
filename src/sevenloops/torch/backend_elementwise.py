"""Rules for ATen's element-wise operators. See `backend_aten`."""

from __future__ import annotations

from typing import Any

import torch

from .backend_translation import Rule, Translation, need, shape_of

__all__ = ["ELEMENTWISE"]

aten = torch.ops.aten


def _unary(op: str, **attributes: float) -> Rule:
    def rule(t: Translation, node: Any, x: Any) -> str:
        return t.node(op, [x], shape_of(node), node.name, **attributes)

    return rule


def _binary(op: str, turned: bool = False) -> Rule:
    def rule(t: Translation, node: Any, a: Any, b: Any, alpha: float = 1) -> str:
        if alpha != 1:
            of = a if turned else b
            scaled = t.node("Mul", [of, alpha], () if isinstance(of, (int, float)) else shape_of(of), f"{node.name} scaled")
            a, b = (scaled, b) if turned else (a, scaled)
        return t.node(op, [b, a] if turned else [a, b], shape_of(node), node.name)

    return rule


def _clip(t: Translation, node: Any, x: Any, low: Any = None, high: Any = None) -> str:
    return t.node("Clip", [x, low, high], shape_of(node), node.name)


def _rsqrt(t: Translation, node: Any, x: Any) -> str:
    root = t.node("Sqrt", [x], shape_of(node), f"{node.name} root")
    return t.node("Reciprocal", [root], shape_of(node), node.name)


def _gelu(t: Translation, node: Any, x: Any, approximate: str) -> str:
    return t.node("Gelu", [x], shape_of(node), node.name, approximate=approximate)


def _softplus(t: Translation, node: Any, x: Any, beta: float, threshold: float) -> str:
    need(beta == 1 and threshold >= 20, f"its beta is {beta}, its threshold {threshold}")
    return t.node("Softplus", [x], shape_of(node), node.name)


def _elu(t: Translation, node: Any, x: Any, alpha: float, scale: float, inner: float) -> str:
    need(inner == 1, f"its input is scaled by {inner}")
    return t.node("Selu", [x], shape_of(node), node.name, alpha=float(alpha), gamma=float(scale))


def _leaky_relu(t: Translation, node: Any, x: Any, slope: float) -> str:
    return t.node("LeakyRelu", [x], shape_of(node), node.name, alpha=float(slope))


def _glu(t: Translation, node: Any, x: Any, axis: int) -> str:
    shape = shape_of(node)
    axis, half = axis % len(shape), shape[axis]
    value, gate = (t.cut(x, shape, axis, at * half, (at + 1) * half, 1, f"{node.name} {at}") for at in (0, 1))
    return t.node("Mul", [value, t.node("Sigmoid", [gate], shape, f"{node.name} gate")], shape, node.name)


#: Overloads that are one operator of ONNX, by its name.
UNARY = {
    "relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs",
    "neg": "Neg", "reciprocal": "Reciprocal", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "sign": "Sign", "sin": "Sin", "cos": "Cos", "mish": "Mish", "hardswish": "HardSwish", "silu": "Swish",
}  # fmt: skip
BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}

ELEMENTWISE: dict[Any, Rule] = {
    **{getattr(aten, name).default: _unary(op) for name, op in UNARY.items()},
    **{getattr(aten, name).Tensor: _binary(op) for name, op in BINARY.items()},
    **{getattr(aten, name).Scalar: _binary(op) for name, op in BINARY.items()},
    aten.rsub.Tensor: _binary("Sub", turned=True),
    aten.rsub.Scalar: _binary("Sub", turned=True),
    aten.pow.Tensor_Scalar: _binary("Pow"),
    aten.pow.Tensor_Tensor: _binary("Pow"),
    aten.minimum.default: _binary("Min"),
    aten.maximum.default: _binary("Max"),
    aten._prelu_kernel.default: _binary("PRelu"),
    aten.clamp.default: _clip,
    aten.clamp_min.default: _clip,
    aten.clamp_max.default: lambda t, node, x, high: _clip(t, node, x, None, high),
    aten.hardtanh.default: _clip,
    aten.hardsigmoid.default: _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    aten.leaky_relu.default: _leaky_relu,
    aten.elu.default: _elu,
    aten.softplus.default: _softplus,
    aten.gelu.default: _gelu,
    aten.rsqrt.default: _rsqrt,
    aten.glu.default: _glu,
}
