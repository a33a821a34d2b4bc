"""Numbers narrower than float32, held as float32: those of float16 and bfloat16 files, and quantised integers.

    x: float16 -> Conv -> y: float16       Cast to float32 -> Conv -> Cast to float16; inside of a network no Cast is left
    QuantizeLinear -> DequantizeLinear     Elementwise clip(round(x / scale), low - zero, high - zero) * scale
    QuantizeLinear -> MaxPool -> ...       MaxPool of whole numbers in float32
    ConvInteger -> Cast to float           Conv of whole numbers in float32

What is held as float32 has a twin of that dtype. The value itself is made of it where the graph hands it out, or where an
operator reads it that is left as it is: one for the evaluator, or one of which integers would get another result in floats
(additions that wrap around). Results of float16 files are not rounded to float16 between operators.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..dtypes import ELEMENTS, element_of, name_of
from ..ir import OWN, Graph, Node, Note, Value
from ..quantised import LIMITS, spread
from ..shapes import needed
from .rewrite import Array

__all__ = ["costs", "run"]

FLOAT32 = "float32"
#: Floats that are computed as float32.
HALVES = {"float16", "bfloat16"}
#: Operators that give of whole numbers in float32 what they give of integers.
EXACT = """
    Clip Concat DepthToSpace Expand Flatten Gather GlobalMaxPool Identity Max MaxPool Min Pad ReduceMax ReduceMin Relu
    Reshape Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze Where
