"""Lowering what is neither a convolution nor a movement of data: pools, normalisations, element-wise work, reductions."""

from __future__ import annotations

import math
from dataclasses import replace

from ..layers.elementwise import Elementwise
from ..layers.lrn import LRN
from ..layers.pool import Pool
from ..layers.reduce import Reduce
from ..layers.softmax import Softmax
from .ir import Node
from .lower_conv import window
from .lowering import Lowering, NotLowered
from .place import Tensor, identity, last

__all__ = ["elementwise", "global_pool", "lrn", "pool", "reduce", "require_float32", "softmax"]

REDUCTIONS = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min", "ReduceL1": "l1", "ReduceL2": "l2",
    "ReduceSumSquare": "sumsq", "ReduceProd": "prod", "ReduceLogSum": "logsum", "ReduceLogSumExp": "logsumexp",
    "GlobalAveragePool": "mean", "GlobalMaxPool": "max",
}  # fmt: skip


def require_float32(lo: Lowering, node: Node) -> None:
    """Raise `NotLowered` where an input that is read is of another dtype."""
    for name in node.inputs:
        if name and lo.dtype(name) != "float32":
            raise NotLowered(f"{name} is {lo.dtype(name)}; float32 is compiled")
    for name in (*node.inputs, *node.outputs):
        if name and 0 in lo.shape(name):
            raise NotLowered(f"{name} is empty: {lo.shape(name)}")


def pool(lo: Lowering, node: Node) -> None:
    """MaxPool and AveragePool."""
    require_float32(lo, node)
    if len(node.outputs) > 1 and node.outputs[1]:
        raise NotLowered("its indices are asked for; values alone are compiled")
    shape, out = lo.shape(node.inputs[0]), lo.shape(node.outputs[0])
    kernel = tuple(node.get("kernel_shape"))
    if not 1 <= len(kernel) <= 3:
        raise NotLowered(f"it has {len(kernel)} spatial axes; 1 to 3 are compiled")
    stride, padding, dilation = window(node)
    problem = Pool(
        kind="max" if node.op == "MaxPool" else "average", batch=shape[0], channels=shape[1], in_size=shape[2:],
        kernel=kernel, stride=stride, padding=padding, dilation=dilation, out_size=out[2:],
        count_include_pad=bool(node.get("count_include_pad", 0)),
    )  # fmt: skip
    x = lo.channels_last(node.inputs[0])
    lo.emit(problem, (x,), lo.output(node.outputs[0], last(len(shape))))


def global_pool(lo: Lowering, node: Node) -> None:
    """GlobalAveragePool and GlobalMaxPool: a reduction over the spatial axes."""
    require_float32(lo, node)
    rank = len(lo.shape(node.inputs[0]))
    _reduce(lo, node, tuple(range(2, rank)), keep=True)


def reduce(lo: Lowering, node: Node) -> None:
    """ReduceMean and its like; axes are a constant input or left out."""
    require_float32_first(lo, node)
    rank = len(lo.shape(node.inputs[0]))
    axes = tuple(node.get("axes") or ())
    if node.input(1):
        array = lo.constant(node.input(1))
        if array is None:
            raise NotLowered("its axes are computed at run time")
        axes = tuple(int(axis) for axis in array.reshape(-1))
    if not axes:
        axes = () if node.get("noop_with_empty_axes", 0) else tuple(range(rank))
    _reduce(lo, node, tuple(sorted(axis % rank for axis in axes)), keep=bool(node.get("keepdims", 1)))


def require_float32_first(lo: Lowering, node: Node) -> None:
    """As `require_float32`, of the first input alone: the others are sizes."""
    require_float32(lo, node.replace(inputs=node.inputs[:1]))


def _reduce(lo: Lowering, node: Node, axes: tuple[int, ...], keep: bool) -> None:
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    left = [axis for axis in range(len(x.shape)) if axis not in axes]
    where = tuple(at for at, axis in enumerate(x.order) if axis in axes)
    if keep:
        target = lo.output(node.outputs[0], x.order)
    else:
        target = lo.output(node.outputs[0], tuple(left.index(axis) for axis in x.order if axis in left))
    lo.emit(Reduce(REDUCTIONS[node.op], x.memory, where), (x,), target)


def lrn(lo: Lowering, node: Node) -> None:
    """LRN across channels."""
    require_float32(lo, node)
    x = lo.channels_last(node.inputs[0])
    problem = LRN(
        x.memory, int(node.get("size")), float(node.get("alpha", 1e-4)), float(node.get("beta", 0.75)),
        float(node.get("bias", 1.0)),
    )  # fmt: skip
    lo.emit(problem, (x,), lo.output(node.outputs[0], x.order))


def softmax(lo: Lowering, node: Node) -> None:
    """Softmax and LogSoftmax along one axis."""
    require_float32(lo, node)
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    at = x.order.index(node.get("axis", -1) % len(x.shape))
    outer, inner = math.prod(x.memory[:at]), math.prod(x.memory[at + 1 :])
    problem = Softmax(outer, x.memory[at], inner, node.op == "LogSoftmax")
    lo.emit(problem, (x,), lo.output(node.outputs[0], x.order))


def elementwise(lo: Lowering, node: Node) -> None:
    """Elementwise: in the order of axes that the largest operand has already."""
    require_float32(lo, node)
    shape = lo.shape(node.outputs[0])
    rank = len(shape)
    values = [lo.tensor(name) for name in node.inputs if lo.constant(name) is None]
    order = identity(rank)
    for value in sorted(values, key=lambda tensor: tensor.size):
        if len(value.shape) == rank:
            order = value.order
    operands, shapes = [], []
    for name in node.inputs:
        own = lo.shape(name)
        missing = rank - len(own)
        own_order = tuple(axis - missing for axis in order if axis >= missing)
        operand = lo.operand(name, own_order)
        if isinstance(operand, Tensor):
            operand = replace(operand, shape=(1,) * missing + own, order=order)
        operands.append(operand)
        shapes.append(tuple(own[axis - missing] if axis >= missing else 1 for axis in order))
    out_shape = tuple(shape[axis] for axis in order)
    problem = Elementwise(tuple(shapes), out_shape, node.get("expression"))
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], order))
