"""Batch normalisations with the activation after them, and with the residual that is added before it, in one pass.

Modules call their parts in Python, so what follows what shows only in a trace. Each module that has a batch normalisation of
ours among its children is traced alone by `torch.fx`, its children as they are. Where the trace has

    activation(norm(x))    or    activation(norm(x) + residual)

and nobody else reads what lies between, the module gets a class whose `forward` is that trace with
`norm(x, activation, residual)` in its place; everything else about the module is as before, and `restore` takes the class
back. This covers `nn.Sequential`, the blocks of residual networks in all their spellings, and whole models alike, and needs
no list of known classes. A module whose `forward` is more than a fixed sequence of calls is left alone: its trace fails,
differs between training and evaluation, or draws random numbers.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import fx

from .layer_modules import ACTIVATIONS, BatchNorm
from .modules import Replacement

__all__ = ["fuse"]

Module = Any
Node = Any
ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}


class _Tracer(fx.Tracer):
    """Looks into the module that it is given, and into none of its children."""

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True


def fuse(model: Module) -> dict[str, str]:
    """Fuse what can be fused in a model whose modules have been replaced.

    Returns what became of each batch normalisation of ours by name: what was fused with it, or why not.
    """
    found: dict[str, str] = {}
    for name, parent in list(model.named_modules()):
        norms = [child for child, module in parent.named_children() if isinstance(module, BatchNorm)]
        if norms:
            reasons = _fuse_children(parent)
            prefix = f"{name}." if name else ""
            found.update({prefix + child: reasons.get(child, "nothing follows that it could do") for child in norms})
    return found


def _fuse_children(parent: Module) -> dict[str, str]:
    graph = _trace(parent)
    if isinstance(graph, str):
        return {name: f"not fused: {graph}" for name, _ in parent.named_children()}
    fused = {}
    for norm, last, residual, activation in list(_sites(parent, graph)):
        with graph.inserting_before(last):
            kwargs = {"activation": activation} | ({} if residual is None else {"residual": residual})
            node = graph.call_module(norm.target, norm.args, kwargs)
        last.replace_all_uses_with(node)
        fused[norm.target] = activation if residual is None else f"the residual and {activation}"
        between = next(iter(norm.users))
        for old in dict.fromkeys((last, between, norm)):
            graph.erase_node(old)
    if fused:
        _give(parent, graph)
    return {name: f"fused with {what}" for name, what in fused.items()}


def _trace(parent: Module) -> Any:
    """The graph of a module's own `forward`, or why there is none that can stand for it."""
    if "forward" in vars(parent):
        return "the module has a forward of its own in place of its class's"
    own, mode, graphs, numbers = set(vars(parent)), parent.training, [], _RandomNumbers()
    try:
        for training in (True, False):
            parent.training = training
            graphs.append(_Tracer().trace(parent))
        if numbers.drawn():
            return "its forward draws random numbers"
    except Exception as error:  # whatever the code of others does with a stand-in for a tensor
        return f"its forward cannot be traced ({type(error).__name__})"
    finally:
        parent.training = mode
        numbers.put_back()
        for added in set(vars(parent)) - own:
            delattr(parent, added)
    if any("_tensor_constant" in str(node.target) for node in graphs[0].nodes):
        return "its forward makes tensors"
    return "its forward depends on the mode" if len({str(graph) for graph in graphs}) > 1 else graphs[0]


class _RandomNumbers:
    """The states of the generators of Python, NumPy and PyTorch: what was drawn in a trace is fixed in it."""

    def __init__(self) -> None:
        self.states = random.getstate(), np.random.get_state(legacy=False), torch.random.get_rng_state()

    def drawn(self) -> bool:
        """Whether a generator has moved."""
        now = _RandomNumbers().states
        return now[0] != self.states[0] or repr(now[1]) != repr(self.states[1]) or not torch.equal(now[2], self.states[2])

    def put_back(self) -> None:
        """As if nothing had been drawn."""
        random.setstate(self.states[0])
        np.random.set_state(self.states[1])
        torch.random.set_rng_state(self.states[2])


def _sites(parent: Module, graph: Any) -> Iterator[tuple[Node, Node, Node | None, str]]:
    """Batch normalisations that can be fused: the node, the last one that it takes in, the residual, the activation."""
    used: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            used[node.target] = used.get(node.target, 0) + 1
    taken = set()
    for norm in graph.nodes:
        if norm.op != "call_module" or norm.kwargs or len(norm.args) != 1 or used[norm.target] > 1:
            continue
        module = parent.get_submodule(norm.target)
        after = _only_user(norm)
        if not isinstance(module, BatchNorm) or _has_hooks(module) or after is None or after in taken:
            continue
        activation = _activation(parent, after)
        if activation is not None:
            yield norm, after, None, activation
            continue
        last = _only_user(after)
        if not _adds(after) or last is None:
            continue
        activation = _activation(parent, last)
        residual = after.args[1] if after.args[0] is norm else after.args[0]
        # The normalisation moves behind the residual: its input must not be changed in between.
        if activation is not None and residual is not norm and len(norm.args[0].users) == 1:
            taken.add(after)
            yield norm, last, residual, activation


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _has_hooks(module: Module) -> bool:
    return any(
        (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    )  # fmt: skip


def _adds(node: Node) -> bool:
    """Whether it adds two tensors of the graph."""
    if node.op not in ("call_function", "call_method") or node.target not in ADDITIONS:
        return False
    return len(node.args) == 2 and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args)


def _activation(parent: Module, node: Node) -> str | None:
    """The activation that a node computes of its one argument."""
    if len(node.args) != 1 or set(node.kwargs) - {"inplace"}:
        return None
    if node.op == "call_module":
        module = parent.get_submodule(node.target)
        return None if _has_hooks(module) else ACTIVATIONS.get(type(module))
    return ACTIVATIONS.get(node.target) if node.op in ("call_function", "call_method") else None


class _Fused(Replacement):
    """What modules with a fused `forward` have besides their own class; `original` is that class."""


def _give(parent: Module, graph: Any) -> None:
    """Give a module a class whose `forward` computes the graph."""
    graph.lint()
    original = type(parent)
    forward = type(fx.GraphModule(parent, graph, original.__name__)).forward
    members = {"forward": forward, "original": original, "_get_name": lambda self: original.__name__}
    parent.__class__ = type(original.__name__, (_Fused, original), members)