"""
#: Operators on integers that are products of floats, with the axes of the zero points of their operands.
INTEGER_PRODUCTS = {"ConvInteger": ("Conv", (1, 0)), "MatMulInteger": ("MatMul", (-2, -1))}
QUANTISED_OPERATORS = {"DequantizeLinear", "QuantizeLinear", *INTEGER_PRODUCTS}


def costs(graph: Graph) -> list[str]:
    """What a user should know of a model whose numbers are narrower than float32: a sentence for each kind that it has."""
    dtypes = {value.dtype for value in graph.inputs} | {array.dtype.name for array in graph.constants.values()}
    dtypes |= {ELEMENTS.get(node.get("to"), "") for node in graph.nodes if node.op == "Cast" and node.proto is None}
    found = [
        f"the model is {name}; it is computed in float32, as fast as the float32 model and in as much memory, and only its "
        f"results are rounded to {name}"
        for name in sorted(dtypes & HALVES)
    ]
    if any(node.op in QUANTISED_OPERATORS for node in graph.nodes):
        found.append(
            "the model is quantised; it is computed in float32, no faster than the float32 model and in as much memory, and "
            "values may differ from those of integer arithmetic by a step of the quantisation"
        )
    return found


def run(graph: Graph) -> tuple[Graph, list[Note]]:
    """The graph with twins, and notes."""
    held = _Twins(graph)
    for node in graph.nodes:
        held.add(node)
    return held.finish()


class _Twins:
    """The new graph so far. `twins` maps values, and constants, to what stands for them in float32."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.constants = dict(graph.constants)
        self.values = dict(graph.values)
        self.types = {**graph.values, **{value.name: value for value in graph.inputs}}
        self.twins: dict[str, str] = {}
        self.there = {value.name for value in graph.inputs} | set(graph.constants)
        self.readers = graph.consumers()
        #: twin of a quantised value -> (what was quantised, scale, zero point)
        self.sources: dict[str, tuple[str, Any, Any]] = {}

    def add(self, node: Node) -> None:
        """One node: on twins where that gives the same, else as it is."""
        known = all(self.shape(name) is not None for name in node.outputs if name)
        if node.proto is None and known and RULES.get(node.op, _Twins._on_twins)(self, node):
            return
        for name in node.inputs:
            self._narrow(name)
        self._keep(node)

    def finish(self) -> tuple[Graph, list[Note]]:
        """The new graph, where anything was held, and notes."""
        for name in self.graph.outputs:
            self._narrow(name)
        if not self.twins:
            return self.graph, []
        nodes = needed(self.nodes, set(self.graph.outputs))
        read = {name for node in nodes for name in node.inputs} | set(self.graph.outputs)
        written = {name for node in nodes for name in node.outputs if name}
        graph = self.graph.replace(
            nodes=tuple(nodes),
            constants={name: array for name, array in self.constants.items() if name in read},
            values={name: value for name, value in self.values.items() if name in written},
        )
        dtypes = sorted({self.dtype(name) for name in self.twins} - {FLOAT32})
        return graph, [Note("made", "", f"{dtype} values are held as float32") for dtype in dtypes]

    # ------------------------------------------------------------------------------------------------- values

    def _type(self, name: str) -> Value:
        if name in self.constants:
            return Value(name, self.constants[name].shape, self.constants[name].dtype.name)
        return self.types.get(name, Value(name, None))

    def dtype(self, name: str) -> str:
        """The dtype of a value of the graph before."""
        return self._type(name).dtype

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The size of a value of the graph before; None where it is not known."""
        known = self._type(name)
        return known.sizes if known.known else None

    def _new(self, name: str) -> str:
        """The name of a twin, which some node will write."""
        self.twins[name] = self._declare(f"{name} as float32", self.shape(name))
        return self.twins[name]

    def _wide(self, name: str) -> str:
        """What stands for a value in float32; a Cast where there is nothing yet."""
        if name in self.twins or self.dtype(name) == FLOAT32:
            return self.twins.get(name, name)
        if name in self.graph.constants:
            self.twins[name] = self._constant(f"{name} as float32", self.constants[name].astype(np.float32))
        else:
            self.nodes.append(Node("Cast", (name,), (self._new(name),), {"to": element_of(FLOAT32)}))
        return self.twins[name]

    def _narrow(self, name: str) -> None:
        """See that a value is there itself."""
        if name in self.twins and name not in self.there:
            same = self.dtype(name) == FLOAT32
            what = ("Identity", {}) if same else ("Cast", {"to": element_of(self.dtype(name))})
            self.nodes.append(Node(what[0], (self.twins[name],), (name,), what[1]))
            self.there.add(name)

    def _fresh(self, hint: str) -> str:
        taken = lambda name: name in self.types or name in self.constants  # noqa: E731
        return next(n for n in itertools.chain([hint], (f"{hint} {i}" for i in itertools.count(2))) if not taken(n))

    def _declare(self, hint: str, shape: tuple[int, ...] | None) -> str:
        name = self._fresh(hint)
        self.values[name] = self.types[name] = Value(name, shape, FLOAT32)
        return name

    def _constant(self, hint: str, array: Array) -> str:
        name = self._fresh(hint)
        self.constants[name] = np.asarray(array, np.float32)
        return name

    def _keep(self, node: Node) -> None:
        self.nodes.append(node)
        self.there.update(node.outputs)

    # -------------------------------------------------------------------------------------------------- nodes

    def _on_twins(self, node: Node) -> bool:
        """An operator whose halves, and whole numbers if it is exact on them, become float32."""
        exact = node.op in EXACT.split() or (node.op == "Resize" and node.get("mode", "nearest") == "nearest")
        quantised = any(name in self.twins and self.dtype(name) in LIMITS for name in node.inputs)
        if quantised and not exact:
            return False
        dtypes = {FLOAT32, *HALVES, *(LIMITS if quantised else ())}
        inputs = [self._wide(name) if name and self.dtype(name) in dtypes else name for name in node.inputs]
        outputs = [self._new(n) if n and self.dtype(n) in dtypes - {FLOAT32} else n for n in node.outputs]
        self._keep(node.replace(inputs=tuple(inputs), outputs=tuple(outputs)))
        return True

    def _cast(self, node: Node) -> bool:
        """A Cast between numbers that are held alike is none."""
        source, (target,) = node.inputs[0], node.outputs
        to, held = self.dtype(target), source in self.twins or self.dtype(source) in HALVES
        if to == "object" or not (held or to in HALVES):
            return False
        if to in HALVES | {FLOAT32} and (held or self.dtype(source) == FLOAT32):
            self.twins[target] = self._wide(source)
            return True
        output = self._new(target) if to in HALVES else target
        number = element_of(FLOAT32 if to in HALVES else to)
        attributes = {**node.attributes, "to": number}
        self._keep(Node("Cast", (self._wide(source) if held else source,), (output,), attributes, node.name))
        return True

    def _quantize(self, node: Node) -> bool:
        """clip(round(x / scale) + zero), where the result is one of `LIMITS`."""
        x, name = node.inputs[0], self.dtype(node.outputs[0])
        parameters = self._parameters(node)
        if name not in LIMITS or self.dtype(x) not in HALVES | {FLOAT32} or parameters is None:
            return False
        scale, zero = parameters
        low, high = LIMITS[name]
        twin, x = self._new(node.outputs[0]), self._wide(x)
        moved = _plus(("round", ("div", x, scale)), zero)
        self._elementwise(node.name, twin, ("clip", moved, float(low), float(high)))
        self.sources[twin] = (x, scale, zero)
        return True

    def _dequantize(self, node: Node) -> bool:
        """(q - zero) * scale; of what was just quantised alike, without the zero point in between."""
        q, parameters = node.inputs[0], self._parameters(node)
        if parameters is None or self.dtype(node.outputs[0]) not in HALVES | {FLOAT32}:
            return False
        scale, zero = parameters
        twin = self._wide(q)
        source = self.sources.get(twin)
        if source is not None and source[1:] == (scale, zero) and isinstance(zero, float):
            low, high = (limit - zero for limit in LIMITS[self.dtype(q)])
            whole: Any = ("clip", ("round", ("div", source[0], scale)), low, high)
        else:
            whole = _plus(twin, zero, "sub")
        output = self._new(node.outputs[0])
        self._elementwise(node.name, output, ("mul", whole, scale))
        return True

    def _product(self, node: Node) -> bool:
        """ConvInteger, MatMulInteger: a product of floats where only floats are made of it."""
        readers = self.readers.get(node.outputs[0], [])
        floats = HALVES | {FLOAT32}
        wanted = all(n.op == "Cast" and not n.domain and name_of(n.get("to")) in floats for n in readers)
        if not wanted or node.outputs[0] in self.graph.outputs:
            return False
        op, axes = INTEGER_PRODUCTS[node.op]
        inputs = []
        for at, axis in enumerate(axes):
            zero = self._parameter(node, at + 2, node.inputs[at], axis) if node.input(at + 2) else 0.0
            if zero is None:
                return False
            inputs.append(self._without(node.inputs[at], zero))
        self._keep(Node(op, tuple(inputs), (self._new(node.outputs[0]),), node.attributes, node.name))
        return True

    def _without(self, name: str, zero: Any) -> str:
        """A value less its zero point."""
        wide, label = self._wide(name), f"{name} less {zero}"
        if zero == 0.0:
            return wide
        if wide in self.constants and (isinstance(zero, float) or zero in self.constants):
            return self._constant(label, self.constants[wide] - (zero if isinstance(zero, float) else self.constants[zero]))
        output = self._declare(label, self.shape(name))
        self._elementwise(label, output, ("sub", wide, zero))
        return output

    # --------------------------------------------------------------------------------------------- parameters

    def _parameters(self, node: Node) -> tuple[Any, Any] | None:
        """Scale and zero point, each a float or the name of a value that broadcasts; None where they do not."""
        scale = self._parameter(node, 1, node.inputs[0])
        zero = self._parameter(node, 2, node.inputs[0]) if node.input(2) else 0.0
        return None if scale is None or zero is None else (scale, zero)

    def _parameter(self, node: Node, at: int, like: str, axis: int = 1) -> Any:
        name, shape = node.inputs[at], self.shape(like)
        constant, own = self.constants.get(name), self.shape(name)
        if shape is None or own is None:
            return None
        if constant is None:
            return self._wide(name) if math.prod(own) == 1 and len(own) <= len(shape) else None
        array = spread(constant.astype(np.float32), shape, node, axis)
        return float(array) if array.size == 1 else self._constant(f"{name} beside {like} in {node.outputs[0]}", array)

    def _elementwise(self, name: str, output: str, expression: Any) -> None:
        """An Elementwise of an expression with names in it."""
        leaves: list[str] = []
        numbered = _numbered(expression, leaves)
        self._keep(Node("Elementwise", tuple(leaves), (output,), {"expression": numbered}, name, OWN))


#: Operators that are more than themselves on twins. Each gets a node, and returns False where it stays as it is.
RULES: dict[str, Callable[[_Twins, Node], bool]] = {
    "Cast": _Twins._cast,
    "CastLike": _Twins._cast,
    "DequantizeLinear": _Twins._dequantize,
    "QuantizeLinear": _Twins._quantize,
    **dict.fromkeys(INTEGER_PRODUCTS, _Twins._product),
}


def _plus(value: Any, zero: Any, op: str = "add") -> Any:
    return value if zero == 0.0 else (op, value, zero)


def _numbered(expression: Any, leaves: list[str]) -> Any:
    """The expression with numbers for names."""
    if isinstance(expression, tuple):
        operands: Sequence[Any] = expression[1:]
        return (expression[0], *(_numbered(operand, leaves) for operand in operands))
    if not isinstance(expression, str):
        return expression
    if expression not in leaves:
        leaves.append(expression)
    return leaves.index(expression)
