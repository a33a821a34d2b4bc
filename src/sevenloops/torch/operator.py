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
    _are_functorch_transforms_active,
    _AutoDispatchBelowAutograd,
    _dispatch_keys,
    _dispatch_tls_is_dispatch_key_excluded,
    _dispatch_tls_local_include_set,
)

__all__ = ["LIBRARY", "Gradients", "Operator", "Saved", "hashable", "is_plain"]

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
        LIBRARY.impl(self.name, lambda *args: kernel(*hashable(args)), "CPU")
        torch.library.register_fake(f"sevenloops::{self.name}", fake, lib=LIBRARY)
        self.op = getattr(torch.ops.sevenloops, self.name).default
        node = _Node(self, gradients, operands)
        self.function, self.transformed = node.function(), node.transformed()
        # `apply` without what Python does in it for functorch, half of its time.
        self._apply = torch._C._FunctionBase.__dict__["apply"].__get__(None, self.function)
        LIBRARY.impl(self.name, self._autograd, "Autograd", with_keyset=True)

    def _autograd(self, keyset: Any, *args: Any) -> Tensor:
        """The kernel of autograd: what is below it in the dispatcher, with a node of the graph where one is wanted."""
        below = keyset & torch._C._after_autograd_keyset

        def run(*args: Any) -> Tensor:
            with _AutoDispatchBelowAutograd():
                return self.op.redispatch(below, *args)

        if torch.is_grad_enabled() and _any_requires_grad(*args):
            return self.function.apply(run, *hashable(args))
        return run(*args)

    def __call__(self, *args: Any) -> Tensor:
        """As `torch.ops.sevenloops.NAME`; the arguments behind the tensors must be tuples, not lists."""
        if torch.compiler.is_compiling() or not is_plain(args):
            return self.transformed.apply(*args) if _are_functorch_transforms_active() else self.op(*args)
        if torch.is_grad_enabled() and _any_requires_grad(*args[:3]):
            return self._apply(self.kernel, *args)
        return self.kernel(*args)


def hashable(args: Sequence[Any]) -> list[Any]:
    """The dispatcher hands over lists, and kernels are looked up by these arguments."""
    return [tuple(arg) if isinstance(arg, list) else arg for arg in args]


def is_plain(args: Sequence[Any]) -> bool:
    """Whether the dispatcher would find nothing to do for these arguments: plain CPU tensors, and nobody who watches."""
    watched = _WATCHERS().raw_repr()
    if watched != _INFERENCE[0] and (watched != _USUAL[0] or _dispatch_tls_is_dispatch_key_excluded(_AUTOGRAD)):
        return False
    for arg in args[:3]:  # noqa: SIM110  # a generator takes longer than what it does
        if isinstance(arg, torch.Tensor) and _dispatch_keys(arg).raw_repr() not in _PLAIN:
            return False
    return True


class _Node:
    """The forward and backward passes of an operator as nodes of the autograd graph, for `torch.autograd.Function`."""

    def __init__(self, operator: Operator, gradients: Gradients, operands: int) -> None:
        self.operator, self.gradients, self.operands = operator, gradients, operands

    def function(self) -> Any:
        """The quick one, whose first argument is what computes: the kernel, or what lies below autograd."""

        def forward(ctx: Any, run: Callable[..., Tensor], *args: Any) -> Tensor:
            self._save(ctx, args, ctx.needs_input_grad[1:])
            return run(*args)

        def backward(ctx: Any, g: Tensor) -> Tensors:
            return (None, *self._gradients(ctx, g, ctx.needs_input_grad[1:]))

        return self._type(forward=forward, backward=backward)

    def transformed(self) -> Any:
        """The one that `torch.func` can take apart; under `vmap` it computes one after the other."""

        def setup_context(ctx: Any, inputs: Tensors, output: Tensor) -> None:
            self._save(ctx, inputs, ctx.needs_input_grad)

        def backward(ctx: Any, g: Tensor) -> Tensors:
            return self._gradients(ctx, g, ctx.needs_input_grad)

        def vmap(info: Any, in_dims: Tensors, *args: Any) -> tuple[Tensor, int]:
            def of(index: int) -> Tensors:
                return tuple(arg.select(dim, index) if isinstance(dim, int) else arg for arg, dim in zip(args, in_dims))

            return torch.stack([self.operator(*of(index)) for index in range(info.batch_size)]), 0

        return self._type(forward=self.operator.op, setup_context=setup_context, backward=backward, vmap=vmap)

    def _type(self, **members: Any) -> Any:
        methods = {name: staticmethod(member) for name, member in members.items()}
        return type(f"sevenloops_{self.operator.name}", (torch.autograd.Function,), methods)

    def _save(self, ctx: Any, args: Tensors, needs: Sequence[bool]) -> None:
        ctx.tail = args[self.operands :]
        if self.operands == 2:
            ctx.shapes = (args[0].shape, args[1].shape)
            ctx.save_for_backward(args[0] if needs[1] else None, args[1] if needs[0] else None)
        else:
            ctx.shapes = (args[0].shape,)

    def _gradients(self, ctx: Any, g: Tensor, needs: Sequence[bool]) -> Tensors:
        found = self.gradients(g, Saved(ctx.saved_tensors, ctx.shapes, ctx.tail, needs))
        return (*found, *(None,) * (len(needs) - len(found)))
