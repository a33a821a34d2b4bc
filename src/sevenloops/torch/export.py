"""Modules of our own, and those of PyTorch around them, as graphs: what `to_graph` does for others than `from_graph`'s.

The module is traced with `torch.fx`, and each layer becomes the `GraphBuilder` call of the same name and weights. It is
meant for networks of `sevenloops.torch.nn`, whose operators `torch.onnx.export` does not know.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from ..errors import Unsupported
from ..graph.builder import GraphBuilder
from ..graph.ir import Graph
from ..shift import Shift
from .nn import Shift2d, ShiftConv2d, TemporalShift

__all__ = ["LAYERS", "traced"]

#: Adds a layer: (builder, module, name, value) -> value.
Layer = Callable[[GraphBuilder, Any, str, str], str]


def traced(module: nn.Module, example: Any) -> Graph:
    """The graph of a module that takes one tensor of the shape of `example`, but for the batch, and returns one.

    Its input is called "input", its output "output", its weights as in the state dict. It computes what the module does in
    `eval()`. Raises `Unsupported` for a layer, a function or a control flow that is not converted.
    """
    try:
        recorded = _Tracer().trace(module)
    except (fx.proxy.TraceError, TypeError) as error:
        raise Unsupported(f"{type(module).__name__} cannot be traced by torch.fx: {error}") from error
    state = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    net = GraphBuilder(type(module).__name__, weights=state)
    shape = tuple(getattr(example, "shape", example))
    values: dict[fx.Node, Any] = {}
    for node in recorded.nodes:
        if node.op == "placeholder" and not values:
            values[node] = net.input("input", ("N", *map(int, shape[1:])))
        elif node.op == "call_module":
            values[node] = _layer(net, module.get_submodule(node.target), node.target, _arguments(node, values))
        elif node.op in ("call_function", "call_method"):
            values[node] = _called(net, node, _arguments(node, values))
        elif node.op == "output" and isinstance(node.args[0], fx.Node):
            return net.graph(output=values[node.args[0]])
        else:
            raise Unsupported(f"{node.op} {node.target} is not converted: modules of one tensor in and one out are")
    raise AssertionError("a traced module has an output")


class _Tracer(fx.Tracer):
    """Looks into everything but what `LAYERS` has."""

    def is_leaf_module(self, m: Any, module_qualified_name: str) -> bool:
        return _row(m) is not None or bool(super().is_leaf_module(m, module_qualified_name))


def _row(module: Any) -> Layer | None:
    """Subclasses are taken for their class: replacements compute the same with the same weights."""
    return next((LAYERS[kind] for kind in type(module).__mro__ if kind in LAYERS), None)


def _arguments(node: fx.Node, values: Mapping[fx.Node, Any]) -> tuple[Any, ...]:
    """The arguments with names of values in place of nodes; keywords behind the others, in their order."""
    return tuple(fx.node.map_arg((*node.args, *node.kwargs.values()), lambda other: values[other]))


def _layer(net: GraphBuilder, module: Any, name: str, arguments: tuple[Any, ...]) -> str:
    add = _row(module)
    if add is None or len(arguments) != 1:
        raise Unsupported(f"{name} is a {type(module).__name__}, which is not among the layers that are converted")
    return add(net, module, name, arguments[0])


def _called(net: GraphBuilder, node: fx.Node, arguments: tuple[Any, ...]) -> str:
    add = FUNCTIONS.get(node.target)
    if add is None:
        raise Unsupported(f"{node.name} calls {node.target}, which is not among the functions that are converted")
    return add(net, *arguments)


# -------------------------------------------------------------------------------------------------------- layers


def _padding(module: Any) -> Any:
    if isinstance(module.padding, str) or getattr(module, "padding_mode", "zeros") != "zeros":
        raise Unsupported(f"padding {module.padding!r} is not converted; numbers of zeros are")
    return module.padding


def _conv(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    sizes = {"stride": module.stride, "padding": _padding(module), "dilation": module.dilation, "groups": module.groups}
    return net.conv(x, module.out_channels, module.kernel_size, **sizes, bias=module.bias is not None, name=name)


def _conv_transpose(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    sizes = {"stride": module.stride, "padding": _padding(module), "dilation": module.dilation, "groups": module.groups}
    sizes |= {"output_padding": module.output_padding, "bias": module.bias is not None}
    return net.conv_transpose(x, module.out_channels, module.kernel_size, **sizes, name=name)


def _batch_norm(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    if module.weight is None or module.running_mean is None:
        raise Unsupported(f"{name} has no weights or no running statistics")
    return net.batch_norm(x, epsilon=module.eps, name=name)


def _linear(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    return net.linear(x, module.out_features, bias=module.bias is not None, name=name)


def _pool(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    rank = len(net.shape(x)) - 2
    full = lambda value: value if isinstance(value, tuple) else (value,) * rank  # noqa: E731
    sizes = {"stride": full(module.stride), "padding": full(module.padding), "ceil": module.ceil_mode}
    if isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)):
        if set(full(module.dilation)) != {1} or module.return_indices:
            raise Unsupported(f"{name} has a dilation or returns indices")
        return net.max_pool(x, full(module.kernel_size), **sizes, name=name)
    if getattr(module, "divisor_override", None):
        raise Unsupported(f"{name} has a divisor of its own")
    return net.average_pool(x, full(module.kernel_size), **sizes, count_include_pad=module.count_include_pad, name=name)


def _global_pool(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    if module.output_size not in (1, (1,), (1, 1), (1, 1, 1)):
        raise Unsupported(f"{name} pools to {module.output_size}; only 1 is converted")
    return net.global_average_pool(x, name=name)


def _lrn(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    if module.size % 2 == 0:
        raise Unsupported(f"{name} normalises over an even number of channels, which ONNX takes from other places")
    return net.lrn(x, module.size, module.alpha, module.beta, module.k, name=name)


def _flatten(net: GraphBuilder, x: str, start: int = 1, end: int = -1) -> str:
    if start != 1 or end not in (-1, len(net.shape(x)) - 1):
        raise Unsupported(f"flatten from axis {start} to {end} is not converted; from 1 to the last is")
    return net.flatten(x)


def _shift(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    moving = Shift(module.kernel_size, module.dilation, module.convention)
    if isinstance(module, ShiftConv2d):
        y = net.shift(x, moving, name=f"{name}.shift")
        return net.conv(y, module.out_channels, 1, stride=module.stride, bias=module.bias is not None, name=name)
    if set(module.stride) == {1}:
        return net.shift(x, moving, name=name)
    y = net.shift(x, moving, name=f"{name}.shift")
    return _cut(net, y, (2, 3), (0, 0), net.shape(y)[2:], f"{name}.stride", module.stride)


def _temporal_shift(net: GraphBuilder, module: Any, name: str, x: str) -> str:
    """Time padded on both sides, a slice for each group of channels, one concatenation (Paddle's form)."""
    images, channels, *size = net.shape(x)
    moved, frames = net.channels(x) // module.fraction, module.frames
    if not moved:
        return x
    first, second = (2, 0) if module.first == "next" else (0, 2)
    shape = ("clips", frames, channels, *size)
    sizes = net.constant(f"{name}.clips.shape", np.array([-1, *shape[1:]]))
    y = net.node("Reshape", [x, sizes], shape, f"{name}.clips")
    pads = net.constant(f"{name}.pads", np.array([0, 1, 0, 0, 0, 0, 1, 0, 0, 0]))
    y = net.node("Pad", [y, pads], ("clips", frames + 2, *shape[2:]), f"{name}.pad")
    edges = ((first, 0, moved), (second, moved, 2 * moved), (1, 2 * moved, net.channels(x)))
    parts = [_cut(net, y, (1, 2), (t, a), (t + frames, b), f"{name}.part{a}") for t, a, b in edges if a < b]
    y = net.concat(parts, axis=2, name=f"{name}.concat")
    sizes = net.constant(f"{name}.shape", np.array([-1, channels, *size]))
    return net.node("Reshape", [y, sizes], (images, channels, *size), name)


def _cut(net: GraphBuilder, x: str, axes: Any, starts: Any, ends: Any, name: str, steps: Any = (1, 1)) -> str:
    shape = list(net.shape(x))
    for axis, start, end, step in zip(axes, starts, ends, steps):
        shape[axis] = -(-(end - start) // step)
    parts = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    constants = [net.constant(f"{name}.{part}", np.array(value)) for part, value in parts.items()]
    return net.node("Slice", [x, *constants], tuple(shape), name)


def _activation(op: str, **attributes: Callable[[Any], Any]) -> Layer:
    """An operator of ONNX with attributes read from the module."""
    return lambda net, module, name, x: net.activation(op, x, name, **{k: read(module) for k, read in attributes.items()})


LAYERS: dict[type, Layer] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _conv),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), _conv_transpose),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), _batch_norm),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), _pool),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), _global_pool),
    **dict.fromkeys((Shift2d, ShiftConv2d), _shift),
    TemporalShift: _temporal_shift,
    nn.Linear: _linear,
    nn.LocalResponseNorm: _lrn,
    nn.Flatten: lambda net, module, name, x: _flatten(net, x, module.start_dim, module.end_dim),
    nn.Dropout: lambda net, module, name, x: net.dropout(x, name),
    nn.Identity: lambda net, module, name, x: x,
    nn.ReLU: _activation("Relu"),
    nn.ReLU6: lambda net, module, name, x: net.clip(x, 0, 6, name),
    nn.LeakyReLU: _activation("LeakyRelu", alpha=lambda module: module.negative_slope),
    nn.Sigmoid: _activation("Sigmoid"),
    nn.Tanh: _activation("Tanh"),
    nn.Hardswish: _activation("HardSwish"),
    nn.Softmax: _activation("Softmax", axis=lambda module: module.dim),
}


def _add(net: GraphBuilder, a: Any, b: Any) -> str:
    if not isinstance(a, str) or not isinstance(b, str):
        raise Unsupported(f"only sums of two values are converted, not of {a!r} and {b!r}")
    return net.add(a, b)


def _concat(net: GraphBuilder, values: Any, axis: int = 0) -> str:
    return net.concat(list(values), axis % len(net.shape(values[0])))


#: Functions, and methods of tensors by their names.
FUNCTIONS: dict[Any, Callable[..., str]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add"), _add),
    **dict.fromkeys((torch.cat, torch.concat), _concat),
    **dict.fromkeys((torch.flatten, "flatten"), _flatten),
    **dict.fromkeys((torch.relu, F.relu, "relu"), lambda net, x, inplace=False: net.relu(x)),
}
