"""Networks of depthwise separable convolutions: MobileNetV1, MobileNetV2, EfficientNet-Lite0."""

from __future__ import annotations

from ..graph.builder import GraphBuilder, Padding

__all__ = ["efficientnet_lite", "mobilenetv1", "mobilenetv2"]


def _relu6(net: GraphBuilder, x: str) -> str:
    return net.clip(x, 0, 6)


def mobilenetv1(net: GraphBuilder, x: str, classes: int) -> str:
    """arXiv 1704.04861, table 1."""
    x = net.conv(x, 32, 3, stride=2, padding=1, bias=False, name="conv1")
    x = net.relu(net.batch_norm(x, name="bn1"))
    table = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
    for number, (out, stride) in enumerate(table, 1):
        with net.scope(f"block{number}"):
            groups = net.channels(x)
            x = net.conv(x, groups, 3, stride=stride, padding=1, groups=groups, bias=False, name="depthwise")
            x = net.relu(net.batch_norm(x, name="bn1"))
            x = net.relu(net.batch_norm(net.conv(x, out, 1, bias=False, name="pointwise"), name="bn2"))
    return net.linear(net.flatten(net.global_average_pool(x)), classes, gain=1, name="fc")


def mobilenetv2(net: GraphBuilder, x: str, classes: int) -> str:
    """arXiv 1801.04381, table 2; layers are called as in torchvision."""
    table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    x = _conv_bn_relu6(net, x, 32, 3, "features.0", stride=2)
    at = 0
    for expansion, out, blocks, first_stride in table:
        for index in range(blocks):
            at += 1
            x = _inverted_residual(net, x, f"features.{at}.conv", out, expansion, 1 if index else first_stride)
    x = _conv_bn_relu6(net, x, 1280, 1, "features.18")
    x = net.dropout(net.flatten(net.global_average_pool(x)))
    return net.linear(x, classes, gain=1, name="classifier.1")


def _conv_bn_relu6(net: GraphBuilder, x: str, out: int, kernel: int, scope: str, stride: int = 1, groups: int = 1) -> str:
    with net.scope(scope):
        x = net.conv(x, out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False, name="0")
        return _relu6(net, net.batch_norm(x, name="1"))


def _inverted_residual(net: GraphBuilder, x: str, scope: str, out: int, expansion: int, stride: int) -> str:
    wide = net.channels(x) * expansion
    y, at = x, 0
    if expansion != 1:
        y = _conv_bn_relu6(net, y, wide, 1, f"{scope}.{at}")
        at += 1
    y = _conv_bn_relu6(net, y, wide, 3, f"{scope}.{at}", stride, wide)
    y = net.conv(y, out, 1, bias=False, gain=1.0, name=f"{scope}.{at + 1}")
    y = net.batch_norm(y, name=f"{scope}.{at + 2}")
    return net.add(x, y) if stride == 1 and net.channels(x) == out else y


#: (expansion, channels, blocks, stride of the first block, kernel)
_LITE0 = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
SAME: Padding = "same"


def efficientnet_lite(net: GraphBuilder, x: str, classes: int) -> str:
    """EfficientNet-Lite0 (tensorflow/tpu): EfficientNet-B0 (arXiv 1905.11946) without squeeze-and-excite, with ReLU6.

    TensorFlow's padding: at stride 2 the odd pixel lies behind. Batch normalisations have an epsilon of 1e-3.
    """
    x = _lite_layer(net, x, 32, 3, "conv_stem", "bn0", stride=2)
    number = 0
    for expansion, out, blocks, first_stride, kernel in _LITE0:
        for index in range(blocks):
            with net.scope(f"blocks.{number}"):
                x = _lite_block(net, x, out, expansion, kernel, 1 if index else first_stride)
            number += 1
    x = _lite_layer(net, x, 1280, 1, "conv_head", "bn1")
    x = net.dropout(net.flatten(net.global_average_pool(x)))
    return net.linear(x, classes, gain=1, name="fc")


def _lite_block(net: GraphBuilder, x: str, out: int, expansion: int, kernel: int, stride: int) -> str:
    wide = net.channels(x) * expansion
    y = _lite_layer(net, x, wide, 1, "expand_conv", "bn0") if expansion != 1 else x
    y = _lite_layer(net, y, wide, kernel, "depthwise_conv", "bn1", stride, wide)
    y = net.conv(y, out, 1, bias=False, gain=1.0, name="project_conv")
    y = net.batch_norm(y, epsilon=1e-3, name="bn2")
    return net.add(y, x) if stride == 1 and net.channels(x) == out else y


def _lite_layer(
    net: GraphBuilder, x: str, out: int, kernel: int, conv: str, bn: str, stride: int = 1, groups: int = 1
) -> str:
    x = net.conv(x, out, kernel, stride=stride, padding=SAME, groups=groups, bias=False, name=conv)
    return _relu6(net, net.batch_norm(x, epsilon=1e-3, name=bn))
