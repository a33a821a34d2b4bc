"""Operators without a kernel, one node at a time: the `onnx` package evaluates them and knows their sizes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .ir import OWN, Node
from .operands import NotKnown, Operands, Type, naming
from .protos import check_objects, node_proto, opsets_of, require_onnx, shapes_of, tensor_proto, type_proto

__all__ = ["by_onnx", "evaluate", "infer_types"]

Array = np.ndarray[Any, Any]


def evaluate(node: Node, arrays: Sequence[Array | None]) -> list[Any]:
    """What one node makes of its inputs (None where one is left out).

    Those that only passes make, and those in the tables of NumPy functions, are computed by these (`graph.evaluate`); all
    others by the reference evaluator of the `onnx` package.
    The results are in the order of the node's outputs, None for those without a name. Inputs are never written.
    Raises `GraphError` naming the node where it cannot be computed.
    """
    from .evaluate import FUSED, MEANINGS, compute

    ours = node.domain == OWN or (not node.domain and (node.op in MEANINGS or any(a in node.attributes for a in FUSED)))
    return compute(node, arrays) if ours else by_onnx(node, arrays)


def by_onnx(node: Node, arrays: Sequence[Array | None]) -> list[Any]:
    """What one node makes of its inputs, by the onnx package's reference evaluator; see `evaluate`."""
    with naming(node, "the reference evaluator of onnx failed"), np.errstate(all="ignore"):
        check_objects(node, arrays)
        return _by_onnx(node, arrays)


def _by_onnx(node: Node, arrays: Sequence[Array | None]) -> list[Any]:
    dtypes = tuple("" if array is None else getattr(array, "dtype", np.dtype(object)).name for array in arrays)
    evaluator, inputs, outputs = _evaluator(_frozen(node), node.opset, dtypes)
    feeds = {name: array for name, array in zip(inputs, arrays) if name}
    results = evaluator.run([name for name in outputs if name], feeds)
    # Strings have one dtype in a graph, whatever their length.
    named = iter([r.astype(object) if isinstance(r, np.ndarray) and r.dtype.kind in "US" else r for r in results])
    return [next(named) if name else None for name in outputs]


def _frozen(node: Node) -> tuple[bytes, str, tuple[str, ...], tuple[str, ...]]:
    """The node as a key, with names by position; names that a body captures stay."""
    captured = tuple(node.get("captured", ()))
    plain = len(node.inputs) - len(captured)
    inputs = tuple(f"i{at}" if name else "" for at, name in enumerate(node.inputs[:plain])) + captured
    outputs = tuple(f"o{at}" if name else "" for at, name in enumerate(node.outputs))
    proto = node_proto(node.replace(name=""), inputs, outputs)
    return proto.SerializeToString(deterministic=True), node.domain, inputs, outputs


@functools.lru_cache(maxsize=512)
def _evaluator(frozen: tuple[Any, ...], opset: int, dtypes: tuple[str, ...]) -> tuple[Any, Sequence[str], Sequence[str]]:
    onnx = require_onnx()
    from .bounded import evaluator_class

    data, domain, inputs, outputs = frozen
    proto = onnx.NodeProto.FromString(data)
    opsets = opsets_of(Node(proto.op_type, (), (), domain=domain, opset=opset))
    given = [onnx.helper.make_value_info(n, type_proto(Type(None, d))) for n, d in zip(inputs, dtypes) if n]
    made = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs if name]
    graph = onnx.helper.make_graph([proto], "node", given, made)
    return evaluator_class()(graph, opsets=opsets), inputs, outputs


def infer_types(o: Operands) -> list[Type]:
    """The types of an operator without a rule of ours, as far as onnx's shape inference knows them."""
    onnx = require_onnx()
    node = o.node
    inputs = _frozen(node)[2]
    outputs = _frozen(node)[3]
    try:
        schema = onnx.defs.get_schema(node.op, node.opset, node.domain)
        proto = node_proto(node, inputs, outputs)
        types = {name: type_proto(t) for name, t in zip(inputs, o.types) if name and t is not None}
        data = {n: tensor_proto(c, n) for n, c in zip(inputs, o.constants) if c is not None and c.size < 4096}
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets_of(node).items()]
        found = onnx.shape_inference.infer_node_outputs(schema, proto, types, data, opset_imports=opsets)
    except Exception:  # sequences, bodies, operators of others: whatever onnx cannot say is not known, which is no error
        raise NotKnown from None
    return shapes_of(found, outputs)
