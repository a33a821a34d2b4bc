"""PyTorch as a peer for networks: a module that interprets a Graph, channels last, since PyTorch reads no ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..graph.ir import Graph, Node
from ..graph.shapes import infer

__all__ = ["OPERATORS", "compute", "interpreter"]

Array = np.ndarray[Any, Any]
Tensors = list[Any]
#: What a node computes: its inputs as tensors (None where left out) -> its first output.
Compute = Callable[[Node, Tensors], Any]


def interpreter(graph: Graph, sizes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> Any:
    """A `torch.nn.Module` that computes a graph for exact sizes: inputs in order -> a list of outputs.

    Raises `Unsupported` for the first operator that is not in `OPERATORS`.
    """
    import torch

    sized = infer(graph, sizes)
    for node in sized.nodes:
        if node.domain or node.op not in OPERATORS:
            raise Unsupported(f"{node.op} is not among the operators that are converted to PyTorch")

    class Interpreter(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys: dict[str, str] = {}
            for number, (name, array) in enumerate(sized.constants.items()):
                self.keys[name] = f"c{number}"
                self.register_buffer(f"c{number}", _constant(array, dtype))

        def forward(self, *inputs: Any) -> Tensors:
            values = {name: getattr(self, key) for name, key in self.keys.items()}
            values.update(zip((value.name for value in sized.inputs), inputs))
            for node in sized.nodes:
                values[node.outputs[0]] = OPERATORS[node.op](node, [values[name] if name else None for name in node.inputs])
            return [values[name] for name in sized.outputs]

    return Interpreter().eval()


def compute(graph: Graph, feeds: Mapping[str, Array], dtype: str = "float64") -> list[Array]:
    """The outputs for given inputs, in the precision of `dtype`."""
    import torch

    module = interpreter(graph, {name: array.shape for name, array in feeds.items()}, dtype)
    with torch.inference_mode():
        results = module(*(_constant(feeds[value.name], dtype) for value in graph.inputs))
    return [result.numpy() for result in results]


def _constant(array: Array, dtype: str) -> Any:
    import torch

    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array.astype(dtype) if array.dtype.kind == "f" else array.copy())
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _pads(node: Node) -> list[tuple[int, int]]:
    flat = tuple(node.get("pads", ())) or (0,) * (2 * len(node.get("kernel_shape")))
    return list(zip(flat[: len(flat) // 2], flat[len(flat) // 2 :]))


def _even(node: Node, x: Any, value: float) -> tuple[Any, list[int]]:
    """The image and the padding that is left to the operator; uneven padding is put on before."""
    import torch.nn.functional as functional

    pads = _pads(node)
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    flat = [side for pair in reversed(pads) for side in pair]
    return functional.pad(x, flat, value=value), [0] * len(pads)


def _conv(node: Node, inputs: Tensors) -> Any:
    import torch

    x, padding = _even(node, inputs[0], 0.0)
    bias = inputs[2] if len(inputs) > 2 else None
    strides, dilations = list(node.get("strides")), list(node.get("dilations"))
    return torch.convolution(
        x, inputs[1], bias, strides, padding, dilations, False, [0] * len(strides), node.get("group", 1)
    )


def _conv_transpose(node: Node, inputs: Tensors) -> Any:
    import torch

    pads = _pads(node)
    if any(before != after for before, after in pads):
        raise Unsupported("PyTorch's transposed convolutions have even padding only")
    bias = inputs[2] if len(inputs) > 2 else None
    strides, extra = list(node.get("strides")), list(node.get("output_padding", (0,) * len(pads)))
    dilations, padding = list(node.get("dilations")), [before for before, _ in pads]
    return torch.convolution(inputs[0], inputs[1], bias, strides, padding, dilations, True, extra, node.get("group", 1))


def _batch_norm(node: Node, inputs: Tensors) -> Any:
    import torch.nn.functional as functional

    x, weight, bias, mean, variance = inputs
    return functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, node.get("epsilon", 1e-5))


def _max_pool(node: Node, inputs: Tensors) -> Any:
    import torch.nn.functional as functional

    if len(node.outputs) > 1:
        raise Unsupported("indices of a pool are not converted to PyTorch")
    x, padding = _even(node, inputs[0], -float("inf"))
    kernel, strides = list(node.get("kernel_shape")), list(node.get("strides"))
    dilations = list(node.get("dilations", (1,) * len(kernel)))
    return functional.max_pool2d(x, kernel, strides, padding, dilations, bool(node.get("ceil_mode", 0)))


def _average_pool(node: Node, inputs: Tensors) -> Any:
    import torch.nn.functional as functional

    pads, counted = _pads(node), bool(node.get("count_include_pad", 0))
    if any(before != after for before, after in pads) and not counted:
        raise Unsupported("PyTorch's average pools have even padding only")
    x, padding = _even(node, inputs[0], 0.0)
    kernel, strides = list(node.get("kernel_shape")), list(node.get("strides"))
    return functional.avg_pool2d(x, kernel, strides, padding, bool(node.get("ceil_mode", 0)), counted)


def _lrn(node: Node, inputs: Tensors) -> Any:
    import torch.nn.functional as functional

    alpha, beta, k = node.get("alpha", 1e-4), node.get("beta", 0.75), node.get("bias", 1.0)
    return functional.local_response_norm(inputs[0], node.get("size"), alpha, beta, k)


def _clip(node: Node, inputs: Tensors) -> Any:
    import torch

    low, high = (inputs[at] if len(inputs) > at else None for at in (1, 2))
    number = lambda bound: None if bound is None else float(bound)  # noqa: E731
    return torch.clamp(inputs[0], number(low), number(high))


def _gemm(node: Node, inputs: Tensors) -> Any:
    import torch

    a = inputs[0].t() if node.get("transA", 0) else inputs[0]
    b = inputs[1].t() if node.get("transB", 0) else inputs[1]
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    if len(inputs) < 3 or inputs[2] is None:
        return alpha * torch.mm(a, b) if alpha != 1 else torch.mm(a, b)
    return torch.addmm(inputs[2], a, b, beta=beta, alpha=alpha)


def _pad(node: Node, inputs: Tensors) -> Any:
    import torch.nn.functional as functional

    flat = [int(v) for v in inputs[1]]
    half = len(flat) // 2
    if node.get("mode", "constant") != "constant" or len(inputs) > 3:
        raise Unsupported("only Pad with a constant and without axes is converted to PyTorch")
    value = float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0
    return functional.pad(
        inputs[0], [side for at in reversed(range(half)) for side in (flat[at], flat[half + at])], value=value
    )


def _slice(node: Node, inputs: Tensors) -> Any:
    starts, ends, axes, steps = ([int(v) for v in part] for part in inputs[1:5])
    where = [slice(None)] * inputs[0].dim()
    for start, end, axis, step in zip(starts, ends, axes, steps):
        where[axis] = slice(start, end, step)
    return inputs[0][tuple(where)]


def _mean(node: Node, inputs: Tensors) -> Any:
    return inputs[0].mean(tuple(range(2, inputs[0].dim())), keepdim=True)


def _torch(name: str) -> Compute:
    """A function of the module `torch` on all inputs."""

    def compute(node: Node, inputs: Tensors) -> Any:
        import torch

        return getattr(torch, name)(*inputs)

    return compute


def _softmax(node: Node, inputs: Tensors) -> Any:
    return inputs[0].softmax(node.get("axis", -1))


def _concat(node: Node, inputs: Tensors) -> Any:
    import torch

    return torch.cat(inputs, node.get("axis"))


OPERATORS: dict[str, Compute] = {
    "Add": _torch("add"),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _torch("div"),
    "Flatten": lambda node, inputs: inputs[0].flatten(node.get("axis", 1)),
    "Gemm": _gemm,
    "GlobalAveragePool": _mean,
    "HardSigmoid": lambda node, inputs: (inputs[0] * node.get("alpha", 0.2) + node.get("beta", 0.5)).clamp(0, 1),
    "LRN": _lrn,
    "LeakyRelu": lambda node, inputs: inputs[0].where(inputs[0] > 0, inputs[0] * node.get("alpha", 0.01)),
    "MatMul": _torch("matmul"),
    "MaxPool": _max_pool,
    "Mul": _torch("mul"),
    "Pad": _pad,
    "Relu": _torch("relu"),
    "Reshape": lambda node, inputs: inputs[0].reshape([int(v) for v in inputs[1]]),
    "Sigmoid": _torch("sigmoid"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": _torch("sub"),
    "Tanh": _torch("tanh"),
}
