"""The network as a value: nodes in order, values by name, constants as arrays.

A `Graph` speaks ONNX: operators by their names, with the meaning of opset `OPSET`, activations in NCHW order of axes.
How values lie in memory is decided later, when a graph is planned for exact sizes. A graph is never changed: passes
return a new one.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import GraphError, printable

__all__ = ["OPSET", "OWN", "Graph", "Node", "Note", "Value"]

Array = np.ndarray[Any, Any]
#: The opset whose meaning the nodes of a graph have; importers bring older nodes to it.
OPSET = 21
#: The domain of operators that ONNX does not have: Shift, and what passes make.
OWN = "sevenloops"
#: Constants of up to so many bytes may say sizes.
SMALL_BYTES = 4096


@dataclass(frozen=True)
class Value:
    """A tensor's name and type. A dimension may be a name (any size); `shape` is None where not even the rank is known."""

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str = "float32"

    @functools.cached_property
    def known(self) -> bool:
        """Whether every dimension is a number."""
        return self.shape is not None and all(isinstance(size, int) for size in self.shape)

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """The shape, where every dimension is a number; raises `GraphError` elsewhere."""
        if self.shape is None or not self.known:
            raise GraphError(f"the size of {self.name} is not known: {self.shape}")
        return tuple(int(size) for size in self.shape)


@dataclass(frozen=True)
class Node:
    """One operator: reads values by name (`""` stands for an optional input left out), writes others.

    `attributes` are plain: int, float, str, tuples of them, NumPy arrays. `proto` is the serialized ONNX node and `opset`
    its version, kept for operators that only the `onnx` package can evaluate.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""
    proto: bytes | None = field(default=None, repr=False)
    opset: int = OPSET

    def get(self, attribute: str, default: Any = None) -> Any:
        """An attribute, or the default where it is left out."""
        return self.attributes.get(attribute, default)

    def input(self, at: int) -> str:
        """The name of an input, `""` where it is left out."""
        return self.inputs[at] if at < len(self.inputs) else ""

    @property
    def label(self) -> str:
        """The node's name, else its first output's."""
        return self.name or next((output for output in self.outputs if output), self.op)

    def replace(self, **changes: Any) -> Node:
        """The node with some fields changed."""
        return replace(self, **changes)

    def with_attributes(self, **attributes: Any) -> Node:
        """The node with some attributes set."""
        return replace(self, attributes={**self.attributes, **attributes})


@dataclass(frozen=True)
class Note:
    """What a pass (`rule`) says of a node, by its label: `"made"`, a fusion or the like, or `"missed"`, with the reason."""

    kind: Literal["made", "missed"]
    node: str
    text: str
    rule: str = ""

    def __str__(self) -> str:
        return printable(f"{self.rule}: {self.text}")


@dataclass(frozen=True)
class Graph:
    """A network. `values` has the types of what the nodes write, as far as they are known; `notes` what passes did.

    Nodes are in an order in which every value is written before it is read. Raises `GraphError` otherwise, and for names
    that are written twice or never.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Value] = field(default_factory=dict)
    name: str = "graph"
    notes: tuple[Note, ...] = ()

    def __post_init__(self) -> None:
        written = {value.name for value in self.inputs} | set(self.constants)
        for node in self.nodes:
            missing = [name for name in node.inputs if name and name not in written]
            if missing:
                raise GraphError(f"{node.op} {node.label!r} reads {missing[0]!r} before anything writes it")
            twice = [name for name in node.outputs if name and name in written]
            if twice:
                raise GraphError(f"{node.op} {node.label!r} writes {twice[0]!r}, which is written already")
            written.update(name for name in node.outputs if name)
        absent = [name for name in self.outputs if name not in written]
        if absent:
            raise GraphError(f"nothing writes the output {absent[0]!r}")

    def type_of(self, name: str) -> Value:
        """The type of a value, its shape None where nothing is known."""
        if name in self.constants:
            constant = self.constants[name]
            return Value(name, constant.shape, constant.dtype.name)
        if name in self.values:
            return self.values[name]
        return self._inputs.get(name) or Value(name, None)

    @functools.cached_property
    def _inputs(self) -> dict[str, Value]:
        return {value.name: value for value in self.inputs}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each value."""
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    def producers(self) -> dict[str, Node]:
        """The node that writes each value."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    def replace(self, **changes: Any) -> Graph:
        """The graph with some fields changed, checked again."""
        return replace(self, **changes)

    def noting(self, notes: Iterable[Note]) -> Graph:
        """The graph with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def without_weights(self) -> Graph:
        """The graph with NaN for its float constants of some size, which take no memory then: for counts and sizes only."""
        nan = {name: np.broadcast_to(c.dtype.type(np.nan), c.shape) for name, c in self.constants.items() if _is_large(c)}
        return replace(self, constants={**self.constants, **nan})

    @property
    def params(self) -> int:
        """Elements of all floating-point constants."""
        return sum(c.size for c in self.constants.values() if c.dtype.kind == "f")

    def save_onnx(self, path: str | os.PathLike[str] | None = None, shift_as: str = "depthwise") -> bytes:
        """The graph as an ONNX model, written to `path` if one is given; see `onnx_export.save_onnx`."""
        from .onnx_export import save_onnx

        return save_onnx(self, path, shift_as)


def _is_large(constant: Array) -> bool:
    return constant.dtype.kind == "f" and constant.nbytes > SMALL_BYTES
