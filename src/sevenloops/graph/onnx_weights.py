"""Weights of an ONNX file as views of the file: they are not read before they are needed, and never twice.

Through the `onnx` package a network's weights pass through memory three times: as bytes, as messages, as arrays. Here a
file is mapped, and the large initializers are cut out of the message before it is parsed. What is walked is the wire
format of protocol buffers (https://protobuf.dev/programming-guides/encoding/), of the messages ModelProto, GraphProto and
TensorProto only (onnx.proto).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from ..arrays import address
from .dtypes import ELEMENTS

__all__ = ["Stripped", "file_of", "map_file", "release", "strip"]

Array = np.ndarray[Any, Any]
#: Initializers of fewer bytes stay in the message.
SMALL_BYTES = 4096
#: Field numbers of onnx.proto.
MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_LOCATION = 1, 2, 8, 9, 14
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Stripped:
    """A model without the data of its large initializers, as bytes to parse, and those data by name, as views."""

    message: bytes
    arrays: dict[str, Array]


def map_file(path: str | PathLike[str]) -> memoryview:
    """A file's bytes, mapped for reading; as long as a view of them lives, so does the mapping. Raises `OSError`."""
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def strip(data: memoryview) -> Stripped:
    """Take the large initializers out of a serialized model. Raises `ValueError` where the bytes are no such message."""
    arrays: dict[str, Array] = {}
    parts: list[bytes] = []
    for number, whole, body in _fields(data):
        parts.append(_field(number, _stripped_graph(body, arrays)) if number == MODEL_GRAPH else bytes(whole))
    return Stripped(b"".join(parts), arrays)


def _stripped_graph(data: memoryview, arrays: dict[str, Array]) -> bytes:
    parts: list[bytes] = []
    for number, whole, body in _fields(data):
        if number == GRAPH_INITIALIZER and len(body) > SMALL_BYTES:
            parts.append(_field(number, _stripped_tensor(body, arrays)))
        else:
            parts.append(bytes(whole))
    return b"".join(parts)


def _stripped_tensor(data: memoryview, arrays: dict[str, Array]) -> bytes:
    dims: list[int] = []
    name, element, raw, elsewhere = "", 0, None, False
    kept: list[bytes] = []
    for number, whole, body in _fields(data):
        if number == TENSOR_RAW:
            raw = body
            continue
        if number == TENSOR_DIMS:
            dims += _integers(body)
        elif number == TENSOR_TYPE:
            element = _varint(body, 0)[0]
        elif number == TENSOR_NAME:
            name = str(body, "utf-8")
        elif number == TENSOR_LOCATION:
            elsewhere = _varint(body, 0)[0] != 0
        kept.append(bytes(whole))
    dtype = ELEMENTS.get(element, "")
    if raw is None or elsewhere or not name or dtype not in ("float32", "float64"):
        return bytes(data)
    array = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"))
    if array.size != np.prod(dims, dtype=np.int64):
        raise ValueError(f"the initializer {name!r} of shape {tuple(dims)} has {array.size} elements")
    arrays[name] = array.reshape(dims)
    return b"".join(kept)


def file_of(array: Array) -> mmap.mmap | None:
    """The mapped file that an array is a view of, if it is one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    file = base.obj if isinstance(base, memoryview) else None
    return file if isinstance(file, mmap.mmap) else None


def release(array: Array) -> None:
    """Let go of the memory behind an array that is a view of a mapped file; it is read again where it is needed again."""
    file = file_of(array)
    if file is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = address(array) - address(np.frombuffer(file, np.uint8))
    first, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        file.madvise(mmap.MADV_DONTNEED, first, end - first)


# ---------------------------------------------------------------------------------------------- wire format


def _varint(data: memoryview, at: int) -> tuple[int, int]:
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


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Each field: its number, all of its bytes, and the bytes of its value."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        kind, body = key & 7, at
        if kind == VARINT:
            _, at = _varint(data, at)
        elif kind == LENGTH:
            length, body = _varint(data, at)
            at = body + length
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"a field of kind {kind}, which no message here has")
        if at > len(data):
            raise ValueError("the message ends within a field")
        yield key >> 3, data[start:at], data[body:at]


def _integers(body: memoryview) -> list[int]:
    """The numbers of a repeated field, packed or one by one."""
    found, at = [], 0
    while at < len(body):
        value, at = _varint(body, at)
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
