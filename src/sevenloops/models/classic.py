"""Networks without batch normalisation: LeNet-5, AlexNet in three forms, VGG, GoogLeNet, SqueezeNet 1.1.

Layers are called as in torchvision where torchvision has the network, so that its state dicts fit.
"""

from __future__ import annotations

from ..graph.builder import GraphBuilder

__all__ = ["alexnet", "alexnet_one_tower", "alexnet_slim", "alexnet_two_towers", "googlenet", "lenet5", "squeezenet", "vgg"]


def lenet5(net: GraphBuilder, x: str, classes: int) -> str:
    """LeNet-5 (LeCun 1998) for 28x28, in the form of today: all maps connected, max pools, ReLU, a plain last layer."""
    x = net.relu(net.conv(x, 6, 5, padding=2, name="conv1"))
    x = net.max_pool(x, 2)
    x = net.relu(net.conv(x, 16, 5, name="conv2"))
    x = net.flatten(net.max_pool(x, 2))
    x = net.relu(net.linear(x, 120, name="fc1"))
    x = net.relu(net.linear(x, 84, name="fc2"))
    return net.linear(x, classes, gain=1, name="fc3")


def _three_linear(
    net: GraphBuilder, x: str, classes: int, names: tuple[str, str, str], dropout_first: bool, width: int = 4096
) -> str:
    """The classifier of AlexNet and VGG: 4096, 4096, classes, with dropout before or behind each of the first two."""
    for name in names[:2]:
        x = net.dropout(x) if dropout_first else x
        x = net.relu(net.linear(x, width, name=name))
        x = x if dropout_first else net.dropout(x)
    return net.linear(x, classes, gain=1, name=names[2])


def alexnet(net: GraphBuilder, x: str, classes: int) -> str:
    """One tower for 224x224, as in arXiv 1404.5997 and torchvision."""
    for at, out, kernel, stride, padding in ((0, 64, 11, 4, 2), (3, 192, 5, 1, 2)):
        x = net.relu(net.conv(x, out, kernel, stride=stride, padding=padding, name=f"features.{at}"))
        x = net.max_pool(x, 3, stride=2)
    for at, out in ((6, 384), (8, 256), (10, 256)):
        x = net.relu(net.conv(x, out, 3, padding=1, name=f"features.{at}"))
    x = net.flatten(net.max_pool(x, 3, stride=2))
    return _three_linear(net, x, classes, ("classifier.1", "classifier.4", "classifier.6"), dropout_first=True)


def _alexnet_227(net: GraphBuilder, x: str, classes: int, groups: int) -> str:
    """The network of Krizhevsky et al. (2012) for 227x227; with two groups the towers see only their own half.

    The paper's normalisation multiplies the sum of squares by 1e-4; ONNX divides alpha by the size, so alpha is 5e-4.
    """
    for number, out, kernel, stride, padding in ((1, 96, 11, 4, 0), (2, 256, 5, 1, 2)):
        shared = 1 if number == 1 else groups
        x = net.conv(x, out, kernel, stride=stride, padding=padding, groups=shared, name=f"conv{number}")
        x = net.lrn(net.relu(x), 5, alpha=5e-4, beta=0.75, bias=2.0)
        x = net.max_pool(x, 3, stride=2)
    for number, out, shared in ((3, 384, 1), (4, 384, groups), (5, 256, groups)):
        x = net.relu(net.conv(x, out, 3, padding=1, groups=shared, name=f"conv{number}"))
    x = net.flatten(net.max_pool(x, 3, stride=2))
    return _three_linear(net, x, classes, ("fc6", "fc7", "fc8"), dropout_first=False)


def alexnet_two_towers(net: GraphBuilder, x: str, classes: int) -> str:
    """The original in two towers: conv2, conv4 and conv5 in two groups."""
    return _alexnet_227(net, x, classes, groups=2)


def alexnet_one_tower(net: GraphBuilder, x: str, classes: int) -> str:
    """The original's sizes, every layer connected to all channels."""
    return _alexnet_227(net, x, classes, groups=1)


