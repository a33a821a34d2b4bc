"""Rows of `REPLACEMENTS` for the layers that are neither convolutions nor products, and why some have none."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from . import layers
from .modules import Replacement, register

__all__ = ["ACTIVATIONS", "STAYS", "BatchNorm", "activated"]

Tensor = Any
Module = Any

#: Modules of PyTorch that leave nothing to gain on their own, and why.
STAYS: dict[type, str] = {
    nn.ReLU: "PyTorch reads and writes each value once; after a batch normalisation it is fused with that",
    nn.ReLU6: "PyTorch reads and writes each value once; after a batch normalisation it is fused with that",
    nn.Dropout: "its mask comes from PyTorch's generator",
}
#: Activations that a batch normalisation can do: functions, and modules by their exact class.
ACTIVATIONS: dict[Any, str] = {
    nn.ReLU: "relu", nn.ReLU6: "relu6", torch.relu: "relu", torch.relu_: "relu", nn.functional.relu: "relu",
    nn.functional.relu_: "relu", nn.functional.relu6: "relu6", "relu": "relu", "relu_": "relu",
}  # fmt: skip
_FUNCTIONS = {"none": lambda v: v, "relu": torch.relu, "relu6": nn.functional.relu6}


def activated(v: Tensor, activation: str, residual: Tensor | None = None) -> Tensor:
    """`activation(v + residual)` by PyTorch."""
    return _FUNCTIONS[activation](v if residual is None else v + residual)


def _ours(x: Tensor) -> bool:
    """Whether our kernels take a tensor."""
    return bool(x.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0)


class BatchNorm(Replacement):
    """Batch normalisation that can add a residual and apply an activation in the same pass."""

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """Whether parameters and statistics are float32 in the memory of the CPU."""
        for name in ("weight", "bias", "running_mean", "running_var"):
            tensor = getattr(module, name)
            if tensor is not None and (tensor.dtype != torch.float32 or tensor.device.type != "cpu"):
                return f"its {name} is {tensor.dtype} on {tensor.device}; our kernels are float32 on the CPU"
        return None

    def forward(self: Any, input: Tensor, activation: str = "none", residual: Tensor | None = None) -> Tensor:
        """As the original, then the residual is added and the activation applied. Other dtypes are computed by PyTorch."""
        if not _ours(input):
            return activated(super().forward(input), activation, residual)  # type: ignore[misc]
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        kept = (self.running_mean, self.running_var)
        training = self.training or kept == (None, None)
        if self.training and not self.track_running_stats:
            kept = (None, None)
        return layers.batch_norm(
            input, *kept, self.weight, self.bias, training, momentum, self.eps, activation=activation, residual=residual
        )


@register(nn.BatchNorm1d)
class BatchNorm1d(BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` by our kernels."""


@register(nn.BatchNorm2d)
class BatchNorm2d(BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` by our kernels."""


@register(nn.BatchNorm3d)
class BatchNorm3d(BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` by our kernels."""


class _Pool(Replacement):
    """Pools over images."""

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """What our pools lack."""
        pair = lambda value: value if isinstance(value, tuple) else (value, value)  # noqa: E731
        kernel, stride = pair(module.kernel_size), pair(module.stride)
        if getattr(module, "return_indices", False):
            return "it returns indices, and ours are of another kind"
        if set(pair(getattr(module, "dilation", 1))) != {1}:
            return "it has a dilation"
        if getattr(module, "divisor_override", None) is not None:
            return "it has a divisor of its own"
        if isinstance(module, nn.MaxPool2d) and math.prod(kernel) > 255:
            return f"its window has {math.prod(kernel)} values; our indices count to 255"
        over = math.prod(-(-k // s) for k, s in zip(kernel, stride))
        return f"{over} of its windows see one input; our gradients take 64 at most" if over > 64 else None


@register(nn.MaxPool2d)
class MaxPool2d(_Pool, nn.MaxPool2d):
    """`torch.nn.MaxPool2d` by our kernels."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """As the original; tensors without a batch axis, and other dtypes, are computed by PyTorch."""
        if not _ours(input) or input.dim() != 4:
            return super().forward(input)
        return layers.max_pool2d(input, self.kernel_size, self.stride, self.padding, self.ceil_mode)


@register(nn.AvgPool2d)
class AvgPool2d(_Pool, nn.AvgPool2d):
    """`torch.nn.AvgPool2d` by our kernels."""

    def forward(self: Any, input: Tensor) -> Tensor:
        """As the original; tensors without a batch axis, and other dtypes, are computed by PyTorch."""
        if not _ours(input) or input.dim() != 4:
            return super().forward(input)
        args = (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        return layers.avg_pool2d(input, *args)


@register(nn.AdaptiveAvgPool2d)
class AdaptiveAvgPool2d(Replacement, nn.AdaptiveAvgPool2d):
    """`torch.nn.AdaptiveAvgPool2d(1)` by our kernels."""

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """Only the mean of everything."""
        if module.output_size in (1, (1, 1)):
            return None
        return f"ours gives one mean a channel, and its output_size is {module.output_size}"

    def forward(self, input: Tensor) -> Tensor:
        """As the original; tensors without a batch axis, and other dtypes, are computed by PyTorch."""
        return layers.adaptive_avg_pool2d(input) if _ours(input) and input.dim() == 4 else super().forward(input)


@register(nn.LocalResponseNorm)
class LocalResponseNorm(Replacement, nn.LocalResponseNorm):
    """`torch.nn.LocalResponseNorm` by our kernels."""

    @classmethod
    def why_not(cls, module: Module) -> str | None:
        """Only windows that are centred."""
        return f"its size, {module.size}, is even" if module.size % 2 == 0 else None

    def forward(self, input: Tensor) -> Tensor:
        """As the original; other dtypes are computed by PyTorch."""
        if not _ours(input) or input.dim() < 3:
            return super().forward(input)
        return layers.local_response_norm(input, self.size, self.alpha, self.beta, self.k)
