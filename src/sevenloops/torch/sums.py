"""The operator `sevenloops::channel_sum`: the gradient of a bias, a sum over images and pixels for each channel.

Sums run in a fixed order, in parts, so they are the same for any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ..compile import resolve_threads
from ..compile.layer import compile_layer
from ..errors import KernelError
from ..layers.batch_norm import ChannelSums
from ..recent import Recent
from .layout import channels_last
from .operator import Operator, Saved, Tensors

__all__ = ["CHANNEL_SUM"]

Tensor = Any
_sums: Recent[Any, Callable[[Tensor], Tensor]] = Recent()


def _prepared(shape: tuple[int, ...], axis: int, threads: int) -> Callable[[Tensor], Tensor]:
    """The sum of tensors of a shape, float32, as rows of channels in memory."""
    n_threads, channels = resolve_threads(threads), shape[axis]
    problem = ChannelSums(math.prod(shape) // channels, channels)
    layer, last = compile_layer(problem, n_threads), axis == len(shape) - 1

    def call(x: Tensor) -> Tensor:
        x = x.contiguous() if last else channels_last(x, n_threads)
        y = torch.empty(channels)
        if layer.run(x.data_ptr(), y.data_ptr()):
            raise KernelError(f"{problem} failed (out of memory?)")
        return y

    return call


def _kernel(x: Tensor, axis: int) -> Tensor:
    if x.dtype != torch.float32 or not x.numel():
        return x.sum([other for other in range(x.dim()) if other != axis])  # float64 is for checks: PyTorch's sum will do
    key = (x.shape, axis, torch.get_num_threads())
    call = _sums.find(key) or _sums.keep(key, _prepared(tuple(x.shape), axis, key[2]))
    return call(x)


def _gradient(g: Tensor, s: Saved) -> Tensors:
    shape, (axis,) = s.shapes[0], s.tail
    return (g.view([-1 if other == axis else 1 for other in range(len(shape))]).expand(shape) if s.needs[0] else None,)


CHANNEL_SUM = Operator(
    "channel_sum(Tensor x, int axis) -> Tensor",
    _kernel,
    lambda x, axis: x.new_empty((x.shape[axis],)),
    _gradient,
    operands=1,
)
