"""Modules around the shift against slices and pads in PyTorch; sizes as published; the permutation argument by training."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from sevenloops import InferenceSession, Shift
from sevenloops.analysis.costs import count, total
from sevenloops.errors import ArrayError, GraphError, ProblemError, Unsupported
from sevenloops.models import build
from sevenloops.shift import CONVENTIONS, channel_offsets

torch = pytest.importorskip("torch", reason="modules for PyTorch need PyTorch")
from sevenloops.torch import nn, to_graph  # noqa: E402

F = torch.nn.functional


pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted(x: Any, kernel: Any, dilation: Any = 1, convention: str = "contiguous", stride: Any = 1) -> Any:
    """The shift as slices of the padded image, a channel at a time."""
    offsets = channel_offsets(Shift(kernel, dilation, convention).of_rank(2), x.shape[1])
    reach = max(abs(by) for offset in offsets for by in offset)
    padded, (height, width) = F.pad(x, (reach,) * 4), x.shape[2:]
    moved = [
        padded[:, c : c + 1, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        for c, (dy, dx) in enumerate(offsets)
    ]
    steps = (stride, stride) if isinstance(stride, int) else stride
    return torch.cat(moved, 1)[:, :, :: steps[0], :: steps[1]]


def agree(module: Any, reference: Any, x: Any, tolerance: float = 1e-5) -> None:
    """Outputs, and gradients of the input and of all parameters, are those of a reference of the same parameters."""
    results = []
    for compute in (module, reference):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        gradients = torch.autograd.grad((y * random(*y.shape, seed=9)).sum(), [leaf, *module.parameters()])
        results.append([y.detach(), *gradients])
    for found, wanted in zip(*results):
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max().clamp(min=1)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(
    ("kernel", "dilation", "stride", "channels"), [(3, 1, 1, 19), ((3, 5), (2, 1), (2, 1), 31), (5, 2, 2, 27)]
)
def test_shifts_are_slices_and_pads(convention: str, kernel: Any, dilation: Any, stride: Any, channels: int) -> None:
    x = random(2, channels, 7, 5)
    module = nn.Shift2d(kernel, dilation, stride, convention)
    agree(module, lambda x: shifted(x, kernel, dilation, convention, stride), x, 0)
    fused = nn.ShiftConv2d(channels, 11, kernel, dilation, stride, convention=convention)
    agree(fused, lambda x: F.conv2d(shifted(x, kernel, dilation, convention, stride), fused.weight, fused.bias), x)
    assert convention in repr(module) and f"{channels}, 11" in repr(fused)


def test_moves_written_out() -> None:
    x = random(2, 19, 7, 5)
    agree(nn.Shift2d(convention="3@0x1+3@0x-1"), lambda x: shifted(x, 1, 1, "3@0x1+3@0x-1"), x, 0)


def in_time(x: Any, frames: int, first: str, fraction: int = 8) -> Any:
    """By assignments to slices, as in temporal-shift-module."""
    clips = x.reshape(-1, frames, *x.shape[1:])
    moved, out = x.shape[1] // fraction, torch.zeros_like(clips)
    one, other = (slice(0, moved), slice(moved, 2 * moved))[:: 1 if first == "next" else -1]
    out[:, :-1, one] = clips[:, 1:, one]
    out[:, 1:, other] = clips[:, :-1, other]
    out[:, :, 2 * moved :] = clips[:, :, 2 * moved :]
    return out.reshape(x.shape)


@pytest.mark.parametrize("first", ["next", "previous"])
@pytest.mark.parametrize("last", [False, True])
def test_a_shift_in_time(first: str, last: bool) -> None:
    x = random(8, 19, 3, 5)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    agree(nn.TemporalShift(4, first=first), lambda x: in_time(x, 4, first), x, 0)
    assert torch.equal(nn.TemporalShift(8, 20, first)(x), x), "less than one channel of 20 moves"
    assert torch.equal(nn.TemporalShift(1, 8, first)(x[:, :4]), x[:, :4])
    whole = nn.TemporalShift(1, 2, first)(x)  # nothing comes from outside of a clip of one frame
    assert not whole[:, :18].any() and torch.equal(whole[:, 18], x[:, 18])


def test_gradients_of_gradients() -> None:
    for module in (nn.Shift2d(3), nn.TemporalShift(2, 4), nn.ShiftConv2d(9, 2, dtype=torch.float64)):
        x = random(2, 9, 3, 2).double().requires_grad_()
        assert torch.autograd.gradcheck(module, (x,)) and torch.autograd.gradgradcheck(module, (x,))


MISTAKES = [
    (lambda: nn.Shift2d(0), ProblemError, "kernel of a shift must be at least 1"),
    (lambda: nn.Shift2d(3, convention="diagonal"), ProblemError, "convention must be one of"),
    (lambda: nn.ShiftConv2d(0, 4), ProblemError, "in_channels must be at least 1"),
    (lambda: nn.ShiftConv2d(4, 4, stride=(1, 1, 1)), ProblemError, "stride needs 1 or 2"),
    (lambda: nn.TemporalShift(4, first="left"), ProblemError, 'first must be "next" or "previous"'),
    (lambda: nn.TemporalShift(4, 1), ProblemError, "fraction must be at least 2"),
    (lambda: nn.TemporalShift(4)(torch.zeros(6, 8, 2, 2)), ArrayError, "with 4 frames, got shape"),
    (lambda: nn.CSC(4, 4, expansion=0), ProblemError, "expansion must be at least 1"),
    (lambda: nn.shift_resnet(21), ProblemError, "6n [+] 2, such as 20, 56 and 110, got 21"),
    (lambda: nn.shift_resnet(20, unit="ccs"), ProblemError, "unit must be one of csc, sc2"),
    (lambda: to_graph(nn.CSC(4, 4)), GraphError, r"to_graph\(module, example\)"),
    (lambda: to_graph(torch.nn.Sequential(torch.nn.GELU()), (1, 4)), Unsupported, "0 is a GELU"),
    (lambda: to_graph(torch.nn.LSTM(4, 4), (1, 4, 4)), Unsupported, "LSTM"),
]


@pytest.mark.parametrize(("mistake", "kind", "message"), MISTAKES)
def test_mistakes(mistake: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        mistake()


# ---------------------------------------------------------------------------------------------------------- blocks


def by_definition(block: Any, x: Any, stride: int, convention: str) -> Any:
    """A block in training, from PyTorch's own operators."""
    norm = lambda bn, y: F.batch_norm(y, None, None, bn.weight, bn.bias, True)  # noqa: E731
    y = shifted(x, 3, 1, convention) if isinstance(block, nn.SC2) else x
    y = F.relu(norm(block.bn1, F.conv2d(y, block.conv1.weight)))
    y = F.relu(norm(block.bn2, F.conv2d(shifted(y, 3, 1, convention, stride), block.conv2.weight)))
    if not len(block.shortcut):
        return y + x
    return y + norm(block.shortcut[1], F.conv2d(x, block.shortcut[0].weight, stride=stride))


