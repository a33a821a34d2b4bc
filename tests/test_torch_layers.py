"""Batch normalisation, pools and LRN under PyTorch: values, gradients and statistics against PyTorch's in float64."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="the operators are PyTorch's")

from torch import nn  # noqa: E402

import sevenloops.torch as st  # noqa: E402
from sevenloops.errors import ArrayError, DtypeError, ProblemError  # noqa: E402
from sevenloops.torch import layers  # noqa: E402
from sevenloops.torch.layer_modules import BatchNorm  # noqa: E402

F = nn.functional
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"none": lambda v: v, "relu": torch.relu, "relu6": F.relu6}


def images(*shape: int, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 1.5 + 0.5


def close(ours: Any, theirs: Any, tolerance: float = 3e-6) -> None:
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach().double()
    largest = max(float(theirs.abs().max()), 1e-3)
    assert float((ours - theirs).abs().max()) <= tolerance * largest


def gradients(function: Callable[..., Any], tensors: list[Any], dtype: Any) -> list[Any]:
    """The result of a function and the gradients of all tensors, for a random gradient of the result."""
    tensors = [t.detach().to(dtype).requires_grad_() for t in tensors]
    y = function(*tensors)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [y, *torch.autograd.grad(y, tensors, dy)]


def both(ours: Callable[..., Any], theirs: Callable[..., Any], tensors: list[Any]) -> None:
    """Compare our result and gradients with PyTorch's in float64."""
    for a, b in zip(gradients(ours, tensors, torch.float32), gradients(theirs, tensors, torch.float64)):
        close(a, b)


# Random values do not lie within float32's error of where an activation changes: their masks agree.
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(activation: str, with_residual: bool, training: bool) -> None:
    x, residual = images(3, 5, 6, 7), images(3, 5, 6, 7, seed=1)
    mean, var = images(5, seed=2), images(5, seed=3).abs() + 0.1

    def ours(x: Any, w: Any, b: Any, *more: Any) -> Any:
        return layers.batch_norm(
            x, mean.clone(), var.clone(), w, b, training, activation=activation, residual=more[0] if more else None
        )

    def theirs(x: Any, w: Any, b: Any, *more: Any) -> Any:
        y = F.batch_norm(x, mean.double(), var.double(), w, b, training)
        return ACTIVATIONS[activation](y + more[0] if more else y)

    both(ours, theirs, [x, images(5, seed=4), images(5, seed=5), *[residual] * with_residual])


@pytest.mark.parametrize("shape", [(4, 7), (3, 7, 5), (2, 7, 3, 4), (2, 7, 2, 3, 4)])
def test_ranks_and_layouts(shape: tuple[int, ...]) -> None:
    x = images(*shape)
    both(
        lambda x: layers.batch_norm(x, None, None, training=True), lambda x: F.batch_norm(x, None, None, training=True), [x]
    )
    y = layers.batch_norm(x, None, None, training=True)
    if len(shape) == 4:
        last = layers.batch_norm(x.to(memory_format=torch.channels_last), None, None, training=True)
        assert y.is_contiguous(memory_format=torch.channels_last) and torch.equal(last, y)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.9, None])
def test_running_statistics(affine: bool, track: bool, momentum: float | None) -> None:
    theirs = nn.Sequential(nn.BatchNorm2d(6, momentum=momentum, affine=affine, track_running_stats=track), nn.ReLU())
    ours = copy.deepcopy(theirs)
    assert st.accelerate(ours).replaced == ["0"]
    for step in range(3):
        x = images(4, 6, 5, 5, seed=step)
        close(ours(x), theirs(x))
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, msg=name)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.eval(), theirs.eval()
    both(ours, copy.deepcopy(theirs).double(), [images(2, 6, 4, 4, seed=8)])


