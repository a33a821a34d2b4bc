"""The messages of ONNX models, read without the `onnx` package, which takes longer to import than most networks to start.

Read are the messages and fields of onnx.proto that ordinary models have (`FIELDS`). Anything else, which may carry meaning
(bodies, functions, sparse or external data), and anything odd raises `NotPlain`: then the `onnx` package reads the model.
Messages have the attributes of those that `onnx` would make, as far as they are asked for: what is absent has its default.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from ..errors import SevenLoopsError
from .dtypes import ELEMENTS
from .onnx_weights import FIXED32, FIXED64, LENGTH, VARINT, varint

__all__ = ["Message", "NotPlain", "parse", "plain_array"]


class NotPlain(SevenLoopsError):
    """The model has something that is not read here; the message says what."""


class Field(NamedTuple):
    """`kind` is a message of `FIELDS`, "text", "bytes", "int", "float" or "double"; a field without a name is left out."""

    name: str
    kind: str
    repeated: bool = False


_LEFT_OUT = Field("", "bytes")
#: Fields by number.
FIELDS: dict[str, dict[int, Field]] = {
    "Model": {
        **dict.fromkeys((2, 3, 4, 6, 14), _LEFT_OUT),  # producer, its version, domain, description, metadata
        **dict.fromkeys((1, 5), Field("", "int")),  # versions of the format and of the model
        7: Field("graph", "Graph"),
        8: Field("opset_import", "Opset", True),
    },
    "Opset": {1: Field("domain", "text"), 2: Field("version", "int")},
    "Graph": {
        1: Field("node", "Node", True),
        2: Field("name", "text"),
        5: Field("initializer", "Tensor", True),
        10: _LEFT_OUT,
        11: Field("input", "ValueInfo", True),
        12: Field("output", "ValueInfo", True),
        13: Field("value_info", "ValueInfo", True),
        16: _LEFT_OUT,
    },
    "Node": {
        1: Field("input", "text", True),
        2: Field("output", "text", True),
        3: Field("name", "text"),
        4: Field("op_type", "text"),
        5: Field("attribute", "Attribute", True),
        6: _LEFT_OUT,
        7: Field("domain", "text"),
        9: _LEFT_OUT,
    },
    "Attribute": {
        1: Field("name", "text"),
        2: Field("f", "float"),
        3: Field("i", "int"),
        4: Field("s", "bytes"),
        5: Field("t", "Tensor"),
        7: Field("floats", "float", True),
        8: Field("ints", "int", True),
        9: Field("strings", "bytes", True),
        13: _LEFT_OUT,
        20: Field("type", "int"),
    },
    "ValueInfo": {1: Field("name", "text"), 2: Field("type", "Type"), 3: _LEFT_OUT, 4: _LEFT_OUT},
    "Type": {1: Field("tensor_type", "TensorType"), 6: _LEFT_OUT},
    "TensorType": {1: Field("elem_type", "int"), 2: Field("shape", "Shape")},
    "Shape": {1: Field("dim", "Dimension", True)},
    "Dimension": {1: Field("dim_value", "int"), 2: Field("dim_param", "text"), 3: _LEFT_OUT},
    "Tensor": {
        1: Field("dims", "int", True),
        2: Field("data_type", "int"),
        4: Field("float_data", "float", True),
        5: Field("int32_data", "int", True),
        7: Field("int64_data", "int", True),
        8: Field("name", "text"),
        9: Field("raw_data", "bytes"),
        10: Field("double_data", "double", True),
        12: _LEFT_OUT,
        16: _LEFT_OUT,
    },
}
_WIRE = {"int": VARINT, "float": FIXED32, "double": FIXED64}
_SCALARS: dict[str, Any] = {"int": 0, "float": 0.0, "double": 0.0, "text": "", "bytes": b""}
_NAMES = {kind: {field.name: field for field in fields.values() if field.name} for kind, fields in FIELDS.items()}
#: Fields that are asked for, and that no plain message has.
_NEVER = {"Graph": ("sparse_initializer",), "Attribute": ("graphs",)}


class Message:
    """A message; its fields are attributes."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def HasField(self, name: str) -> bool:  # protobuf's name
        """Whether a field is there."""
        return name in self.__dict__

    def WhichOneof(self, name: str) -> str | None:  # protobuf's name
        """Which of the kinds of a Type it is; only tensors are plain."""
        return "tensor_type" if self.HasField("tensor_type") else None

    def SerializeToString(self) -> bytes:  # protobuf's name
        """Asked for by operators that only `onnx` can evaluate."""
        raise NotPlain(f"{self.op_type} has no kernel")

    def __getattr__(self, name: str) -> Any:
        """The default of a field that is absent."""
        if name in _NEVER.get(self._kind, ()):
            return ()
        field = _NAMES[self._kind].get(name)
        if field is None:
            raise AttributeError(name)
        return () if field.repeated else Message(field.kind) if field.kind in FIELDS else _SCALARS[field.kind]


