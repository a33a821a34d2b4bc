"""The convolution and fully connected layers of well-known networks at 224x224, as problems to be measured.

`large-kernels` is not a network but a table of layers with kernels of 7x7 to 31x31, dense and depthwise.

Each network is a short builder that walks through the layers; layers of equal shape are listed once with the number of
their repeats. A batch normalisation is folded, as it is for inference, so every convolution has a bias. An activation
stands in the epilogue where the network has it directly behind the layer; a residual add is not part of these problems.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..epilogue import Epilogue
from ..errors import ProblemError
from ..problem import ConvProblem, GemmProblem, Problem
from ..shift import Shift

__all__ = ["NETWORKS", "Layer", "layers", "shift_layers"]


@dataclass(frozen=True)
class Layer:
    """A problem, the name of the first layer that has it, and how often it occurs in the network."""

    name: str
    problem: Problem
    repeats: int = 1


def layers(network: str, batch: int = 1) -> list[Layer]:
    """The distinct convolution and fully connected layers of a network, in the order of their first use.

    `network` is a key of `NETWORKS`. Raises `ProblemError` for another name or a batch below one.
    """
    key = network.lower().replace("-", "").replace("_", "")
    if key not in NETWORKS:
        raise ProblemError(f"network must be one of {', '.join(NETWORKS)}; got {network!r}")
    builder = _Builder(batch)
    NETWORKS[key](builder)
    distinct: dict[Problem, Layer] = {}
    for name, problem in builder.found:
        seen = distinct.get(problem)
        distinct[problem] = replace(seen, repeats=seen.repeats + 1) if seen else Layer(name, problem)
    return list(distinct.values())


def shift_layers(network: str, batch: int = 1) -> list[Layer]:
    """The layers of a network that shift their channels; arguments and errors as `layers`."""
    shifting = lambda p: isinstance(p, ConvProblem) and p.shift is not None  # noqa: E731
    return [replace(it, name=f"{network} {it.name}") for it in layers(network, batch) if shifting(it.problem)]


class _Builder:
    """Follows the tensor (channels and size) through a network and writes down the layers that it passes."""

    def __init__(self, batch: int, channels: int = 3, size: int = 224) -> None:
        self.batch, self.channels, self.size = batch, channels, size
        self.found: list[tuple[str, Problem]] = []

    def conv(
        self, name: str, out: int, kernel: int, stride: int = 1, padding: int | tuple[int, int] = 0, groups: int = 1,
        act: str = "relu", shift: Shift | None = None,
    ) -> None:  # fmt: skip
        problem = ConvProblem(
            batch=self.batch,
            in_channels=self.channels,
            in_size=(self.size, self.size),
            out_channels=out,
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(padding if isinstance(padding, tuple) else (padding, padding),) * 2,
            groups=groups,
            epilogue=Epilogue(bias=True, activation=act),
            shift=shift,
        )
        self.found.append((name, problem))
        self.channels, self.size = out, problem.out_size[0]

    def pool(self, kernel: int, stride: int, padding: int = 0, ceil: bool = False) -> None:
        span = self.size + 2 * padding - kernel
        self.size = (-(-span // stride) if ceil else span // stride) + 1

    def fc(self, name: str, out: int, act: str = "none") -> None:
        inputs = self.channels * self.size**2
        epilogue = Epilogue(bias=True, activation=act)
        self.found.append((name, GemmProblem(m=self.batch, n=out, k=inputs, trans_b=True, epilogue=epilogue)))
        self.channels, self.size = out, 1

    def side(self, channels: int, size: int, branch: Callable[[], None]) -> None:
        """Walk a branch that starts at `channels` and `size`, then come back to where the main line stands."""
        here = self.channels, self.size
        self.channels, self.size = channels, size
        branch()
        self.channels, self.size = here


def _alexnet(net: _Builder) -> None:
    """One tower, as in arXiv 1404.5997 and torchvision."""
    net.conv("conv1", 64, 11, stride=4, padding=2)
    net.pool(3, 2)
    net.conv("conv2", 192, 5, padding=2)
    net.pool(3, 2)
    net.conv("conv3", 384, 3, padding=1)
    net.conv("conv4", 256, 3, padding=1)
    net.conv("conv5", 256, 3, padding=1)
    net.pool(3, 2)
    net.fc("fc6", 4096, "relu")
    net.fc("fc7", 4096, "relu")
    net.fc("fc8", 1000)


def _vgg16(net: _Builder) -> None:
    """Configuration D of arXiv 1409.1556."""
    for stage, (channels, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)], 1):
        for index in range(1, depth + 1):
            net.conv(f"conv{stage}_{index}", channels, 3, padding=1)
        net.pool(2, 2)
    net.fc("fc6", 4096, "relu")
    net.fc("fc7", 4096, "relu")
    net.fc("fc8", 1000)


def _resnet(net: _Builder, depths: tuple[int, ...], bottleneck: bool) -> None:
    """arXiv 1512.03385; the stride of a bottleneck stands in its 3x3, as in torchvision.

    The last layer of a block has no activation: the residual add comes first.
    """
    net.conv("conv1", 64, 7, stride=2, padding=3)
    net.pool(3, 2, padding=1)
    for stage, depth in enumerate(depths, 2):
        width = 64 * 2 ** (stage - 2)
        out = width * 4 if bottleneck else width
        for index in range(1, depth + 1):
            name, stride = f"conv{stage}_{index}", 2 if stage > 2 and index == 1 else 1
            channels, size = net.channels, net.size
            if bottleneck:
                net.conv(f"{name}.a", width, 1)
                net.conv(f"{name}.b", width, 3, stride=stride, padding=1)
                net.conv(f"{name}.c", out, 1, act="none")
            else:
                net.conv(f"{name}.a", width, 3, stride=stride, padding=1)
                net.conv(f"{name}.b", width, 3, padding=1, act="none")
            if channels != out or stride != 1:
                _shortcut(net, f"{name}.shortcut", channels, size, out, stride)
    net.pool(net.size, 1)
    net.fc("fc", 1000)


def _shortcut(net: _Builder, name: str, channels: int, size: int, out: int, stride: int) -> None:
    net.side(channels, size, lambda: net.conv(name, out, 1, stride=stride, act="none"))


def _resnet18(net: _Builder) -> None:
    _resnet(net, (2, 2, 2, 2), bottleneck=False)


def _resnet50(net: _Builder) -> None:
    _resnet(net, (3, 4, 6, 3), bottleneck=True)


#: name -> 1x1, (1x1, 3x3), (1x1, 5x5), 1x1 behind the pool (arXiv 1409.4842, table 1)
_INCEPTION = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


def _googlenet(net: _Builder) -> None:
    """The paper's network with its 5x5 branches, without the auxiliary classifiers."""
    net.conv("conv1", 64, 7, stride=2, padding=3)
    net.pool(3, 2, ceil=True)
    net.conv("conv2.reduce", 64, 1)
    net.conv("conv2", 192, 3, padding=1)
    net.pool(3, 2, ceil=True)
    for name in _INCEPTION:
        _inception(net, name)
        if name in ("3b", "4e"):
            net.pool(3, 2, ceil=True)
    net.pool(net.size, 1)
    net.fc("fc", 1000)


