"""A `Graph` under construction from FX nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Union

import numpy as np

from ..errors import Unsupported
from ..graph.builder import GraphBuilder
from ..graph.ir import Graph

__all__ = ["Names", "Order", "Rule", "Shape", "Translation", "need", "shape_of"]

Names = Union[str, "tuple[str | None, ...]"]
Shape = tuple[int, ...]
#: The axes of a shape in the order in which they lie in memory, the outermost first.
Order = tuple[int, ...]
#: See `backend_aten`.
Rule = Callable[..., Names]


def shape_of(node: Any) -> Shape:
    """The sizes of what an FX node computes."""
    return tuple(int(size) for size in node.meta["val"].shape)


def need(condition: bool, reason: str) -> None:
    """Raise `Unsupported` unless the condition holds."""
    if not condition:
        raise Unsupported(reason)


class Translation:
    """A `Graph` under construction, with the names of the values of FX nodes."""

    def __init__(self, name: str) -> None:
        self.build = GraphBuilder(name)
        self.names: dict[Any, Names] = {}

    def input(self, node: Any, name: str, order: Order) -> None:
        """A graph input in the axes' order of its memory, and the value that it is."""
        shape = shape_of(node)
        memory = self.build.input(name, tuple(shape[axis] for axis in order))
        back = tuple(int(axis) for axis in np.argsort(order)) if order else ()
        self.names[node] = self.build.node("Transpose", [memory], shape, f"{name} seen", perm=back) if order else memory

    def constant(self, node: Any, array: np.ndarray[Any, Any]) -> None:
        """A value that never changes."""
        self.names[node] = self.build.constant(node.name, array)

    def graph(self, outputs: Sequence[tuple[Any, Order]]) -> Graph:
        """The graph; output `i` is called `out{i}` and has its axes in the order given for it."""
        named = {}
        for at, (node, order) in enumerate(outputs):
            shape, name = shape_of(node), self.of(node)
            memory = tuple(shape[axis] for axis in order)
            named[f"out{at}"] = self.build.node("Transpose", [name], memory, f"out{at} in memory", perm=order)
        return self.build.graph(**named)

    # ---- for rules --------------------------------------------------------------------------------------------------

    def of(self, value: Any) -> str:
        """The name of an FX node's value, or of a number as a constant."""
        if isinstance(value, (bool, int, float)):
            return self.build.constant(f"number {value!r}", np.float32(value))
        name = self.names[value]
        assert isinstance(name, str)
        return name

    def node(self, op: str, inputs: Iterable[Any], shape: Shape, name: str, **attributes: Any) -> str:
        """A node on values of FX nodes, numbers, names of values, and None for what is left out."""
        names = ["" if v is None else v if isinstance(v, str) else self.of(v) for v in inputs]
        return self.build.node(op, names, shape, name, **attributes)

    def sizes(self, name: str, values: Sequence[int]) -> str:
        """A constant of integers."""
        return self.build.constant(name, np.asarray(values, np.int64))

    def reshaped(self, value: Any, shape: Shape, name: str) -> str:
        """A value in another shape."""
        if isinstance(value, str):
            return self.node("Reshape", [value, self.sizes(f"{name} shape", shape)], shape, name)
        return self.of(value) if shape_of(value) == shape else self.reshaped(self.of(value), shape, name)

    def cut(self, value: Any, shape: Shape, axis: int, start: int, end: int, step: int, name: str) -> str:
        """A slice along one axis. `shape` is that of the result."""
        parts = [self.sizes(f"{name} {at}", [v]) for at, v in enumerate((start, end, axis, step))]
        return self.node("Slice", [value, *parts], shape, name)
