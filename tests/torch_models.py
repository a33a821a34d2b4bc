"""Models written as people write them in PyTorch, small: `MODELS` has a maker and the shape of an input for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as functional
from torch import nn

import sevenloops.torch

Module = Any
Tensor = Any


class UNet(nn.Module):
    """Two scales, in-place activations, a transposed convolution, bilinear upsampling, skips by concatenation."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> Module:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))

        self.down, self.middle, self.bottom = block(3, 8), block(8, 16), block(16, 16)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.out = nn.Conv2d(24 + 8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        second = self.middle(functional.max_pool2d(first, 2))
        third = torch.cat([self.up(self.bottom(functional.max_pool2d(second, 2))), second], 1)
        return self.out(torch.cat([self.upsample(third), first], 1))


class ConvNeXt(nn.Module):
    """A patch stem and one block: 7x7 depthwise, layer norm over channels last, two linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 16, 7, padding=3, groups=16)
        self.norm, self.wide, self.narrow = nn.LayerNorm(16, eps=1e-6), nn.Linear(16, 64), nn.Linear(64, 16)
        self.scale = nn.Parameter(torch.full((16,), 0.5))
        self.head_norm, self.head = nn.LayerNorm(16), nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(functional.gelu(self.wide(y)))
        x = x + y.permute(0, 3, 1, 2)
        return self.head(self.head_norm(x.mean([-2, -1])))


class DenseNet(nn.Module):
    """Batch norm and ReLU before convolutions, every layer's input all results so far."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 8 * at), nn.ReLU(), nn.Conv2d(8 + 8 * at, 8, 3, padding=1, bias=False))
            for at in range(3)
        )
        self.norm, self.pool, self.head = nn.BatchNorm2d(32), nn.AvgPool2d(2), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)))
        x = self.pool(functional.relu(self.norm(torch.cat(found, 1))))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, (1, 1)), 1))


def audio() -> Module:
    """A 1-D network on a wave: long strided and dilated kernels, group norm, a gated unit."""
    return nn.Sequential(
        nn.Conv1d(1, 16, 25, stride=4, padding=12), nn.BatchNorm1d(16), nn.LeakyReLU(0.1), nn.MaxPool1d(4),
        nn.Conv1d(16, 24, 5, padding=4, dilation=2), nn.GroupNorm(4, 24), nn.SiLU(),
        nn.Conv1d(24, 24, 3, padding=1, groups=24), nn.GLU(1), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(12, 4), nn.LogSoftmax(-1),
    )  # fmt: skip


def video() -> Module:
    """A 3-D network on frames: kernels over time alone, pools over space alone."""
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(8, 16, (3, 1, 1), padding=(1, 0, 0)), nn.BatchNorm3d(16), nn.ReLU6(), nn.AvgPool3d(2),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 6),
    )  # fmt: skip


class TSM(nn.Module):
    """The temporal shift (arXiv 1811.08383) by assignment to slices, or by padding, slices and concatenation."""

    def __init__(self, frames: int, assigned: bool) -> None:
        super().__init__()
        self.frames, self.assigned = frames, assigned
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.narrow, self.norm, self.head = nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16), nn.Linear(16, 5)

    def shifted(self, x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        x, fold = x.view(-1, self.frames, channels, height, width), channels // 8
        if self.assigned:
            y = torch.zeros_like(x)
            y[:, :-1, :fold] = x[:, 1:, :fold]
            y[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
            y[:, :, 2 * fold :] = x[:, :, 2 * fold :]
        else:
            padded = functional.pad(x, (0, 0, 0, 0, 0, 0, 1, 1))
            parts = padded[:, 2:, :fold], padded[:, :-2, fold : 2 * fold], padded[:, 1:-1, 2 * fold :]
            y = torch.cat(parts, 2)
        return y.view(images, channels, height, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + functional.relu(self.norm(self.narrow(self.shifted(x))))
        x = self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return x.view(-1, self.frames, 5).mean(1)


class Mobile(nn.Module):
    """Hard activations, squeeze and excitation, a shuffle of channels, padding, pixel shuffle; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False)
        self.norm, self.squeeze, self.excite = nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = functional.hardswish(self.norm(self.depthwise(functional.hardswish(self.stem(x)))))
        x = x * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        n, channels, height, width = x.shape
        x = x.view(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return functional.pixel_shuffle(functional.pad(x, (1, 0, 2, 1)), 2), x.chunk(2, 1)[1].sigmoid()


class Left(nn.Module):
    """An embedding, which is left to PyTorch, around it what is not, and a break."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        y = functional.relu(self.conv(self.words(x).transpose(1, 2)))
        torch._dynamo.graph_break()
        y = y + torch.cumsum(y, 2)
        return self.head(y.mean(2))


class Pieces(nn.Module):
    """Outputs that are constants, inputs, the same value twice, and views of each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1)

    def forward(self, x: Any) -> tuple[Any, ...]:
        y = self.conv(x)
        return y, y[:, 1:3], y.permute(0, 2, 3, 1), x, torch.ones(2), y, self.conv.weight * 2, y.flatten(2)[0]


class Shifted(nn.Module):
    """Our shifts, and layers that `accelerate` replaces."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.up, self.head = nn.Conv2d(9, 9, 1), nn.ConvTranspose2d(9, 4, 2, 2), nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        x = sevenloops.torch.shift_conv2d(x, self.conv.weight, self.conv.bias, stride=2)
        return self.head(self.up(sevenloops.torch.shift2d(self.conv(x), 3)))


MODELS: dict[str, tuple[Callable[[], Module], tuple[int, ...]]] = {
    "unet": (UNet, (2, 3, 16, 16)),
    "convnext": (ConvNeXt, (2, 3, 16, 16)),
    "densenet": (DenseNet, (2, 3, 12, 12)),
    "audio": (audio, (2, 1, 400)),
    "video": (video, (2, 3, 4, 8, 8)),
    "tsm_assigned": (lambda: TSM(4, True), (8, 3, 16, 16)),
    "tsm_padded": (lambda: TSM(4, False), (8, 3, 16, 16)),
    "mobile": (Mobile, (2, 3, 20, 20)),
}


def made(name: str) -> tuple[Module, Tensor]:
    """A model whose running statistics say something, and an input; both the same each time."""
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        statistics: Any = module
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            statistics.running_mean.normal_(0, 0.1)
            statistics.running_var.uniform_(0.5, 1.5)
    return model, torch.randn(shape)
