"""ONNX files as graphs."""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import GraphError, SevenLoopsError
from . import onnx_schemas
from .dtypes import ELEMENTS
from .ir import OPSET, Graph, Node, Note, Value
from .limits import check_types
from .onnx_checks import check_functions, check_node
from .onnx_files import array_of, by_onnx, read_bytes
from .onnx_messages import Message, NotPlain, parse
from .onnx_opsets import NORMALISERS, Builder
from .onnx_quantised import CONTRIB, MICROSOFT, QLINEAR
from .operands import Type, complain, naming
from .protos import require_onnx
from .shape_rules import RULES

__all__ = ["load_onnx"]

Array = np.ndarray[Any, Any]
#: The oldest opset that is read. Users are told 7, from which on operators broadcast as NumPy does; of 6 what is left of
#: it in files is read too (and in older ones, operators that did not change until then).
OLDEST, PROMISED = 6, 7
#: Names of dimensions that exporters write where they mean none.
NAMELESS = {"", "?", "-1", "None", "unk"}
#: AttributeProto.AttributeType, and the fields of plain attributes.
TENSOR, FLOATS, INTS, STRINGS = 4, 6, 7, 8
PLAIN_VALUES = {1: "f", 2: "i", 3: "s", TENSOR: "t", FLOATS: "floats", INTS: "ints", STRINGS: "strings"}
#: What is rewritten as nodes of opset `OPSET`, by domain.
REWRITTEN = {"": {**NORMALISERS, **QLINEAR}, MICROSOFT: CONTRIB}
#: The operators of ONNX's own domain that are read; the others stay as they are.
NATIVE: set[str] = {*RULES, *REWRITTEN[""]}


def load_onnx(source: str | os.PathLike[str] | bytes | Any) -> Graph:
    """Read a network: a path (weights in files beside it are found), the bytes of a file, or an `onnx.ModelProto`.

    Opsets 7 to the newest that `onnx_schemas` or the installed `onnx` knows (and what 6 has in common with it). The `onnx`
    package is imported only for models that `onnx_messages` does not read; a note of the graph says why.

    Operators that have a rule in `shape_rules.RULES` become nodes with the meaning of opset `OPSET`, without `proto`. Every
    other node (an operator of its own, control flow, BatchNormalization in training) keeps its `proto` and `opset`, for the
    evaluator of `onnx` alone; values that a body of control flow reads from outside are listed as further inputs, under the
    names in the attribute `captured`. Initializers and Constant nodes are `constants`, of the dtype that the file has; calls
    of the model's own functions are replaced by what is in them.

    Raises `GraphError` for a file that cannot be read, is damaged, or contradicts itself.
    """
    read, reason = read_bytes(source), ""
    if read is not None:
        try:
            return _checked(parse(read.message), read.arrays)
        except NotPlain as found:
            reason = str(found)
    require_onnx()
    model, arrays = by_onnx(source, read)
    graph = _checked(_inlined(model), arrays)
    slower = f"the onnx package read the model, which takes longer to import: {reason}"
    return graph.noting([Note("missed", "", slower, "import")] if reason else [])


def _checked(model: Any, arrays: dict[str, Array]) -> Graph:
    opsets = _opsets(model)
    try:
        return _graph(model, opsets, arrays)
    except (SevenLoopsError, MemoryError):
        raise
    except Exception as error:  # nobody can foresee all that a file may say
        raise GraphError(f"the ONNX model is damaged: {type(error).__name__}: {error}") from error


def _opsets(model: Any) -> dict[str, int]:
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    newest = onnx_schemas.newest()
    if opsets.get("", OPSET) > newest:  # perhaps the installed onnx knows more
        newest = max(newest, require_onnx().defs.onnx_opset_version())
    if not opsets and any(not node.domain for node in model.graph.node):
        raise GraphError("the ONNX model does not say which opset it uses")
    if not 1 <= opsets.get("", OPSET) <= newest:
        raise GraphError(f"the ONNX model has opset {opsets['']}; opsets {PROMISED} to {newest} can be read")
    return {"": OPSET, **opsets}


def _inlined(model: Any) -> Any:
    """The model without functions of its own."""
    if not model.functions:
        return model
    check_functions(model)
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # a C++ exception without a class of its own
        raise GraphError(f"the functions of the ONNX model cannot be inlined: {error}") from error


