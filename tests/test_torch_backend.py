"""`torch.compile(model, backend="sevenloops")`: equal to eager, and open about what is left to PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="this is a backend of PyTorch's compiler")

import sevenloops.torch  # noqa: E402
from sevenloops.errors import FallbackWarning  # noqa: E402
from sevenloops.models import build  # noqa: E402
from sevenloops.torch import backend_run, backend_trial  # noqa: E402
from sevenloops.torch.backend import backend, explain_backend  # noqa: E402
from torch_models import MODELS, Left, Pieces, Shifted, made  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:torch")  # of PyTorch about itself


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The parts that are made, in order."""
    made_parts: list[Any] = []
    original = backend_run.Part.__init__

    def recording(self: Any, *args: Any) -> None:
        original(self, *args)
        made_parts.append(self)

    monkeypatch.setattr(backend_run.Part, "__init__", recording)
    return made_parts


def compiled(model: Any, **options: Any) -> Any:
    """The model compiled as one graph: `fullgraph` makes a break an error, as pytest makes the warning of a leftover one."""
    return torch.compile(model, backend=backend, fullgraph=True, options=options or None)


def tensors(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value]


def check(model: Any, x: Any, function: Any = None) -> None:
    """Equal to eager within 1e-4 of the largest value, and in the same place."""
    function = compiled(model) if function is None else function
    with torch.no_grad():
        for got, want in zip(tensors(function(x)), tensors(model(x)), strict=True):
            assert float((got - want).abs().max() / want.abs().max()) < 1e-4
            assert got.stride() == want.stride()


# ------------------------------------------------------------------------------------------------------ inference


@pytest.mark.parametrize("name", MODELS)
def test_models_in_other_styles(name: str, parts: list[Any]) -> None:
    """Each is one part of one graph, without leftovers, contiguous and channels last."""
    model, x = made(name)
    model.eval()
    check(model, x)
    if x.dim() == 4:
        check(model, x.contiguous(memory_format=torch.channels_last))
    assert len(parts) == (2 if x.dim() == 4 else 1)
    assert not any(step.kernel is None for part in parts for step in part.plan.steps)


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_networks_of_the_zoo(name: str, parts: list[Any]) -> None:
    graph = build(name)
    shape = (2, *(int(size) for size in (graph.inputs[0].shape or ())[1:]))
    check(sevenloops.torch.from_graph(graph, {graph.inputs[0].name: shape}).eval(), torch.randn(shape))
    assert len(parts) == 1


def test_what_is_left_to_pytorch_is_said() -> None:
    model, x = Left().eval(), torch.randint(0, 20, (2, 12))
    with torch.no_grad():
        report = explain_backend(model, x)
        assert len(report.graph_breaks) == 1
        assert "torch_models.py" in report.graph_breaks[0]
        left = {leftover.op: leftover.reason for graph in report.graphs for leftover in graph.leftovers}
        assert left == {
            "aten.embedding": "sevenloops has no kernel for it",
            "aten.cumsum": "sevenloops has no kernel for it",
        }
        assert "1 x aten.cumsum: sevenloops has no kernel for it" in str(report)
        with pytest.warns(FallbackWarning) as warned:
            got = torch.compile(model, backend=backend)(x)
        torch.testing.assert_close(got, model(x))
    assert [str(one.message).split(":")[1].strip() for one in warned] == ["aten.embedding", "aten.cumsum"]


@pytest.mark.parametrize("x", [torch.randn(1, 2, 6, 6).double(), torch.randn(0, 2, 6, 6)], ids=["float64", "empty"])
def test_other_tensors_stay_pytorchs(x: Any) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).to(x.dtype)
    with torch.no_grad(), pytest.warns(FallbackWarning, match="float32 is compiled|empty"):
        torch.testing.assert_close(compiled(model)(x), model(x))


def test_outputs_of_all_kinds() -> None:
    check(Pieces(), torch.randn(2, 4, 5, 7))


def test_inputs_in_any_place() -> None:
    """A graph sees strides that are guarded; what is expanded or sliced is copied."""
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())
    whole = torch.randn(2, 9, 10, 8)
    for x in (whole[:, 1:5], whole[:, :4].transpose(2, 3), whole[:, :1].expand(2, 4, 10, 8), whole[:, :4, ::2]):
        check(model, x)


