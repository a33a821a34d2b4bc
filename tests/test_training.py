"""Memory of training against PyTorch's own accounting, devices, and the command `count`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops.analysis.costs import Cost, count, total
from sevenloops.analysis.devices import DEVICES, Device, layer_costs, predict, this_machine
from sevenloops.analysis.training import training_memory
from sevenloops.cli.main import app
from sevenloops.errors import GraphError
from sevenloops.graph import Graph
from sevenloops.graph.builder import GraphBuilder
from sevenloops.machine import Machine
from sevenloops.models import build


def saved_bytes(model: Any, *inputs: Any) -> int:
    """What PyTorch keeps for the backward pass beside parameters, buffers and inputs, and the scores."""
    torch = pytest.importorskip("torch")
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *inputs)}
    seen: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in own and tensor.dim():  # the sum of the weights of classes is a number
            seen[memory.data_ptr()] = tensor  # kept alive, or its address would be given to others
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = model(inputs[0])
        torch.nn.functional.cross_entropy(scores, inputs[1])
    seen[scores.untyped_storage().data_ptr()] = scores
    return sum(int(tensor.untyped_storage().nbytes()) for tensor in seen.values())


def images(net: GraphBuilder) -> str:
    return net.input("x", (5, 3, 16, 16))


def small_network() -> Graph:
    net = GraphBuilder("small")
    y = net.relu(net.batch_norm(net.conv(images(net), 8, 3, padding=1)))
    y = net.clip(net.conv(net.max_pool(y, 2, stride=2), 12, 3), 0, 6)
    y = net.flatten(net.dropout(net.average_pool(y, 2, stride=2)))
    return net.graph(y=net.linear(net.node("Sigmoid", (net.linear(y, 20),), (5, 20)), 10))


def test_activations_equal_what_pytorch_saves() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    front = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3), nn.ReLU6())
    back = (nn.AvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(108, 20), nn.Sigmoid(), nn.Linear(20, 10))
    model = nn.Sequential(*front, *back)
    found = training_memory(small_network())
    assert found.parameter_bytes == sum(p.numel() * 4 for p in model.parameters())
    expected = saved_bytes(model, torch.randn(5, 3, 16, 16), torch.randint(0, 10, (5,)))
    assert found.activation_bytes + found.loss_bytes == expected


def test_residuals_and_local_normalisation_equal_what_pytorch_saves() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    base: Any = nn.Module

    class Residual(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 10)
            self.norm, self.pool = nn.LocalResponseNorm(3), nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norm(self.first(x)))
            return self.last(self.pool(torch.relu(self.second(y) + y)).flatten(1))

    net = GraphBuilder("residual")
    y = net.relu(net.lrn(net.conv(images(net), 8, 1), 3, 1e-4, 0.75, 1.0))
    z = net.relu(net.add(net.conv(y, 8, 3, padding=1), y))
    found = training_memory(net.graph(y=net.linear(net.flatten(net.global_average_pool(z)), 10)))
    expected = saved_bytes(Residual(), torch.randn(5, 3, 16, 16), torch.randint(0, 10, (5,)))
    assert found.activation_bytes + found.loss_bytes == expected


def test_two_linear_layers_by_hand() -> None:
    """X 1024 x 1024, of which 256 rows are a batch; two matrices of 1024 x 1024."""
    net = GraphBuilder("two")
    x = net.input("x", (256, 1024))
    graph = net.graph(y=net.linear(net.linear(x, 1024, bias=False), 1024, bias=False))
    found = training_memory(graph)
    assert found.parameter_bytes == found.gradient_bytes == 8_388_608
    assert [n_bytes for _, n_bytes in found.activations] == [1_048_576] * 2
    assert found.loss_bytes == 1_048_576 and found.input_bytes == 256 * 1024 * 4
    assert found.total_bytes == 2 * 8_388_608 + 3 * 1_048_576 + 1_048_576
    assert training_memory(graph, "adam").optimizer_bytes == 2 * 8_388_608
    with pytest.raises(GraphError, match="optimizer must be one of sgd, momentum, adam"):
        training_memory(graph, "lion")
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Linear(1024, 1024, bias=False), torch.nn.Linear(1024, 1024, bias=False))
    data, labels = torch.randn(1024, 1024), torch.randint(0, 1024, (1024,))
    assert data.numel() * 4 + labels.numel() * 8 == 4_202_496
    assert saved_bytes(model, data[:256], labels[:256]) == 3 * 1_048_576


def test_memory_grows_with_the_batch() -> None:
    one, eight = (training_memory(build("resnet20", batch=batch)) for batch in (1, 8))
    assert one.parameter_bytes == eight.parameter_bytes == 4 * 272_474
    assert one.loss_bytes * 8 == eight.loss_bytes and (one.batch, eight.batch) == (1, 8)
    statistics = sum(2 * 4 * row.shape[1] for row in count(build("resnet20", batch=1)) if row.op == "BatchNormalization")
    assert eight.activation_bytes - statistics == 8 * (one.activation_bytes - statistics)


def test_the_roofline_takes_the_longer_time() -> None:
    device = Device("a device", 100.0, 10.0, "made up")
    assert device.ridge == 10
    busy, idle = Cost("a", "Conv", (), 0, 10**9, 10**6), Cost("b", "Relu", (), 0, 0, 10**9)
    found = predict([busy, idle], device)
    assert found.seconds == pytest.approx(0.02 + 0.1) and found.memory_share == pytest.approx(0.1 / 0.12)
    assert predict([], device).seconds == 0


def test_predictions_are_floors_of_fused_layers() -> None:
    graph = build("resnet20", batch=1)
    costs = layer_costs(graph)
    assert total(costs).macs == total(count(graph)).macs and total(costs).unique_bytes < total(count(graph)).unique_bytes
    by_name = {device.name: predict(costs, device).seconds for device in DEVICES}
    assert by_name["NVIDIA A100 40 GB SXM"] < by_name["Intel Core i7-6700K"] < by_name["Raspberry Pi 4"]
    assert len(DEVICES) >= 12 and all(device.source for device in DEVICES)
    for device in DEVICES:  # units x clock is what the data sheet says
        quoted = re.search(r"\(([\d.]+) TFLOPS", device.source)
        assert quoted is None or device.peak_gflops == pytest.approx(1000 * float(quoted[1]), rel=6e-3)
    measured = Machine.described(Machine.host().isa, peak_gflops_core=10.0, peak_gflops=20.0, bandwidth_gbs=5.0)
    here = this_machine(measured)
    assert here is not None and (here.peak_gflops, here.bandwidth_gbs, here.source) == (20.0, 5.0, "measured here")
    assert this_machine(Machine.described("neon")) is None


def test_the_command(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["count", *arguments])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    text = run("alexnet_two_towers", "--training", "1,128", "--devices")
    for part in ("60,965,224 parameters", "724,406,816 multiply-adds", "Raspberry Pi 4", "predictions, not measurements"):
        assert part in text
    document = json.loads(run("lenet5", "--batch", "4", "--training", "1,4", "--optimizer", "adam", "--devices", "--json"))
    assert document["macs"] == 4 * 416_520 and document["flops"] == 2 * document["macs"]
    assert [row["batch"] for row in document["training"]] == [1, 4]
    assert document["training"][0]["optimizer_bytes"] == 2 * 4 * document["params"]
    assert {row["is"] for row in document["predictions"]} == {"a prediction from the roofline"}
    net = GraphBuilder("fixed")
    net.graph(y=net.relu(net.input("x", (2, 3)))).save_onnx(tmp_path / "fixed.onnx")
    assert "x 2 x 3" in run(str(tmp_path / "fixed.onnx"))
    assert CliRunner().invoke(app, ["count", "lenet5", "--training", "none"]).exit_code == 2


def test_activations_are_named_by_their_layers() -> None:
    rows = dict(training_memory(small_network()).activations)
    assert rows["conv1"] == 4 * int(np.prod((5, 8, 16, 16))) and rows["maxpool1: indices"] == 8 * 5 * 8 * 8 * 8
