"""PyTorch's modules with our kernels: what `accelerate` turns the modules of a model into.

A replacement is a subclass of the module that it stands for, and a module is replaced by giving it that class. So it
remains the same object, with the same parameters, hooks, name and state, and taking the class back undoes it. The table
`REPLACEMENTS` says which class stands for which; `register` adds a row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from ..compile import Packed
from .bilinear import Bilinear
from .convolution import CONVOLUTION
from .functional import conv_tail, named_padding
from .operator import is_plain
from .products import LINEAR

__all__ = ["REPLACEMENTS", "Replacement", "register"]

Tensor = Any
Module = Any

#: A class of PyTorch -> the one that stands for it.
REPLACEMENTS: dict[type, type[Replacement]] = {}
Class = TypeVar("Class", bound="type[Replacement]")


class Replacement:
    """What a replacement has besides the members of the class that it stands for, `original`."""

    original: ClassVar[type]

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """None, or why a module of the original class must stay as it is."""
        raise NotImplementedError

    def _get_name(self) -> str:
        return f"sevenloops.{self.original.__name__}"

    @classmethod
    def replace(cls, module: Module) -> None:
        """Give a module of the original class this class."""
        module.__class__ = cls

    @staticmethod
    def put_back(module: Module) -> None:
        """Give a replaced module its own class again, with nothing of ours left in it."""
        module.__dict__.pop("_kept", None)
        module.__class__ = type(module).original


def register(original: type) -> Callable[[Class], Class]:
    """A decorator: the class stands for `original` from now on."""

    def enter(replacement: Class) -> Class:
        replacement.original = original
        REPLACEMENTS[original] = replacement
        return replacement

    return enter


class _Kept:
    """Packed weights of a module for calls without gradients; copies and pickles of the module begin without any.

    They are used as long as the parameter's memory and its version (`Tensor._version`, which every change in place that
    autograd sees increases) are what they were.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: tuple[tuple[int, int], Packed] | None = None  # one value, so that threads see both parts or none

    def __deepcopy__(self, memo: Any) -> _Kept:
        return _Kept()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Kept, ()


class WithWeight(Replacement):
    """A replacement for a layer that is linear in its input and in its parameter `weight`.

    In evaluation (`eval()`) and without gradients, the weights are packed once and kept, until the parameter changes or
    `train()` or `eval()` is called. A write through `weight.data` is not seen: call `eval()` after it.
    """

    operators: ClassVar[Bilinear]
    weight: Tensor
    bias: Tensor
    training: bool

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """Whether the parameters are plain float32 ones in the memory of the CPU."""
        for name in ("weight", "bias"):
            tensor = getattr(module, name)
            if tensor is not None and name not in module._parameters:
                return f"its {name} is computed in each call (weight_norm, spectral_norm, pruning)"
            if tensor is not None and tensor.dtype != torch.float32:
                return f"its {name} is {str(tensor.dtype).removeprefix('torch.')}; our fast kernels are float32"
            if tensor is not None and (tensor.device.type != "cpu" or type(tensor) is not nn.Parameter):
                return f"its {name} is no plain tensor on the CPU ({type(tensor).__name__} on {tensor.device})"
        return None

    def run(self, x: Tensor, *tail: Any) -> Tensor:
        """The layer with the further arguments of its operators."""
        weight, bias = self.weight, self.bias
        keeps = not self.training and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if not keeps or not is_plain((x, weight, bias)) or weight.is_inference() or not x.numel():
            return self.operators.forward(x, weight, bias, *tail)
        call = self.operators.prepared(x, weight, bias, *tail)
        kept: _Kept | None = self.__dict__.get("_kept")
        if kept is None:
            kept = self.__dict__["_kept"] = _Kept()
        state, value = (weight._version, weight.data_ptr()), kept.value
        if value is None or value[0] != state or not call.kernel.takes(value[1]):
            value = kept.value = (state, call.kernel.pack(weight.detach().contiguous().numpy()))
        return call.packed(x, value[1], bias)

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module.train`; weights that are packed are let go."""
        self.__dict__.pop("_kept", None)
        return super().train(mode)  # type: ignore[misc]


class _Convolution(WithWeight):
    """Convolutions, plain and transposed."""

    operators = CONVOLUTION

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """Besides: padding with zeros."""
        if module.padding_mode != "zeros":
            return f'padding_mode is "{module.padding_mode}"; our kernels pad with zeros'
        return super().why_not(module)

    def forward(self: Any, input: Tensor) -> Tensor:
        """As the original; the result is channels last in memory."""
        rank, padding = len(self.kernel_size), self.padding
        if isinstance(padding, str):
            padding = named_padding(padding, self.kernel_size, self.stride, self.dilation)
        tail = conv_tail(rank, self.stride, padding, self.dilation, False, 0, self.groups)
        return self.run(input[None], *tail)[0] if input.dim() == rank + 1 else self.run(input, *tail)


class _Transposed(_Convolution):
    def forward(self: Any, input: Tensor, output_size: Any = None) -> Tensor:
        """As the original; the result is channels last in memory."""
        rank, extra = len(self.kernel_size), self.output_padding
        if output_size is not None:
            extra = tuple(
                self._output_padding(input, output_size, self.stride, self.padding, self.kernel_size, rank, self.dilation)
            )
        tail = conv_tail(rank, self.stride, self.padding, self.dilation, True, extra, self.groups)
        return self.run(input[None], *tail)[0] if input.dim() == rank + 1 else self.run(input, *tail)


@register(nn.Conv1d)
class Conv1d(_Convolution, nn.Conv1d):
    """`torch.nn.Conv1d` by our kernels."""


@register(nn.Conv2d)
class Conv2d(_Convolution, nn.Conv2d):
    """`torch.nn.Conv2d` by our kernels."""


@register(nn.Conv3d)
class Conv3d(_Convolution, nn.Conv3d):
    """`torch.nn.Conv3d` by our kernels."""


@register(nn.ConvTranspose1d)
class ConvTranspose1d(_Transposed, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` by our kernels."""


@register(nn.ConvTranspose2d)
class ConvTranspose2d(_Transposed, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` by our kernels."""


@register(nn.ConvTranspose3d)
class ConvTranspose3d(_Transposed, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` by our kernels."""


@register(nn.Linear)
class Linear(WithWeight, nn.Linear):
    """`torch.nn.Linear` by our kernels."""

    operators = LINEAR

    def forward(self, input: Tensor) -> Tensor:
        """As the original."""
        return self.run(input)
