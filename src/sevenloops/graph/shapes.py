"""A graph for exact sizes: the type of every value, constants folded, and nodes that do nothing gone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GraphError
from . import windows
from .folding import FOLDS
from .ir import OWN, Graph, Node, Value
from .limits import StepLimit, check_types, current, limited, n_bytes
from .moving import slices_of
from .operands import NotKnown, Operands, Type, naming
from .shape_rules import OWN_RULES, RULES, Rule, unknown

__all__ = ["check_asked", "infer", "needed"]

Array = np.ndarray[Any, Any]
#: Operators that give another result each time: never folded.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
#: A folded constant may be this many times as large as the constants that it is made of, beyond the bytes of `SMALL`.
GROWTH, SMALL = 4, 2**20
#: All of them together may be this many times as large as the constants of the graph, beyond the bytes of `FOLDED`, and
#: take this many steps of loops. What is beyond is computed when the network runs.
TOTAL_GROWTH, FOLDED, FOLDED_STEPS = 16, 2**28, 2**16
#: Up to so many bytes are always folded: arithmetic on sizes.
SIZES = 2**12
#: Operators whose outputs behind the first are optional.
OPTIONAL_OUTPUTS = {"BatchNormalization", "Dropout", "LayerNormalization", "MaxPool"}
#: Operators that move nothing when what they write has the size and dtype of what they read.
SAME_SIZE_SAME_VALUE = {"Cast", "CastLike", "Expand", "Flatten", "Reshape", "Squeeze", "Tile", "Unsqueeze"}


def infer(graph: Graph, sizes: Mapping[str, Iterable[int]] | None = None, *, whole: bool = True) -> Graph:
    """The graph for inputs of given sizes (input name -> shape); those whose shape is fixed may be left out.

    Without `whole`, what stands after the first node whose sizes depend on values is left as it is.

    In the result

    - `inputs` have the given sizes, and `values` has the type of everything that a node writes. A size that depends on
      data is unknown (shape None), and so is all that depends on it; that is no error;
    - whatever can be computed now is a constant: arithmetic on sizes and on other constants;
    - Identity, Dropout (as in inference), what does nothing for these sizes (a Reshape to the same shape), and nodes
      whose results nobody reads are gone. An Identity stays where an output of the graph is a copy of an input or of
      another output;
    - convolutions and pools have explicit attributes (see `windows`).

    Raises `GraphError` for sizes that do not fit the inputs (a name, a rank, a fixed dimension, one symbol with two
    sizes), and, naming the node, for operands that do not fit an operator.
    """
    inputs = _sized(graph, sizes or {})
    work = _Inference({value.name: _type(value) for value in inputs}, dict(graph.constants))
    work.allowed = FOLDED + TOTAL_GROWTH * sum(constant.nbytes for constant in graph.constants.values())
    with limited(max_steps=min(FOLDED_STEPS, current().max_steps)), np.errstate(all="ignore"):
        nodes = iter(graph.nodes if whole else needed(graph.nodes, graph.outputs))
        for node in nodes:
            with naming(node):
                work.visit(node)
            if not whole and not work.placed(node):
                break
    for node in nodes:
        work.leave(node)
    return _alive(graph, inputs, work)


def check_asked(node: Node, arrays: Iterable[Any]) -> None:
    """Raise `GraphError` where a node asks, by the values that it reads, for what is beyond the limits."""
    known = [array if isinstance(array, np.ndarray) else None for array in arrays]
    types = [Type(None, "object") if array is None else Type(array.shape, array.dtype.name) for array in known]
    given = [type_ if name else None for name, type_ in zip(node.inputs, types)]
    with naming(node), np.errstate(all="ignore"):
        try:
            check_types(node, _types(Operands(node, given, known))[1])
        except NotKnown:
            return


def _type(value: Value) -> Type:
    return Type(value.sizes if value.known else None, value.dtype)


def _sized(graph: Graph, sizes: Mapping[str, Iterable[int]]) -> tuple[Value, ...]:
    """The inputs with the given sizes, and symbols that occur in several inputs replaced in all."""
    by_name = {value.name: value for value in graph.inputs}
    symbols: dict[str, tuple[int, str]] = {}
    for name, given in sizes.items():
        if name not in by_name:
            raise GraphError(f"the graph has no input {name!r}; its inputs are {', '.join(by_name)}")
        shape, wanted = tuple(given), by_name[name].shape
        if any(isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 0 for size in shape):
            raise GraphError(f"the size of {name} must be integers of at least 0, got {shape}")
        shape = tuple(int(size) for size in shape)
        if wanted is not None and len(wanted) != len(shape):
            raise GraphError(f"{name} has {len(wanted)} dimensions {wanted}, got {shape}")
        for dim, size in zip(wanted or (), shape):
            if isinstance(dim, int):
                if dim != size:
                    raise GraphError(f"{name} must be {wanted}, got {shape}")
                continue
            before, where = symbols.setdefault(dim, (size, name))
            if before != size:
                raise GraphError(f"the dimension {dim!r} is {before} in {where} and {size} in {name}")
        by_name[name] = Value(name, shape, by_name[name].dtype)
    return tuple(_substituted(value, symbols) for value in by_name.values())


def _substituted(value: Value, symbols: Mapping[str, tuple[int, str]]) -> Value:
    if value.shape is None or value.known:
        return value
    shape = tuple(symbols[dim][0] if isinstance(dim, str) and dim in symbols else dim for dim in value.shape)
    return Value(value.name, shape, value.dtype)


@dataclass
class _Inference:
    """What is known so far. `renamed` maps what an Identity wrote to what it read; `allowed` bytes may yet be folded, and
    `filled` are those that ConstantOfShape made.
    """

    types: dict[str, Type]
    constants: dict[str, Array]
    nodes: list[Node] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    allowed: int = 0
    filled: int = 0

    def visit(self, node: Node) -> None:
        """One node, all of whose inputs have been visited."""
        node = self._reading(node)
        operands = Operands(node, [self.type(name) for name in node.inputs], [self.constants.get(n) for n in node.inputs])
        if not node.domain and node.proto is None and self._vanishes(operands):
            return
        try:
            operands, types = _types(operands)
            node = operands.node
        except NotKnown:
            types = unknown(operands)
        check_types(node, types)
        if _copies(operands, types):
            self.renamed[node.outputs[0]] = node.inputs[0]
            return
        results = self._folded(operands, types)
        for at, name in enumerate(node.outputs):
            if not name:
                continue
            if results is not None:
                self.constants[name] = results[at]
            self.types[name] = types[at] if at < len(types) else Type(None)
        if results is None:
            self.nodes.append(node)

    def placed(self, node: Node) -> bool:
        """Whether the sizes of all that a visited node writes are known."""
        types = [self.types[name] for name in node.outputs if name in self.types and name not in self.constants]
        return all(t.shape is not None and t.dtype != "object" for t in types)

    def leave(self, node: Node) -> None:
        """A node as it is; nothing is known of what it writes."""
        self.nodes.append(self._reading(node))
        self.types.update((name, Type(None)) for name in node.outputs if name)

    def _reading(self, node: Node) -> Node:
        """The node with what an Identity read in place of what it wrote."""
        if self.renamed.keys().isdisjoint(node.inputs):
            return node
        return node.replace(inputs=tuple(self.renamed.get(name, name) for name in node.inputs))

    def type(self, name: str) -> Type | None:
        """The type of a value; None for an input that is left out."""
        if name in self.constants:
            constant = self.constants[name]
            return Type(constant.shape, constant.dtype.name)
        return self.types[name] if name else None

    def _vanishes(self, o: Operands) -> bool:
        """Identity and Dropout: what they write is what they read."""
        node = o.node
        training = node.op == "Dropout" and o.has(2) and not (o.constants[2] is not None and not o.constants[2].any())
        if node.op not in ("Identity", "Dropout") or training:
            return False
        self.renamed[node.outputs[0]] = node.inputs[0]
        mask = node.outputs[1] if len(node.outputs) > 1 else ""
        if mask:
            shape = o.type(0).shape
            if shape is None:
                del self.renamed[node.outputs[0]]
                return False
            self.constants[mask] = np.ones(shape, bool)
        return True

    def _folded(self, o: Operands, types: list[Type]) -> list[Array] | None:
        """The results, where they can be had now."""
        node = o.node
        if not node.domain and node.op in ("Shape", "Size") and types[0].shape is not None:
            shape = np.array(o.shape(), np.int64)
            return [shape[node.get("start", 0) : node.get("end")] if node.op == "Shape" else np.array(shape.prod())]
        given = [constant for name, constant in zip(node.inputs, o.constants) if name and constant is not None]
        if node.op in RANDOM or node.domain == OWN or node.op == "Dropout" or len(given) < sum(map(bool, node.inputs)):
            return None
        sizes = [n_bytes(t) for t in types[: len(node.outputs)] if t.shape is not None]
        if node.op == "ConstantOfShape":  # as files without their weights have them
            check_types(node, types, self.filled)
            self.filled += sum(sizes)
            self.allowed += TOTAL_GROWTH * sum(sizes)
        elif sum(sizes) > min(max(self.allowed, SIZES), SMALL + GROWTH * sum(constant.nbytes for constant in given)):
            return None
        self.allowed -= sum(sizes)
        fold = FOLDS.get(node.op) if not node.domain and node.proto is None else None
        if fold is None:
            from .fallback import evaluate

            fold = evaluate
        try:
            results = fold(node, o.constants)
        except StepLimit:  # a loop of many turns is computed when the network runs
            return None
        # Sequences and optional values of ONNX are no arrays: they stay for the evaluator.
        return [np.asarray(r) for r in results] if all(isinstance(r, (np.ndarray, np.generic)) for r in results) else None


def _copies(o: Operands, types: list[Type]) -> bool:
    """Whether the first output is the first input for these sizes: a Reshape to the same shape, a Pad by nothing."""
    node = o.node
    if node.domain or node.proto is not None or not types or types[0].shape is None or types[0] != o.types[0]:
        return False
    if node.op == "Transpose":
        sizes = o.shape()
        moving = [axis for axis in node.get("perm") or range(len(sizes))[::-1] if sizes[axis] != 1]
        return moving == sorted(moving)
    if node.op == "Slice":
        return all(step == 1 for *_, step in slices_of(o))
    if node.op == "Pad":
        return not any(o.ints(1))
    return node.op in SAME_SIZE_SAME_VALUE or (node.op in ("Concat", "Sum", "Mean", "Max", "Min") and len(o.types) == 1)


def _types(o: Operands) -> tuple[Operands, list[Type]]:
    """The types of what a node writes, and its operands once more, those of a window with explicit attributes."""
    plain = o.node.proto is None
    if plain and not o.node.domain and o.node.op in windows.WINDOWED:
        o = Operands(windows.resolve(o), o.types, o.constants)
    rule: Rule | None = {"": RULES, OWN: OWN_RULES}.get(o.node.domain, {}).get(o.node.op) if plain else None
    if rule is None:
        from .fallback import infer_types

        rule = infer_types
    return o, rule(o)


def _alive(graph: Graph, inputs: tuple[Value, ...], work: _Inference) -> Graph:
    """What the outputs need, under their own names."""
    taken = {value.name for value in inputs} | set(graph.outputs) - set(work.renamed)
    names: dict[str, str] = {}
    copies: list[Node] = []
    for output in dict.fromkeys(graph.outputs):
        source = work.renamed.get(output, output)
        if source in work.constants:
            work.constants[output] = work.constants[source]
        elif source != output:
            if source in taken or source in names:
                copies.append(Node("Identity", (names.get(source, source),), (output,), name=f"copy_{output}"))
            else:
                names[source] = output
    for before, after in names.items():
        work.types[after] = work.types[before]
    for copy in copies:
        work.types[copy.outputs[0]] = work.types[copy.inputs[0]]
    nodes = needed([*(_renamed(node, names) for node in work.nodes), *copies], set(graph.outputs))
    read = {name for node in nodes for name in node.inputs} | set(graph.outputs)
    constants = {name: constant for name, constant in work.constants.items() if name in read}
    written = [name for node in nodes for name in node.outputs if name]
    values = {name: Value(name, *work.types[name]) for name in written}
    return graph.replace(nodes=tuple(nodes), inputs=inputs, constants=constants, values=values)


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    if names.keys().isdisjoint(node.inputs) and names.keys().isdisjoint(node.outputs):
        return node
    inputs, outputs = (tuple(names.get(name, name) for name in side) for side in (node.inputs, node.outputs))
    return node.replace(inputs=inputs, outputs=outputs)


def needed(nodes: Iterable[Node], wanted: Iterable[str]) -> list[Node]:
    """The nodes that write something wanted, directly or not; optional outputs at the end that nobody reads are gone."""
    read, kept = set(wanted), []
    for node in reversed(list(nodes)):
        if read.isdisjoint(node.outputs):
            continue
        outputs = node.outputs
        while node.op in OPTIONAL_OUTPUTS and outputs[-1] not in read:
            outputs = outputs[:-1]
        read.update(node.inputs)
        kept.append(node if len(outputs) == len(node.outputs) else node.replace(outputs=outputs))
    return kept[::-1]
