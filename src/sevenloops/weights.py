"""Trained weights from files of other libraries: pickled NumPy arrays, and PyTorch's `.pth` files, without PyTorch.

A pickle is a program. Here it may name a handful of functions only, and what it gets under those names are stand-ins
that take notes: neither NumPy nor anything else runs on what the file says before sizes and types have been checked.
Every other name ends the reading with a `WeightsError`.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import SevenLoopsError

__all__ = ["WeightsError", "load_weights"]

Array = npt.NDArray[Any]
MAX_DEPTH = 8
#: The first object of a `.pth` file written before PyTorch 1.6 (torch/serialization.py).
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "<?",
}
DTYPES = frozenset({"f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "b1"})


class WeightsError(SevenLoopsError, ValueError):
    """A file that is damaged, of an unknown format, or that asks for more than arrays."""


def load_weights(path: str | Path) -> Any:
    """Read a pickle of NumPy arrays or a PyTorch state dict; dicts, lists and numbers around the arrays stay.

    Arrays come as little-endian, C-contiguous NumPy arrays. Code in the file is never run: whatever is not an array,
    a number, a text, or a list, tuple or dict of those raises `WeightsError`. A missing file raises `OSError`.
    """
    data = Path(path).read_bytes()
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):
            return _plain(_torch_zip(data))
        stream = io.BytesIO(data)
        first = _Reader(stream).load()
        return _plain(_torch_legacy(stream) if first == TORCH_MAGIC else first)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise WeightsError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


class _Admitted:
    """A name that a file may use: it can be called, and its state cannot be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise WeightsError("the file sets the state of a function")


class _Dict(dict[Any, Any]):
    """Stands in for `OrderedDict`; PyTorch hangs `_metadata` on it, which nobody here needs."""

    def __setstate__(self, state: Any) -> None:
        """Ignore it."""


class _Dtype:
    """Stands in for `numpy.dtype`."""

    def __init__(self, name: str, *flags: Any) -> None:
        if name not in DTYPES:
            raise WeightsError(f"arrays of dtype {name!r} are not read")
        self.name, self.order = name, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|"):
            raise WeightsError(f"unknown byte order {state[1]!r}")
        self.order = state[1]

    def read(self, data: bytes | bytearray) -> Array:
        return np.frombuffer(data, np.dtype(self.order + self.name)).astype("<" + self.name)


class _Array:
    """Stands in for `numpy.ndarray`; `value` is the array once its state has been set."""

    def __init__(self, *ignored: Any) -> None:
        self.value: Array | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        data = data.encode("latin1") if isinstance(data, str) else data  # by Python 2
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> None:
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
            raise WeightsError("an array without a plain dtype or without data")
        flat = dtype.read(data)
        if not _are_sizes(shape) or math.prod(shape) != flat.size:
            raise WeightsError(f"an array of shape {shape} with {flat.size} elements")
        self.value = np.ascontiguousarray(flat.reshape(shape, order=order))


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axis_order: Any = None) -> _Array:
    """How protocol 5 stores arrays."""
    if axis_order is not None:
        raise WeightsError("an array with permuted axes")
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _are_sizes(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(value) is int and value >= 0 for value in values)


class _Storage:
    """Stands in for PyTorch's storage; `values` is filled in from the rest of the file."""

    def __init__(self, dtype: str, size: int) -> None:
        self.dtype, self.size = np.dtype(dtype), size
        self.values: Array | None = None

    def fill(self, data: bytes) -> None:
        if len(data) != self.size * self.dtype.itemsize:
            raise WeightsError(f"a storage of {self.size} elements holds {len(data)} bytes")
        self.values = np.frombuffer(data, self.dtype)


