"""What is checked of an ONNX model before it becomes a graph: nodes against the schemas of their operators, functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import GraphError
from .ir import Node
from .onnx_schemas import Schema, schema_of
from .operands import complain

__all__ = ["check_functions", "check_node"]

#: Functions of a model are replaced by what is in them, up to so many nodes, nested so deep.
MOST_NODES, DEEPEST = 2**17, 100
#: AttributeProto.AttributeType, by number.
TYPES = (
    "UNDEFINED", "FLOAT", "INT", "STRING", "TENSOR", "GRAPH", "FLOATS", "INTS", "STRINGS", "TENSORS", "GRAPHS",
    "SPARSE_TENSOR", "SPARSE_TENSORS", "TYPE_PROTO", "TYPE_PROTOS",
)  # fmt: skip


def check_node(proto: Any, opsets: Mapping[str, int]) -> None:
    """Raise `GraphError` for a node with more or fewer inputs and outputs, or other attributes, than its operator has.

    The nodes of its bodies are checked too: onnx's inference of types reads what is not there, and takes the process along.
    """
    for inner in _walk([proto]):
        domain = "" if inner.domain == "ai.onnx" else inner.domain
        schema = schema_of(inner.op_type, opsets.get(domain, 1), domain)
        if schema is not None:
            _check(Node(inner.op_type, (), tuple(inner.output), name=inner.name), inner, schema)


def _check(node: Node, proto: Any, schema: Schema) -> None:
    given = (
        ("input", proto.input, schema.least_inputs, schema.most_inputs),
        ("output", proto.output, schema.least_outputs, schema.most_outputs),
    )
    for side, names, least, most in given:
        if not least <= len(names) <= most:
            wanted = f"{least}" if least == most else f"at least {least}" if most > 2**30 else f"{least} to {most}"
            complain(node, f"has {len(names)} {side}s, but needs {wanted}")
    for at, name in enumerate(proto.input):
        formal, needed = schema.inputs[min(at, len(schema.inputs) - 1)]
        if needed and not name:
            complain(node, f"leaves out its input {at}, {formal!r}, which is needed")
    known = {attribute.name: attribute for attribute in proto.attribute}
    for name, attribute in schema.attributes.items():
        if name not in known:
            if attribute.required:
                complain(node, f"needs the attribute {name!r}")
        elif known[name].type != attribute.type:
            given_type, needed_type = (TYPES[n] if 0 <= n < len(TYPES) else n for n in (known[name].type, attribute.type))
            complain(node, f"has an attribute {name!r} of type {given_type}; type {needed_type} is needed")


def check_functions(model: Any) -> None:
    """Raise `GraphError` for functions that call themselves, or that are too much when they are written out."""
    functions = {(function.domain, function.name): function for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, path: tuple[str, ...]) -> int:
        total = 0
        for node, count in _calls(nodes).items():
            if node not in functions:
                total += count
                continue
            if node[1] in path:
                raise GraphError(f"the function {node[1]!r} of the ONNX model calls itself")
            if len(path) >= DEEPEST:
                raise GraphError(f"functions of the ONNX model call each other more than {DEEPEST} deep")
            if node not in sizes:
                sizes[node] = size(functions[node].node, (*path, node[1]))
            total += count * sizes[node]
            if total > MOST_NODES:
                message = f"the function {node[1]!r} of the ONNX model, written out, has {total:,} nodes"
                raise GraphError(f"{message}; at most {MOST_NODES:,} are read")
        return total

    size(model.graph.node, ())


def _calls(nodes: Any) -> Counter[tuple[str, str]]:
    """How often each operator occurs, in bodies too."""
    return Counter((node.domain, node.op_type) for node in _walk(nodes))


def _walk(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _walk(body.node)
