"""Weights of an ONNX file as arrays of their own, read once: the model may be changed or removed as soon as it is loaded.

Through the `onnx` package a network's weights pass through memory three times: as bytes, as messages, as arrays. Here the
large initializers are left out of the message before it is parsed, and read straight into arrays. What is walked is the
wire format of protocol buffers (https://protobuf.dev/programming-guides/encoding/), of the messages ModelProto, GraphProto
and TensorProto only (onnx.proto).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Union

import numpy as np

from ..arrays import aligned_empty
from .dtypes import ELEMENTS

__all__ = ["FIXED32", "FIXED64", "LENGTH", "VARINT", "Source", "Stripped", "strip", "varint"]

Array = np.ndarray[Any, Any]
#: A model: an open file, or bytes that nobody changes.
Source = Union[BufferedReader, bytes]
#: Initializers of fewer bytes stay in the message.
SMALL_BYTES = 4096
#: The most bytes of a field's number and length.
HEAD_BYTES = 20
#: Field numbers of onnx.proto.
MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_LOCATION = 1, 2, 8, 9, 14
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Stripped:
    """A model without the data of its large initializers, as bytes to parse, and those data by name."""

    message: bytes
    arrays: dict[str, Array]


@dataclass(frozen=True)
class _Part:
    """The bytes of a source from `start` up to `end`."""

    source: Source
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    def part(self, start: int, end: int) -> _Part:
        return _Part(self.source, start, min(end, self.end))

    def read(self) -> bytes:
        if isinstance(self.source, bytes):
            return self.source[self.start : self.end]
        self.source.seek(self.start)
        return self.source.read(len(self))

    def array(self, dtype: Any) -> Array:
        """The bytes as numbers: those of a file in memory of their own, on a cache line, where some kernels read them."""
        if isinstance(self.source, bytes):
            return np.frombuffer(memoryview(self.source)[self.start : self.end], dtype)
        if len(self) % np.dtype(dtype).itemsize:
            raise ValueError(f"{len(self)} bytes are no whole number of elements of {dtype}")
        array = aligned_empty((len(self) // np.dtype(dtype).itemsize,), dtype)
        self.source.seek(self.start)
        if self.source.readinto(array.view(np.uint8).data) != len(self):
            raise ValueError("the file ends within a weight: it was changed while it was read")
        return array


def strip(source: Source, size: int) -> Stripped:
    """Take the large initializers out of a serialized model of `size` bytes.

    Raises `ValueError` where the bytes are no such message, and `OSError`.
    """
    arrays: dict[str, Array] = {}
    parts: list[bytes] = []
    for number, whole, body in _fields(_Part(source, 0, size)):
        parts.append(_field(number, _stripped_graph(body, arrays)) if number == MODEL_GRAPH else whole.read())
    return Stripped(b"".join(parts), arrays)


def _stripped_graph(graph: _Part, arrays: dict[str, Array]) -> bytes:
    parts: list[bytes] = []
    for number, whole, body in _fields(graph):
        if number == GRAPH_INITIALIZER and len(body) > SMALL_BYTES:
            parts.append(_field(number, _stripped_tensor(body, arrays)))
        else:
            parts.append(whole.read())
    return b"".join(parts)


def _stripped_tensor(tensor: _Part, arrays: dict[str, Array]) -> bytes:
    dims: list[int] = []
    name, element, raw, elsewhere = "", 0, None, False
    kept: list[bytes] = []
    for number, whole, body in _fields(tensor):
        if number == TENSOR_RAW:
            raw = body
            continue
        if number == TENSOR_DIMS:
            dims += _integers(body.read())
        elif number == TENSOR_TYPE:
            element = varint(body.read(), 0)[0]
        elif number == TENSOR_NAME:
            name = str(body.read(), "utf-8")
        elif number == TENSOR_LOCATION:
            elsewhere = varint(body.read(), 0)[0] != 0
        kept.append(whole.read())
    dtype = ELEMENTS.get(element, "")
    if raw is None or elsewhere or not name or dtype not in ("float32", "float64"):
        return tensor.read()
    array = raw.array(np.dtype(dtype).newbyteorder("<"))
    if array.size != np.prod(dims, dtype=np.int64):
        raise ValueError(f"the initializer {name!r} of shape {tuple(dims)} has {array.size} elements")
    arrays[name] = array.reshape(dims)
    return b"".join(kept)


# ---------------------------------------------------------------------------------------------- wire format


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place and where it ends; raises `ValueError`."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number in the message does not end")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(message: _Part) -> Iterator[tuple[int, _Part, _Part]]:
    """Each field: its number, all of its bytes, and the bytes of its value."""
    at = message.start
    while at < message.end:
        start, head = at, message.part(at, at + HEAD_BYTES).read()
        key, used = varint(head, 0)
        kind, body = key & 7, at + used
        if kind == VARINT:
            at = start + varint(head, used)[1]
        elif kind == LENGTH:
            length, used = varint(head, used)
            body = start + used
            at = body + length
        elif kind in (FIXED32, FIXED64):
            at = body + (4 if kind == FIXED32 else 8)
        else:
            raise ValueError(f"a field of kind {kind}, which no message here has")
        if at > message.end:
            raise ValueError("the message ends within a field")
        yield key >> 3, message.part(start, at), message.part(body, at)


def _integers(body: bytes) -> list[int]:
    """The numbers of a repeated field, packed or one by one."""
    found, at = [], 0
    while at < len(body):
        value, at = varint(body, at)
        found.append(value)
    return found


def _field(number: int, body: bytes) -> bytes:
    """A field of bytes."""
    head = bytearray()
    for value in (number << 3 | LENGTH, len(body)):
        while value >= 0x80:
            head.append(value & 0x7F | 0x80)
            value >>= 7
        head.append(value)
    return bytes(head) + body
