"""Batch normalisation and constants that scale or shift channels, into the weights beside them.

    BatchNorm(conv(x))     -> conv'(x)        Mul, Add, Sub, Div by a constant a channel (or a scalar), Neg: the same
    conv(scale * x + t)    -> conv'(x)        t only where the convolution does not pad: its zeros are not shifted
    BatchNorm(x) elsewhere -> Elementwise scale * x + t

Conv, ConvTranspose, Gemm and MatMul take them. All constants that go into one layer are multiplied up in float64, so that
its weights are rounded once. `y = scale * (x - mean) / sqrt(variance + epsilon) + shift` (Ioffe and Szegedy, arXiv
1502.03167; ONNX BatchNormalization at inference).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ir import OWN, Graph, Node, Note
from ..moving import broadcast_sizes
from .rewrite import Array, Rewriter
from .weights import Layer

__all__ = ["run"]

SIMPLE = {"Add", "Sub", "Mul", "Div"}


@dataclass
class Affine:
    """`scale * x + shift` with float64 arrays that broadcast to `x`, at most one of their dimensions larger than one."""

    source: str
    scale: Array
    shift: Array

    def after(self, first: Affine) -> Affine | None:
        """This one applied to what `first` gives; None where the constants would become larger than either."""
        scale, shift = self.scale * first.scale, self.scale * first.shift + self.shift
        return Affine(first.source, scale, shift) if _is_line(scale) and _is_line(shift) else None

    @property
    def scales(self) -> bool:
        return bool(np.not_equal(self.scale, 1).any())

    @property
    def shifts(self) -> bool:
        return bool(np.count_nonzero(self.shift))


def _is_line(array: Array) -> bool:
    return bool(array.ndim - array.shape.count(1) <= 1)


@dataclass
class _Fold:
    """The pass under way: what each layer takes in, and the affine nodes that found no layer before them."""

    rewriter: Rewriter
    layers: dict[str, Layer] = field(default_factory=dict)
    left: dict[str, Affine] = field(default_factory=dict)

    def layer_of(self, node: Node) -> Layer:
        """What is known of a Conv, ConvTranspose, Gemm or MatMul; one object through all the pass."""
        key = node.outputs[0]
        if key not in self.layers:
            self.layers[key] = Layer(self.rewriter, node)
        return self.layers[key]


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with fewer affine nodes, and notes."""
    rewriter = Rewriter(graph)
    fold = _Fold(rewriter)
    for node in rewriter:
        affine = _affine(rewriter, node)
        if affine is not None and not _backward(fold, node, affine):
            _compose(fold, node, affine)
    for name in reversed(tuple(fold.left)):
        _forward(fold, name)
    for layer in fold.layers.values():
        layer.write()
    for name, affine in fold.left.items():
        _leave(rewriter, name, affine)
    return rewriter.finish()


# ------------------------------------------------------------------------------------------- what an affine node is


def _affine(rewriter: Rewriter, node: Node) -> Affine | None:
    if node.domain or len(node.outputs) != 1 or rewriter.dtype(node.outputs[0]) != "float32":
        return None
    if node.op == "BatchNormalization":
        return _normalisation(rewriter, node)
    if node.op == "Neg":
        return Affine(node.inputs[0], np.array(-1.0), np.array(0.0))
    return _arithmetic(rewriter, node) if node.op in SIMPLE else None


def _normalisation(rewriter: Rewriter, node: Node) -> Affine | None:
    shape, found = rewriter.shape(node.inputs[0]), [rewriter.constant(name) for name in node.inputs[1:5]]
    parameters = [array.astype(np.float64) for array in found if array is not None]
    if len(parameters) != 4 or node.get("training_mode", 0) or shape is None:
        rewriter.missed(node, f"{node.label} stays: its parameters are not constants")
        return None
    scale, shift, mean, variance = (array.reshape(-1, *[1] * (len(shape) - 2)) for array in parameters)
    scale = scale / np.sqrt(variance + node.get("epsilon", 1e-5))
    return Affine(node.inputs[0], scale, shift - mean * scale)


