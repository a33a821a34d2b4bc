"""Nodes, arrays and types as the messages of the `onnx` package, which is imported in here when it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GraphError
from .dtypes import element_of
from .ir import OWN, Node
from .operands import Type, complain

__all__ = ["check_objects", "node_proto", "opsets_of", "require_onnx", "tensor_proto", "type_proto"]

Array = np.ndarray[Any, Any]


def require_onnx() -> Any:
    """The `onnx` package; raises `GraphError` saying how to get it where it is not installed."""
    try:
        import onnx
    except ImportError as error:
        raise GraphError(f"this needs the package onnx, which cannot be imported ({error}): pip install onnx") from None
    return onnx


def opsets_of(node: Node) -> dict[str, int]:
    """Versions of all domains for a model of one node: its own, and the newest of those that a body of it may use."""
    onnx = require_onnx()
    newest = {domain: onnx.defs.onnx_opset_version() for domain in ("", "ai.onnx")}
    newest |= {"ai.onnx.ml": onnx.defs.onnx_ml_opset_version()} if hasattr(onnx.defs, "onnx_ml_opset_version") else {}
    return {**newest, node.domain: node.opset}


def node_proto(node: Node, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Any:
    """The node as a `NodeProto`, perhaps with other names. What it was imported from is used where the node has it.

    Raises `GraphError` for operators and attributes that only sevenloops has.
    """
    onnx = require_onnx()
    if node.domain == OWN:
        complain(node, "ONNX has no such operator")
    if node.proto is not None:
        proto = onnx.NodeProto.FromString(node.proto)
    else:
        proto = onnx.NodeProto(op_type=node.op, domain=node.domain)
        schema = _schema(node)
        for name, value in node.attributes.items():
            known = schema.attributes.get(name) if schema else None
            if schema and not known:
                complain(node, f"ONNX knows no attribute {name!r} of it")
            proto.attribute.append(_attribute(node, name, value, known.type if known else None))
    proto.name = node.name
    for side, names in ((proto.input, inputs or node.inputs), (proto.output, outputs or node.outputs)):
        del side[:]
        side.extend(names)
    captured = len(node.get("captured", ())) if node.proto is not None else 0
    if captured:
        del proto.input[len(proto.input) - captured :]
    return proto


def check_objects(node: Node, arrays: Sequence[Any]) -> None:
    """Raise `GraphError` for strings and sequences where the operator takes numbers.

    They must not get as far as NumPy, whose products of objects, when they fail, leave memory damaged.
    """
    plain = len(arrays) - len(node.get("captured", ()))
    for at, array in enumerate(arrays[:plain]):
        sequence = isinstance(array, (list, dict))
        if not sequence and getattr(array, "dtype", np.dtype(bool)).kind not in "OUS":
            continue
        schema = None if node.domain == OWN else _schema(node)
        kinds = schema.inputs[min(at, len(schema.inputs) - 1)].types if schema is not None and schema.inputs else ()
        if not any(not kind.startswith("tensor(") if sequence else kind == "tensor(string)" for kind in kinds):
            complain(node, f"input {at} must be numbers, got {'a sequence' if sequence else 'strings'}")


def _schema(node: Node) -> Any:
    onnx = require_onnx()
    try:
        return onnx.defs.get_schema(node.op, node.opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _attribute(node: Node, name: str, value: Any, kind: Any) -> Any:
    """An attribute of the kind that the operator's schema wants; it is guessed where there is none."""
    from onnx import AttributeProto, helper

    if isinstance(value, (np.ndarray, np.generic)):
        value = tensor_proto(np.asarray(value), name)
    numbers: dict[Any, Any] = {AttributeProto.FLOAT: float, AttributeProto.INT: int}
    lists: dict[Any, Any] = {AttributeProto.FLOATS: float, AttributeProto.INTS: int}
    number: Any = int(kind) if kind is not None else None
    try:
        if number in numbers:
            value = numbers[number](value)
        elif number in lists:
            value = [lists[number](v) for v in value]
        return helper.make_attribute(name, list(value) if isinstance(value, tuple) else value, attr_type=number)
    except (TypeError, ValueError) as error:
        complain(node, f"ONNX cannot store {name}={value!r}: {error}")


def tensor_proto(array: Array, name: str) -> Any:
    """A constant as a `TensorProto`; raises `GraphError` for a dtype that ONNX does not have."""
    from onnx import helper, numpy_helper

    if array.dtype.kind in "OUS":
        texts: Any = [str(text).encode() for text in array.ravel()]
        return helper.make_tensor(name, 8, array.shape, texts)
    element_of(array.dtype.name)
    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def type_proto(known: Type) -> Any:
    """A size and dtype as a `TypeProto`."""
    from onnx import helper

    return helper.make_tensor_type_proto(element_of(known.dtype), known.shape)


def value_info(name: str, shape: Sequence[int | str] | None, dtype: str) -> Any:
    """A value's name, size (symbols allowed) and dtype."""
    from onnx import helper

    return helper.make_tensor_value_info(name, element_of(dtype), shape)


def shapes_of(types: Mapping[str, Any], names: Sequence[str]) -> list[Type]:
    """Types that ONNX inferred; those that it could not are unknown."""
    from .dtypes import ELEMENTS

    found = []
    for name in names:
        tensor = types[name].tensor_type if name in types and types[name].HasField("tensor_type") else None
        if tensor is None or tensor.elem_type not in ELEMENTS:
            found.append(Type(None))
            continue
        known = tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim)
        shape = tuple(dim.dim_value for dim in tensor.shape.dim) if known else None
        found.append(Type(shape, ELEMENTS[tensor.elem_type]))
    return found
