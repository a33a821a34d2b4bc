"""What each operator of a graph is in PyTorch: a module where PyTorch has one, else a call of a function.

A rule adds a node's part to a `Drawing` (a `torch.fx` graph and the modules that it calls) and returns what the node
computes. Rules raise `Unsupported` for what PyTorch computes differently; they never change what is computed.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import Unsupported
from ..graph.ir import Node
from .drawing import Drawing

__all__ = ["RULES", "Rule", "weights_of"]

#: Adds a node and returns its first output.
Rule = Callable[["Drawing", Node], Any]

#: By the number of spatial axes, from one on.
CONVS: tuple[Any, ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED: tuple[Any, ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS: tuple[Any, ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
MAX_POOLS: tuple[Any, ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
GLOBAL_POOLS: tuple[Any, ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)

# ------------------------------------------------------------------------------------------------------- windows


def _pads(node: Node) -> list[tuple[int, int]]:
    flat = tuple(node.get("pads", ())) or (0,) * (2 * len(node.get("kernel_shape")))
    return list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :]))


def _even(drawing: Drawing, node: Node, value: float) -> tuple[Any, tuple[int, ...]]:
    """The image, and the padding that is left to the operator; padding that PyTorch has not is put on before."""
    x, pads = drawing.value(node.inputs[0]), _pads(node)
    pool = node.op in ("MaxPool", "AveragePool")
    limits = [k // 2 if pool else max(pair) for k, pair in zip(node.get("kernel_shape"), pads)]
    if all(before == after <= limit for (before, after), limit in zip(pads, limits)):
        return x, tuple(before for before, _ in pads)
    if node.get("ceil_mode", 0):
        raise Unsupported(f"PyTorch has no pool with padding {pads} and sizes rounded up ({node.label})")
    flat = [side for pair in reversed(pads) for side in pair]
    return drawing.function(F.pad, x, flat, value=value), (0,) * len(pads)


def _conv(drawing: Drawing, node: Node) -> Any:
    weight, window = drawing.array(node.inputs[1]), _window(node)
    x, padding = _even(drawing, node, 0.0)
    if weight is None or node.inputs[1] not in drawing.trained:
        parts = (drawing.value(node.inputs[1]), drawing.value(node.input(2)), window["stride"], padding, window["dilation"])
        return drawing.function(torch.convolution, x, *parts, False, (0,) * len(padding), window["groups"])
    out, channels, groups = weight.shape[0], weight.shape[1] * window["groups"], window["groups"]
    sizes = {**window, "padding": padding, "groups": groups, "bias": bool(node.input(2))}
    module = CONVS[len(padding) - 1](channels, out, weight.shape[2:], **sizes, device="meta")
    return drawing.module(node, module, x, **weights_of(drawing, node))


def _conv_transpose(drawing: Drawing, node: Node) -> Any:
    weight, window, pads = drawing.array(node.inputs[1]), _window(node), _pads(node)
    if any(before != after for before, after in pads):
        raise Unsupported("PyTorch's transposed convolutions have even padding only")
    padding, extra = tuple(before for before, _ in pads), tuple(node.get("output_padding", (0,) * len(pads)))
    x = drawing.value(node.inputs[0])
    if weight is None or node.inputs[1] not in drawing.trained:
        parts = (drawing.value(node.inputs[1]), drawing.value(node.input(2)), window["stride"], padding, window["dilation"])
        return drawing.function(torch.convolution, x, *parts, True, extra, window["groups"])
    sizes = {**window, "padding": padding, "output_padding": extra, "bias": bool(node.input(2))}
    channels = (weight.shape[0], weight.shape[1] * window["groups"])
    module = TRANSPOSED[len(pads) - 1](*channels, weight.shape[2:], **sizes, device="meta")
    return drawing.module(node, module, x, **weights_of(drawing, node))


def _window(node: Node) -> dict[str, Any]:
    return {
        "stride": tuple(node.get("strides")),
        "dilation": tuple(node.get("dilations")),
        "groups": int(node.get("group", 1)),
    }


def weights_of(drawing: Drawing, node: Node) -> dict[str, str]:
    """The constants of a layer, by what they are called in a module."""
    if node.input(2) and drawing.array(node.input(2)) is None:
        raise Unsupported(f"the bias of {node.label} is computed by the network")
    return {"weight": node.inputs[1], **({"bias": node.inputs[2]} if node.input(2) else {})}


def _batch_norm(drawing: Drawing, node: Node) -> Any:
    state = dict(zip(("weight", "bias", "running_mean", "running_var"), node.inputs[1:]))
    if any(drawing.array(name) is None for name in state.values()):
        raise Unsupported(f"the statistics of {node.label} are computed by the network")
    shape = drawing.shape(node.inputs[0])
    rank = max(1, len(shape) - 2)
    # ONNX keeps a share `momentum` of the old statistics, PyTorch takes that share of the new ones.
    momentum = 1 - node.get("momentum", 0.9)
    module = NORMS[rank - 1](shape[1], node.get("epsilon", 1e-5), momentum, device="meta")
    module.num_batches_tracked = torch.zeros((), dtype=torch.long, device=drawing.device)
    return drawing.module(node, module, drawing.value(node.inputs[0]), **state)


def _gemm(drawing: Drawing, node: Node) -> Any:
    weight, bias = drawing.array(node.inputs[1]), drawing.array(node.input(2))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    plain = not node.get("transA", 0) and node.get("transB", 0) and alpha == beta == 1
    a = drawing.value(node.inputs[0])
    if plain and weight is not None and (not node.input(2) or (bias is not None and bias.shape == weight.shape[:1])):
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bool(node.input(2)), device="meta")
        return drawing.module(node, module, a, **weights_of(drawing, node))
    a = drawing.function(torch.t, a) if node.get("transA", 0) else a
    b = drawing.value(node.inputs[1])
    b = drawing.function(torch.t, b) if node.get("transB", 0) else b
    if not node.input(2):
        y = drawing.function(torch.mm, a, b)
        return drawing.function(operator.mul, y, alpha) if alpha != 1 else y
    return drawing.function(torch.addmm, drawing.value(node.inputs[2]), a, b, beta=beta, alpha=alpha)


def _max_pool(drawing: Drawing, node: Node) -> Any:
    if len(node.outputs) > 1:
        raise Unsupported("indices of a pool are not converted to PyTorch")
    x, padding = _even(drawing, node, -math.inf)
    kernel = tuple(node.get("kernel_shape"))
    sizes = {"dilation": tuple(node.get("dilations", (1,) * len(kernel))), "ceil_mode": bool(node.get("ceil_mode", 0))}
    return drawing.module(node, MAX_POOLS[len(kernel) - 1](kernel, tuple(node.get("strides")), padding, **sizes), x)


def _average_pool(drawing: Drawing, node: Node) -> Any:
    pads, counted = _pads(node), bool(node.get("count_include_pad", 0))
    if set(node.get("dilations", (1,))) != {1}:
        raise Unsupported("PyTorch's average pools have no dilation")
    x, padding = _even(drawing, node, 0.0)
    if not counted and any(map(any, pads)) and not any(padding):
        raise Unsupported(f"PyTorch's average pools have even padding of half a kernel at most, not {pads}")
    kernel = tuple(node.get("kernel_shape"))
    sizes = {"ceil_mode": bool(node.get("ceil_mode", 0)), "count_include_pad": counted}
    return drawing.module(node, AVERAGE_POOLS[len(kernel) - 1](kernel, tuple(node.get("strides")), padding, **sizes), x)


def _lrn(drawing: Drawing, node: Node) -> Any:
    size = node.get("size")
    if size % 2 == 0:
        raise Unsupported(f"PyTorch's LRN of an even size ({size}) reads other channels than ONNX's")
    alpha, beta, k = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return drawing.module(node, nn.LocalResponseNorm(size, alpha, beta, k), drawing.value(node.inputs[0]))


def _global_average_pool(drawing: Drawing, node: Node) -> Any:
    rank = len(drawing.shape(node.inputs[0])) - 2
    return drawing.module(node, GLOBAL_POOLS[rank - 1](1), drawing.value(node.inputs[0]))


# ---------------------------------------------------------------------------------------------------- elementwise


def _dropout(drawing: Drawing, node: Node) -> Any:
    ratio = drawing.number(node.input(1)) if node.input(1) else 0.5
    if ratio is None or len(node.outputs) > 1:
        raise Unsupported(f"the ratio or the mask of {node.label} is part of the network")
    return drawing.module(node, nn.Dropout(ratio), drawing.value(node.inputs[0]))


def _clip(drawing: Drawing, node: Node) -> Any:
    low, high = (drawing.number(node.input(at)) for at in (1, 2))
    if any(node.input(at) and bound is None for at, bound in ((1, low), (2, high))):
        raise Unsupported(f"the bounds of {node.label} are computed by the network")
    x = drawing.value(node.inputs[0])
    return drawing.module(node, nn.ReLU6(), x) if (low, high) == (0, 6) else drawing.function(torch.clamp, x, low, high)


def _plain(make: Callable[[Node], nn.Module]) -> Rule:
    """A module of one input."""
    return lambda drawing, node: drawing.module(node, make(node), drawing.value(node.inputs[0]))


def _binary(function: Callable[[Any, Any], Any]) -> Rule:
    """An operator of two values. Constants of one element are numbers, which take the dtype of the other value."""

    def rule(drawing: Drawing, node: Node) -> Any:
        numbers = [drawing.number(n) if n not in drawing.trained and not _ndim(drawing, n) else None for n in node.inputs]
        return drawing.function(function, *(drawing.value(n) if v is None else v for n, v in zip(node.inputs, numbers)))

    return rule


def _ndim(drawing: Drawing, name: str) -> int:
    array = drawing.array(name)
    return 0 if array is None else array.ndim


def _of_all(function: Callable[..., Any]) -> Rule:
    """A function of all inputs."""
    return lambda drawing, node: drawing.function(function, *map(drawing.value, node.inputs))


def _hard_sigmoid(drawing: Drawing, node: Node) -> Any:
    scaled = drawing.function(operator.mul, drawing.value(node.inputs[0]), node.get("alpha", 0.2))
    return drawing.function(torch.clamp, drawing.function(operator.add, scaled, node.get("beta", 0.5)), 0, 1)


# ----------------------------------------------------------------------------------------------------------- moves


def _concat(drawing: Drawing, node: Node) -> Any:
    return drawing.function(torch.cat, [drawing.value(name) for name in node.inputs], node.get("axis"))


def _reshaped(drawing: Drawing, node: Node) -> Any:
    """A reshape to known sizes. Where the first one stays, it is whatever it is: the size of the batch."""
    x, before, after = drawing.value(node.inputs[0]), drawing.shape(node.inputs[0]), drawing.shape(node.outputs[0])
    if node.op == "Flatten" and node.get("axis", 1) == 1:
        return drawing.module(node, nn.Flatten(1), x)
    target = list(after)
    if node.op == "Reshape" and drawing.integers(node.inputs[1]).count(-1) == 1:
        target[drawing.integers(node.inputs[1]).index(-1)] = -1
    elif before and after and before[0] == after[0]:
        target[0] = -1
    return drawing.fx.call_method("reshape", (x, *target))


def _transpose(drawing: Drawing, node: Node) -> Any:
    rank = len(drawing.shape(node.inputs[0]))
    return drawing.function(torch.permute, drawing.value(node.inputs[0]), tuple(node.get("perm") or range(rank)[::-1]))


def _pad(drawing: Drawing, node: Node) -> Any:
    if node.get("mode", "constant") != "constant":
        raise Unsupported("only Pad with a constant is converted to PyTorch")
    amounts, rank = drawing.integers(node.inputs[1]), len(drawing.shape(node.inputs[0]))
    axes = [axis % rank for axis in drawing.integers(node.input(3))] if node.input(3) else list(range(rank))
    sides = {axis: (amounts[at], amounts[at + len(axes)]) for at, axis in enumerate(axes)}
    flat = [side for axis in reversed(range(rank)) for side in sides.get(axis, (0, 0))]
    value = (drawing.number(node.input(2)) or 0.0) if node.input(2) else 0.0
    return drawing.function(F.pad, drawing.value(node.inputs[0]), flat, value=value)


def _slice(drawing: Drawing, node: Node) -> Any:
    starts, ends = (drawing.integers(name) for name in node.inputs[1:3])
    axes = drawing.integers(node.input(3)) if node.input(3) else list(range(len(starts)))
    steps = drawing.integers(node.input(4)) if node.input(4) else [1] * len(starts)
    if min(steps) < 1:
        raise Unsupported(f"PyTorch has no slices backwards ({node.label})")
    where = [slice(None)] * len(drawing.shape(node.inputs[0]))
    for start, end, axis, step in zip(starts, ends, axes, steps):
        where[axis] = slice(start, end, step)
    return drawing.function(operator.getitem, drawing.value(node.inputs[0]), tuple(where))


def _split(drawing: Drawing, node: Node) -> Sequence[Any]:
    axis = node.get("axis", 0)
    sizes = [drawing.shape(name)[axis] for name in node.outputs]
    parts = drawing.function(torch.split, drawing.value(node.inputs[0]), sizes, axis)
    return [drawing.function(operator.getitem, parts, at) for at in range(len(sizes))]


def _mean(drawing: Drawing, node: Node) -> Any:
    rank = len(drawing.shape(node.inputs[0]))
    axes = drawing.integers(node.input(1)) if node.input(1) else list(range(rank))
    keep = bool(node.get("keepdims", 1))
    return drawing.function(torch.mean, drawing.value(node.inputs[0]), axes, keep)


RULES: dict[str, Rule] = {
    "Add": _binary(operator.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _binary(operator.truediv),
    "Dropout": _dropout,
    "Flatten": _reshaped,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda node: nn.Hardswish()),
    "Identity": lambda drawing, node: drawing.value(node.inputs[0]),
    "LRN": _lrn,
    "LeakyRelu": _plain(lambda node: nn.LeakyReLU(node.get("alpha", 0.01))),
    "MatMul": _of_all(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _binary(operator.mul),
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": _plain(lambda node: nn.ReLU()),
    "Reshape": _reshaped,
    "Sigmoid": _plain(lambda node: nn.Sigmoid()),
    "Slice": _slice,
    "Softmax": _plain(lambda node: nn.Softmax(node.get("axis", -1))),
    "Split": _split,
    "Squeeze": _reshaped,
    "Sub": _binary(operator.sub),
    "Tanh": _plain(lambda node: nn.Tanh()),
    "Transpose": _transpose,
    "Unsqueeze": _reshaped,
}
