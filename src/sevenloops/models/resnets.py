"""Residual networks: ResNet for ImageNet and for CIFAR, and the networks of the shift paper.

Layers of ImageNet's ResNets are called as in torchvision, those of the shift networks as in alvinwan/shiftresnet-cifar
where that has them.
"""

from __future__ import annotations

from typing import Any

from ..errors import GraphError
from ..graph.builder import GraphBuilder
from ..shift import CONVENTIONS, Shift

__all__ = ["SHIFTNET_A", "SHIFTNET_B", "SHIFTNET_C", "cifar_resnet", "resnet", "shiftnet", "shiftresnet"]

#: Variance that the last layer of a random branch adds to its shortcut's, so that deep sums stay near one.
BRANCH = 0.25


def _conv_bn(
    net: GraphBuilder, x: str, out: int, kernel: int, conv: str, bn: str, stride: int = 1, gain: float = 2.0
) -> str:
    x = net.conv(x, out, kernel, stride=stride, padding=kernel // 2, bias=False, gain=gain, name=conv)
    return net.batch_norm(x, name=bn)


def resnet(net: GraphBuilder, x: str, classes: int, depths: tuple[int, ...] = (3, 4, 6, 3), bottleneck: bool = True) -> str:
    """arXiv 1512.03385 for 224x224; the stride of a bottleneck stands in its 3x3, as in torchvision."""
    x = net.relu(_conv_bn(net, x, 64, 7, "conv1", "bn1", stride=2))
    x = net.max_pool(x, 3, stride=2, padding=1)
    for stage, depth in enumerate(depths):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            with net.scope(f"layer{stage + 1}.{index}"):
                x = (_bottleneck if bottleneck else _basic)(net, x, 64 << stage, stride)
    x = net.flatten(net.global_average_pool(x))
    return net.linear(x, classes, gain=1, name="fc")


def _basic(net: GraphBuilder, x: str, width: int, stride: int) -> str:
    y = net.relu(_conv_bn(net, x, width, 3, "conv1", "bn1", stride))
    y = _conv_bn(net, y, width, 3, "conv2", "bn2", gain=BRANCH)
    return _joined(net, x, y, stride)


def _bottleneck(net: GraphBuilder, x: str, width: int, stride: int) -> str:
    y = net.relu(_conv_bn(net, x, width, 1, "conv1", "bn1"))
    y = net.relu(_conv_bn(net, y, width, 3, "conv2", "bn2", stride))
    y = _conv_bn(net, y, 4 * width, 1, "conv3", "bn3", gain=BRANCH)
    return _joined(net, x, y, stride)


def _joined(
    net: GraphBuilder, x: str, branch: str, stride: int, names: tuple[str, str] = ("downsample.0", "downsample.1")
) -> str:
    """Branch and shortcut; the shortcut is a 1x1 convolution where sizes or channels differ."""
    out = net.channels(branch)
    if stride != 1 or net.channels(x) != out:
        x = _conv_bn(net, x, out, 1, *names, stride=stride, gain=1.0)
    return net.relu(net.add(branch, x))


def cifar_resnet(net: GraphBuilder, x: str, classes: int, blocks: int = 3) -> str:
    """arXiv 1512.03385, section 4.2, for 32x32: 6 * blocks + 2 layers; shortcuts that change size are 1x1 convolutions."""
    x = net.relu(_conv_bn(net, x, 16, 3, "conv1", "bn1"))
    for stage in range(3):
        for index in range(blocks):
            stride = 2 if stage and not index else 1
            with net.scope(f"layer{stage + 1}.{index}"):
                x = _basic(net, x, 16 << stage, stride)
    return net.linear(net.flatten(net.global_average_pool(x)), classes, gain=1, name="fc")


def shiftresnet(
    net: GraphBuilder, x: str, classes: int, blocks: int = 3, expansion: int = 3, unit: str = "csc",
    convention: str = "modulo",
) -> str:  # fmt: skip
    """ShiftResNet for 32x32 (arXiv 1711.08141; alvinwan/shiftresnet-cifar): 6 * blocks + 2 layers.

    A block is 1x1, shift, 1x1 with a shortcut (`csc`); `sc2` has one more shift in front. The second 1x1 takes the stride.
    """
    if unit not in ("csc", "sc2") or convention not in CONVENTIONS or expansion < 1:
        raise GraphError(
            f"ShiftResNet has the units csc and sc2, the conventions {CONVENTIONS} and expansions from 1: "
            f"got {unit!r}, {convention!r}, {expansion!r}"
        )
    moving = Shift((3, 3), (1, 1), convention)
    x = net.relu(_conv_bn(net, x, 16, 3, "conv1", "bn1"))
    for stage in range(3):
        for index in range(blocks):
            out, stride = 16 << stage, 2 if stage and not index else 1
            with net.scope(f"layer{stage + 1}.{index}"):
                y = net.shift(x, moving, name="shift1") if unit == "sc2" else x
                y = net.relu(_conv_bn(net, y, expansion * out, 1, "conv1", "bn1"))
                y = net.shift(y, moving, name="shift")
                y = net.relu(_conv_bn(net, y, out, 1, "conv2", "bn2", stride, gain=BRANCH / blocks))
                x = _plain_sum(net, x, y, stride)
    return net.linear(net.flatten(net.global_average_pool(x)), classes, gain=1, name="linear")


def _plain_sum(net: GraphBuilder, x: str, branch: str, stride: int) -> str:
    """As ShiftResNet has it: the activation is in the branch, none behind the sum."""
    out = net.channels(branch)
    if stride != 1 or net.channels(x) != out:
        x = _conv_bn(net, x, out, 1, "shortcut.0", "shortcut.1", stride=stride, gain=1.0)
    return net.add(branch, x)


#: (channels, blocks, kernel, expansion of the first block and of the others) of each group (table 5)
SHIFTNET_A = ((64, 5, 5, (4, 4)), (128, 6, 5, (4, 3)), (256, 7, 3, (3, 2)), (512, 3, 3, (2, 1)))
SHIFTNET_B = tuple((channels // 2, *rest) for channels, *rest in SHIFTNET_A)
#: The paper describes C in words (shallower, 3x3 everywhere) and by its 0.78 M parameters; these expansions give those.
SHIFTNET_C = ((32, 4, 3, (4, 4)), (64, 4, 3, (4, 4)), (128, 3, 3, (3, 3)), (256, 2, 3, (1, 1)))


def shiftnet(net: GraphBuilder, x: str, classes: int, stem: int = 32, groups: tuple[Any, ...] = SHIFTNET_A) -> str:
    """ShiftNet-A, B and C (arXiv 1711.08141, section 4.2).

    A block of stride 2 makes the channels that are missing and joins them with an average pool of its input.
    """
    x = net.relu(_conv_bn(net, x, stem, 7, "conv1", "bn1", stride=2))
    for number, (channels, blocks, kernel, expansions) in enumerate(groups, 1):
        for index in range(blocks):
            with net.scope(f"group{number}.{index}"):
                x = _shift_block(net, x, channels, kernel, expansions[index > 0], 1 if index else 2)
    return net.linear(net.flatten(net.global_average_pool(x)), classes, gain=1, name="fc")


def _shift_block(net: GraphBuilder, x: str, channels: int, kernel: int, expansion: int, stride: int) -> str:
    out = channels - net.channels(x) if stride == 2 else channels
    y = net.relu(_conv_bn(net, x, out * expansion, 1, "conv1", "bn1"))
    y = net.shift(y, kernel, name="shift")
    y = net.relu(_conv_bn(net, y, out, 1, "conv2", "bn2", stride, gain=1.0 if stride == 2 else BRANCH / 4))
    if stride == 2:
        return net.concat([y, net.average_pool(x, 3, stride=2, padding=1)])
    return net.add(y, x)
