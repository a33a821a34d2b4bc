"""Giving a PyTorch model our kernels, and taking them back.

`accelerate` gives each module of the table `REPLACEMENTS` (see `modules`) the class that computes with our kernels. The
modules and their parameters remain the same objects, so optimisers, hooks and the keys of `state_dict` do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ..errors import Unsupported
from .fusion import fuse
from .layer_modules import STAYS
from .modules import REPLACEMENTS, Replacement
from .trial import Seen, Times, compared, watching

__all__ = ["Report", "Row", "accelerate", "restore"]

Module = Any


@dataclass(frozen=True)
class Row:
    """What became of one module: `replaced`, or `reason` why not; the times of both where they were measured."""

    name: str
    kind: str
    replaced: bool
    reason: str
    times: Times | None = None

    def __str__(self) -> str:
        did = "sevenloops" if self.replaced else "PyTorch"
        return f"{self.name or '(the model)':<32} {self.kind:<16} {did:<10} {self.reason}"


@dataclass(frozen=True)
class Report:
    """What `accelerate` did to each module that computes: one row each, in the order of `named_modules`."""

    rows: list[Row] = field(default_factory=list)

    @property
    def replaced(self) -> list[str]:
        """The names of the modules that have our kernels."""
        return [row.name for row in self.rows if row.replaced]

    @property
    def left(self) -> dict[str, str]:
        """The names of the others, and why."""
        return {row.name: row.reason for row in self.rows if not row.replaced}

    def __str__(self) -> str:
        total = f"{len(self.replaced)} of {len(self.rows)} modules have kernels of sevenloops"
        return "\n".join([*map(str, self.rows), total])


def accelerate(model: Module, example_input: Any = None, *, remeasure: bool = False) -> Report:
    """Give the modules of a model our kernels, in place, for training or evaluation; `restore` undoes it.

    Args:
        model: any `torch.nn.Module` on the CPU. Parameters stay the same objects; `state_dict` keeps its keys.
        example_input: what the model is called with (a tensor, a tuple of arguments, or a dict of named ones). Each layer
            is then timed both ways with the shapes that it sees, in training forward and both gradients, in evaluation
            forward, and stays PyTorch's where that is faster. Times are kept on disk for this machine, so the decision
            is the same the next time. Without it, everything that is supported is replaced.
        remeasure: time again what has been timed before.

    The model is run once with the example, in evaluation mode, so that running statistics do not change. Activations of
    replaced convolutions are channels last in memory: a model that calls `view` on them must call `flatten` or `reshape`.
    Kernels for new shapes are compiled at their first use, which takes up to some seconds a layer, once for a machine.

    Returns a report, which prints as a table: each module that computes, what it got, and why.
    Raises `Unsupported` if the model works with PyTorch's layers on the example and not with ours, and what compiling
    raises; the model is restored then.
    """
    restore(model)
    rows = [_first(name, module) for name, module in model.named_modules() if _computes(module)]
    modules = dict(model.named_modules())
    for row in rows:
        if row.replaced:
            REPLACEMENTS[type(modules[row.name])].replace(modules[row.name])
    if example_input is not None:
        replaced = {row.name: modules[row.name] for row in rows if row.replaced}
        try:
            seen = _run_once(model, replaced, example_input)
            rows = [_decided(row, modules[row.name], seen.get(row.name, []), remeasure) for row in rows]
        except BaseException:  # an interrupt too: all or nothing
            restore(model)
            raise
    fused = fuse(model)
    return Report([replace(row, reason=f"{row.reason}; {fused[row.name]}") if row.name in fused else row for row in rows])


def restore(model: Module) -> None:
    """Give all modules of a model their own classes back; what `accelerate` did is undone, training goes on."""
    for module in model.modules():
        if isinstance(module, Replacement):
            module.put_back(module)


def _computes(module: Module) -> bool:
    return not any(True for _ in module.children()) or isinstance(module, tuple(REPLACEMENTS))


def _first(name: str, module: Module) -> Row:
    """What to do before anything is timed."""
    kind = type(module).__name__
    replacement = REPLACEMENTS.get(type(module))
    if replacement is not None:
        reason = replacement.why_not(module)
        return Row(name, kind, reason is None, reason or "not timed")
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return Row(name, kind, False, "it has no shapes yet; run the model once before")
    for original in REPLACEMENTS:
        if isinstance(module, original):
            return Row(name, kind, False, f"a class of its own that derives from {original.__name__} may compute otherwise")
    return Row(name, kind, False, STAYS.get(type(module), "there is no replacement"))


def _run_once(model: Module, modules: dict[str, Module], example: Any) -> dict[str, list[Seen]]:
    """The inputs that the replaced modules see."""

    def call() -> Any:
        if isinstance(example, Mapping):
            return model(**example)
        return model(*example) if isinstance(example, tuple) else model(example)

    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        with torch.random.fork_rng(devices=[]), watching(modules) as seen:
            _checked(model, call)
    finally:
        for module in training:
            module.training = True
    return seen


def _checked(model: Module, call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception as error:
        restore(model)
        call()  # raises too if the example does not fit the model
        raise Unsupported(
            f"the model works with PyTorch's layers and not with ours: {error}. Ours return channels-last tensors: "
            "where the model calls view, flatten or reshape does the same. The model is as it was."
        ) from error


def _decided(row: Row, module: Module, seen: list[Seen], remeasure: bool) -> Row:
    """The row with the faster of both; the module is given its class."""
    if not row.replaced:
        return row
    if not seen:
        return Row(row.name, row.kind, True, "the example does not reach it, so it was not timed")
    times = compared(module, seen, remeasure)
    if times.ours_s > times.torch_s:
        module.put_back(module)
    return Row(row.name, row.kind, times.ours_s <= times.torch_s, str(times), times)