def test_results_do_not_depend_on_threads() -> None:
    x, w = images(4, 67, 20, 21).to(memory_format=torch.channels_last), images(67, seed=1)

    def step() -> list[Any]:
        found = gradients(
            lambda x, w: layers.batch_norm(x, None, None, w, training=True, activation="relu"), [x, w], torch.float32
        )
        found += gradients(lambda x: layers.max_pool2d(x, 3, 2, 1), [x], torch.float32)
        return found + gradients(lambda x: layers.local_response_norm(x, 5, 1.0), [x], torch.float32)

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = step()
        torch.set_num_threads(2)
        assert all(torch.equal(a, b) for a, b in zip(one, step()))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "ceil"),
    [((9, 8), 3, 2, 1, False), ((9, 8), 3, 2, 0, True), ((8, 8), 2, None, 0, False), ((7, 9), (2, 3), (3, 1), (1, 0), True)],
)
def test_pools(size: tuple[int, int], kernel: Any, stride: Any, padding: Any, ceil: bool) -> None:
    x = images(2, 5, *size)
    args = (kernel, stride, padding)
    both(
        lambda x: layers.max_pool2d(x, *args, ceil_mode=ceil), lambda x: F.max_pool2d(x, *args, ceil_mode=ceil), [x]
    )  # fmt: skip
    for counts in (True, False):
        more = (*args, ceil, counts)
        both(lambda x, a=more: layers.avg_pool2d(x, *a), lambda x, a=more: F.avg_pool2d(x, *a), [x])
    torch.testing.assert_close(layers.max_pool2d(x, *args, ceil_mode=ceil), F.max_pool2d(x, *args, ceil_mode=ceil))


