"""Layers that are linear in their input and in their weights, as three operators: forward and the two gradients.

With `y = f(x, w)`, and `dy` the gradient of `y`::

    f_input_gradient(dy, w)      the gradient of x: linear in dy and in w
    f_weight_gradient(dy, x)     the gradient of w: linear in dy and in x

The three are derivatives of one trilinear form, `sum(dy * f(x, w))`, so the gradients of each are again the others, and
double backward needs no operator of its own. All three take the same further arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import records
from ..errors import DtypeError
from ..recent import Recent
from .operator import Operator, Saved, Tensors
from .sums import CHANNEL_SUM

__all__ = ["Bilinear", "check_dtype"]

Tensor = Any
#: An operator prepared for shapes: it takes tensors of these shapes and returns the result.
Call = Callable[..., Tensor]
#: (shape of x, shape of w, dtype, whether there is a bias, threads, further arguments) -> the prepared operator.
Prepare = Callable[..., Call]


def check_dtype(*tensors: Tensor) -> str:
    """The dtype that all of them have, "float32" or "float64"; raises `DtypeError` for any other."""
    dtypes = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor is not None]
    if len(set(dtypes)) > 1 or dtypes[0] not in ("float32", "float64"):
        raise DtypeError(
            f"sevenloops computes float32 (and float64, slowly), all tensors alike, got {', '.join(dtypes)}; "
            "convert the tensors, or leave this layer to PyTorch"
        )
    return dtypes[0]


@dataclass(frozen=True)
class Bilinear:
    """The three operators of one layer.

    `prepared(x, weight, bias, *tail)` is the call behind `forward` for weights that stay: a `Prepared`, whose `kernel` packs
    them once, except for an empty batch.
    """

    forward: Operator
    input_gradient: Operator
    weight_gradient: Operator
    prepared: Callable[..., Any]

    @classmethod
    def register(
        cls,
        name: str,
        tail: str,
        prepare: tuple[Prepare, Prepare, Prepare],
        out_shape: Callable[..., Any],
        empty: Callable[..., Tensor],
        channel_axis: int,
    ) -> Bilinear:
        """Register `name(x, weight, bias, tail)` and its two gradients.

        `prepare` makes the three for given shapes, `out_shape(x_shape, w_shape, *tail)` is the shape of the result and
        `empty(like, shape)` a tensor of that shape as forward and the input's gradient return it. Bias is added along
        `channel_axis`.
        """

        def fake(x: Tensor, weight: Tensor, bias: Any, *args: Any) -> Tensor:
            return empty(x, out_shape(x.shape, weight.shape, *args))

        def gradients(g: Tensor, s: Saved) -> Tensors:
            (x, w), tail = s.tensors, s.tail[1:]
            return (
                self.input_gradient(g, w, s.shapes[0], *tail) if s.needs[0] else None,
                self.weight_gradient(g, x, s.shapes[1], *tail) if s.needs[1] else None,
                CHANNEL_SUM(g, channel_axis % g.dim()) if s.needs[2] else None,
            )

        def of_input_gradient(g: Tensor, s: Saved) -> Tensors:
            (dy, w), tail = s.tensors, s.tail[1:]
            return (
                self.forward(g, w, None, *tail) if s.needs[0] else None,
                self.weight_gradient(dy, g, s.shapes[1], *tail) if s.needs[1] else None,
            )

        def of_weight_gradient(g: Tensor, s: Saved) -> Tensors:
            (dy, x), tail = s.tensors, s.tail[1:]
            return (
                self.forward(x, g, None, *tail) if s.needs[0] else None,
                self.input_gradient(dy, g, s.shapes[1], *tail) if s.needs[1] else None,
            )

        more = f", {tail}" if tail else ""
        of_x = lambda x, w, bias: (x.shape, w.shape)  # noqa: E731
        forward = Operator(
            f"{name}(Tensor x, Tensor weight, Tensor? bias{more}) -> Tensor", _kernel(prepare[0], of_x), fake, gradients
        )
        input_gradient = Operator(
            f"{name}_input_gradient(Tensor dy, Tensor weight, SymInt[] size{more}) -> Tensor",
            _kernel(prepare[1], lambda dy, w, size: (size, w.shape)),
            lambda dy, weight, size, *args: empty(dy, size),
            of_input_gradient,
        )
        weight_gradient = Operator(
            f"{name}_weight_gradient(Tensor dy, Tensor x, SymInt[] size{more}) -> Tensor",
            _kernel(prepare[2], lambda dy, x, size: (x.shape, size)),
            lambda dy, x, size, *args: dy.new_empty(size),
            of_weight_gradient,
        )
        constant = functools.partial(prepare[0], weights="constant")
        self = cls(forward, input_gradient, weight_gradient, _finder(constant, of_x))
        return self


def _kernel(prepare: Prepare, shapes: Callable[..., tuple[Any, Any]]) -> Callable[..., Tensor]:
    """The kernel of one of the three for CPU tensors."""
    find = _finder(prepare, shapes)

    def kernel(a: Tensor, b: Tensor, third: Any, *tail: Any) -> Tensor:
        return find(a, b, third, *tail)(a, b, third if isinstance(third, torch.Tensor) else None)

    return kernel


def _finder(prepare: Prepare, shapes: Callable[..., tuple[Any, Any]]) -> Callable[..., Call]:
    """Finds what was prepared for a call with such arguments, or prepares it."""
    prepared: Recent[Any, Call] = Recent()

    def find(a: Tensor, b: Tensor, third: Any, *tail: Any) -> Call:
        bias = third if isinstance(third, torch.Tensor) else None
        x_shape, w_shape = shapes(a, b, third)
        n_threads = torch.get_num_threads()
        of_bias = None if bias is None else (bias.shape, bias.dtype)
        key = (a.shape, a.dtype, b.dtype, x_shape, w_shape, of_bias, n_threads, tail, records.generation)
        call = prepared.find(key)
        if call is None:
            dtype = check_dtype(a, b, bias)
            call = prepare(tuple(x_shape), tuple(w_shape), tuple(a.shape), dtype, bias, n_threads, *tail)
            prepared.keep(key, call)
        return call

    return find