def alexnet_slim(net: GraphBuilder, x: str, classes: int) -> str:
    """AlexNet's eight layers for 28x28: a quarter to a third of its channels, an eighth of its hidden units, no stride."""
    for number, out in ((1, 32), (2, 64)):
        x = net.lrn(net.relu(net.conv(x, out, 5, padding=2, name=f"conv{number}")), 5, alpha=5e-4, beta=0.75, bias=2.0)
        x = net.max_pool(x, 3, stride=2)
    for number, out in ((3, 96), (4, 96), (5, 64)):
        x = net.relu(net.conv(x, out, 3, padding=1, name=f"conv{number}"))
    x = net.flatten(net.max_pool(x, 3, stride=2))
    return _three_linear(net, x, classes, ("fc6", "fc7", "fc8"), dropout_first=False, width=512)


def vgg(net: GraphBuilder, x: str, classes: int, depths: tuple[int, ...] = (2, 2, 3, 3, 3)) -> str:
    """arXiv 1409.1556 (16 layers is configuration D): `depths` layers of 3x3 in each stage, a pool behind each stage."""
    at = 0
    for width, depth in zip((64, 128, 256, 512, 512), depths):
        for _ in range(depth):
            x = net.relu(net.conv(x, width, 3, padding=1, name=f"features.{at}"))
            at += 2
        x = net.max_pool(x, 2)
        at += 1
    names = ("classifier.0", "classifier.3", "classifier.6")
    return _three_linear(net, net.flatten(x), classes, names, dropout_first=False)


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


def googlenet(net: GraphBuilder, x: str, classes: int) -> str:
    """arXiv 1409.4842 with its normalisations and 5x5 branches, without the auxiliary classifiers.

    The paper gives no numbers for the normalisation; these are AlexNet's, as in the authors' Caffe model.
    """
    x = net.relu(net.conv(x, 64, 7, stride=2, padding=3, name="conv1"))
    x = _normalised(net, net.max_pool(x, 3, stride=2, ceil=True))
    x = net.relu(net.conv(x, 64, 1, name="conv2.reduce"))
    x = net.relu(net.conv(x, 192, 3, padding=1, name="conv2"))
    x = net.max_pool(_normalised(net, x), 3, stride=2, ceil=True)
    for name in _INCEPTION:
        x = _inception(net, x, name)
        if name in ("3b", "4e"):
            x = net.max_pool(x, 3, stride=2, ceil=True)
    x = net.dropout(net.flatten(net.global_average_pool(x)))
    return net.linear(x, classes, gain=1, name="fc")


def _normalised(net: GraphBuilder, x: str) -> str:
    return net.lrn(x, 5, alpha=1e-4, beta=0.75, bias=1.0)


def _inception(net: GraphBuilder, x: str, name: str) -> str:
    one, (three_in, three), (five_in, five), pooled = _INCEPTION[name]
    with net.scope(f"inception{name}"):
        a = net.relu(net.conv(x, one, 1, name="1x1"))
        b = net.relu(net.conv(x, three_in, 1, name="3x3.reduce"))
        b = net.relu(net.conv(b, three, 3, padding=1, name="3x3"))
        c = net.relu(net.conv(x, five_in, 1, name="5x5.reduce"))
        c = net.relu(net.conv(c, five, 5, padding=2, name="5x5"))
        d = net.max_pool(x, 3, stride=1, padding=1)
        d = net.relu(net.conv(d, pooled, 1, name="pool"))
        return net.concat([a, b, c, d])


def squeezenet(net: GraphBuilder, x: str, classes: int) -> str:
    """SqueezeNet 1.1 (arXiv 1602.07360 and its successor in the authors' repository)."""
    x = net.relu(net.conv(x, 64, 3, stride=2, name="features.0"))
    table = {3: 16, 4: 16, 6: 32, 7: 32, 9: 48, 10: 48, 11: 64, 12: 64}
    for at in range(2, 13):
        if at not in table:
            x = net.max_pool(x, 3, stride=2, ceil=True)
            continue
        with net.scope(f"features.{at}"):
            x = net.relu(net.conv(x, table[at], 1, name="squeeze"))
            one = net.relu(net.conv(x, 4 * table[at], 1, name="expand1x1"))
            three = net.relu(net.conv(x, 4 * table[at], 3, padding=1, name="expand3x3"))
            x = net.concat([one, three])
    x = net.relu(net.conv(net.dropout(x), classes, 1, name="classifier.1"))
    return net.flatten(net.global_average_pool(x))