def _inception(net: _Builder, name: str) -> None:
    one, three, five, pooled = _INCEPTION[name]
    channels, size = net.channels, net.size

    def reduced(kernel: int, widths: tuple[int, int]) -> None:
        net.conv(f"{name}.{kernel}x{kernel}.reduce", widths[0], 1)
        net.conv(f"{name}.{kernel}x{kernel}", widths[1], kernel, padding=kernel // 2)

    net.side(channels, size, lambda: net.conv(f"{name}.1x1", one, 1))
    net.side(channels, size, lambda: reduced(3, three))
    net.side(channels, size, lambda: reduced(5, five))
    net.side(channels, size, lambda: net.conv(f"{name}.pool", pooled, 1))
    net.channels = one + three[1] + five[1] + pooled


def _squeezenet(net: _Builder) -> None:
    """SqueezeNet 1.1 (arXiv 1602.07360 and its successor in the authors' repository)."""
    net.conv("conv1", 64, 3, stride=2)
    for index, width in enumerate([16, 16, 32, 32, 48, 48, 64, 64], 2):
        if index in (2, 4, 6):
            net.pool(3, 2, ceil=True)
        net.conv(f"fire{index}.squeeze", width, 1)
        _expand(net, f"fire{index}", width)
    net.conv("conv10", 1000, 1)


def _expand(net: _Builder, name: str, width: int) -> None:
    net.side(width, net.size, lambda: net.conv(f"{name}.expand1x1", 4 * width, 1))
    net.side(width, net.size, lambda: net.conv(f"{name}.expand3x3", 4 * width, 3, padding=1))
    net.channels = 8 * width


def _mobilenetv2(net: _Builder) -> None:
    """arXiv 1801.04381, table 2: (expansion, channels, blocks, stride of the first block)."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    net.conv("conv1", 32, 3, stride=2, padding=1, act="relu6")
    number = 0
    for expansion, channels, blocks, first_stride in table:
        for index in range(blocks):
            number += 1
            wide = net.channels * expansion
            if expansion != 1:
                net.conv(f"block{number}.expand", wide, 1, act="relu6")
            stride = first_stride if index == 0 else 1
            net.conv(f"block{number}.depthwise", wide, 3, stride=stride, padding=1, groups=wide, act="relu6")
            net.conv(f"block{number}.project", channels, 1, act="none")
    net.conv("conv_last", 1280, 1, act="relu6")
    net.pool(net.size, 1)
    net.fc("fc", 1000)


def _efficientnetlite0(net: _Builder) -> None:
    """EfficientNet-Lite0 (tensorflow/tpu; arXiv 1905.11946): (expansion, channels, blocks, first stride, kernel)."""

    def same(name: str, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        missing = max((-(-net.size // stride) - 1) * stride + kernel - net.size, 0)  # TensorFlow: the odd pixel lies behind
        net.conv(name, out, kernel, stride, (missing // 2, missing - missing // 2), groups, act="relu6")

    table = [(1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5)]
    same("stem", 32, 3, stride=2)
    number = 0
    for expansion, channels, blocks, first_stride, kernel in [*table, (6, 320, 1, 1, 3)]:
        for index in range(blocks):
            number += 1
            wide = net.channels * expansion
            if expansion != 1:
                same(f"block{number}.expand", wide, 1)
            same(f"block{number}.depthwise", wide, kernel, 1 if index else first_stride, wide)
            net.conv(f"block{number}.project", channels, 1, act="none")
    same("head", 1280, 1)
    net.pool(net.size, 1)
    net.fc("fc", 1000)


def _shiftresnet20(net: _Builder) -> None:
    """alvinwan/shiftresnet-cifar with expansion 3, at 32x32: 1x1, shift, 1x1 (which takes the stride)."""
    net.size = 32
    net.conv("conv1", 16, 3, padding=1)
    for stage, width in enumerate((16, 32, 64), 1):
        for index in range(1, 4):
            name, stride = f"block{stage}_{index}", 2 if stage > 1 and index == 1 else 1
            channels, size = net.channels, net.size
            net.conv(f"{name}.expand", 3 * width, 1)
            net.conv(f"{name}.shift", width, 1, stride=stride, shift=Shift((3, 3), (1, 1), "modulo"))
            if stride != 1:
                _shortcut(net, f"{name}.shortcut", channels, size, width, stride)
    net.pool(net.size, 1)
    net.fc("fc", 10)


def _shiftneta(net: _Builder) -> None:
    """ShiftNet-A (arXiv 1711.08141, table 5): a block of stride 2 makes the channels that pooling its input does not."""
    net.conv("conv1", 32, 7, stride=2, padding=3)
    table = [(64, 5, 5, (4, 4)), (128, 6, 5, (4, 3)), (256, 7, 3, (3, 2)), (512, 3, 3, (2, 1))]
    for group, (width, blocks, kernel, expansions) in enumerate(table, 1):
        for index in range(1, blocks + 1):
            name, first = f"block{group}_{index}", index == 1
            out = width - net.channels if first else width
            net.conv(f"{name}.expand", out * expansions[not first], 1)
            net.conv(f"{name}.shift", out, 1, stride=2 if first else 1, shift=Shift((kernel, kernel)))
            net.channels = width
    net.pool(net.size, 1)
    net.fc("fc", 1000)


def _large_kernels(net: _Builder) -> None:
    """No network: layers with large kernels, those of RepLKNet-31B (arXiv 2203.06717) among them."""

    def layer(channels: int, size: int, out: int, kernel: int, groups: int = 1) -> None:
        kind = f"depthwise {channels}" if groups > 1 else f"{channels}->{out}"
        name = f"{kernel}x{kernel} {kind} at {size}"
        net.side(channels, size, lambda: net.conv(name, out, kernel, padding=kernel // 2, groups=groups))

    for channels, size, out, kernel in ((64, 56, 64, 7), (64, 56, 64, 11), (128, 28, 128, 11), (16, 112, 16, 31)):
        layer(channels, size, out, kernel)
    for channels, size, kernel in ((64, 56, 31), (128, 56, 31), (256, 28, 31), (384, 14, 31)):
        layer(channels, size, channels, kernel, channels)
    for channels, size, kernel in ((256, 28, 29), (512, 14, 27), (1024, 7, 13), (96, 56, 7)):
        layer(channels, size, channels, kernel, channels)


def _three_by_three(net: _Builder) -> None:
    """No network: the unit-stride 3x3 layers of VGG-16, ResNet-18 and ResNet-50, all with bias and ReLU."""
    for network in ("vgg16", "resnet18", "resnet50"):
        whole = _Builder(net.batch)
        NETWORKS[network](whole)
        for name, problem in whole.found:
            if isinstance(problem, ConvProblem) and problem.kernel == (3, 3) and problem.stride == (1, 1):
                net.found.append((f"{network} {name}", problem.with_epilogue(Epilogue(True, "relu"))))


def _transposed(net: _Builder, name: str, channels: int, out: int, size: int, kernel: int, padding: int = 0, extra: int = 0,
                act: str = "relu", stride: int = 2) -> None:  # fmt: skip
    problem = ConvProblem(
        batch=net.batch,
        in_channels=channels,
        in_size=(size, size),
        out_channels=out,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        padding=((padding, padding),) * 2,
        transposed=True,
        output_padding=(extra, extra),
        epilogue=Epilogue(bias=True, activation=act),
    )
    net.found.append((name, problem))


def _upsampling(net: _Builder) -> None:
    """No network: transposed convolutions of several.

    U-Net (arXiv 1505.04597) at 448x448 with padded convolutions, and its last two at smaller images; the mask head of
    Mask R-CNN (arXiv 1703.06870); CenterNet with ResNet-18 at 512x512 (arXiv 1904.07850); SimpleBaseline's pose head at
    256x192 (arXiv 1804.06208), square here; the generators of CycleGAN (arXiv 1703.10593) and DCGAN (arXiv 1511.06434);
    ERFNet at 512x512 (2017); the score maps of FCN-8s (arXiv 1411.4038), with a bias here.
    """
    for c, size in [(1024, 28), (512, 56), (256, 112), (128, 224), (128, 112), (128, 56)]:
        _transposed(net, f"unet.{c}@{size}", c, c // 2, size, 2, act="none")
    _transposed(net, "mask_rcnn.256@14", 256, 256, 14, 2)
    for name, c, out, size in [("cyclegan", 256, 128, 64), ("cyclegan", 128, 64, 128), ("erfnet", 256, 128, 28),
                               ("erfnet", 128, 64, 64), ("erfnet", 64, 16, 128)]:  # fmt: skip
        _transposed(net, f"{name}.{c}@{size}", c, out, size, 3, 1, 1)
    for name, c, out, size in [("centernet", 512, 256, 16), ("centernet", 256, 128, 32), ("centernet", 128, 64, 64),
                               ("pose", 256, 128, 28), ("pose", 256, 256, 16), ("detector", 64, 64, 64)]:  # fmt: skip
        _transposed(net, f"{name}.{c}@{size}", c, out, size, 4, 1)
    _transposed(net, "dcgan.128@32", 128, 3, 32, 4, 1, act="none")
    for size in (16, 34):
        _transposed(net, f"fcn.21@{size}", 21, 21, size, 4, act="none")
    _transposed(net, "fcn8.21@70", 21, 21, 70, 16, act="none", stride=8)


NETWORKS: dict[str, Callable[[_Builder], None]] = {
    "alexnet": _alexnet,
    "vgg16": _vgg16,
    "resnet18": _resnet18,
    "resnet50": _resnet50,
    "googlenet": _googlenet,
    "squeezenet": _squeezenet,
    "mobilenetv2": _mobilenetv2,
    "efficientnetlite0": _efficientnetlite0,
    "shiftresnet20": _shiftresnet20,
    "shiftneta": _shiftneta,
    "largekernels": _large_kernels,
    "3x3": _three_by_three,
    "upsampling": _upsampling,
}
