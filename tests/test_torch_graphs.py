"""Graphs as PyTorch modules that train, and trained modules as graphs again."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from sevenloops import InferenceSession
from sevenloops.analysis.costs import count, total
from sevenloops.errors import GraphError, Unsupported
from sevenloops.graph import Graph, Node, Value
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.evaluate import evaluate
from sevenloops.models import ZOO, build

torch = pytest.importorskip("torch", reason="graphs as modules of PyTorch need PyTorch")
from sevenloops.torch import accelerate, from_graph, to_graph  # noqa: E402
from sevenloops.torch.nn import Shift2d, ShiftConv2d  # noqa: E402

F = torch.nn.functional


pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_keeps_its_names(name: str) -> None:
    """State dicts have the names and shapes of the graph's weights, and parameters are those that are counted."""
    graph = build(name)
    model = from_graph(graph, device="meta")
    state = {key: tuple(value.shape) for key, value in model.state_dict().items() if "num_batches" not in key}
    assert state == {key: c.shape for key, c in graph.constants.items() if not key.startswith("clip.")}
    assert sum(parameter.numel() for parameter in model.parameters()) == total(count(build(name, batch=1))).params
    trained = {key for key, _ in model.named_parameters()}
    assert trained == {key for key in state if not key.endswith(("running_mean", "running_var"))}


def everything() -> Graph:
    """A network of most operators that are converted."""
    net = GraphBuilder("everything")
    x = net.input("x", ("N", 4, 17, 19))
    y = net.clip(net.batch_norm(net.conv(x, 8, 3, stride=2, padding="same", bias=False)), 0, 6)
    y = net.relu(net.conv(y, 8, 3, padding=((1, 2), (0, 3)), dilation=2, groups=4))
    a = net.max_pool(y, 3, stride=2, padding=((0, 1), (1, 1)))
    b = net.average_pool(y, 3, stride=2, padding=1, ceil=True)
    c = net.average_pool(y, 3, stride=2, padding=((1, 1), (1, 1)), count_include_pad=True)
    y = net.concat([net.lrn(net.max_pool(y, 3, stride=2, padding=1), 5, 1e-2, 0.75, 1.0), net.activation("Sigmoid", c)])
    y = net.shift(net.add(net.activation("Tanh", y), net.activation("LeakyRelu", y, alpha=0.2)), 3)
    y = net.relu(net.conv_transpose(y, 6, 3, stride=2, padding=1, output_padding=1))
    y = net.activation("HardSigmoid", net.activation("HardSwish", y), alpha=0.3, beta=0.4)
    y = net.shift(y, 3, name="fused")
    y = net.concat([net.conv(y, 9, 1, stride=2), net.conv(y, 9, 1, stride=2, bias=False)])
    y = net.dropout(net.flatten(net.global_average_pool(y)))
    pooled = net.concat([net.flatten(net.global_average_pool(value)) for value in (a, b)])
    return net.graph(y=net.softmax(net.linear(net.concat([y, pooled]), 7)), pooled=pooled)


def test_modules_compute_what_the_graph_does() -> None:
    graph = everything()
    model = from_graph(graph, dtype=torch.float64).eval()
    x = random(3, 4, 17, 19)
    found = model(torch.from_numpy(x).double())
    wanted = evaluate(graph, {"x": x})
    for tensor, name in zip(found, graph.outputs):
        np.testing.assert_allclose(tensor.detach().numpy(), wanted[name], atol=1e-12)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(Shift2d) == 1 and kinds.count(ShiftConv2d) == 2, "the second shift is part of both its readers"


def raw(nodes: list[Node], constants: dict[str, Any], shape: tuple[int | str, ...], output: str) -> Graph:
    return Graph(tuple(nodes), (Value("an input/0", shape),), (output,), constants)


