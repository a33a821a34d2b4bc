"""ONNX models as files, bytes and messages, and the arrays in them.

The `onnx` package is imported only for what `onnx_messages` does not read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GraphError
from .dtypes import ELEMENTS
from .onnx_messages import Message, plain_array
from .onnx_weights import Stripped, strip

__all__ = ["array_of", "by_onnx", "read_bytes"]

Array = np.ndarray[Any, Any]
#: Suffixes of files that are not in the binary form.
TEXT_FORMS = {".json", ".onnxtxt", ".onnxtext", ".prototxt", ".pbtxt", ".textproto", ".txtpb"}


def read_bytes(source: Any) -> Stripped | None:
    """The bytes of a model without its large weights, and those by name; None for messages, and files in text forms.

    Nothing that is returned depends on a file any more. Raises `GraphError`.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)  # no copy of bytes; of what the caller may still change there must be one
        with _reading("the bytes"):
            return strip(data, len(data))
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    with _reading(str(source)):
        if path.is_dir():
            raise GraphError(f"{source} is a folder, not an ONNX file")
        if path.suffix in TEXT_FORMS:
            return None
        with open(path, "rb") as file:
            return strip(file, os.fstat(file.fileno()).st_size)


def by_onnx(source: Any, read: Stripped | None) -> tuple[Any, dict[str, Array]]:
    """The model as a message of `onnx`, and the weights that were left out of it or lie in files beside it.

    Raises `GraphError`.
    """
    import onnx

    if isinstance(source, onnx.ModelProto):
        return source, _load_external(source, None)
    is_path = isinstance(source, (str, os.PathLike))
    if read is None and not is_path:
        raise GraphError(f"a path, bytes or an onnx.ModelProto is needed, got {type(source).__name__}")
    name, folder = (str(source), Path(source).parent) if is_path else ("the bytes", None)
    with _reading(name):
        if read is None:
            model = onnx.load(name, load_external_data=False)
            return model, _load_external(model, folder)
        model = onnx.ModelProto.FromString(read.message)
    if not model.HasField("graph"):
        raise GraphError(f"{name}: no ONNX model, there is no graph in it")
    return model, {**read.arrays, **_load_external(model, folder)}


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Whatever goes wrong in reading a file or bytes is a `GraphError` that names it."""
    try:
        yield
    except GraphError:
        raise
    except FileNotFoundError as error:
        raise GraphError(f"there is no file {error.filename or name}") from error
    except OSError as error:
        raise GraphError(f"{name} cannot be read: {error}") from error
    except Exception as error:  # protobuf's DecodeError, and what onnx raises for text forms
        raise GraphError(f"{name} cannot be read as an ONNX model, or a damaged one: {error}") from error


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
            arrays[tensor.name] = array_of(loaded, tensor.name)
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


def array_of(tensor: Any, name: str) -> Array:
    """A constant; raises `GraphError` for data that do not fit its size."""
    if tensor.data_type not in ELEMENTS:
        raise GraphError(f"the constant {name!r} has element type {tensor.data_type}, which ONNX does not have")
    try:
        array = plain_array(tensor) if isinstance(tensor, Message) else _array_by_onnx(tensor)
    except (ValueError, TypeError) as error:
        raise GraphError(f"the constant {name!r} is damaged: {error}") from error
    if array.shape != tuple(tensor.dims):
        raise GraphError(f"the constant {name!r} is damaged: {array.shape} instead of {tuple(tensor.dims)}")
    return array


def _array_by_onnx(tensor: Any) -> Array:
    from onnx import numpy_helper

    return np.asarray(numpy_helper.to_array(tensor))
