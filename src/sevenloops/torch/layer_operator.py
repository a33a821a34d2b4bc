"""Operators that are not linear, or have several results: batch normalisation, pools, local response normalisation.

As `operator.Operator`, each is registered with `torch.library` (schema, kernel, fake kernel, autograd) and called past
the dispatcher where that is right. Backward is a `torch.autograd.Function` of its own, given as two functions. Gradients
cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._C import _any_requires_grad, _are_functorch_transforms_active, _AutoDispatchBelowAutograd
from torch.autograd.function import once_differentiable

from .operator import LIBRARY, hashable, is_plain

__all__ = ["LayerOperator"]

#: (ctx, arguments, result) saves what backward needs.
Save = Callable[[Any, Any, Any], None]
#: (ctx, gradient of the first result) -> the gradients of the first arguments.
Backward = Callable[[Any, Any], tuple[Any, ...]]


class LayerOperator:
    """One operator of the namespace `sevenloops`. Without `save` and `backward` it is not differentiable."""

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Any],
        fake: Callable[..., Any],
        save: Save | None = None,
        backward: Backward | None = None,
    ) -> None:
        self.name, self.kernel = schema.partition("(")[0], kernel
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(self.name, lambda *args: kernel(*hashable(args)), "CPU")
        torch.library.register_fake(f"sevenloops::{self.name}", fake, lib=LIBRARY)
        self.op = getattr(torch.ops.sevenloops, self.name).default
        self.function: Any = None if save is None or backward is None else _function(self.name, save, backward)
        if self.function is not None:
            LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

    def _autograd(self, keyset: Any, *args: Any) -> Any:
        below = keyset & torch._C._after_autograd_keyset

        def run(*args: Any) -> Any:
            with _AutoDispatchBelowAutograd():
                return self.op.redispatch(below, *args)

        return self._run(run, hashable(args))

    def _run(self, run: Callable[..., Any], args: Any) -> Any:
        if self.function is not None and torch.is_grad_enabled() and _any_requires_grad(*args):
            return self.function.apply(run, *args)
        return run(*args)

    def __call__(self, *args: Any) -> Any:
        """As `torch.ops.sevenloops.NAME`; the arguments behind the tensors must be tuples, not lists."""
        if torch.compiler.is_compiling() or not is_plain(args):
            wrapped = self.function is not None and _are_functorch_transforms_active()
            return self.function.apply(self.op, *args) if wrapped else self.op(*args)
        return self._run(self.kernel, args)


def _function(name: str, save: Save, backward: Backward) -> Any:
    """The node of the autograd graph; its first argument is what computes."""

    def forward(run: Callable[..., Any], *args: Any) -> Any:
        return run(*args)

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        save(ctx, inputs[1:], output)

    def gradients(ctx: Any, g: Any, *_: Any) -> Any:
        found = backward(ctx, g)
        return (None, *found, *(None,) * (len(ctx.needs_input_grad) - 1 - len(found)))

    members: dict[str, Any] = {
        "forward": forward,
        "setup_context": setup_context,
        "backward": once_differentiable(gradients),
    }
    return type(f"sevenloops_{name}", (torch.autograd.Function,), {k: staticmethod(v) for k, v in members.items()})
