"""Graphs of sizes that Dynamo has left open, compiled once for each size that comes."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode

from ..locks import renewed_lock

__all__ = ["BySize", "has_open_sizes"]

#: Sizes whose graphs are kept; those unused longest go.
MAX_SIZES = 32


def has_open_sizes(inputs: Sequence[Any]) -> bool:
    """Whether some size is a symbol: Dynamo makes one of what changed from call to call (`dynamic=False` keeps numbers)."""
    return any(isinstance(size, torch.SymInt) for value in inputs for size in getattr(value, "shape", (value,)))


class BySize:
    """The function of a graph; for each new size of its inputs `compile(module, inputs)` is called with plain numbers."""

    def __init__(self, module: Any, compile: Callable[[Any, Sequence[Any]], Any]) -> None:
        self._module, self._compile = module, compile
        self._compiled: OrderedDict[Any, Any] = OrderedDict()
        self._lock = renewed_lock(self, "_lock")

    def __call__(self, *inputs: Any) -> Any:
        """The outputs of the graph."""
        key = tuple((v.shape, v.stride()) if isinstance(v, torch.Tensor) else v for v in inputs)
        with self._lock:
            if key not in self._compiled:
                self._compiled[key] = self._for(inputs)
                while len(self._compiled) > MAX_SIZES:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
            compiled = self._compiled[key]
        return compiled(*inputs)

    def _for(self, inputs: Sequence[Any]) -> Any:
        mode = FakeTensorMode()
        with tracing(TracingContext(mode)):
            fakes = [mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for v in inputs]
            module = copy.copy(self._module)
            module.graph = copy.deepcopy(self._module.graph)
            with mode:
                _Numbers(module).run(*fakes)
            module.recompile()
            return self._compile(module, fakes)


class _Numbers(torch.fx.Interpreter):
    """Runs a graph on tensors without memory; sizes become numbers in the arguments of the nodes that read them."""

    def run_node(self, node: Any) -> Any:
        """The value of one node, which it keeps as `meta["example_value"]`."""
        value = super().run_node(node)
        node.meta["example_value"] = value
        if isinstance(value, (bool, int, float)):
            for user in list(node.users):
                if user.op != "output":
                    user.args, user.kwargs = torch.fx.map_arg((user.args, user.kwargs), lambda v: value if v is node else v)
        return value
