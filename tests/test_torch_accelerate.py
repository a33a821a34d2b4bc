"""Models with our kernels: what is replaced and why not, training as PyTorch does, and the tools around a model."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="these are models of PyTorch")

from torch import nn  # noqa: E402

import sevenloops.torch as ours  # noqa: E402
from sevenloops.errors import Unsupported  # noqa: E402
from sevenloops.torch import trial  # noqa: E402
from sevenloops.torch.modules import REPLACEMENTS, Replacement  # noqa: E402

F = torch.nn.functional
Module = Any


class Net(nn.Module):
    """A convolution of every kind that a small network may have."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, stride=2, padding="valid", groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        x = self.depthwise(F.relu(self.norm(self.stem(x))))
        return self.head(self.up(x, output_size=[2 * size for size in x.shape[2:]]).mean((2, 3)))


def net(seed: int = 0) -> Module:
    torch.manual_seed(seed)
    return Net()


X = torch.rand((6, 1, 13, 13), generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])


def losses(model: Module, steps: int = 20) -> list[float]:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    found = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(X), LABELS)
        loss.backward()
        optimiser.step()
        found.append(float(loss.detach()))
    return found


def test_training_follows_pytorch() -> None:
    model, expected = net(), losses(net())
    report = ours.accelerate(model)
    assert report.replaced == ["stem", "norm", "depthwise", "up", "head"]
    assert not report.left
    found = losses(model)
    assert max(abs(a - b) for a, b in zip(found, expected)) < 1e-4
    assert expected[0] - expected[-1] > 0.1


def test_an_optimiser_goes_on_through_accelerate_and_restore() -> None:
    model, other = net(), net()
    parameters = list(model.parameters())
    for each, switch in ((model, True), (other, False)):
        optimiser = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9)
        for step in range(6):
            if switch and step in (2, 4):
                ours.accelerate(each) if step == 2 else ours.restore(each)
            optimiser.zero_grad()
            F.cross_entropy(each(X), LABELS).backward()
            optimiser.step()
    assert all(a is b for a, b in zip(parameters, model.parameters()))
    for a, b in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def state(module: Module) -> dict[str, Any]:
    return {name: (type(each), dict(each.__dict__)) for name, each in module.named_modules()}


def test_restore_leaves_nothing() -> None:
    model = net().eval()
    before, printed = state(model), str(model)
    ours.accelerate(model)
    assert "sevenloops.Conv2d(1, 8" in str(model) and isinstance(model.stem, nn.Conv2d)
    with torch.no_grad():
        model(X)
    assert "_kept" in model.stem.__dict__
    ours.restore(model)
    after = state(model)
    assert str(model) == printed and before.keys() == after.keys()
    for name, (kind, members) in before.items():
        assert after[name][0] is kind and after[name][1].keys() == members.keys()
        assert all(after[name][1][key] is value for key, value in members.items())


def copies(model: Module) -> list[Module]:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    fresh = net(1).eval()
    ours.accelerate(fresh)
    fresh.load_state_dict(model.state_dict())
    return [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), fresh]


def test_copies_pickles_and_state_dicts() -> None:
    model = net().eval()
    keys = list(model.state_dict())
    ours.accelerate(model)
    with torch.no_grad():
        expected = model(X)
        for other in copies(model):
            assert list(other.state_dict()) == keys and torch.equal(other(X), expected)
            other.stem.weight.mul_(2)
            assert not torch.equal(other(X), expected) and torch.equal(model(X), expected)
            ours.restore(other)
            assert type(other.stem) is nn.Conv2d


def test_packed_weights_follow_the_parameter() -> None:
    """They are kept in evaluation without gradients, and packed again when the parameter is another or has changed."""
    model = net().eval()
    reference = copy.deepcopy(model)
    ours.accelerate(model)

    def agree() -> None:
        for each in (reference, model):
            with torch.no_grad():
                results.append(each(X))
        torch.testing.assert_close(results[-1], results[-2], rtol=1e-5, atol=1e-5)

    results: list[Any] = []
    changes = (
        lambda m: None,
        lambda m: m.stem.weight.mul_(-1.5),
        lambda m: setattr(m.stem, "weight", nn.Parameter(m.stem.weight.detach() + 1)),
        lambda m: m.head.weight.data.mul_(3) is None or m.eval(),
    )
    for change in changes:
        with torch.no_grad():
            change(model)
            change(reference)
        agree()
        kept = model.stem.__dict__["_kept"].value
        agree()
        assert kept is not None and model.stem.__dict__["_kept"].value is kept
    assert len({float(result.sum()) for result in results[::4]}) == len(changes)
    model(X).sum().backward()
    assert model.stem.weight.grad is not None
    model.train()
    assert "_kept" not in model.stem.__dict__


class Own(nn.Conv2d):
    """Somebody's own convolution."""


