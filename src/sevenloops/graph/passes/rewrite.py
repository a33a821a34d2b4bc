"""What every pass is written with: a graph under change, with who writes and who reads each value kept up to date.

A pass makes a `Rewriter`, walks over its nodes, replaces some, and calls `finish`. A new node stands where the last of
the nodes that it replaces stood, so that everything it reads is written before it. Each step costs what it touches; no
pass scans the graph again.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ...errors import GraphError
from ..ir import Graph, Node, Note, Value

__all__ = ["Array", "Rewriter"]

Array = np.ndarray[Any, Any]


def _key(node: Node) -> str:
    return next(name for name in node.outputs if name)


class Rewriter:
    """A graph while a pass changes it. An output of the graph counts as a reader that cannot be replaced."""

    def __init__(self, graph: Graph) -> None:
        self.notes: list[Note] = []
        self.constants = dict(graph.constants)
        self._graph = graph
        self._values = {**graph.values, **{value.name: value for value in graph.inputs}}
        self._outputs = frozenset(graph.outputs)
        self._slots: list[list[Node]] = [[node] for node in graph.nodes if any(node.outputs)]
        # A node is known by the first value that it writes.
        self._nodes: dict[str, Node] = {}
        self._slot: dict[str, int] = {}
        self._writer: dict[str, str] = {}
        self._readers: dict[str, dict[str, None]] = {}
        self._changed = False
        for slot, (node,) in enumerate(self._slots):
            self._link(node, slot)

    # ------------------------------------------------------------------------------------------------ looking

    def __iter__(self) -> Iterator[Node]:
        """The nodes in order, as they are when their turn comes; those that a step puts in their place are passed over."""
        for slot in self._slots:
            for node in tuple(slot):
                if self._nodes.get(_key(node)) is node:
                    yield node

    def reversed(self) -> Iterator[Node]:
        """The nodes from the last to the first."""
        for slot in reversed(self._slots):
            for node in reversed(tuple(slot)):
                if self._nodes.get(_key(node)) is node:
                    yield node

    def producer(self, name: str) -> Node | None:
        """The node that writes a value; None for inputs and constants."""
        key = self._writer.get(name)
        return None if key is None else self._nodes[key]

    def place(self, node: Node) -> int:
        """Where a node stands: larger is later."""
        return self._slot[_key(node)]

    def readers(self, name: str) -> list[Node]:
        """The nodes that read a value, each once."""
        return [self._nodes[key] for key in self._readers.get(name, ())]

    def is_output(self, name: str) -> bool:
        """Whether the graph hands a value out."""
        return name in self._outputs

    def only_reader(self, name: str) -> Node | None:
        """The one node that reads a value which nobody else needs; None elsewhere."""
        readers = self._readers.get(name, {})
        return self._nodes[next(iter(readers))] if len(readers) == 1 and name not in self._outputs else None

    def others(self, name: str, reader: Node) -> str | None:
        """Who needs a value besides `reader`, in words; None where nobody does."""
        if name in self._outputs:
            return f"{name} is an output of the graph"
        others = (node.label for key in self._readers.get(name, ()) if (node := self._nodes[key]) is not reader)
        found = list(itertools.islice(others, 3))  # a value may have thousands
        return f"{name} is also read by {', '.join(found)}" if found else None

    def constant(self, name: str) -> Array | None:
        """The array of a constant; None for anything else."""
        return self.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The number in a numeric constant of one element; None for anything else."""
        array = self.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 and array.dtype.kind in "fiu" else None

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a value where every dimension is a known number; None elsewhere."""
        if name in self.constants:
            return tuple(map(int, self.constants[name].shape))
        value = self._values.get(name)
        return value.sizes if value is not None and value.known else None

    def dtype(self, name: str) -> str | None:
        """The dtype of a value where it is known."""
        if name in self.constants:
            return str(self.constants[name].dtype)
        value = self._values.get(name)
        return None if value is None else value.dtype

    # ----------------------------------------------------------------------------------------------- changing

    def made(self, node: Node, text: str) -> None:
        """Note what was done."""
        self.notes.append(Note("made", node.label, text))

    def missed(self, node: Node, text: str) -> None:
        """Note what was left as it is, and why."""
        self.notes.append(Note("missed", node.label, text))

    def fresh(self, base: str) -> str:
        """A name that no value has, made from `base`."""
        name, number = base, 1
        while name in self.constants or name in self._writer or name in self._values:
            number += 1
            name = f"{base}_{number}"
        return name

    def add_constant(self, base: str, array: Array) -> str:
        """Add a constant under a fresh name and return the name."""
        name = self.fresh(base)
        self.constants[name] = array
        self._changed = True
        return name

    def declare(self, base: str, shape: tuple[int, ...] | None, dtype: str = "float32") -> str:
        """A fresh name for a value of this type, for a new node to write."""
        name = self.fresh(base)
        self._values[name] = Value(name, shape, dtype)
        return name

    def replace(self, at: Node, *new: Node, drop: Iterable[Node] = ()) -> None:
        """Put new nodes where `at` stands and remove `at` and the nodes of `drop`."""
        place = self._slot[_key(at)]
        slot = self._slots[place]
        for node in drop:
            self._unlink(node)
        before = next(index for index, node in enumerate(slot) if node is at)
        self._unlink(at)
        slot[before:before] = new
        for node in new:
            self._link(node, place)

    def bypass(self, node: Node) -> bool:
        """Remove a node whose one output is its first input; False where it must stay, as the graph hands out both."""
        (output,), source = node.outputs, node.inputs[0]
        producer = self.producer(source)
        if output not in self._outputs:
            self._unlink(node)
            self._rename(output, source)
        elif producer is None or source in self._outputs:
            return False
        else:
            self._unlink(node)
            self._rename(source, output)
            renamed = tuple(output if name == source else name for name in producer.outputs)
            self.replace(producer, producer.replace(outputs=renamed))
        return True

    def finish(self) -> tuple[Graph, list[Note]]:
        """The new graph, without what nothing reads any more, and the notes."""
        if not self._changed:
            return self._graph, self.notes
        needed, kept = set(self._graph.outputs), []
        for node in self.reversed():
            if not needed.isdisjoint(node.outputs):
                needed.update(name for name in node.inputs if name)
                kept.append(node)
        written = {name for node in kept for name in node.outputs}
        graph = self._graph.replace(
            nodes=tuple(reversed(kept)),
            constants={name: array for name, array in self.constants.items() if name in needed},
            values={name: value for name, value in self._values.items() if name in written},
        )
        return graph, self.notes

    def _rename(self, old: str, new: str) -> None:
        for reader in self.readers(old):
            inputs = tuple(new if name == old else name for name in reader.inputs)
            self.replace(reader, reader.replace(inputs=inputs))

    def _link(self, node: Node, slot: int) -> None:
        key = _key(node)
        self._nodes[key], self._slot[key] = node, slot
        for name in node.outputs:
            if name:
                if name in self._writer:
                    raise GraphError(f"{node.op} {node.label!r} writes {name!r}, which is written already")
                self._writer[name] = key
        for name in node.inputs:
            if name:
                self._readers.setdefault(name, {})[key] = None

    def _unlink(self, node: Node) -> None:
        self._changed = True
        key = _key(node)
        slot = self._slots[self._slot.pop(key)]
        slot[:] = [other for other in slot if other is not node]
        del self._nodes[key]
        for name in node.outputs:
            self._writer.pop(name, None)
        for name in node.inputs:
            if name:
                self._readers[name].pop(key, None)