class _Tensor:
    """Stands in for a tensor: a strided look at a storage."""

    def __init__(self, storage: Any, offset: int, size: Any, stride: Any, *ignored: Any) -> None:
        fits = isinstance(storage, _Storage) and _are_sizes(size) and _are_sizes(stride) and _are_sizes((offset,))
        if not fits or len(size) != len(stride) or math.prod(size) > storage.size:
            raise WeightsError(f"a tensor of size {size} and stride {stride} that no storage can hold")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if math.prod(size) and last >= storage.size:
            raise WeightsError(f"a tensor that reaches element {last} of {storage.size}")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    def array(self) -> Array:
        values = self.storage.values
        if values is None:
            raise WeightsError("a tensor whose data is not in the file")
        if not math.prod(self.size):
            return np.empty(self.size, values.dtype)
        strides = [step * values.itemsize for step in self.stride]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.size, strides, writeable=False)
        return np.array(view, order="C")


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 stores bytes."""
    if encoding != "latin1":
        raise WeightsError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


def _names() -> dict[tuple[str, str], Any]:
    """Every name that a file may use."""
    array = _Admitted(_Array)
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): array,
        ("numpy", "dtype"): _Admitted(_Dtype),
        ("numpy.core.multiarray", "_reconstruct"): array,
        ("numpy._core.multiarray", "_reconstruct"): array,
        ("numpy.core.numeric", "_frombuffer"): _Admitted(_from_buffer),
        ("numpy._core.numeric", "_frombuffer"): _Admitted(_from_buffer),
        ("_codecs", "encode"): _Admitted(_encode),
        ("collections", "OrderedDict"): _Admitted(_Dict),
        ("torch._utils", "_rebuild_tensor_v2"): _Admitted(_Tensor),
        ("torch._utils", "_rebuild_parameter"): _Admitted(lambda tensor, *ignored: tensor),
    }
    return names | {("torch", name): dtype for name, dtype in TORCH_STORAGES.items()}


class _Reader(pickle.Unpickler):
    """An unpickler that knows the admitted names only; `storages` collects what tensors refer to."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(stream, encoding="latin1")  # so that texts of Python 2, which may be bytes, keep them
        self.names = _names()
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.names[module, name]
        except KeyError:
            raise WeightsError(f"the file asks for {module}.{name}, which is no array") from None

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, _, size = identity[:5]
        view = identity[5] if len(identity) > 5 else None
        if kind != "storage" or dtype not in TORCH_STORAGES.values() or view is not None or not _are_sizes((size,)):
            raise WeightsError(f"an unknown kind of storage: {identity!r}")
        return self.storages.setdefault(str(key), _Storage(dtype, size))


def _torch_zip(data: bytes) -> Any:
    """PyTorch 1.6 and later: a zip with `NAME/data.pkl` and one file for each storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise WeightsError("a zip file that PyTorch did not write")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
            raise WeightsError("only little-endian files are read")
        reader = _Reader(io.BytesIO(archive.read(names[0])))
        content = reader.load()
        for key, storage in reader.storages.items():
            storage.fill(archive.read(f"{folder}data/{key}"))
    return content


def _torch_legacy(stream: IO[bytes]) -> Any:
    """Before 1.6: behind the magic protocol, system, content, keys, and the storages in the order of the keys."""
    for _ in ("protocol", "system"):
        _Reader(stream).load()
    reader = _Reader(stream)
    content = reader.load()
    for key in _Reader(stream).load():
        storage = reader.storages[key]
        if int.from_bytes(stream.read(8), "little") != storage.size:
            raise WeightsError("a storage of another size than announced")
        storage.fill(stream.read(storage.size * storage.dtype.itemsize))
    return content


def _plain(value: Any, depth: int = 0) -> Any:
    """Replace the stand-ins by arrays."""
    if depth > MAX_DEPTH:
        raise WeightsError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if isinstance(value, _Tensor):
        return value.array()
    if isinstance(value, dict):
        return {_plain(key, depth + 1): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, depth + 1) for item in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise WeightsError(f"holds a {type(value).__name__.lstrip('_')}, which is no array")
