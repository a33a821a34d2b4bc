"""Modules around the shift operator, which PyTorch lacks (Wu et al., Shift, arXiv 1711.08141; TSM, arXiv 1811.08383).

A shift moves each channel by a few pixels and has no parameters; the 1x1 convolutions around it learn which channel looks
where. `CSC` and `SC2` are the blocks of the paper in the form of alvinwan/shiftresnet-cifar, `shift_resnet` its network.
Their parameters have the names of `sevenloops.models`, so weights go both ways.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..errors import ArrayError, ProblemError
from ..shift import CONVENTIONS, Shift
from ..sizes import as_int, as_tuple
from .functional import shift2d, shift_conv2d

__all__ = ["CSC", "SC2", "Shift2d", "ShiftConv2d", "ShiftResNet", "TemporalShift", "shift_resnet"]

Tensor = Any


class Shift2d(nn.Module):
    """Moves the channels of images: `y[n, c, o] = x[n, c, o * stride + offset(c)]`, zero outside.

    `kernel_size`, `dilation` and `stride` are integers or one an axis; `convention` is "contiguous" (the paper's), "modulo"
    (shiftnet_cuda_v2's), or the moves written out (`sevenloops.shift`). Raises `ProblemError`.
    """

    def __init__(self, kernel_size: Any = 3, dilation: Any = 1, stride: Any = 1, convention: str = CONVENTIONS[0]) -> None:
        super().__init__()
        shift = Shift(kernel_size, dilation, convention).of_rank(2)
        self.kernel_size, self.dilation, self.convention = shift.kernel, shift.dilation, shift.convention
        self.stride = as_tuple("stride", stride, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`x[n, c, h, w]`, float32 or float64, to `y[n, c, oh, ow]`, channels last in memory."""
        return shift2d(x, self.kernel_size, self.dilation, self.convention, self.stride)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, stride={self.stride}, {self.convention}"


class ShiftConv2d(nn.Module):
    """A shift and the 1x1 convolution after it, in one kernel that stores nothing between, forward and backward.

    `stride` is that of the convolution. `weight` is `(out_channels, in_channels, 1, 1)` and starts as PyTorch's
    convolutions do. Other arguments as `Shift2d`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any = 3, dilation: Any = 1, stride: Any = 1,
        bias: bool = True, convention: str = CONVENTIONS[0], *, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        shift = Shift(kernel_size, dilation, convention).of_rank(2)
        self.kernel_size, self.dilation, self.convention = shift.kernel, shift.dilation, shift.convention
        self.stride = as_tuple("stride", stride, 2, 1)
        self.in_channels, self.out_channels = (
            as_int(name, value, 1) for name, value in (("in_channels", in_channels), ("out_channels", out_channels))
        )
        shape = (self.out_channels, self.in_channels, 1, 1)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_channels, device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Even random numbers up to `1 / sqrt(in_channels)`, as in `torch.nn.Conv2d`."""
        bound = 1 / math.sqrt(self.in_channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """`x[n, in_channels, h, w]`, float32 or float64, to `y[n, out_channels, oh, ow]`, channels last in memory."""
        return shift_conv2d(x, self.weight, self.bias, self.kernel_size, self.dilation, self.convention, self.stride)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, dilation={self.dilation}"
        return f"{sizes}, stride={self.stride}, bias={self.bias is not None}, {self.convention}"


class TemporalShift(nn.Module):
    """Moves channels by one frame (TSM, arXiv 1811.08383), in a batch of clips of `frames` images, one after the other.

    The first `channels // fraction` channels come from the next frame and as many after them from the previous one
    (mit-han-lab/temporal-shift-module, mmaction2), or with `first="previous"` the other way round (Paddle); the others stay.
    What would come from outside of a clip is zero. Raises `ProblemError`.
    """

    def __init__(self, frames: int, fraction: int = 8, first: str = "next") -> None:
        super().__init__()
        if first not in ("next", "previous"):
            raise ProblemError(f'first must be "next" or "previous", got {first!r}')
        self.frames, self.fraction, self.first = as_int("frames", frames, 1), as_int("fraction", fraction, 2), first

    def forward(self, x: Tensor) -> Tensor:
        """`x[clips * frames, c, h, w]` to the same shape, channels last in memory."""
        if x.dim() != 4 or x.shape[0] % self.frames:
            raise ArrayError(
                f"a shift in time needs x[clips * frames, c, h, w] with {self.frames} frames, got shape {tuple(x.shape)}"
            )
        images, channels, height, width = x.shape
        moved = channels // self.fraction
        if not moved:
            return x
        # Channels last, a clip is an image with its frames one below the other, and a frame is `height` rows.
        by = height if self.first == "next" else -height
        moves = Shift.of_moves([(moved, (by, 0)), (moved, (-by, 0))]).convention
        clips = _memory(x).reshape(images // self.frames, self.frames * height, width, channels)
        return _image(_memory(shift2d(_image(clips), 1, 1, moves)).reshape(images, height, width, channels))

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"frames={self.frames}, fraction={self.fraction}, first={self.first!r}"


def _memory(x: Tensor) -> Tensor:
    """NCHW as it lies when channels are last."""
    return x.permute(0, 2, 3, 1)


def _image(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


class CSC(nn.Module):
    """1x1, shift, 1x1 with a shortcut: `bn2(conv2(shift(relu(bn1(conv1(x))))))`, ReLU, then `+ shortcut(x)`.

    `expansion * out_channels` channels lie between. The second 1x1 takes the stride; the shortcut is `x`, or a 1x1
    convolution with batch norm where sizes or channels differ.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, expansion: int = 3, kernel_size: Any = 3,
        convention: str = CONVENTIONS[0],
    ) -> None:  # fmt: skip
        super().__init__()
        middle = as_int("expansion", expansion, 1) * out_channels
        shift = {"kernel_size": kernel_size, "convention": convention, "bias": False}
        self.conv1 = self._first(in_channels, middle, **shift)
        self.bn1 = nn.BatchNorm2d(middle)
        self.relu1 = nn.ReLU()
        self.conv2 = ShiftConv2d(middle, out_channels, stride=stride, **shift)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            convolution = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    @staticmethod
    def _first(in_channels: int, out_channels: int, **shift: Any) -> nn.Module:
        return nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x[n, in_channels, h, w]` to `y[n, out_channels, oh, ow]`."""
        y = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(y))) + self.shortcut(x)


class SC2(CSC):
    """Shift, 1x1, shift, 1x1 with a shortcut: `CSC` with one more shift in front."""

    @staticmethod
    def _first(in_channels: int, out_channels: int, **shift: Any) -> nn.Module:
        return ShiftConv2d(in_channels, out_channels, **shift)


UNITS = {"csc": CSC, "sc2": SC2}


class ShiftResNet(nn.Module):
    """ShiftResNet for images of 32x32: a 3x3 convolution, three stages of blocks, an average pool, a linear layer.

    `name` and `options` say which network of `sevenloops.models` has the same weights under the same names.
    """

    def __init__(self, blocks: int, unit: str, classes: int, in_channels: int, **options: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(blocks, unit, 16, 16, 1, options)
        self.layer2 = _stage(blocks, unit, 16, 32, 2, options)
        self.layer3 = _stage(blocks, unit, 32, 64, 2, options)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`x[n, in_channels, h, w]` to scores `[n, classes]`."""
        x = self.relu1(self.bn1(self.conv1(x)))
        return self.linear(self.flatten(self.pool(self.layer3(self.layer2(self.layer1(x))))))


def _stage(blocks: int, unit: str, before: int, after: int, stride: int, options: dict[str, Any]) -> nn.Sequential:
    block = UNITS[unit]
    first = block(before, after, stride, **options)
    return nn.Sequential(first, *(block(after, after, **options) for _ in range(blocks - 1)))


def shift_resnet(
    depth: int = 20, expansion: int = 3, *, classes: int = 10, unit: str = "csc", convention: str = "modulo",
    in_channels: int = 3,
) -> ShiftResNet:  # fmt: skip
    """ShiftResNet-20, -56, -110 or any other depth of 6n + 2 (arXiv 1711.08141, section 4.1), with random weights.

    `unit` is "csc" or "sc2"; `convention` that of the shift, "modulo" in the authors' code. With expansion 3, CSC and 10
    classes the first has 95,642 parameters and 16.43 M multiply-adds for an image. Raises `ProblemError`.
    """
    if as_int("depth", depth, 8) % 6 != 2:
        raise ProblemError(f"the depth of a ShiftResNet is 6n + 2, such as 20, 56 and 110, got {depth}")
    if unit not in UNITS:
        raise ProblemError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    return ShiftResNet((depth - 2) // 6, unit, classes, in_channels, expansion=expansion, convention=convention)
