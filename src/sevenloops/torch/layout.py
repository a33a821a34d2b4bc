"""Where tensors lie in memory: channels last, always, and how those that do not are brought there.

A result with `c` channels has the strides of a dense `(n, *spatial, c)` array, seen as `(n, c, *spatial)`. For images that
is PyTorch's `torch.channels_last`, for volumes `torch.channels_last_3d`; signals (one spatial axis) have no name for it.
"""

from __future__ import annotations

from typing import Any

import torch

from ..compile.layer import compile_layer
from ..compile.relayout import SMALL
from ..errors import KernelError
from ..layers.transpose import Transpose

__all__ = ["channels_last", "empty", "strides_of"]

Tensor = Any
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def strides_of(shape: Any) -> tuple[Any, ...]:
    """The strides of a channels-last tensor of shape `(n, c, *spatial)`."""
    step, strides = shape[1], []
    for size in reversed(shape[2:]):
        strides.append(step)
        step = step * size
    return (step, 1, *reversed(strides))


def empty(like: Tensor, shape: Any) -> Tensor:
    """A new channels-last tensor of a shape, with the dtype and device of another; also for symbolic shapes."""
    return torch.empty_strided(shape, strides_of(shape), dtype=like.dtype, device=like.device)


def channels_last(x: Tensor, threads: int) -> Tensor:
    """`x[n, c, *spatial]`, or a copy of it, whose memory is a dense `(n, *spatial, c)`."""
    ndim = x.dim()
    if ndim == 3:
        return x if x.transpose(1, 2).is_contiguous() else x.transpose(1, 2).contiguous().transpose(1, 2)
    if x.is_contiguous(memory_format=_FORMATS[ndim]):
        return x
    if x.numel() <= SMALL or x.dtype != torch.float32 or not x.is_contiguous():
        return x.contiguous(memory_format=_FORMATS[ndim])
    y = empty(x, x.shape)
    n, channels = x.shape[:2]
    problem = Transpose(n, channels, x.numel() // (n * channels))
    if compile_layer(problem, threads).run(x.data_ptr(), y.data_ptr()):
        raise KernelError(f"{problem} failed (out of memory?)")
    return y
