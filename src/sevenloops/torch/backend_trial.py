"""One operator timed both ways, with our kernels and with PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from .trial import remembered, shortest

__all__ = ["faster"]

#: Both are run in turn so often after one run that is not counted, or at least twice and for so long.
ROUNDS, ENOUGH_S = 7, 0.3


def faster(ours: Callable[..., Any], theirs: Callable[..., Any], args: Sequence[Any]) -> str:
    """Why PyTorch's is taken, with the times; empty where ours is not slower.

    `args` are those of an FX node: tensors like its inputs get random values. The times are kept on disk for this machine.
    """
    asked = (str(theirs), [_described(arg) for arg in args])
    times, _ = remembered(asked, lambda: _measured(ours, theirs, [_value(arg) for arg in args]), str(theirs))
    own, other = times
    return f"PyTorch's is faster: {other * 1e3:.3g} ms, ours {own * 1e3:.3g} ms" if other < own else ""


def _described(arg: Any) -> Any:
    if not isinstance(arg, torch.fx.Node):
        return arg
    value = arg.meta["val"]
    return tuple(value.shape), value.stride()


def _value(arg: Any) -> Any:
    if not isinstance(arg, torch.fx.Node):
        return arg
    value = arg.meta["val"]
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).uniform_(-0.5, 0.5)


def _measured(ours: Callable[..., Any], theirs: Callable[..., Any], args: Sequence[Any]) -> list[float]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return shortest([lambda: ours(*args), lambda: theirs(*args)], ROUNDS, ENOUGH_S)
