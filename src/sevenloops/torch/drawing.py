"""A module while it is made from a graph: the calls of its forward, and the modules and tensors that they use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ..errors import Unsupported
from ..graph.ir import Graph, Node

__all__ = ["Drawing"]

Array = np.ndarray[Any, Any]
#: Attributes of every module, which no layer may be called.
RESERVED = frozenset(dir(nn.Module()))


@dataclass
class Drawing:
    """A `torch.fx` graph while it is made from a sized `graph`, whose constants named in `trained` become parameters.

    `parts` are modules, parameters and buffers by their path. `names` maps the state of the module to the constants that
    it was made from.
    """

    graph: Graph
    trained: frozenset[str]
    device: Any = None
    dtype: Any = None
    fx: fx.Graph = field(default_factory=fx.Graph)
    parts: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    _tensors: dict[str, Any] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ looking

    def array(self, name: str) -> Array | None:
        """The array of a constant; None for anything else."""
        return self.graph.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value; raises `GraphError` where they are not known."""
        return self.graph.type_of(name).sizes

    def integers(self, name: str) -> list[int]:
        """The integers in a constant; raises `Unsupported` where they are computed."""
        array = self.array(name)
        if array is None:
            raise Unsupported(f"{name} is computed by the network; only constants are converted to PyTorch")
        return [int(value) for value in array.reshape(-1)]

    def number(self, name: str) -> float | None:
        """The number in a constant of one element; None for anything else."""
        array = self.array(name)
        return float(array.reshape(())) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None

    def value(self, name: str) -> Any:
        """A value for a function of PyTorch: what a node computes, a constant as a parameter or a buffer, or None."""
        if not name:
            return None
        if name not in self.values:
            path = self._free(_path(name))
            self.parts[path], self.names[path] = self.tensor(name), name
            self.values[name] = self.fx.get_attr(path)
        return self.values[name]

    def tensor(self, name: str) -> Any:
        """A constant as a parameter or as a tensor, the same each time; its memory is not the graph's."""
        if name not in self._tensors:
            array = self.graph.constants[name]
            tensor = torch.from_numpy(np.array(array)) if str(self.device) != "meta" else _on_meta(array)
            tensor = tensor.to(self.device, self.dtype if tensor.is_floating_point() else None)
            self._tensors[name] = nn.Parameter(tensor) if name in self.trained else tensor
        return self._tensors[name]

    # ----------------------------------------------------------------------------------------------- drawing

    def function(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A call of a function."""
        return self.fx.call_function(function, arguments, options)

    def module(self, node: Node, module: nn.Module, *inputs: Any, **state: str) -> Any:
        """A call of a module. `state` are its parameters and buffers, by the names of the constants that they hold."""
        path = self._place(node, state)
        for part, name in state.items():
            tensor = self.tensor(name)
            if part in module._buffers:
                module._buffers[part] = tensor
            else:
                setattr(module, part, nn.Parameter(tensor) if not isinstance(tensor, nn.Parameter) else tensor)
            self.names[f"{path}.{part}"] = name
        self.parts[path] = module
        return self.fx.call_module(path, inputs)

    def _place(self, node: Node, state: dict[str, str]) -> str:
        """Where a module goes: its state is called as its constants where that is possible, else as the node."""
        stems = {name.removesuffix(f".{part}") if name.endswith(f".{part}") else "" for part, name in state.items()}
        stem = stems.pop() if len(stems) == 1 else ""
        return stem if stem and stem == self._free(_path(stem)) else self._free(_path(node.label))

    def _free(self, path: str) -> str:
        """A path like this one that leads through no tensor and to nothing that is there already."""
        tensors = [other for other, part in self.parts.items() if not isinstance(part, nn.Module)]
        while path in self.parts or any(path.startswith(f"{other}.") or other.startswith(f"{path}.") for other in tensors):
            path = path.replace(".", "_") + "_"
        return path


def _on_meta(array: Array) -> Any:
    return torch.empty(array.shape, dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype, device="meta")


def _path(name: str) -> str:
    """A name as a path of modules, none of its parts empty or the name of something that every module has."""
    return ".".join(f"{part}_" if not part or part in RESERVED else part for part in name.split("."))