def parse(data: bytes) -> Message:
    """A serialized ModelProto. Raises `NotPlain`."""
    try:
        model = _message("Model", data)
    except (ValueError, IndexError, struct.error) as error:  # an encoding of text that is wrong is a ValueError
        raise NotPlain(f"the model is damaged: {error}") from None
    if not model.HasField("graph"):
        raise NotPlain("there is no graph")
    return model


def _message(kind: str, data: bytes) -> Message:
    message, fields, at, end = Message(kind), FIELDS[kind], 0, len(data)
    values = message.__dict__
    while at < end:
        key, at = varint(data, at)
        field, wire = fields.get(key >> 3), key & 7
        if field is None:
            raise NotPlain(f"{kind} has a field {key >> 3}")
        body = b""
        if wire == LENGTH:
            size, at = varint(data, at)
            body, at = data[at : at + size], at + size
        elif wire != _WIRE.get(field.kind):
            raise NotPlain(f"the field {field.name} of {kind} is of kind {wire}")
        if wire == VARINT:
            value, at = varint(data, at)
            found: list[Any] = [_signed(value)]
        elif wire == LENGTH:
            found = _read(field, body)
        else:
            width, form = (4, "<f") if wire == FIXED32 else (8, "<d")
            found, at = list(struct.unpack_from(form, data, at)), at + width
        if at > end:
            raise NotPlain("the message ends within a field")
        if field.repeated:
            values.setdefault(field.name, []).extend(found)
        elif field.name:
            if field.kind in FIELDS and field.name in values:
                raise NotPlain(f"{kind} has two parts of its field {field.name}, to be merged")
            (values[field.name],) = found
    return message


def _read(field: Field, body: bytes) -> list[Any]:
    """The values in the bytes of a field: one, or for numbers as many as are packed in it."""
    if field.kind in FIELDS:
        return [_message(field.kind, body)]
    if field.kind == "bytes":
        return [body]
    if field.kind == "text":
        return [str(body, "utf-8")]
    if not field.repeated:
        raise NotPlain(f"the number {field.name} is given as bytes")
    if field.kind != "int":
        return list(np.frombuffer(body, "<f4" if field.kind == "float" else "<f8").tolist())
    numbers, at = [], 0
    while at < len(body):
        value, at = varint(body, at)
        numbers.append(_signed(value))
    return numbers


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


#: Where the elements of a dtype are listed one by one, if they are not raw bytes.
_LISTS = {"float32": "float_data", "float64": "double_data", "int64": "int64_data"}
_LISTS |= dict.fromkeys(("int32", "int16", "int8", "uint16", "uint8", "bool"), "int32_data")
_RAW = {*_LISTS, "float16", "uint32", "uint64"}


def plain_array(tensor: Message) -> np.ndarray[Any, Any]:
    """The elements of a Tensor in its shape. Raises `NotPlain` for rare dtypes, `ValueError` where sizes do not fit."""
    name, dims = ELEMENTS.get(tensor.data_type, ""), tuple(tensor.dims)
    if tensor.HasField("raw_data") and name in _RAW:
        data = np.frombuffer(tensor.raw_data, np.dtype(name).newbyteorder("<"))
    elif not tensor.HasField("raw_data") and name in _LISTS:
        try:
            listed = "int32" if _LISTS[name] == "int32_data" else name
            data = np.array(getattr(tensor, _LISTS[name]), listed).astype(name)
        except OverflowError:
            raise NotPlain("a number does not fit its type") from None
    else:
        raise NotPlain(f"a constant has element type {name or tensor.data_type}")
    return data.reshape(dims)
