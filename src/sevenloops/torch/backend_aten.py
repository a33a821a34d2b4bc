"""ATen operators as nodes of a `Graph`: the table that says what of a PyTorch graph sevenloops computes.

A rule takes the translation so far, the FX node and the operator's arguments in the order of its schema, defaults filled in.
It adds nodes and returns the name of the value (a tuple of names where the operator has several outputs, None for those
that are not computed), or raises `Unsupported` with the reason. Shapes are those of PyTorch's fake tensors, `meta["val"]`.
"""

from __future__ import annotations

import operator
from typing import Any

import torch

from ..errors import Unsupported
from .backend_elementwise import ELEMENTWISE
from .backend_layers import LAYERS
from .backend_moves import MOVES
from .backend_own import OURS
from .backend_translation import Names, Rule, Translation, shape_of

__all__ = ["MOVES", "RULES", "reason_against", "translate", "unfit"]

#: Every operator that may be computed here.
RULES: dict[Any, Rule] = {**LAYERS, **ELEMENTWISE, **MOVES, **OURS}


def translate(translation: Translation, node: Any) -> None:
    """Add the nodes for one FX node, all of whose inputs are there. Raises `Unsupported`."""
    translation.names[node] = _names(translation, node)


def _names(translation: Translation, node: Any) -> Names:
    if node.target is operator.getitem:
        name = translation.names[node.args[0]][node.args[1]]
        assert name is not None
        return name
    return RULES[node.target](translation, node, *_arguments(node))


def _arguments(node: Any) -> list[Any]:
    """All arguments in the order of the schema."""
    schema = node.target._schema.arguments
    given = dict(zip((argument.name for argument in schema), node.args)) | dict(node.kwargs)
    return [given.get(argument.name, argument.default_value) for argument in schema]


def reason_against(node: Any) -> str:
    """Why an FX node is left to PyTorch, empty where it is not. The inputs of the node are taken to be there."""
    if node.target is operator.getitem:
        source = node.args[0]
        reason = reason_against(source)
        if reason or source.target is operator.getitem:
            return reason or "it is taken from a tuple in a tuple"
        return "" if _tried(source)[node.args[1]] is not None else "only the first output of its operator is computed"
    if node.target not in RULES:
        return "sevenloops has no kernel for it"
    values = [*node.all_input_nodes, *([] if isinstance(node.meta.get("val"), (tuple, list)) else [node])]
    for value in values:
        reason = unfit(value.meta.get("val"))
        if reason:
            return f"{'its result' if value is node else value.name} is {reason}"
    try:
        outputs = _tried(node)
    except Unsupported as error:
        return str(error)
    wanted = {user.args[1] for user in node.users if user.target is operator.getitem}
    if not isinstance(outputs, str) and any(outputs[at] is None for at in wanted):
        return "more than its first output is read"
    return ""


def unfit(value: Any) -> str:
    """Why kernels do not take a tensor, empty where they do."""
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}; tensors are compiled"
    if value.device.type != "cpu" or value.layout != torch.strided:
        return f"{value.layout} on {value.device}; dense tensors on the CPU are compiled"
    if value.dtype != torch.float32:
        return f"{str(value.dtype).removeprefix('torch.')}; float32 is compiled"
    if any(not isinstance(size, int) for size in value.shape):
        return "of a size that is not known"
    return f"empty: {tuple(value.shape)}" if 0 in value.shape else ""


def _tried(node: Any) -> Names:
    """What the rule makes of a node alone."""
    alone = Translation("tried")
    for value in node.all_input_nodes:
        alone.names[value] = alone.build.input(value.name, shape_of(value))
    return RULES[node.target](alone, node, *_arguments(node))