def _arithmetic(rewriter: Rewriter, node: Node) -> Affine | None:
    at = next((i for i, name in enumerate(node.inputs) if name in rewriter.constants), None)
    if at is None or (node.op == "Div" and at == 0):
        return None
    source = node.inputs[1 - at]
    constant, shape = rewriter.constants[node.inputs[at]], rewriter.shape(source)
    if shape is None or source in rewriter.constants or not _is_line(constant):
        return None
    constant = constant.astype(np.float64)
    if len(constant.shape) > len(shape) or broadcast_sizes(shape, constant.shape) != shape:
        return None
    one, zero = np.array(1.0), np.array(0.0)
    if node.op == "Add":
        return Affine(source, one, constant)
    if node.op == "Sub":
        return Affine(source, -one, constant) if at == 0 else Affine(source, one, -constant)
    if node.op == "Div" and not constant.all():
        return None
    return Affine(source, constant if node.op == "Mul" else 1 / constant, zero)


# ----------------------------------------------------------------------------------------------- where it can go


def _backward(fold: _Fold, node: Node, affine: Affine) -> bool:
    """Into the layer that writes what the node reads."""
    rewriter = fold.rewriter
    producer = rewriter.producer(affine.source)
    if producer is None or not Layer.is_one(producer):
        return False
    layer = fold.layer_of(producer)
    reason = rewriter.others(affine.source, node) or layer.refuses_after(affine.scale, affine.shift)
    if reason is not None:
        rewriter.missed(node, f"{node.label} stays behind {producer.label}: {reason}")
        return False
    layer.take_after(affine.scale, affine.shift)
    rewritten = producer.replace(outputs=node.outputs, name=producer.label)
    rewriter.replace(node, rewritten, drop=(producer,))
    fold.layers[node.outputs[0]] = fold.layers.pop(affine.source)
    layer.node = rewritten
    rewriter.made(node, f"{node.label} into {producer.label}")
    return True


def _compose(fold: _Fold, node: Node, affine: Affine) -> None:
    """Onto an affine node before it that nobody else reads; else it is left for the layer behind it."""
    first, producer = fold.left.get(affine.source), fold.rewriter.producer(affine.source)
    whole = affine.after(first) if first is not None and fold.rewriter.only_reader(affine.source) is node else None
    if whole is not None and producer is not None:
        del fold.left[affine.source]
        fold.rewriter.replace(node, node.replace(inputs=(whole.source,)), drop=(producer,))
        fold.rewriter.made(node, f"{producer.label} and {node.label} are one scale and shift")
    fold.left[node.outputs[0]] = whole or affine


def _forward(fold: _Fold, name: str) -> None:
    """Into the layer that alone reads what the node writes."""
    rewriter, affine = fold.rewriter, fold.left[name]
    node, reader = rewriter.producer(name), rewriter.only_reader(name)
    if node is None or reader is None or not Layer.is_one(reader) or reader.inputs[0] != name or name in reader.inputs[1:]:
        return
    layer = fold.layer_of(reader)
    shape = rewriter.shape(name)
    reason = layer.refuses_before(affine.scale, affine.shift, len(shape or ()))
    if reason is not None:
        rewriter.missed(node, f"{node.label} stays before {reader.label}: {reason}")
        return
    layer.take_before(affine.scale, affine.shift, len(shape or ()))
    del fold.left[name]
    rewritten = reader.replace(inputs=(affine.source, *reader.inputs[1:]))
    rewriter.replace(reader, rewritten, drop=(node,))
    layer.node = rewritten
    rewriter.made(node, f"{node.label} into {reader.label} behind it")


def _leave(rewriter: Rewriter, name: str, affine: Affine) -> None:
    """As one Elementwise node; constants of one element become literals."""
    node = rewriter.producer(name)
    assert node is not None
    inputs: list[str] = [affine.source]
    expression: Any = 0
    for op, array, needed in (("mul", affine.scale, affine.scales), ("add", affine.shift, affine.shifts)):
        if needed and array.size == 1:
            expression = (op, expression, float(array.reshape(())))
        elif needed:
            inputs.append(rewriter.add_constant(f"{name}_{op}", array.astype(np.float32)))
            expression = (op, expression, len(inputs) - 1)
    if expression == 0:
        identity = Node("Identity", (affine.source,), (name,), {}, node.name)
        rewriter.replace(node, identity)
        rewriter.bypass(identity)
        return
    rewriter.replace(node, Node("Elementwise", tuple(inputs), (name,), {"expression": expression}, node.name, OWN))
