"""What an operator of ours consists of, and the cheapest way to call it.

Each is registered with `torch.library` under the namespace `sevenloops`: a schema, a kernel for CPU tensors, a fake kernel
(shapes and strides of the result, for `torch.compile` and `torch.export`), and a kernel for autograd, which is a
`torch.autograd.Function`. `torch.library.register_autograd` would make such a Function too; its Python takes about twice
as long, also where no gradient is wanted (docs/training_operators.md has the times).

The dispatcher itself takes several microseconds for each kernel in Python. So a call with plain CPU tensors, while
nothing watches the dispatcher (no tracing, no dispatch or functorch mode), goes to the kernel or to the Function at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._C import (
    DispatchKey,
    _any_requires_grad,
    _AutoDispatchBelowAutograd,
    _dispatch_keys,
    _dispatch_tls_is_dispatch_key_excluded,
    _dispatch_tls_local_include_set,
)

__all__ = ["LIBRARY", "Gradients", "Operator", "Saved"]

Tensor = Any
Tensors = tuple[Any, ...]

LIBRARY = torch.library.Library("sevenloops", "DEF")

_WATCHERS, _AUTOGRAD = _dispatch_tls_local_include_set, DispatchKey.AutogradCPU


def _inside(mode: Callable[[], Any]) -> tuple[int, int]:
    """What a thread watches, and the keys of a dense CPU tensor of PyTorch's own type."""
    with mode():
        return _WATCHERS().raw_repr(), _dispatch_keys(torch.empty(0)).raw_repr()


with torch.inference_mode(False):
    _USUAL, _INFERENCE = _inside(torch.enable_grad), _inside(torch.inference_mode)
_PLAIN = (_USUAL[1], _INFERENCE[1])


class Saved:
    """What the backward pass of an operator sees of its forward pass.

    `tensors` are the operands (None where no gradient needs them), `shapes` theirs, `tail` the arguments behind the
    tensors, `needs` says of each argument whether its gradient is wanted.
    """

    __slots__ = ("needs", "shapes", "tail", "tensors")

    def __init__(self, tensors: Tensors, shapes: Tensors, tail: Tensors, needs: Sequence[bool]) -> None:
        self.tensors, self.shapes, self.tail, self.needs = tensors, shapes, tail, needs


#: The gradient of the result and what was saved -> the gradients of the first arguments; the others have none.
Gradients = Callable[[Tensor, Saved], Tensors]


class Operator:
    """One operator of the namespace `sevenloops`; calling it is the quickest way that is right where it is called.

    `schema` is that of `torch.library`, `kernel` computes with CPU tensors, `fake` gives an empty result of the same shape
    and strides. `gradients` returns those of the first arguments, `None` where none is wanted. `operands` of the arguments
    are tensors that the gradients need: with two of them the operator is linear in each, so the gradient of one needs the
    other; with one it is linear, and nothing is saved.
    """

    def __init__(
        self,
        schema: str,
        kernel: Callable[..., Tensor],
        fake: Callable[..., Tensor],
        gradients: Gradients,
        operands: int = 2,
    ) -> None:
        self.name = schema.partition("(")[0]
        self.kernel = kernel
        LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        LIBRARY.impl(self.name, kernel, "CPU")
        torch.library.register_fake(f"sevenloops::{self.name}", fake, lib=LIBRARY)
        self.op = getattr(torch.ops.sevenloops, self.name).default
        self.function = _function(self.name, gradients, operands)
        LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

    def _autograd(self, keyset: Any, *args: Any) -> Tensor:
        """The kernel of autograd: what is below it in the dispatcher, with a node of the graph where one is wanted."""
        below = keyset & torch._C._after_autograd_keyset

        def run(*args: Any) -> Tensor:
            with _AutoDispatchBelowAutograd():
                return self.op.redispatch(below, *args)

        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return self.function.apply(run, *args)
        return run(*args)

    def __call__(self, *args: Any) -> Tensor:
        if torch.compiler.is_compiling() or not is_plain(args):
            return self.op(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return self.function.apply(self.kernel, *args)
        return self.kernel(*args)


def is_plain(args: Sequence[Any]) -> bool:
    """Whether the dispatcher would find nothing to do for these arguments: plain CPU tensors, and nobody who watches."""
    watched = _WATCHERS().raw_repr()
    if watched != _INFERENCE[0] and (watched != _USUAL[0] or _dispatch_tls_is_dispatch_key_excluded(_AUTOGRAD)):
        return False
    return all(_dispatch_keys(arg).raw_repr() in _PLAIN for arg in args[:3] if isinstance(arg, torch.Tensor))


def _function(name: str, gradients: Gradients, operands: int) -> Any:
    """The node of the autograd graph."""

    def forward(ctx: Any, run: Callable[..., Tensor], *args: Any) -> Tensor:
        needs = ctx.needs_input_grad[1:]
        ctx.shapes, ctx.tail = tuple(arg.shape for arg in args[:operands]), args[operands:]
        if operands == 2:
            ctx.save_for_backward(args[0] if needs[1] else None, args[1] if needs[0] else None)
        return run(*args)

    def backward(ctx: Any, g: Tensor) -> Tensors:
        needs = ctx.needs_input_grad[1:]
        found = gradients(g, Saved(ctx.saved_tensors, ctx.shapes, ctx.tail, needs))
        return (None, *found, *(None,) * (len(needs) - len(found)))

    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(f"Sevenloops_{name}", (torch.autograd.Function,), members)