def test_changed_weights_are_never_stale(parts: list[Any]) -> None:
    """However they change: in place, by `.data`, by NumPy, loaded, or other tensors in their place."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    x, function = torch.randn(1, 3, 6, 6), compiled(model)
    conv, norm = model[0], model[1]
    changes = [
        lambda: None,
        lambda: conv.weight.mul_(2),
        lambda: conv.weight.data.mul_(2),
        lambda: setattr(conv.weight, "data", torch.randn(8, 3, 3, 3)),
        lambda: conv.bias.numpy().fill(3),
        lambda: norm.running_var.mul_(0.5),
        lambda: model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()}),
    ]
    with torch.no_grad():
        for change in changes:
            change()
            check(model, x, function)
            check(model, x + 1, function)
    assert [part.packings for part in parts] == [len(changes)]


def test_new_sizes_compile_anew_and_stay_whole(parts: list[Any]) -> None:
    """The second size makes Dynamo leave it open; each is compiled for itself, upsampling included."""
    model, _ = made("unet")
    function = compiled(model.eval())
    for batch in (2, 3, 4, 3):
        check(model, torch.randn(batch, 3, 16, 16), function)
    assert [part.packings for part in parts] == [1, 1, 1]


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", [{"scale_factor": 1.7}, {"size": (9, 4)}], ids=["scale", "size"])
@pytest.mark.filterwarnings("ignore:left to PyTorch")  # area
def test_resizing(mode: str, size: Any) -> None:
    def model(x: Any) -> Any:
        return functional.interpolate(x * 2, mode=mode, **size)

    check(model, torch.randn(1, 2, 6, 7))


def test_our_own_operators_become_layers() -> None:
    """What `accelerate` made of a model, and shifts, are part of the network."""

    model = Shifted()
    sevenloops.torch.accelerate(model)
    x = torch.randn(2, 9, 8, 8)
    with torch.no_grad():
        assert [graph.leftovers for graph in explain_backend(model, x).graphs] == [()]
        torch.testing.assert_close(compiled(model)(x), model(x), rtol=1e-4, atol=1e-5)


def test_the_name_and_the_options() -> None:
    model, x = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), torch.randn(1, 2, 6, 6)
    check(model, x, torch.compile(model, backend="sevenloops", options={"accuracy": "strict", "threads": 1}))
    with pytest.raises(Exception, match="there is no option 'speed'; the options are accuracy, threads, compare"):
        compiled(model, speed=1)(x)


# ------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize(
    ("name", "last"),
    [("unet", False), ("unet", True), ("audio", False), ("video", False), ("tsm_assigned", False), ("tsm_assigned", True)],
)
def test_gradients_of_models(name: str, last: bool) -> None:
    """Of the input, of all parameters, and running statistics: against PyTorch in float64."""
    model, x = made(name)
    if last:
        x, model = x.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    exact = copy.deepcopy(model).double()
    results = []
    for function, own, given in ((compiled(model, compare=False), model, x), (exact, exact, x.double())):
        given = given.detach().requires_grad_()
        y = function(given)
        (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        results.append(([y.detach(), *own.buffers()], [given.grad, *(parameter.grad for parameter in own.parameters())]))
    for of_ours, of_exact in zip(*results):
        scale = max(float(tensor.abs().max()) for tensor in of_exact)
        for got, want in zip(of_ours, of_exact, strict=True):
            assert float((got - want).abs().max()) < 1e-4 * scale


def test_layers_of_training_graphs_are_ours_or_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[Any] = []
    monkeypatch.setattr("sevenloops.torch.backend._warn", graphs.append)
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)), torch.randn(2, 3, 8, 8)
    compiled(model, compare=False)(x).sum().backward()
    assert [(graph.kind, graph.parts, graph.leftovers) for graph in graphs] == [("forward", 2, ()), ("backward", 2, ())]
    graphs.clear()
    torch._dynamo.reset()
    monkeypatch.setattr(backend_trial, "remembered", lambda asked, measure, problem: (measure(), False))
    monkeypatch.setattr(backend_trial, "_measured", lambda ours, theirs, args: [2e-3, 1e-3])
    compiled(model)(x).sum().backward()
    assert [graph.parts for graph in graphs] == [0, 0]
    assert {str(left.reason) for graph in graphs for left in graph.leftovers} == {"PyTorch's is faster: 1 ms, ours 2 ms"}
    assert {left.op for left in graphs[1].leftovers} == {
        "aten.convolution_backward (input gradient)",
        "aten.convolution_backward (weight gradient)",
        "aten.convolution_backward (bias gradient)",
    }


def test_a_trial_runs_once_and_is_kept() -> None:
    calls = {"ours": 0, "theirs": 0}

    def counting(name: str) -> Any:
        def function(x: Any) -> Any:
            calls[name] += 1
            return x + 1

        return function

    node = torch.fx.Graph().placeholder("x")
    node.meta["val"] = torch.empty(3, 4)
    ours, theirs = counting("ours"), counting("theirs")
    first = backend_trial.faster(ours, theirs, [node])
    runs = dict(calls)
    assert runs["ours"] == runs["theirs"] >= 3
    assert backend_trial.faster(ours, theirs, [node]) == first
    assert calls == runs


def test_training_steps_and_evaluation_take_turns() -> None:
    """Weights that the optimiser changed are packed anew for the next evaluation."""
    model, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()), torch.randn(2, 3, 8, 8)
    function, optimiser = compiled(model, compare=False), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        model.train()
        function(x).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        model.eval()
        check(model, x, function)
