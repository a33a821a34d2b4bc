"""Graphs of training: PyTorch's, with our convolutions and their gradients in place of those of ATen.

Ours return channels-last tensors, whatever PyTorch's fake tensors say, and most operators that follow keep that. What other
operators read, and what leaves the forward graph for its caller, is brought into the place that the graph says.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..adjoint import adjoint
from ..errors import SevenLoopsError
from .backend_aten import MOVES, unfit
from .backend_parts import Leftover
from .backend_trial import faster
from .convolution import CONVOLUTION, conv_problem
from .functional import conv_tail
from .sums import CHANNEL_SUM

__all__ = ["Replaced", "replace_layers"]

Tensor = Any
aten = torch.ops.aten
#: What each of the three gradients of a convolution is called.
GRADIENTS = ("input", "weight", "bias")
#: Operators for which only some strides will do, and for which `reshape` is the same with all.
RESHAPES = {aten.view.default, aten._unsafe_view.default}
#: Operators beside the element-wise ones and those that move values which take tensors as they lie in memory.
ANY_STRIDES = {
    aten._native_batch_norm_legit_functional, aten._native_batch_norm_legit_no_training, aten.native_batch_norm_backward,
    aten.avg_pool2d, aten.avg_pool2d_backward, aten.max_pool2d_with_indices, aten.max_pool2d_with_indices_backward,
    aten._adaptive_avg_pool2d, aten._adaptive_avg_pool2d_backward, aten.mean, aten.sum, aten.convolution,
    aten.convolution_backward,
}  # fmt: skip


@dataclass(frozen=True)
class Replaced:
    """How many layers of a graph are ours, and what is left to PyTorch with the reasons."""

    layers: int
    leftovers: tuple[Leftover, ...]


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *tail: Any) -> Tensor:
    """`aten::convolution` by our kernels. Signals, for which PyTorch has no other format, become contiguous."""
    y = CONVOLUTION.forward(x, weight, bias, *_tail(x, *tail))
    return y if y.dim() > 3 else y.contiguous()


def gradients(
    ours: Sequence[bool], dy: Tensor, x: Tensor, weight: Tensor, sizes: Any, *rest: Any
) -> tuple[Tensor | None, ...]:
    """`aten::convolution_backward`: the gradients of `ours` by our kernels, the others by PyTorch's."""
    *tail, mask = rest
    found: list[Any] = [None, None, None]
    theirs = [wanted and not own for wanted, own in zip(mask, ours)]
    if any(theirs):
        found = list(aten.convolution_backward(dy, x, weight, sizes, *tail, theirs))
    if mask[0] and ours[0]:
        found[0] = CONVOLUTION.input_gradient(dy, weight, tuple(x.shape), *_tail(x, *tail))
    if mask[1] and ours[1]:
        found[1] = CONVOLUTION.weight_gradient(dy, x, tuple(weight.shape), *_tail(x, *tail))
    if mask[2] and ours[2]:
        found[2] = CHANNEL_SUM(dy, 1)
    return tuple(found)


def placed(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """A tensor with these strides: itself, or a copy."""
    same = all(size == 1 or a == b for size, a, b in zip(x.shape, x.stride(), strides))
    return x if same else torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


def _tail(x: Tensor, stride: Any, padding: Any, dilation: Any, transposed: bool, extra: Any, groups: int) -> tuple[Any, ...]:
    lists = (tuple(values) * (x.dim() - 2 if len(values) == 1 else 1) for values in (stride, padding, dilation, extra))
    full_stride, full_padding, full_dilation, full_extra = lists
    return conv_tail(x.dim() - 2, full_stride, full_padding, full_dilation, transposed, full_extra, groups)


def replace_layers(module: Any, kept_outputs: int, compare: bool) -> Replaced:
    """Put our layers into a graph. Its first `kept_outputs` outputs get the strides that the graph says.

    With `compare`, a layer stays PyTorch's where that was faster, on random numbers in tensors of the same shapes.
    """
    layers, leftovers = 0, list[Leftover]()
    for node in module.graph.nodes:
        if node.target in LAYERS:
            reasons = LAYERS[node.target](node, compare)
            layers += not all(reasons.values())
            leftovers += [
                Leftover(f"{node.target}".removesuffix(".default") + what, node.name, why)
                for what, why in reasons.items()
                if why
            ]
    if layers:
        _freed(module, kept_outputs)
        module.graph.lint()
        module.recompile()
    return Replaced(layers, tuple(leftovers))


def _forward(node: Any, compare: bool) -> dict[str, str]:
    """Why a convolution is left to PyTorch: nothing, or one reason."""
    x, weight, _, *tail = node.args
    reason = _against(x, weight, tail)
    if not reason and compare:
        reason = faster(convolution, aten.convolution, node.args)
    if not reason:
        node.target = convolution
    return {"": reason}


def _backward(node: Any, compare: bool) -> dict[str, str]:
    """Why gradients of a convolution are left to PyTorch, by their names."""
    dy, x, weight, _, *tail, mask = node.args
    wanted = [at for at in range(3) if mask[at]]
    reason = unfit(dy.meta["val"]) or _against(x, weight, tail)
    reasons = dict.fromkeys(wanted, reason)
    if not reason and compare:
        for at in wanted:
            alone = [other == at for other in range(3)]
            ours = lambda *args, alone=alone: gradients(alone, *args)  # noqa: E731
            reasons[at] = faster(ours, aten.convolution_backward, (*node.args[:-1], alone))
    own = [at in reasons and not reasons[at] for at in range(3)]
    if any(own):
        node.target, node.args = gradients, (own, *node.args)
    return {f" ({GRADIENTS[at]} gradient)": why for at, why in reasons.items()}


LAYERS: Mapping[Any, Callable[[Any, bool], dict[str, str]]] = {
    aten.convolution.default: _forward,
    aten.convolution_backward.default: _backward,
}


def _against(x: Any, weight: Any, tail: Sequence[Any]) -> str:
    """Why our kernels do not compute a convolution, empty where they do."""
    for value in (x, weight):
        reason = unfit(value.meta["val"])
        if reason:
            return f"{value.name} is {reason}"
    a, b = x.meta["val"], weight.meta["val"]
    try:
        adjoint(conv_problem(tuple(a.shape), tuple(b.shape), False, "float32", *_tail(a, *tail)))
    except SevenLoopsError as error:
        return str(error)
    return ""


def _freed(module: Any, kept_outputs: int) -> None:
    """Let strides be what they are where nobody depends on them, and put right where somebody does."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target in RESHAPES:
            node.target = aten.reshape.default
        elif node.op == "call_function" and not _takes_any(node.target):
            for value in node.all_input_nodes:
                _place(graph, node, value)
    output = graph.output_node()
    for value in dict.fromkeys(output.args[0][:kept_outputs]):
        if isinstance(value, torch.fx.Node):
            _place(graph, output, value)


def _takes_any(target: Any) -> bool:
    if target in (convolution, gradients, placed, operator.getitem) or target in MOVES.keys() - {aten.as_strided.default}:
        return True
    return target.overloadpacket in ANY_STRIDES or torch.Tag.pointwise in target.tags


def _place(graph: Any, reader: Any, value: Any) -> None:
    """Have a reader see a value with the strides that the graph says; what is an input of the graph goes out as it is."""
    if not isinstance(value.meta.get("val"), torch.Tensor) or (value.op == "placeholder" and reader.op == "output"):
        return
    strides = value.meta["val"].stride()
    with graph.inserting_before(reader):
        own = graph.call_function(placed, (value, strides))
    own.meta["val"] = value.meta["val"]
    reader.replace_input_with(value, own)