@pytest.mark.parametrize("channels_last", [True, False])
def test_max_pool_has_the_indices_of_pytorch(channels_last: bool) -> None:
    """Ties, NaN and windows of minus infinity: the gradient goes where PyTorch sends it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-1, 2, (3, 9, 10, 11), generator=generator).float()
    x[torch.rand(x.shape, generator=generator) < 0.2] = torch.nan
    x[0, 0] = -torch.inf
    x = x.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    for args in ((3, 2, 1), (3, 1, 1), (2, 2, 0)):
        ours = gradients(lambda x, a=args: layers.max_pool2d(x, *a), [x], torch.float32)
        theirs = gradients(lambda x, a=args: F.max_pool2d(x, *a), [x], torch.float32)
        for a, b in zip(ours, theirs):
            torch.testing.assert_close(a, b, equal_nan=True)


def test_global_pool_and_lrn() -> None:
    x = images(2, 11, 7, 6)
    both(layers.adaptive_avg_pool2d, lambda x: F.adaptive_avg_pool2d(x, 1), [x])
    for args in ((5, 1e-2, 0.75, 2.0), (3, 1.0, 0.5, 1.0), (5, 0.1, 1.3, 1.0)):
        both(lambda x, a=args: layers.local_response_norm(x, *a), lambda x, a=args: F.local_response_norm(x, *a), [x])


NORM_ARGS = [images(2, 5, 4, 3), images(5, seed=1), images(5, seed=2)]
STATISTICS = [images(5), images(5).abs() + 0.1]
TAIL = ("max", (3, 3), (2, 2), (1, 1), False, False)
CALLS: list[tuple[Any, tuple[Any, ...]]] = [
    (layers.NORM, (*NORM_ARGS, None, None, None, 1e-5, "relu")),
    (layers.NORM, (*NORM_ARGS, images(2, 5, 4, 3, seed=3), None, None, 1e-5, "relu6")),
    (layers.NORM, (*NORM_ARGS, None, *STATISTICS, 1e-5, "none")),
    (layers.POOL, (images(2, 5, 9, 8), "average", *TAIL[1:])),
    (layers.MAXIMUM, (images(2, 5, 9, 8), *TAIL)),
    (layers.LOCAL_RESPONSE_NORM, (images(2, 7, 3, 4), 5, 0.1, 0.75, 1.0)),
    (layers.NORM_GRADIENT, (images(2, 5, 4, 3, seed=4), *NORM_ARGS, *STATISTICS, None, 1e-5, "relu", False)),
    (layers.NORM_GRADIENT, (images(2, 5, 4, 3, seed=4), *NORM_ARGS, *STATISTICS, images(2, 5, 4, 3), 1e-5, "relu6", True)),
    (layers.POOL_GRADIENT, (images(2, 5, 5, 4), None, (2, 5, 9, 8), "average", *TAIL[1:])),
    (layers.POOL_GRADIENT, (images(2, 5, 5, 4), torch.full((2, 5, 5, 4), 4, dtype=torch.uint8), (2, 5, 9, 8), *TAIL)),
    (layers.LRN_GRADIENT, (images(2, 7, 3, 4), images(2, 7, 3, 4, seed=1), 5, 0.1, 0.75, 1.0)),
]


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_opcheck(number: int) -> None:
    operator, args = CALLS[number]
    if operator.differentiable:
        args = tuple(a.clone().requires_grad_() if isinstance(a, torch.Tensor) and i < 4 else a for i, a in enumerate(args))
    torch.library.opcheck(operator.op, args)


class Block(nn.Module):
    """A residual block as torchvision writes it, with one ReLU for all."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Any) -> Any:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Net(nn.Module):
    """A stem with pools, two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(3, 2, 1))
        self.lrn, self.pool = nn.LocalResponseNorm(5), nn.AvgPool2d(2, 1)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 12, 2))
        self.bn, self.head, self.mean = nn.BatchNorm2d(12), nn.Linear(12, 4), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.bn(self.blocks(self.pool(self.lrn(self.stem(x))))))
        return self.head(torch.flatten(self.mean(x), 1))


def step(model: Any, x: Any) -> list[Any]:
    y = model(x)
    parameters = list(model.parameters())
    return [y, *torch.autograd.grad(y.square().sum(), parameters)]


def test_a_network_with_fused_layers() -> None:
    torch.manual_seed(0)
    ours, x = Net(), images(4, 3, 24, 24)
    theirs, before = copy.deepcopy(ours).double(), {name: type(m) for name, m in ours.named_modules()}
    keys, printed = list(ours.state_dict()), str(ours)
    rows = {row.name: row for row in st.accelerate(ours).rows}
    for name, what in {
        "stem.1": "relu6",
        "bn": "relu",
        "blocks.1.bn1": "relu",
        "blocks.1.bn2": "the residual and relu",
    }.items():
        assert rows[name].replaced and rows[name].reason.endswith(f"fused with {what}"), rows[name]
    assert "nothing follows" in rows["blocks.1.downsample.1"].reason
    assert not rows["stem.2"].replaced and "once" in rows["stem.2"].reason
    assert {"stem.3", "lrn", "pool", "mean"} <= {name for name, row in rows.items() if row.replaced}
    copied = copy.deepcopy(ours)
    expected = step(theirs, x.double())
    for model in (ours, copied):
        for a, b in zip(step(model, x), expected):
            close(a, b, 1e-5)
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()):
        close(a, b, 1e-5)
    ours.eval(), theirs.eval()
    close(ours(x), theirs(x.double()), 1e-5)
    st.restore(ours)
    assert {name: type(m) for name, m in ours.named_modules()} == before
    assert (list(ours.state_dict()), str(ours)) == (keys, printed)
    close(ours(x), theirs(x.double()), 1e-5)


def test_torch_compile_sees_through() -> None:
    layers = nn.BatchNorm2d(5), nn.ReLU(), nn.LocalResponseNorm(3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2)
    ours, x = nn.Sequential(*layers), images(2, 5, 9, 8)
    st.accelerate(ours)
    expected = step(ours, x)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for a, b in zip(step(compiled, x), expected):
        close(a, b)


class Odd(nn.Module):
    """Forwards that are no fixed sequence of calls."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.bn, self.kind, self.probability = nn.BatchNorm2d(3), kind, 0.5

    def forward(self, x: Any) -> Any:
        if self.kind == "mode" and self.training:
            return self.bn(x)
        if self.kind == "values" and x.sum() > 0:
            return self.bn(x)
        if self.kind == "noise":
            return F.relu(self.bn(x)) * torch.rand(1)
        if self.kind == "depth" and random.random() < 0.5:
            return self.bn(x)
        if self.kind == "twice":
            return F.relu(self.bn(F.relu(self.bn(x))))
        y = self.bn(x)
        return F.relu(y) + (y if self.kind == "seen" else 0)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("mode", "depends on the mode"), ("values", "cannot be traced"), ("noise", "random numbers"),
     ("depth", "random numbers"), ("twice", "nothing follows"), ("seen", "nothing follows"), ("plain", "fused with relu")],
)  # fmt: skip
def test_what_is_not_fused_is_named(kind: str, why: str) -> None:
    ours = Odd(kind)
    (row,) = st.accelerate(ours).rows
    assert why in row.reason
    x = images(2, 3, 5, 5)
    expected, results = copy.deepcopy(ours), []
    st.restore(expected)
    for model in (ours, expected):
        torch.manual_seed(3), random.seed(3)
        results.append(model(x))
    close(*results)