def _graph(model: Any, opsets: dict[str, int], arrays: dict[str, Array]) -> Graph:
    proto = model.graph
    names = {name for node in proto.node for side in (node.input, node.output) for name in side}
    names |= {value.name for value in (*proto.input, *proto.output, *proto.initializer)}
    for text in (*names, proto.name, *(text for node in proto.node for text in (node.name, node.op_type, node.domain))):
        if not isinstance(text, str):  # protobuf gives bytes then
            raise GraphError(f"the ONNX model has a name that is not UTF-8: {text!r}")
    build = Builder(names)
    for tensor in proto.initializer:
        given = arrays.get(tensor.name)
        build.constants[tensor.name] = array_of(tensor, tensor.name) if given is None else given
    for sparse in proto.sparse_initializer:
        build.constants[sparse.values.name] = _dense(sparse)
    inputs = tuple(_value(info) for info in proto.input if info.name not in build.constants)
    build.types = {info.name: _value(info) for info in (*proto.value_info, *proto.output)}
    build.types |= {value.name: value for value in inputs}
    known = {value.name for value in inputs} | set(build.constants) | {n for node in proto.node for n in node.output}
    for node in _sorted(proto.node, {value.name for value in inputs} | set(build.constants)):
        with naming(Node(node.op_type, (), tuple(node.output), name=node.name), "cannot be read"):
            _add(build, node, opsets, known)
    written = {name for node in build.nodes for name in node.outputs if name}
    values = {name: value for name, value in build.types.items() if name in written}
    outputs = tuple(info.name for info in proto.output)
    return Graph(tuple(build.nodes), inputs, outputs, build.constants, values, proto.name or "graph")


def _add(build: Builder, proto: Any, opsets: dict[str, int], known: set[str]) -> None:
    """One node: a constant, nodes of opset `OPSET`, or the node as it is."""
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    if not domain and proto.op_type == "Constant":
        build.constants[proto.output[0]] = _constant(proto)
        return
    bodies = [a.g for a in proto.attribute if a.HasField("g")] + [g for a in proto.attribute for g in a.graphs]
    attributes = {a.name: _plain(a) for a in proto.attribute if not (a.HasField("g") or a.graphs)}
    captured = tuple(sorted(set().union(*map(_free, bodies)) & known)) if bodies else ()
    inputs, outputs = (*proto.input, *captured), tuple(proto.output)
    node = Node(proto.op_type, inputs, outputs, attributes, proto.name, domain, opset=opsets.get(domain, 1))
    check_node(proto, opsets)
    if not any(outputs):
        return
    rewritten = REWRITTEN.get(domain, {})
    if not bodies and (node.op in rewritten or (not domain and node.op in RULES)):
        version = node.opset if domain else _version(node)
        normal = node.replace(opset=OPSET, outputs=_trimmed(outputs), inputs=_trimmed(inputs), attributes=_plainer(node))
        known_before = node.op in rewritten or all(name in _attributes(node.op, OPSET) for name in normal.attributes)
        if known_before and rewritten.get(node.op, _as_it_is)(build, normal.replace(domain=""), version):
            return
    kept = {**attributes, **({"captured": captured} if captured else {})}
    build.nodes.append(node.replace(attributes=kept, proto=proto.SerializeToString()))


def _as_it_is(build: Builder, node: Node, version: int) -> bool:
    build.nodes.append(node)
    return True


def _version(node: Node) -> int:
    """The opset that last changed the operator before the node's own."""
    version = _since(node.op, node.opset)
    if version is None:
        complain(node, f"there is no such operator in opset {node.opset}")
    if node.opset < OLDEST and version != _since(node.op, OLDEST):
        complain(node, f"is of opset {node.opset}, and has changed since; opsets from {PROMISED} on can be read")
    return version


def _since(op: str, opset: int) -> int | None:
    schema = onnx_schemas.schema_of(op, opset)
    return None if schema is None else schema.since


def _plainer(node: Node) -> dict[str, Any]:
    """The attributes without those that opset `OPSET` does not know and that say what it does anyway."""
    if node.opset <= OPSET:
        return dict(node.attributes)
    older, newer = _attributes(node.op, OPSET), _attributes(node.op, node.opset)
    default = lambda name: name not in older and name in newer and newer[name]  # noqa: E731
    return {name: value for name, value in node.attributes.items() if name in older or value != default(name)}


def _attributes(op: str, opset: int) -> dict[str, Any]:
    """The attributes of an operator in an opset with their defaults, none where it has none there."""
    schema = onnx_schemas.schema_of(op, opset)
    return {} if schema is None else {name: attribute.default for name, attribute in schema.attributes.items()}


