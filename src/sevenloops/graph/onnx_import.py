"""ONNX files as graphs."""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GraphError
from .dtypes import ELEMENTS
from .ir import OPSET, Graph, Node, Value
from .limits import check_types
from .onnx_checks import check_functions, check_node, schema_of
from .onnx_opsets import NORMALISERS, Builder
from .onnx_quantised import CONTRIB, MICROSOFT, QLINEAR
from .onnx_weights import strip
from .operands import Type, complain, naming
from .protos import require_onnx
from .shape_rules import RULES

__all__ = ["load_onnx"]

Array = np.ndarray[Any, Any]
#: The oldest opset that is read. Users are told 7, from which on operators broadcast as NumPy does; of 6 what is left of
#: it in files is read too (and in older ones, operators that did not change until then).
OLDEST, PROMISED = 6, 7
#: Suffixes of files that are not in the binary form.
TEXT_FORMS = {".json", ".onnxtxt", ".onnxtext", ".prototxt", ".pbtxt", ".textproto", ".txtpb"}
#: Names of dimensions that exporters write where they mean none.
NAMELESS = {"", "?", "-1", "None", "unk"}
#: What is rewritten as nodes of opset `OPSET`, by domain.
REWRITTEN = {"": {**NORMALISERS, **QLINEAR}, MICROSOFT: CONTRIB}


def load_onnx(source: str | os.PathLike[str] | bytes | Any) -> Graph:
    """Read a network: a path (weights in files beside it are found), the bytes of a file, or an `onnx.ModelProto`.

    Opsets 7 to the newest that the installed `onnx` knows (and what 6 has in common with it). Operators that have a rule
    in `shape_rules.RULES` become nodes with the meaning of opset `OPSET`, without `proto`. Every other node (an operator
    of its own, control flow, BatchNormalization in training) keeps its `proto` and `opset`, for the evaluator of `onnx`
    alone; values that a body of control flow reads from outside are listed as further inputs, under the names in the
    attribute `captured`. Initializers and Constant nodes are `constants`, of the dtype that the file has; calls of the
    model's own functions are replaced by what is in them.

    Raises `GraphError` for a file that cannot be read, is damaged, or contradicts itself.
    """
    require_onnx()
    model, arrays = _read(source)
    model = _inlined(model)
    opsets = _opsets(model)
    try:
        return _graph(model, opsets, arrays)
    except (GraphError, MemoryError):
        raise
    except Exception as error:  # nobody can foresee all that a file may say
        raise GraphError(f"the ONNX model is damaged: {type(error).__name__}: {error}") from error


def _read(source: Any) -> tuple[Any, dict[str, Array]]:
    """The model without its large weights, and those by name. Nothing that is returned depends on a file any more."""
    import onnx

    if isinstance(source, onnx.ModelProto):
        return source, _load_external(source, None)
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        raise GraphError(f"a path, bytes or an onnx.ModelProto is needed, got {type(source).__name__}")
    name, path = "the bytes", None
    try:
        if isinstance(source, (str, os.PathLike)):
            path, name = Path(source), str(source)
            if path.is_dir():
                raise GraphError(f"{name} is a folder, not an ONNX file")
            if path.suffix in TEXT_FORMS:
                model = onnx.load(str(path), load_external_data=False)
                return model, _load_external(model, path.parent)
            with open(path, "rb") as file:
                stripped = strip(file, os.fstat(file.fileno()).st_size)
        else:
            data = bytes(source)  # no copy of bytes; of what the caller may still change there must be one
            stripped = strip(data, len(data))
        model = onnx.ModelProto.FromString(stripped.message)
    except GraphError:
        raise
    except FileNotFoundError as error:
        raise GraphError(f"there is no file {error.filename or name}") from error
    except OSError as error:
        raise GraphError(f"{name} cannot be read: {error}") from error
    except Exception as error:  # protobuf's DecodeError, and what onnx raises for text forms
        raise GraphError(f"{name} cannot be read as an ONNX model, or a damaged one: {error}") from error
    if not model.HasField("graph"):
        raise GraphError(f"{name}: no ONNX model, there is no graph in it")
    return model, {**stripped.arrays, **_load_external(model, None if path is None else path.parent)}