LEFT: dict[str, tuple[Any, str]] = {
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), 'padding_mode is "circular"'),
    "parametrised": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 3, 3)), "a class of its own"),
    "pruned": (lambda: pruned(nn.Linear(4, 3)), "its weight is computed in each call"),
    "lazy": (lambda: nn.LazyConv2d(3, 3), "it has no shapes yet"),
    "bfloat16": (lambda: nn.Linear(4, 3).bfloat16(), "its weight is bfloat16"),
    "float64": (lambda: nn.Conv1d(2, 3, 3).double(), "its weight is float64"),
    "meta": (lambda: nn.Linear(4, 3, device="meta"), "no plain tensor on the CPU"),
    "own": (lambda: Own(2, 3, 3), "derives from Conv2d may compute otherwise"),
    "other": (lambda: nn.GELU(), "there is no replacement"),
}


def pruned(module: Module) -> Module:
    from torch.nn.utils import prune

    return prune.random_unstructured(module, "weight", 1)


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_alone_and_why(name: str) -> None:
    make, reason = LEFT[name]
    model = nn.Sequential(make(), nn.Conv2d(1, 1, 1))
    report = ours.accelerate(model)
    assert reason in report.left["0"] and reason in str(report)
    assert report.replaced == ["1"]


def test_every_row_of_the_table_is_a_subclass_of_what_it_replaces() -> None:
    for original, replacement in REPLACEMENTS.items():
        assert issubclass(replacement, original) and issubclass(replacement, Replacement)
        assert replacement.original is original


def test_with_an_example_the_faster_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are timed, the times are kept, and the decision is the same the next time."""
    model = net()
    model.stem.weight.requires_grad_(False)
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    random_state = torch.get_rng_state()
    report = ours.accelerate(model, X[:, :, :9, :9], remeasure=True)
    assert model.training and model.stem.training
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    for row in report.rows:
        if row.times is not None:
            assert row.replaced == (row.times.ours_s <= row.times.torch_s) and row.times.training
            assert isinstance(model.get_submodule(row.name), Replacement) == row.replaced
    assert sum(row.times is not None for row in report.rows) == 5

    def no_timing(*args: Any) -> Any:
        raise AssertionError("it was timed before")

    monkeypatch.setattr(trial, "_time", no_timing)
    again = ours.accelerate(model, (X[:, :, :9, :9],))
    assert again.replaced == report.replaced and "timed before" in str(again)


@pytest.mark.parametrize("faster", [True, False])
def test_the_times_decide(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).eval()
    monkeypatch.setattr(trial, "_time", lambda module, seen: (1.0, 2.0) if faster else (2.0, 1.0))
    report = ours.accelerate(model, {"input": torch.ones(5, 3)}, remeasure=True)
    assert report.replaced == (["0", "1"] if faster else [])
    assert "1000.000 ms" in str(report) and "(forward)" in str(report)


class Viewer(nn.Module):
    """What `nn.Flatten` does, but for contiguous tensors only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return self.conv(x).view(x.shape[0], -1)


def test_a_model_that_needs_contiguous_activations_is_restored() -> None:
    model = Viewer()
    with pytest.raises(Unsupported, match="flatten or reshape"):
        ours.accelerate(model, X)
    assert type(model.conv) is nn.Conv2d
    with pytest.raises(RuntimeError, match="channels"):  # PyTorch's own error where the example is wrong
        ours.accelerate(model, torch.ones(1, 2, 5, 5))
    assert type(model.conv) is nn.Conv2d


def test_shared_modules_hooks_and_the_model_itself() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1)
    calls: list[int] = []
    conv.register_forward_hook(lambda *args: calls.append(1))
    model = nn.Sequential(conv, conv)
    expected = model(X)
    assert ours.accelerate(model).replaced == ["0"]
    torch.testing.assert_close(model(X), expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == 4
    ours.restore(model)
    assert ours.accelerate(conv).replaced == [""] and isinstance(conv, Replacement)
    assert "(the model)" in str(ours.accelerate(conv))


def test_compile_sees_through() -> None:
    model, expected = net(), net()
    ours.accelerate(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for each in (compiled, expected):
        F.cross_entropy(each(X), LABELS).backward()
    for a, b in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(X), expected.eval()(X), rtol=1e-4, atol=1e-5)


def test_export_has_our_operators() -> None:
    model = net().eval()
    ours.accelerate(model)
    program = torch.export.export(model, (X,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"sevenloops.convolution.default", "sevenloops.linear.default"} <= names
    with torch.no_grad():
        torch.testing.assert_close(program.module()(X), model(X), rtol=1e-5, atol=1e-6)


def test_functional_transforms() -> None:
    """`grad`, and `vmap` over it: gradients of single samples."""
    model = net().eval()
    ours.accelerate(model)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: Any, x: Any, label: Any) -> Any:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), label[None])

    single = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, X, LABELS)
    F.cross_entropy(model(X), LABELS).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(single[name].mean(0), parameter.grad, rtol=1e-4, atol=1e-5)


def test_gradient_checkpoints() -> None:
    from torch.utils.checkpoint import checkpoint

    model, expected = net().eval(), net().eval()
    ours.accelerate(model)
    checkpoint(model, X, use_reentrant=False).sum().backward()
    expected(X).sum().backward()
    for a, b in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
