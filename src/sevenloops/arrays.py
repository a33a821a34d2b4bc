"""Arrays at the edge: taking them in without a copy where possible, and checking them before any native call."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ArrayError, DtypeError

__all__ = ["address", "aligned_empty", "as_array", "check_array", "check_output"]

#: Vector loads that straddle two cache lines halve the speed of the hot loop; what we allocate never makes them.
ALIGNMENT = 64
Array = np.ndarray[Any, Any]


def aligned_empty(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    """An uninitialised C-order array that starts on a cache line."""
    dtype = np.dtype(dtype)
    n_bytes = dtype.itemsize
    for extent in shape:
        n_bytes *= extent
    raw = np.empty(n_bytes + ALIGNMENT, np.uint8)
    start = -address(raw) % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start)


def address(array: Array) -> int:
    """Where the array's data begins."""
    return array.__array_interface__["data"][0]  # type: ignore[no-any-return]


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


def check_array(name: str, array: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Raise unless `array` is a dense, aligned NumPy array of exactly this shape and dtype."""
    if not isinstance(array, np.ndarray):
        raise ArrayError(f"{name} must be a NumPy array, got {type(array).__name__}")
    if array.dtype != dtype:
        raise DtypeError(f"{name} must be {dtype}, got {array.dtype}; convert it with .astype({dtype!r})")
    if array.shape != shape:
        raise ArrayError(f"{name} must have shape {shape}, got {array.shape}")
    if not array.flags.c_contiguous:
        raise ArrayError(f"{name} must be C-contiguous, got strides {array.strides}; use numpy.ascontiguousarray")
    if not array.flags.aligned:
        raise ArrayError(f"{name} is not aligned to its {array.itemsize}-byte elements; copy it")


def check_output(out: Any, shape: tuple[int, ...], dtype: str, inputs: dict[str, Array]) -> None:
    """Raise unless `out` can be written: as `check_array`, writable, and sharing no memory with an input."""
    check_array("out", out, shape, dtype)
    if not out.flags.writeable:
        raise ArrayError("out is read-only")
    for name, array in inputs.items():
        if np.may_share_memory(out, array):  # all are dense, so bounds that overlap are memory that overlaps
            raise ArrayError(f"out overlaps {name}; give memory of its own")