@pytest.mark.parametrize("kind", [nn.CSC, nn.SC2])
@pytest.mark.parametrize(("convention", "out", "stride"), [("contiguous", 6, 1), ("modulo", 9, 2)])
def test_blocks_are_as_defined(kind: Any, convention: str, out: int, stride: int) -> None:
    torch.manual_seed(0)
    block = kind(6, out, stride, 3, convention=convention)
    agree(block, lambda x: by_definition(block, x, stride, convention), random(3, 6, 7, 6), 2e-5)


#: Millions of parameters (alvinwan/shiftresnet-cifar, README, the table of CIFAR-10) by depth, for expansions 1, 3, 6, 9.
PUBLISHED = {20: (0.03, 0.10, 0.19, 0.28), 56: (0.10, 0.29, 0.58, 0.87), 110: (0.20, 0.59, 1.18, 1.76)}


def counted_by_hand(depth: int, expansion: int, classes: int = 10) -> tuple[int, int]:
    """Parameters and multiply-adds, layer by layer; normalisations have two parameters a channel."""
    params, macs, before, side = 3 * 16 * 9 + 2 * 16, 3 * 16 * 9 * 32**2, 16, 32
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for block in range((depth - 2) // 6):
            step, middle = (stride if block == 0 else 1), width * expansion
            params += before * middle + 2 * middle + middle * width + 2 * width
            macs += before * middle * side**2 + middle * width * (side // step) ** 2
            if step != 1 or before != width:
                params += before * width + 2 * width
                macs += before * width * (side // step) ** 2
            before, side = width, side // step
    return params + 64 * classes + classes, macs + 64 * classes


@pytest.mark.parametrize(("depth", "expansion"), list(itertools.product(PUBLISHED, (1, 3, 6, 9))))
def test_shiftresnets_have_the_published_sizes(depth: int, expansion: int) -> None:
    wanted = counted_by_hand(depth, expansion)
    assert round(wanted[0] / 1e6, 2) == PUBLISHED[depth][(1, 3, 6, 9).index(expansion)]
    if (depth, expansion) == (20, 3):
        assert wanted[0] == 95_642 and round(wanted[1] / 1e6, 2) == 16.43
    for unit, convention in itertools.product(nn.UNITS, CONVENTIONS):
        name = f"shiftresnet{depth}" + ("" if unit == "csc" else "_sc2")
        graph = build(name, batch=1, expansion=expansion, convention=convention).without_weights()
        assert (total(count(graph)).params, total(count(graph)).macs) == wanted
        with torch.device("meta"):
            model = nn.shift_resnet(depth, expansion, unit=unit, convention=convention)
        assert sum(parameter.numel() for parameter in model.parameters()) == wanted[0]
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if value.dim()}
        assert shapes == {name: constant.shape for name, constant in graph.constants.items()}


@pytest.mark.parametrize("unit", ["csc", "sc2"])
def test_modules_become_graphs(unit: str) -> None:
    """Through `to_graph`, an ONNX file and a session: the scores of the module, with the statistics it has seen."""
    torch.manual_seed(1)
    model = nn.shift_resnet(8, 2, unit=unit, in_channels=1, classes=5)
    x = random(4, 1, 16, 12, seed=2)
    model(x)
    wanted = model.eval()(x).detach().numpy()
    graph = to_graph(model, x)
    (found,) = InferenceSession(graph).run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_layers_around_the_shift_become_graphs(tmp_path: Any) -> None:
    torch.manual_seed(2)
    layers = torch.nn
    model = layers.Sequential(
        layers.Conv2d(3, 16, 3, padding=1), layers.MaxPool2d(3, 2, 1), nn.TemporalShift(2, first="previous"),
        layers.Conv2d(16, 16, 1, bias=False), layers.BatchNorm2d(16), layers.ReLU6(), nn.Shift2d(3, stride=(2, 1)),
        layers.AvgPool2d(2, 1), layers.LocalResponseNorm(3), layers.Dropout(), layers.ConvTranspose2d(16, 4, 2, 2),
        layers.LeakyReLU(0.2), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(4, 5), layers.Softmax(1),
    ).eval()  # fmt: skip
    x = random(4, 3, 9, 12, seed=3)
    path = tmp_path / "model.onnx"
    to_graph(model, x).save_onnx(path)
    session = InferenceSession(str(path))
    (found,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(found, model(x).detach().numpy(), atol=1e-5)
    assert sum("shift=" in str(step.problem) for step in session.plan({"input": x.shape}).steps) == 2


# ---------------------------------------------------------------------------------------- the permutation argument


def small_network(convention: str) -> Any:
    torch.manual_seed(3)
    layers = torch.nn
    return layers.Sequential(
        layers.Conv2d(3, 8, 3, padding=1, bias=False), nn.CSC(8, 8, 1, 3, convention=convention),
        nn.CSC(8, 12, 2, 3, convention=convention), layers.AdaptiveAvgPool2d(1), layers.Flatten(), layers.Linear(12, 4),
    )  # fmt: skip


def permuted(model: Any, source: str, target: str) -> Any:
    """A network with the other convention: rows of the 1x1 before each shift and columns of the 1x1 after it reordered."""
    other = small_network(target)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for at in (1, 2):
        channels = state[f"{at}.bn1.weight"].shape[0]
        moves = [channel_offsets(Shift((3,), (1,), kind).of_rank(2), channels) for kind in (source, target)]
        order = np.empty(channels, int)  # channel order[i] of the other network moves as channel i of this one
        order[np.lexsort(np.array(moves[1]).T)] = np.lexsort(np.array(moves[0]).T)
        for name in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
            state[f"{at}.{name}"] = state[f"{at}.{name}"][order]
        state[f"{at}.conv2.weight"] = state[f"{at}.conv2.weight"][:, order]
    other.load_state_dict(state)
    return other


def losses(model: Any, steps: int = 20) -> list[float]:
    """Training on 16 images: every step sees them all."""
    x, labels = random(16, 3, 10, 8, seed=5), torch.arange(16) % 4
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    found = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found


def test_permuted_groups_reach_the_same_loss() -> None:
    """Which channel moves where does not matter, as the 1x1 convolutions around a shift absorb it (section 3.2.1)."""
    model, named_only = small_network("contiguous"), small_network("modulo")
    named_only.load_state_dict(model.state_dict())
    other = permuted(model, "contiguous", "modulo")
    ours, theirs, unpermuted = losses(model), losses(other), losses(named_only)
    assert ours[-1] < 0.7 * ours[0]
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert np.abs(np.subtract(unpermuted, ours)).max() > 1e-2, "without the permutation it is another network"
