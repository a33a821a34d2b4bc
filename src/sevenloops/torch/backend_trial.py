"""One operator timed both ways, with our kernels and with PyTorch's."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..compile import cache
from ..compile.store import build_digest
from ..machine import Machine

__all__ = ["faster"]

#: Both are run in turn so often after one run that is not counted, or at least twice and for so long.
ROUNDS, ENOUGH_S = 7, 0.3


def faster(ours: Callable[..., Any], theirs: Callable[..., Any], args: Sequence[Any]) -> str:
    """Why PyTorch's is taken, with the times; empty where ours is not slower.

    `args` are those of an FX node: tensors like its inputs get random values. The times are kept on disk for this machine.
    """
    versions = (torch.__version__, torch.get_num_threads(), Machine.host().key, build_digest())
    text = repr(("beside PyTorch", str(theirs), [_described(arg) for arg in args], versions))
    key = hashlib.sha256(text.encode()).hexdigest()[:40]
    times = _kept(key)
    if times is None:
        times = _measured(ours, theirs, [_value(arg) for arg in args])
        cache.write(key, json.dumps({"s": times}), b"", problem=str(theirs), algorithm="(times beside PyTorch's)")
    own, other = times
    return f"PyTorch's is faster: {other * 1e3:.3g} ms, ours {own * 1e3:.3g} ms" if other < own else ""


def _kept(key: str) -> list[float] | None:
    found = cache.read(key)
    if found is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of another version
            own, other = json.loads(found[0])["s"]
            return [float(own), float(other)]
    return None


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
    """The shortest times in seconds: what else the machine does makes others longer."""
    best = [math.inf, math.inf]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for function in (ours, theirs):
            function(*args)
        start, rounds = time.perf_counter(), 0
        while rounds < 2 or (rounds < ROUNDS and time.perf_counter() - start < ENOUGH_S):
            for at, function in enumerate((ours, theirs)):
                begin = time.perf_counter()
                function(*args)
                best[at] = min(best[at], time.perf_counter() - begin)
            rounds += 1
    return best