def exported() -> Graph:
    """Names as some exporters have them, a weight that two layers share, products that are no linear layer."""
    weights = {"onnx::Conv_12": random(5, 5, 3, 3, seed=1) / 5, "b": random(5, seed=2), "w": random(20, 6, seed=3) / 5}
    weights |= {"training": random(6, 7, seed=4) / 5, "scale": random(1, 6, seed=5), "half": np.array(0.5, np.float32)}
    sizes = {"sizes": np.array([-1, 20]), "axes": np.array([2, 3]), "pads": np.array([0, 1])}
    x = "an input/0"
    return raw(
        [
            Node("Conv", (x, "onnx::Conv_12", "b"), ("c0",), {"pads": (1, 1, 1, 1)}, "/layer/Conv"),
            Node(
                "Conv", ("c0", "onnx::Conv_12", "b"), ("c1",), {"auto_pad": "SAME_UPPER", "strides": (2, 2)}, "/layer/Conv"
            ),
            Node("Mul", ("c1", "half"), ("m",), {}, "half"),
            Node("Reshape", ("m", "sizes"), ("r",)),
            Node("MatMul", ("r", "w"), ("p",), {}, "w"),
            Node("Add", ("p", "scale"), ("q",)),
            Node("Gemm", ("q", "training"), ("y",), {"alpha": 0.5}, "gemm"),
        ],
        {**weights, **sizes},
        ("batch", 5, 4, 4),
        "y",
    )


def train(model: Any, x: Any, steps: int = 3) -> list[float]:
    """A few steps of regression to something; the module may return several tensors, and drops nothing."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimiser = torch.optim.SGD(model.parameters(), lr=0.003)
    losses = []
    for _ in range(steps):
        y = model(x)
        first = y[0] if isinstance(y, tuple) else y
        loss = (first - torch.linspace(0, 1, first.shape[1])).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("make", "shape"),
    [(everything, (2, 4, 17, 19)), (exported, (3, 5, 4, 4)), (lambda: build("shiftresnet20", size=8), (3, 3, 8, 8))],
    ids=["everything", "exported", "shiftresnet20"],
)
def test_trained_weights_go_into_the_graph(make: Any, shape: tuple[int, ...], tmp_path: Any) -> None:
    """Trained, as a graph, as a file, in a session: the outputs of the module. The first graph is as it was."""
    graph = make()
    before = {name: array.copy() for name, array in graph.constants.items()}
    model = from_graph(graph)
    x = torch.from_numpy(random(*shape, seed=7))
    losses = train(model.train(), x)
    assert losses[-1] < losses[0]
    for name, array in before.items():
        np.testing.assert_array_equal(graph.constants[name], array)
    after = to_graph(copy.deepcopy(model))
    assert after.nodes == graph.nodes and after.constants.keys() == graph.constants.keys()
    moved = {name for name in before if not np.array_equal(after.constants[name], before[name])}
    assert {name for name, _ in model.named_parameters()} <= moved or make is exported
    assert {name for name in before if name.endswith(("running_mean", "running_var"))} <= moved
    path = tmp_path / "trained.onnx"
    after.save_onnx(path)
    outputs = model.eval()(x)
    found = InferenceSession(str(path)).run(None, {graph.inputs[0].name: x.numpy()})
    for array, tensor in zip(found, outputs if isinstance(outputs, tuple) else [outputs]):
        np.testing.assert_allclose(array, tensor.detach().numpy(), atol=2e-5 * float(tensor.detach().abs().max()))


def test_names_that_no_module_can_have() -> None:
    """`training` is an attribute of every module, and a node may be called as a constant."""
    graph = exported()
    model = from_graph(graph)
    assert set(model.state_dict()) == {
        "/layer/Conv.weight", "/layer/Conv.bias", "/layer/Conv_.weight", "/layer/Conv_.bias", "w", "training_", "scale",
    }  # fmt: skip
    shared = [value for key, value in model.named_parameters(remove_duplicate=False) if key.endswith("weight")]
    assert len(shared) == 2 and shared[0] is shared[1]
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(
        graph.constants[name].size for name in ("onnx::Conv_12", "b", "w", "training", "scale")
    )


def test_training_and_evaluation_differ() -> None:
    """Batch norm keeps statistics, with ONNX's momentum; dropout drops, with its ratio."""
    x = random(6, 3, 2, 2)
    statistics = {"m": np.ones(3, np.float32), "v": np.full(3, 2, np.float32), "one": np.ones(3, np.float32)}
    nodes = [
        Node("BatchNormalization", ("an input/0", "one", "one", "m", "v"), ("n",), {"momentum": 0.75}, "bn"),
        Node("Dropout", ("n", "ratio"), ("y",), {}, "drop"),
    ]
    model: Any = from_graph(raw(nodes, {**statistics, "ratio": np.array(0.25, np.float32)}, ("N", 3, 2, 2), "y"))
    assert model.bn.momentum == 0.25 and model.drop.p == 0.25
    torch.manual_seed(0)
    y = model.train()(torch.from_numpy(x)).detach()
    assert 0.05 < float((y == 0).float().mean()) < 0.5
    after = to_graph(model).constants
    np.testing.assert_allclose(after["m"], 0.75 + 0.25 * x.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(after["v"], 1.5 + 0.25 * x.var((0, 2, 3), ddof=1), rtol=1e-5)
    y = model.eval()(torch.from_numpy(x)).detach().numpy()
    wanted = (x - after["m"][:, None, None]) / np.sqrt(after["v"][:, None, None] + 1e-5) + 1
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)


