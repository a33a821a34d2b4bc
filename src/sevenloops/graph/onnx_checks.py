"""What is checked of an ONNX model before it becomes a graph: nodes against the schemas of their operators, functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import GraphError
from .ir import Node
from .operands import complain

__all__ = ["check_functions", "check_node", "schema_of"]

#: Functions of a model are replaced by what is in them, up to so many nodes, nested so deep.
MOST_NODES, DEEPEST = 2**17, 100


def schema_of(op: str, opset: int, domain: str) -> Any:
    """The schema of an operator, None where onnx has none."""
    import onnx

    return onnx.defs.get_schema(op, opset, domain) if onnx.defs.has(op, opset, domain) else None


def check_node(proto: Any, opsets: Mapping[str, int]) -> None:
    """Raise `GraphError` for a node with more or fewer inputs and outputs, or other attributes, than its operator has.

    The nodes of its bodies are checked too: onnx's inference of types reads what is not there, and takes the process along.
    """
    for inner in _walk([proto]):
        domain = "" if inner.domain == "ai.onnx" else inner.domain
        schema = schema_of(inner.op_type, opsets.get(domain, 1), domain)
        if schema is not None:
            _check(Node(inner.op_type, (), tuple(inner.output), name=inner.name), inner, schema)


def _check(node: Node, proto: Any, schema: Any) -> None:
    given = (
        ("input", proto.input, schema.inputs, schema.min_input, schema.max_input),
        ("output", proto.output, schema.outputs, schema.min_output, schema.max_output),
    )
    for side, names, formal, least, most in given:
        if not least <= len(names) <= most:
            wanted = f"{least}" if least == most else f"at least {least}" if most > 2**30 else f"{least} to {most}"
            complain(node, f"has {len(names)} {side}s, but needs {wanted}")
        for at, name in enumerate(names):
            parameter = formal[min(at, len(formal) - 1)]
            if not name and side == "input" and parameter.option == type(parameter.option).Single:
                complain(node, f"leaves out its input {at}, {parameter.name!r}, which is needed")
    known = {attribute.name: attribute for attribute in proto.attribute}
    for name, wanted in schema.attributes.items():
        if name not in known:
            if wanted.required:
                complain(node, f"needs the attribute {name!r}")
        elif known[name].type != int(wanted.type):
            kind = _kind(proto, known[name].type)
            complain(node, f"has an attribute {name!r} of {kind}; {_kind(proto, int(wanted.type))} is needed")


def _kind(proto: Any, number: int) -> str:
    from onnx import AttributeProto

    names = {value: name for name, value in AttributeProto.AttributeType.items()}
    return f"type {names.get(number, number)}"


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