def test_hooks_are_kept() -> None:
    model, calls = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), []
    model[1].register_forward_hook(lambda *args: calls.append(1))
    st.accelerate(model)
    model(images(2, 3, 4, 4))
    assert calls == [1]


class Chain(nn.Module):
    """Two residual additions in one `forward`: the second residual is what the first was fused into."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(x * 2) + x)
        return torch.relu(self.bn2(y * 3) + y)


def test_a_residual_that_was_fused_itself() -> None:
    ours, x = Chain(), images(3, 6, 5, 5)
    theirs = copy.deepcopy(ours).double()
    assert all("fused with the residual" in row.reason for row in st.accelerate(ours).rows)
    for a, b in zip(step(ours, x), step(theirs, x.double())):
        close(a, b, 1e-5)


def test_timing_leaves_the_statistics_alone() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())
    before = copy.deepcopy(model.state_dict())
    st.accelerate(model, images(2, 3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values()))


def test_what_stays() -> None:
    model = nn.Sequential(
        nn.MaxPool2d(2, dilation=2), nn.MaxPool2d(2, return_indices=True), nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveAvgPool2d(2), nn.LocalResponseNorm(4), nn.MaxPool2d(17), nn.BatchNorm2d(3).double(), nn.Dropout(),
    )  # fmt: skip
    left = st.accelerate(model).left
    for number, why in enumerate(("dilation", "indices", "divisor", "output_size", "even", "255", "float64", "generator")):
        assert why in left[str(number)]


def test_errors() -> None:
    x = images(2, 3, 4, 4)
    with pytest.raises(DtypeError, match="float32"):
        layers.batch_norm(x.double(), None, None, training=True)
    with pytest.raises(ProblemError, match="more than 1 value"):
        layers.batch_norm(x[:1, :, :1, :1], None, None, training=True)
    with pytest.raises(ArrayError, match="running_mean"):
        layers.batch_norm(x, None, None)
    with pytest.raises(ArrayError, match="scale must be float32 of shape"):
        layers.batch_norm(x, None, None, torch.ones(4), training=True)
    with pytest.raises(ArrayError, match="residual must have the shape"):
        layers.batch_norm(x, None, None, training=True, residual=x[:1])
    with pytest.raises(ProblemError, match="activation must be one of"):
        layers.batch_norm(x, None, None, training=True, activation="gelu")
    with pytest.raises(ProblemError, match="at most half"):
        layers.max_pool2d(x, 3, 1, 2)
    with pytest.raises(ProblemError, match="odd"):
        layers.local_response_norm(x, 4)
    with pytest.raises(ArrayError, match="not empty"):
        layers.avg_pool2d(x[:0], 2)
    y = layers.batch_norm(x.requires_grad_(), None, None, training=True)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_every_replacement_is_a_batch_norm_or_not() -> None:
    kinds = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
    models = [kind(4) for kind in kinds]
    for model, shape in zip(models, itertools.accumulate([(3, 4, 5), (6,), (2,)])):
        st.accelerate(model)
        assert isinstance(model, BatchNorm) and isinstance(model, tuple(kinds))
        assert model(images(*shape)).shape == shape


def test_gradients_of_single_samples() -> None:
    def loss(pooled: Callable[..., Any], normed: Callable[..., Any], x: Any) -> Any:
        return normed(pooled(x[None], 3, 2), 5, 0.1).square().sum()

    x = images(3, 6, 7, 8)
    ours = torch.func.vmap(torch.func.grad(lambda x: loss(layers.max_pool2d, layers.local_response_norm, x)))(x)
    close(ours, torch.func.vmap(torch.func.grad(lambda x: loss(F.max_pool2d, F.local_response_norm, x)))(x.double()))
