"""Graphs as PyTorch modules that train, and trained modules as graphs.

model = from_graph(build("shiftresnet20"))  # a torch.fx.GraphModule: model.code shows its forward
train(model)  # in place, as any module
to_graph(model).save_onnx("trained.onnx")  # the same network with the weights of now
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import fx

from ..analysis.costs import trained
from ..errors import GraphError, Unsupported
from ..graph.ir import OWN, Graph, Node
from ..graph.shapes import infer
from .drawing import Drawing
from .export import traced
from .graph_layers import RULES, weights_of
from .nn import Shift2d, ShiftConv2d

__all__ = ["from_graph", "to_graph"]

#: Where a module remembers what it was made from, in `fx.GraphModule.meta`.
ORIGIN = "sevenloops.graph"
#: The batch for which the sizes of a graph with any batch are worked out: not one, which would make axes vanish.
BATCH = 2


def from_graph(
    graph: Graph, sizes: Mapping[str, Iterable[int]] | None = None, *, device: Any = None, dtype: Any = None
) -> fx.GraphModule:
    """A module that computes a graph and trains: tensors in the order of the graph's inputs -> its output, or a tuple.

    Layers are PyTorch's own modules where it has them, under the names of the graph's weights, so state dicts of networks
    with the same names fit. What `analysis.costs` counts as parameters becomes parameters; running statistics are buffers,
    batch norm and dropout follow `train()` and `eval()`. A Shift, alone or with the 1x1 convolution after it, is a module
    of `sevenloops.torch.nn`. The weights are copies: training leaves the graph as it is.

    Args:
        graph: as it was built or imported, before passes.
        sizes: input name -> shape, for inputs whose sizes are not known. An unknown first axis is the batch and may be
            left out. A Reshape that names the batch in its constant runs for that batch only.
        device, dtype: of the parameters, as PyTorch's factories take them; `device="meta"` allocates nothing.

    Raises `Unsupported` for an operator that is not converted, `GraphError` for sizes that do not fit.
    """
    sized = infer(_training(graph), {**_batched(graph), **(sizes or {})})
    drawing = Drawing(sized, frozenset(name for node in sized.nodes for name in trained(sized, node)), device, dtype)
    for value in sized.inputs:
        drawing.values[value.name] = drawing.fx.placeholder(_argument(value.name))
    for node in sized.nodes:
        rule = ALL_RULES.get((node.domain, node.op))
        if rule is None:
            raise Unsupported(f"{node.op} is not among the operators that are converted to PyTorch")
        found = rule(drawing, node)
        results = found if isinstance(found, list) else [found]
        drawing.values.update(zip(node.outputs, results))
    outputs = [drawing.value(name) for name in sized.outputs]
    drawing.fx.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
    module = fx.GraphModule(drawing.parts, drawing.fx)
    meta: dict[str, Any] = module.meta
    meta[ORIGIN] = (_bare(graph, drawing.names.values()), dict(drawing.names))
    return module


def to_graph(module: torch.nn.Module, example: Any = None) -> Graph:
    """The graph of a module with the parameters and running statistics that it has now, as it computes in `eval()`.

    `save_onnx` of the result writes a model that `InferenceSession` and other engines run. A module that `from_graph` made
    gives the graph that it was made from; modules inside may have been replaced by others with the same state. Any other
    module of the layers in `export.LAYERS` is traced, for which `example` is an input or its shape.

    Raises `GraphError` where the state is not complete or has other shapes, or an example is missing; `Unsupported` for
    what is not converted.
    """
    meta: dict[str, Any] = getattr(module, "meta", {})
    if ORIGIN not in meta:
        if example is None:
            raise GraphError(f"{type(module).__name__} was not made by from_graph: to_graph(module, example) traces it")
        return traced(module, example)
    graph: Graph = meta[ORIGIN][0]
    names: dict[str, str] = meta[ORIGIN][1]
    tensors: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    constants = dict(graph.constants)
    for path, name in names.items():
        if path not in tensors:
            raise GraphError(f"the module has no {path!r} any more, which is {name!r} of the graph")
        array = tensors[path].detach().to("cpu").contiguous().numpy()
        if array.shape != constants[name].shape:
            raise GraphError(f"{path!r} must have the shape {constants[name].shape}, got {array.shape}")
        constants[name] = np.array(array, constants[name].dtype)
    return graph.replace(constants=constants)


def _training(graph: Graph) -> Graph:
    """The graph with dropouts that `infer` takes for part of the network, as it does with those that are at work."""
    constants = {**graph.constants, "sevenloops.on": np.array(True), "sevenloops.half": np.array(0.5, np.float32)}

    def kept(node: Node) -> Node:
        if node.op != "Dropout" or node.domain:
            return node
        return node.replace(inputs=(node.inputs[0], node.input(1) or "sevenloops.half", "sevenloops.on"))

    return graph.replace(nodes=tuple(map(kept, graph.nodes)), constants=constants)


def _batched(graph: Graph) -> dict[str, tuple[Any, ...]]:
    """The inputs of which only the batch is unknown, for some batch."""
    shapes = {value.name: value.shape for value in graph.inputs if value.shape}
    symbols = {shape[0] for shape in shapes.values() if isinstance(shape[0], str)}
    some = {name: tuple(BATCH if size in symbols else size for size in shape) for name, shape in shapes.items()}
    return {name: shape for name, shape in some.items() if all(isinstance(size, int) for size in shape)}


def _argument(name: str) -> str:
    """A name of an input as one that Python takes."""
    plain = "".join(letter if letter.isalnum() else "_" for letter in name)
    return plain if plain[:1].isalpha() else f"x{plain}"


def _bare(graph: Graph, names: Iterable[str]) -> Graph:
    """The graph without the memory of what the module holds now."""
    empty = {
        name: np.broadcast_to(np.zeros((), graph.constants[name].dtype), graph.constants[name].shape)
        for name in names
        if name in graph.constants
    }
    return graph.replace(constants={**graph.constants, **empty})


def _shift(drawing: Drawing, node: Node) -> Any:
    """A Shift that 1x1 convolutions alone read is part of them."""
    readers = drawing.graph.consumers()[node.outputs[0]] if node.outputs[0] not in drawing.graph.outputs else []
    if readers and all(_is_pointwise(drawing, reader, node.outputs[0]) for reader in readers):
        return node
    kernel, dilation, convention = _moves(node)
    return drawing.module(node, Shift2d(kernel, dilation, 1, convention), drawing.value(node.inputs[0]))


def _moves(node: Node) -> tuple[Any, Any, str]:
    return node.get("kernel", (3,)), node.get("dilation", (1,)), node.get("convention", "contiguous")


def _is_pointwise(drawing: Drawing, node: Node, x: str) -> bool:
    weight = drawing.array(node.input(1))
    plain = (node.op, node.domain, node.get("group", 1)) == ("Conv", "", 1) and not any(node.get("pads") or ())
    return plain and weight is not None and weight.shape[2:] == (1, 1) and node.inputs.count(x) == 1


def _conv(drawing: Drawing, node: Node) -> Any:
    """A convolution of PyTorch's, or one that shifts what it reads."""
    shift = drawing.values.get(node.inputs[0])
    if not isinstance(shift, Node):
        return RULES["Conv"](drawing, node)
    weight = drawing.graph.constants[node.inputs[1]]
    kernel, dilation, convention = _moves(shift)
    sizes = {"stride": node.get("strides"), "bias": bool(node.input(2)), "convention": convention}
    module = ShiftConv2d(weight.shape[1], weight.shape[0], kernel, dilation, **sizes, device="meta")
    return drawing.module(node, module, drawing.value(shift.inputs[0]), **weights_of(drawing, node))


#: As `RULES`, with those of our own operators.
ALL_RULES = {("", op): rule for op, rule in RULES.items()} | {("", "Conv"): _conv, (OWN, "Shift"): _shift}