def test_any_batch_runs_and_modules_compile() -> None:
    model = from_graph(build("lenet5")).eval()
    x = torch.from_numpy(random(5, 1, 28, 28))
    whole = model(x)
    assert torch.allclose(torch.cat([model(x[:1]), model(x[1:])]), whole, atol=1e-6)
    exported = torch.export.export(model, (x,))
    assert torch.allclose(exported.module()(x), whole, atol=1e-6)


def one(op: str, *inputs: str, constants: dict[str, Any] | None = None, **attributes: Any) -> Graph:
    nodes = [Node(op, ("an input/0", *inputs), ("y",), attributes, "it")]
    return raw(nodes, constants or {}, (2, 4, 6, 6), "y")


REFUSED = [
    (one("LRN", size=4), "LRN of an even size"),
    (one("Erf"), "Erf is not among the operators"),
    (one("MaxPool", kernel_shape=(2, 2), pads=(0, 0, 1, 1), ceil_mode=1), "sizes rounded up"),
    (one("AveragePool", kernel_shape=(2, 2), pads=(0, 0, 1, 1)), "even padding of half a kernel"),
    (one("AveragePool", kernel_shape=(2, 2), dilations=(2, 2)), "no dilation"),
    (one("ConvTranspose", "w", constants={"w": random(4, 3, 2, 2)}, pads=(0, 0, 1, 1)), "even padding only"),
    (one("Pad", "p", constants={"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}, mode="reflect"), "Pad with a constant"),
]


@pytest.mark.parametrize(("graph", "message"), REFUSED)
def test_what_pytorch_computes_differently_is_refused(graph: Graph, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        from_graph(graph)


def test_an_accelerated_module_goes_back() -> None:
    model = from_graph(build("lenet5"))
    x = torch.from_numpy(random(2, 1, 28, 28))
    assert accelerate(model).replaced
    assert (losses := train(model, x))[-1] < losses[0]
    (found,) = InferenceSession(to_graph(model)).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, model.eval()(x).detach().numpy(), atol=1e-5)


def test_what_does_not_go_back() -> None:
    model = from_graph(build("lenet5"))
    model.fc3 = torch.nn.Linear(84, 11)
    with pytest.raises(GraphError, match=r"'fc3.weight' must have the shape \(10, 84\), got \(11, 84\)"):
        to_graph(model)
    model.fc3 = torch.nn.Identity()
    with pytest.raises(GraphError, match=r"no 'fc3\.weight' any more"):
        to_graph(model)
    net = GraphBuilder("open")
    graph = net.graph(y=net.relu(net.input("x", ("N", 3, "H", "W"))))
    assert from_graph(graph, {"x": (1, 3, 4, 4)})(torch.ones(2, 3, 5, 5)).shape == (2, 3, 5, 5)
