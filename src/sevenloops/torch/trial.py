"""Timing a layer both ways: with PyTorch's kernels and with ours, one after the other, with inputs of the shapes it sees."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..compile import cache
from ..compile.store import build_digest
from ..machine import Machine
from .layer_modules import activated

__all__ = ["Seen", "Times", "compared", "remembered", "shortest", "watching"]

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


def compared(module: Module, seen: list[Seen], after: tuple[str, bool] | None, remeasure: bool) -> Times:
    """The times of a replaced module both ways, measured or as they were kept; the module stays replaced.

    `after` is for a batch normalisation: the activation that is fused with it, and whether a residual is added before.
    """
    needs = [(name, parameter.shape, parameter.requires_grad) for name, parameter in module.named_parameters()]
    asked = (str(module), module.training, needs, seen, after)

    def measure() -> list[float]:
        return [sum(times) for times in zip(*(_time(module, one, after) for one in seen))]

    (ours, theirs), kept = remembered(asked, measure, f"{module} {seen[0].shape}", remeasure)
    return Times(ours, theirs, module.training, kept)


def remembered(
    asked: object, measure: Callable[[], list[float]], problem: str, remeasure: bool = False
) -> tuple[list[float], bool]:
    """Our seconds and PyTorch's as they were kept on disk for this machine, or measured now; and whether they were kept."""
    versions = (torch.__version__, torch.get_num_threads(), Machine.host().key, build_digest())
    key = hashlib.sha256(repr(("beside PyTorch", asked, versions)).encode()).hexdigest()[:40]
    found = None if remeasure else cache.read(key)
    if found is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a file of another version
            ours, theirs = json.loads(found[0])["s"]
            return [float(ours), float(theirs)], True
    times = measure()
    cache.write(key, json.dumps({"s": times}), b"", problem=problem, algorithm="(times beside PyTorch's)")
    return times, False


def shortest(functions: Sequence[Callable[[], object]], rounds: int, enough_s: float, in_a_row: int = 1) -> list[float]:
    """The shortest seconds of each: what else the machine does makes others longer.

    They run in turn, each `in_a_row` times, at most so many rounds and for so long, but at least twice, after one run that
    is not counted.
    """
    best = [math.inf] * len(functions)
    for function in functions:
        function()
    start, done = time.perf_counter(), 0
    while done < 2 or (done < rounds and time.perf_counter() - start < enough_s):
        for at, function in enumerate(functions):
            for _ in range(in_a_row):
                begin = time.perf_counter()
                function()
                best[at] = min(best[at], time.perf_counter() - begin)
        done += 1
    return best


def _time(module: Module, seen: Seen, after: tuple[str, bool] | None) -> tuple[float, float]:
    """Our seconds and PyTorch's, the shortest of each: what else the machine does makes others longer."""
    x = seen.tensor()
    replacement, original = type(module), type(module).original
    residual = seen.tensor() if after and after[1] else None  # a normalisation's output has the shape of its input
    fused = (after[0], residual) if after else ()
    leaves = [tensor for tensor in (x, residual, *module.parameters()) if tensor is not None and tensor.requires_grad]
    wanted = leaves if module.training else []

    def forward() -> Tensor:
        if after is None or isinstance(module, replacement):
            return module.forward(x, *fused)
        return activated(module.forward(x), *fused)

    def step(kind: type) -> None:
        module.__class__ = kind
        if not wanted:
            with torch.no_grad():
                forward()
        else:
            torch.autograd.grad(forward(), wanted, dy)

    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]  # running statistics stay what they are
    with torch.no_grad():
        dy = torch.ones_like(replacement.forward(module, x))
    try:
        ours, theirs = shortest([lambda: step(replacement), lambda: step(original)], ROUNDS, ENOUGH_S, IN_A_ROW)
    finally:
        module.__class__ = replacement
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    return ours, theirs
