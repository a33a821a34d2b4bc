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

#: Arguments that may be tensors stand first, and are so many at most.
OPERANDS = 7
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
        self.differentiable = save is not None
        self.function, self.transformed = _functions(self, save or _saves_nothing, backward or _refuses)
        # `apply` without what Python does in it for functorch.
        self._apply = torch._C._FunctionBase.__dict__["apply"].__get__(None, self.function)
        if self.differentiable:
            LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

    def _autograd(self, keyset: Any, *args: Any) -> Any:
        below = keyset & torch._C._after_autograd_keyset

        def run(*args: Any) -> Any:
            with _AutoDispatchBelowAutograd():
                return self.op.redispatch(below, *args)

        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return self.function.apply(run, *hashable(args))
        return run(*args)

    def __call__(self, *args: Any) -> Any:
        """As `torch.ops.sevenloops.NAME`; the arguments behind the tensors must be tuples, not lists."""
        if torch.compiler.is_compiling() or not is_plain(args):
            return self.transformed.apply(*args) if _are_functorch_transforms_active() else self.op(*args)
        if self.differentiable and torch.is_grad_enabled() and _any_requires_grad(*args[:OPERANDS]):
            return self._apply(self.kernel, *args)
        return self.kernel(*args)


def _saves_nothing(ctx: Any, args: Any, output: Any) -> None:
    pass


def _refuses(ctx: Any, g: Any) -> tuple[Any, ...]:
    raise RuntimeError("gradients of sevenloops' layers cannot be differentiated again (once_differentiable)")


def _functions(operator: LayerOperator, save: Save, backward: Backward) -> tuple[Any, Any]:
    """The nodes of the autograd graph: the quick one, whose first argument is what computes, and that for `torch.func`."""

    def forward(ctx: Any, run: Callable[..., Any], *args: Any) -> Any:
        output = run(*args)
        save(ctx, args, output)
        return output

    def gradients(ctx: Any, g: Any, *_: Any) -> Any:
        found = backward(ctx, g)
        return (*found, *(None,) * (len(ctx.needs_input_grad) - len(found)))

    def quick_gradients(ctx: Any, g: Any, *_: Any) -> Any:
        found = backward(ctx, g)
        return (None, *found, *(None,) * (len(ctx.needs_input_grad) - 1 - len(found)))

    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        """One after the other."""

        def of(index: int) -> Any:
            return operator(*(arg.select(dim, index) if isinstance(dim, int) else arg for arg, dim in zip(args, in_dims)))

        results = [of(index) for index in range(info.batch_size)]
        if isinstance(results[0], tuple):
            return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])
        return torch.stack(results), 0

    def function(**members: Any) -> Any:
        statics = {name: staticmethod(member) for name, member in members.items()}
        return type(f"sevenloops_{operator.name}", (torch.autograd.Function,), statics)

    quick = function(forward=forward, backward=once_differentiable(quick_gradients))
    return quick, function(forward=operator.op, setup_context=save, backward=gradients, vmap=vmap)