def _trimmed(names: Sequence[str]) -> tuple[str, ...]:
    """Names without those left out at the end."""
    end = len(names)
    while end and not names[end - 1]:
        end -= 1
    return tuple(names[:end])


def _sorted(nodes: Sequence[Any], known: set[str]) -> list[Any]:
    """The nodes so that values are written before they are read; files have them so, but not all do."""
    unwritten = {name for node in nodes for name in node.output} - known - {""}
    missing: list[int] = []  # how many of the values that each node reads are not written yet
    readers: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        needs = {*node.input, *(name for a in node.attribute if a.HasField("g") for name in _free(a.g))} & unwritten
        missing.append(len(needs))
        for name in needs:
            readers.setdefault(name, []).append(at)
    ready, found = [at for at, count in enumerate(missing) if not count], list[Any]()
    while ready:  # a heap: those that come first in the file
        node = nodes[heapq.heappop(ready)]
        found.append(node)
        for at in [at for name in node.output for at in readers.pop(name, ())]:
            missing[at] -= 1
            if not missing[at]:
                heapq.heappush(ready, at)
    if len(found) < len(nodes):
        stuck = next(node for node, count in zip(nodes, missing) if count)
        raise GraphError(f"{stuck.op_type} {stuck.name!r} reads, through other nodes, what it writes")
    return found


def _free(body: Any) -> set[str]:
    """The names that a body reads and does not write."""
    written = {value.name for value in (*body.input, *body.initializer)}
    written |= {tensor.values.name for tensor in body.sparse_initializer}
    read = {value.name for value in body.output}
    for node in body.node:
        read.update(node.input)
        written.update(node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= _free(attribute.g)
            for graph in attribute.graphs:
                read |= _free(graph)
    return read - written - {""}


def _value(info: Any) -> Value:
    """A value with its declared type; dimensions without a name get one of their own."""
    if not info.type.HasField("tensor_type"):
        return Value(info.name, None, info.type.WhichOneof("value") or "no type")
    tensor = info.type.tensor_type
    dtype = ELEMENTS.get(tensor.elem_type, "float32")
    if not tensor.HasField("shape"):
        return Value(info.name, None, dtype)
    dims: list[int | str] = []
    for at, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            dims.append(int(dim.dim_value))
        else:
            dims.append(f"{info.name}_{at}" if dim.dim_param.strip() in NAMELESS else dim.dim_param)
    return Value(info.name, tuple(dims), dtype)


def _dense(sparse: Any) -> Array:
    """A sparse constant: values, and their places as indices of the flattened array or one row of indices each."""
    values, places = array_of(sparse.values, sparse.values.name), array_of(sparse.indices, sparse.values.name)
    node = Node("SparseTensor", (), (), name=sparse.values.name)
    check_types(node, [Type(tuple(sparse.dims), values.dtype.name)])
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.ravel_multi_index(tuple(places.T), dense.shape) if places.ndim == 2 else places
    dense.ravel()[at] = values
    return dense


def _constant(proto: Any) -> Array:
    """What a Constant node says."""
    if len(proto.attribute) != 1 or len(proto.output) != 1:
        raise GraphError(f"Constant {proto.name!r} needs one value and one output")
    (attribute,) = proto.attribute
    name, value = attribute.name, attribute
    if name == "value":
        return array_of(value.t, proto.output[0])
    if name == "sparse_value":
        return _dense(value.sparse_tensor)
    plain = _plain(attribute)
    if name in ("value_string", "value_strings"):
        return np.array(plain, object)
    if name not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise GraphError(f"Constant {proto.name!r} has an attribute {name!r}, which says no value")
    return np.array(plain, np.float32 if "float" in name else np.int64)


def _plain(attribute: Any) -> Any:
    """The value of an attribute: a number, str, tuple of them, or array."""
    value: Any = _value_of(attribute) if attribute.type else None
    if attribute.type == TENSOR:
        return array_of(value, attribute.name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if attribute.type in (INTS, FLOATS):
        return tuple(value)
    if attribute.type == STRINGS:
        return tuple(text.decode("utf-8", "surrogateescape") for text in value)
    return value


def _value_of(attribute: Any) -> Any:
    if isinstance(attribute, Message):
        if attribute.type not in PLAIN_VALUES:
            raise NotPlain(f"an attribute has type {attribute.type}")
        return getattr(attribute, PLAIN_VALUES[attribute.type])
    from onnx import helper

    return helper.get_attribute_value(attribute)
