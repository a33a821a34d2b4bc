"""The layer tables against published totals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from sevenloops.bench.networks import NETWORKS, layers, shift_layers
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import Epilogue
from sevenloops.errors import ProblemError
from sevenloops.problem import ConvProblem, GemmProblem, Problem

# Multiply-accumulates and parameters as torchvision's models have them (GoogLeNet: the paper's network as BVLC trained
# it, 6,998,552 parameters). With batch normalisation every convolution has two parameters a channel, folded it has one.
# ShiftResNet-20 with expansion 3: 95,642 parameters. ShiftNet-A: 4.1 million parameters and 1.4 billion multiplications in
# the paper; counted by hand 4,163,144 weights, and 2 x 12,288 parameters of normalisations.
PUBLISHED = {
    "alexnet": (714_188_480, 61_100_840, False),
    "vgg16": (15_470_264_320, 138_357_544, False),
    "resnet18": (1_814_073_344, 11_689_512, True),
    "resnet50": (4_089_184_256, 25_557_032, True),
    "googlenet": (1_582_671_872, 6_998_552, False),
    "squeezenet": (349_151_936, 1_235_496, False),
    "mobilenetv2": (300_774_272, 3_504_872, True),
    "efficientnetlite0": (385_187_552, 4_652_008, True),
    "shiftresnet20": (16_433_792, 95_642, True),
    "shiftneta": (1_424_306_176, 4_187_720, True),
}


def channels(problem: Problem) -> int:
    return problem.out_channels if isinstance(problem, ConvProblem) else problem.n


def test_every_network_is_checked() -> None:
    assert set(PUBLISHED) == set(NETWORKS) - {"largekernels", "3x3", "upsampling"}


@pytest.mark.parametrize("network", PUBLISHED)
def test_totals_are_the_published_ones(network: str) -> None:
    macs, params, normalised = PUBLISHED[network]
    table = layers(network)
    assert sum(layer.repeats * layer.problem.macs for layer in table) == macs
    found = sum(layer.repeats * layer.problem.params for layer in table)
    if normalised:
        found += sum(layer.repeats * channels(layer.problem) for layer in table if isinstance(layer.problem, ConvProblem))
    assert found == params


@pytest.mark.parametrize("network", NETWORKS)
def test_layers_are_distinct_and_named(network: str) -> None:
    table = layers(network)
    assert len({layer.problem for layer in table}) == len({layer.name for layer in table}) == len(table)
    for layer in table:
        assert layer.problem.epilogue.bias
        assert parse_problem(str(layer.problem)) == layer.problem


def test_the_batch_scales_the_work_only() -> None:
    one, many = layers("mobilenetv2"), layers("mobilenetv2", batch=16)
    assert [16 * layer.problem.macs for layer in one] == [layer.problem.macs for layer in many]
    assert [layer.problem.params for layer in one] == [layer.problem.params for layer in many]


def test_activations_stand_where_the_network_has_them() -> None:
    resnet = {layer.name: layer.problem.epilogue.activation for layer in layers("resnet50")}
    assert resnet["conv2_1.b"] == "relu" and resnet["conv2_1.c"] == "none" and resnet["fc"] == "none"
    mobile = {layer.name: layer.problem.epilogue for layer in layers("mobilenetv2")}
    assert mobile["block2.expand"].activation == "clip" and mobile["block2.expand"].params == (0.0, 6.0)
    assert mobile["block2.project"].activation == "none"


def test_shapes_at_known_places() -> None:
    alexnet = {layer.name: layer.problem for layer in layers("AlexNet", batch=2)}
    fc6 = alexnet["fc6"]
    assert isinstance(fc6, GemmProblem)
    assert (fc6.m, fc6.n, fc6.k, fc6.trans_b) == (2, 4096, 9216, True)
    squeezenet = {layer.name: layer.problem for layer in layers("squeezenet")}
    assert str(squeezenet["conv10"]) == "mb1 ic512 ih13 iw13 oc1000 kh1 kw1 bias act=relu"
    depthwise = [layer for layer in layers("mobilenet_v2") if math.prod(layer.problem.y_shape) and "depthw" in layer.name]
    assert sum(layer.repeats for layer in depthwise) == 17


def test_shifts_of_networks() -> None:
    residual, imagenet = shift_layers("shiftresnet20"), shift_layers("ShiftNet-A", batch=4)
    assert sum(layer.repeats for layer in residual) == 9
    assert sum(layer.repeats for layer in imagenet) == 21
    assert str(residual[1].problem) == "mb1 ic96 ih32 iw32 oc32 kh1 kw1 sh2 sw2 shift=3:modulo bias act=relu"
    assert str(imagenet[1].problem) == "mb4 ic256 ih56 iw56 oc64 kh1 kw1 shift=5 bias act=relu"
    assert shift_layers("vgg16") == []


@pytest.mark.parametrize("network, batch", [("lenet", 1), ("alexnet", 0), ("", 1)])
def test_what_is_not_there_is_an_error(network: str, batch: int) -> None:
    with pytest.raises(ProblemError):
        layers(network, batch)


def test_the_unit_stride_3x3_layers() -> None:
    """Nine shapes of VGG-16 and four of the ResNets, each once."""
    found = layers("3x3")
    assert len(found) == 13
    assert [layer.name.split()[0] for layer in found] == ["vgg16"] * 9 + ["resnet18"] * 4
    assert len({replace(layer.problem, epilogue=Epilogue()) for layer in found}) == 13
