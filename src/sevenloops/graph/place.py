"""Where values lie: storages (one piece of memory each) and tensors (views of them, in any order of axes)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

__all__ = ["Storage", "Tensor", "identity", "is_last", "last"]

Array = np.ndarray[Any, Any]


def identity(rank: int) -> tuple[int, ...]:
    """Axes as they are written: for images, NCHW."""
    return tuple(range(rank))


def last(rank: int) -> tuple[int, ...]:
    """Channels last: for images, NHWC."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def is_last(order: tuple[int, ...]) -> bool:
    """Whether an order of three or more axes is channels last."""
    return len(order) > 2 and order == last(len(order))


@dataclass(frozen=True)
class Storage:
    """`elements` of one dtype, for one value or several that are views of each other."""

    id: int
    elements: int
    dtype: str = "float32"
    name: str = ""

    @property
    def n_bytes(self) -> int:
        """Size in bytes."""
        return self.elements * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Tensor:
    """A value in memory: `order` lists its axes as they lie, the outermost first; `offset` and `pitch` are in elements.

    With a `pitch`, the innermost axis is a slice of a longer one; without, the tensor is dense.
    """

    storage: Storage
    shape: tuple[int, ...]
    order: tuple[int, ...]
    offset: int = 0
    pitch: int = 0

    @property
    def memory(self) -> tuple[int, ...]:
        """The sizes of the axes as they lie."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> str:
        """Type of the elements."""
        return self.storage.dtype

    @property
    def n_bytes(self) -> int:
        """Size of the elements in bytes."""
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def plain(self) -> bool:
        """Dense, with the axes as they are written (axes of size one may lie anywhere)."""
        return not self.pitch and self.same_memory(identity(len(self.shape)))

    def same_memory(self, order: tuple[int, ...]) -> bool:
        """Whether another order of axes is the same memory: they differ in axes of size one only."""
        return [a for a in self.order if self.shape[a] > 1] == [a for a in order if self.shape[a] > 1]

    def seen(self, shape: tuple[int, ...], order: tuple[int, ...]) -> Tensor:
        """The same elements under another shape."""
        return replace(self, shape=shape, order=order)

    def array(self, address_of: Array) -> Array:
        """The value as a view of `address_of`, the bytes of its storage."""
        itemsize = np.dtype(self.dtype).itemsize
        memory, strides, stride = self.memory, [], itemsize
        for at, extent in enumerate(reversed(memory)):
            strides.append(stride)
            stride = self.pitch * itemsize if at == 0 and self.pitch else stride * extent
        view = np.ndarray(memory, self.dtype, address_of, self.offset * itemsize, tuple(reversed(strides)))
        return view.transpose(np.argsort(self.order)) if self.order else view
