"""Timing a layer both ways: with PyTorch's kernels and with ours, one after the other, with inputs of the shapes it sees."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..compile import cache
from ..compile.store import build_digest
from ..machine import Machine

__all__ = ["Seen", "Times", "compared", "watching"]

Tensor = Any
Module = Any
#: Both are timed in turn, at most so often and for so long, at least twice, after one call that is not counted.
ROUNDS, ENOUGH_S = 20, 1.0
#: Calls of a kind in a turn: in the first one, threads of the other kind may still wait for work and hold a core.
IN_A_ROW = 3


@dataclass(frozen=True)
class Seen:
    """An input of a layer as it lies in memory, and whether its gradient is wanted."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    gradient: bool

    def tensor(self) -> Tensor:
        """Random values in such a place, the same each time; PyTorch's own generator is left as it is."""
        x = torch.empty_strided(self.shape, self.strides)
        return x.uniform_(-1, 1, generator=torch.Generator().manual_seed(0)).requires_grad_(self.gradient)


@dataclass(frozen=True)
class Times:
    """Seconds of a layer for all inputs that it saw, the shortest of several; `training` with both gradients."""

    ours_s: float
    torch_s: float
    training: bool
    kept: bool = False

    def __str__(self) -> str:
        what = "forward and gradients" if self.training else "forward"
        when = ", timed before" if self.kept else ""
        return f"{self.ours_s * 1e3:.3f} ms, PyTorch {self.torch_s * 1e3:.3f} ms ({what}{when})"


@contextlib.contextmanager
def watching(modules: dict[str, Module]) -> Iterator[dict[str, list[Seen]]]:
    """The inputs that modules see while this lasts, by the modules' names, each kind of input once."""
    seen: dict[str, list[Seen]] = {}

    def hook_of(name: str) -> Callable[[Module, Any], None]:
        def hook(module: Module, args: Any) -> None:
            if args and isinstance(args[0], torch.Tensor):
                one = Seen(tuple(args[0].shape), tuple(args[0].stride()), args[0].requires_grad)
                found = seen.setdefault(name, [])
                if one not in found:
                    found.append(one)

        return hook

    hooks = [module.register_forward_pre_hook(hook_of(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def compared(module: Module, seen: list[Seen], remeasure: bool) -> Times:
    """The times of a replaced module both ways, measured or as they were kept; the module stays replaced."""
    key = _key(module, seen)
    kept = None if remeasure else cache.read(key)
    if kept is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of another version
            values = json.loads(kept[0])
            return Times(float(values["ours_s"]), float(values["torch_s"]), module.training, kept=True)
    ours, theirs = (sum(times) for times in zip(*(_time(module, one) for one in seen)))
    header = json.dumps({"ours_s": ours, "torch_s": theirs})
    cache.write(key, header, b"", problem=f"{module} {seen[0].shape}", algorithm="(times beside PyTorch's)")
    return Times(ours, theirs, module.training)


def _key(module: Module, seen: list[Seen]) -> str:
    """Of everything that the times depend on."""
    needs = [(name, parameter.shape, parameter.requires_grad) for name, parameter in module.named_parameters()]
    versions = (torch.__version__, torch.get_num_threads(), Machine.host().key, build_digest())
    text = repr(("beside PyTorch", str(module), module.training, needs, seen, versions))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _time(module: Module, seen: Seen) -> tuple[float, float]:
    """Our seconds and PyTorch's, the shortest of each: what else the machine does makes others longer."""
    x = seen.tensor()
    replacement, original = type(module), type(module).original
    wanted = [tensor for tensor in (x, *module.parameters()) if tensor.requires_grad] if module.training else []

    def step(kind: type) -> float:
        module.__class__ = kind
        start = time.perf_counter()
        if not wanted:
            with torch.no_grad():
                module.forward(x)
        else:
            y = module.forward(x)
            torch.autograd.grad(y, wanted, dy)
        return time.perf_counter() - start

    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]  # running statistics stay what they are
    with torch.no_grad():
        dy = torch.ones_like(replacement.forward(module, x))
    kinds = (replacement, original)
    best = [math.inf, math.inf]
    rounds = 0
    try:
        for kind in kinds:
            step(kind)
        start = time.perf_counter()
        while rounds < 2 or (rounds < ROUNDS and time.perf_counter() - start < ENOUGH_S):
            best = [min(seconds, *(step(kind) for _ in range(IN_A_ROW))) for seconds, kind in zip(best, kinds)]
            rounds += 1
    finally:
        module.__class__ = replacement
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return best[0], best[1]
