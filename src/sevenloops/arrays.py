"""Arrays at the edge: taking them in without a copy where possible, and checking them before any native call."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import ArrayError, DtypeError

__all__ = ["address", "aligned_empty", "allocator", "as_array", "check_array", "check_output", "same_bytes"]

#: Vector loads that straddle two cache lines halve the speed of the hot loop; what we allocate never makes them.
ALIGNMENT = 64
#: Below this size the cost of a call is what counts; NumPy's own 16 bytes of alignment do.
SMALL_BYTES = 4096
#: Arrays are compared by so many bytes at a time.
BLOCK_BYTES = 2**20
Array = np.ndarray[Any, Any]


def aligned_empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised C-order array that starts on a cache line, unless it is small."""
    return allocator(shape, dtype)()


def allocator(shape: tuple[int, ...], dtype: Any = np.float32) -> Callable[[], Array]:
    """`aligned_empty` for callers that need the same array again and again: sizes are worked out once."""
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes < SMALL_BYTES:
        return lambda: np.empty(shape, dtype)

    def aligned() -> Array:
        raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
        return np.ndarray(shape, dtype, raw, -address(raw) % ALIGNMENT)

    return aligned


def _documented_address(array: Array) -> int:
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


def _data_offset() -> int | None:
    """Where an ndarray object keeps its data pointer: behind CPython's object header, as NumPy's C interface fixes it.

    Reading it there takes 0.3 us, through `__array_interface__` 1.5 us, and a small call reads four of them. None if
    this interpreter keeps it elsewhere.
    """
    offset = object.__basicsize__
    probes = [np.empty(n, np.uint8) for n in (1, 100, 100_000)] + [np.empty(64, np.float32)[3:]]
    if sys.implementation.name != "cpython":
        return None
    if all(ctypes.c_void_p.from_address(id(a) + offset).value == _documented_address(a) for a in probes):
        return offset
    return None


_OFFSET = _data_offset()
_pointer_at = ctypes.c_void_p.from_address


def _fast_address(array: Array) -> int:
    return _pointer_at(id(array) + _OFFSET).value  # type: ignore[return-value, operator]


#: Where the data of an array begins.
address = _documented_address if _OFFSET is None else _fast_address


def as_array(name: str, value: Any) -> Array:
    """The value as a NumPy array, sharing its memory when it is an array, a DLPack tensor or has an array interface.

    Raises `DtypeError` or `ArrayError` for what is not an array of numbers.
    """
    if isinstance(value, np.ndarray):
        return value
    if hasattr(value, "__array_interface__"):
        return np.asarray(value)
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, TypeError, RuntimeError) as error:
            raise ArrayError(f"{name} cannot be shared through DLPack: {error}; pass a NumPy array") from None
    array = np.asarray(value)
    if array.dtype == object:
        raise DtypeError(f"{name} must be an array of numbers, got {type(value).__name__}")
    return array


def check_array(name: str, array: Any, shape: tuple[int, ...], dtype: Any, pitch: int = 0) -> None:
    """Raise unless `array` is an aligned NumPy array of exactly this shape and dtype, dense but for the `pitch`.

    With a pitch, it is a slice of the last axis of a dense array that has so many elements there.
    """
    if not isinstance(array, np.ndarray):
        raise ArrayError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype != dtype:
        wanted = np.dtype(dtype).name
        raise DtypeError(f"{name} must be {wanted}, got {array.dtype}; convert it with .astype({wanted!r})")
    if array.shape != shape:
        raise ArrayError(f"{name} must have shape {shape}, got {array.shape}")
    flags = array.flags
    if pitch:
        if not _is_slice(array, pitch):
            raise ArrayError(f"{name} must be a slice of {shape[-1]} of {pitch} channels, got strides {array.strides}")
    elif not flags.c_contiguous:
        raise ArrayError(f"{name} must be C-contiguous, got strides {array.strides}; use numpy.ascontiguousarray")
    if not flags.aligned:
        raise ArrayError(f"{name} is not aligned to its {array.itemsize}-byte elements; copy it")


def _is_slice(array: Array, pitch: int) -> bool:
    stride, wanted = pitch, [1]
    for extent in reversed(array.shape[1:-1]):
        wanted.append(stride)
        stride *= extent
    wanted.append(stride)
    strides = zip(array.strides, reversed(wanted), array.shape)
    return all(have == want * array.itemsize or extent == 1 for have, want, extent in strides)


def check_output(out: Any, shape: tuple[int, ...], dtype: Any, inputs: dict[str, Array], pitch: int = 0) -> None:
    """Raise unless `out` can be written: as `check_array`, writable, and sharing no memory with an input."""
    check_array("out", out, shape, dtype, pitch)
    if not out.flags.writeable:
        raise ArrayError("out is read-only")
    for name, array in inputs.items():
        if np.may_share_memory(out, array):  # by their bounds, which for dense arrays is memory that overlaps
            raise ArrayError(f"out overlaps {name}; give memory of its own")


def same_bytes(a: Array, b: Array) -> bool:
    """Whether two dense arrays have the same shape, dtype and bytes."""
    if a is b or a.shape != b.shape or a.dtype != b.dtype:
        return a is b
    one, other = (array.reshape(-1).view(np.uint8) for array in (a, b))
    blocks = (slice(start, start + BLOCK_BYTES) for start in range(0, one.size, BLOCK_BYTES))
    return all(np.array_equal(one[block], other[block]) for block in blocks)