def _load_external(model: Any, folder: Path | None) -> dict[str, Array]:
    """Bring in the data that tensors have in files of the model's folder, wherever in the model they are.

    The data of the graph's own initializers are returned by name, so that they pass through memory once. Raises
    `GraphError` for models without a folder, and for files that are missing, damaged, or not inside of it.
    """
    arrays: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            loaded = type(tensor)()
            loaded.CopyFrom(tensor)
            _load_tensor(loaded, folder)
            arrays[tensor.name] = _array(loaded, tensor.name)
            tensor.ClearField("data_location")
            del tensor.external_data[:]
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            _load_tensor(tensor, folder)
    return arrays


def _load_tensor(tensor: Any, folder: Path | None) -> None:
    """`onnx` sees to it that no link, hard link, `..` or absolute path leads out of the folder."""
    from onnx.external_data_helper import load_external_data_for_tensor

    if folder is None:
        raise GraphError(f"the data of {tensor.name!r} lie in another file: pass the path of the model")
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    try:
        if (folder / location).exists() and not (folder / location).is_file():
            raise ValueError("it is no regular file")
        load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:  # the checker of onnx has exceptions of its own
        where = f"the data of {tensor.name!r} cannot be read from {location!r} beside the model"
        raise GraphError(f"{where}: {error}") from error


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor in a message: initializers, attributes, sparse ones, those of bodies and functions."""
    from onnx import TensorProto

    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _opsets(model: Any) -> dict[str, int]:
    import onnx

    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
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
        build.constants[tensor.name] = _array(tensor, tensor.name) if given is None else given
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
    import onnx

    try:
        version = int(onnx.defs.get_schema(node.op, node.opset, "").since_version)
        same = node.opset >= OLDEST or version == onnx.defs.get_schema(node.op, OLDEST, "").since_version
    except onnx.defs.SchemaError:
        complain(node, f"there is no such operator in opset {node.opset}")
    if not same:
        complain(node, f"is of opset {node.opset}, and has changed since; opsets from {PROMISED} on can be read")
    return version


def _plainer(node: Node) -> dict[str, Any]:
    """The attributes without those that opset `OPSET` does not know and that say what it does anyway."""
    if node.opset <= OPSET:
        return dict(node.attributes)
    older, newer = _attributes(node.op, OPSET), _attributes(node.op, node.opset)
    default = lambda name: name not in older and name in newer and _plain(newer[name].default_value)  # noqa: E731
    return {name: value for name, value in node.attributes.items() if name in older or value != default(name)}


def _attributes(op: str, opset: int) -> Any:
    """The attributes of an operator in an opset, none where it has none there."""
    schema = schema_of(op, opset, "")
    return {} if schema is None else schema.attributes


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


def _array(tensor: Any, name: str) -> Array:
    """A constant; raises `GraphError` for data that do not fit its size."""
    from onnx import numpy_helper

    if tensor.data_type not in ELEMENTS:
        raise GraphError(f"the constant {name!r} has element type {tensor.data_type}, which ONNX does not have")
    try:
        array = np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise GraphError(f"the constant {name!r} is damaged: {error}") from error
    if array.shape != tuple(tensor.dims):
        raise GraphError(f"the constant {name!r} is damaged: {array.shape} instead of {tuple(tensor.dims)}")
    return array


def _dense(sparse: Any) -> Array:
    """A sparse constant: values, and their places as indices of the flattened array or one row of indices each."""
    values, places = _array(sparse.values, sparse.values.name), _array(sparse.indices, sparse.values.name)
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
        return _array(value.t, proto.output[0])
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
    from onnx import helper

    value: Any = helper.get_attribute_value(attribute) if attribute.type else None
    if attribute.type == attribute.TENSOR:
        return _array(value, attribute.name)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if attribute.type in (attribute.INTS, attribute.FLOATS):
        return tuple(value)
    if attribute.type == attribute.STRINGS:
        return tuple(text.decode("utf-8", "surrogateescape") for text in value)
    return value
