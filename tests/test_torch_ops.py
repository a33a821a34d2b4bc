"""The operators under PyTorch: results and gradients against PyTorch in float64, and what tools ask of an operator."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="these are operators of PyTorch")

import sevenloops.torch as ours  # noqa: E402
import test_torch_layers  # noqa: E402
from sevenloops.errors import ArrayError, DtypeError, ProblemError  # noqa: E402
from sevenloops.torch.layout import strides_of  # noqa: E402
from sevenloops.torch.operator import LIBRARY, is_plain  # noqa: E402

F = torch.nn.functional
OPS = torch.ops.sevenloops
Tensor = Any

#: Function, shapes of x and weight, whether there is a bias, arguments. Odd sizes; one to three axes.
LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], bool, dict[str, Any]]] = {
    "plain": ("conv2d", (2, 5, 9, 7), (6, 5, 3, 3), True, {"padding": 1}),
    "strided": ("conv2d", (2, 5, 9, 7), (6, 5, 3, 2), True, {"padding": (1, 0), "stride": (2, 3)}),
    "dilated": ("conv2d", (1, 3, 11, 9), (4, 3, 3, 3), False, {"padding": 2, "dilation": (2, 3)}),
    "groups": ("conv2d", (2, 6, 5, 7), (9, 2, 3, 3), True, {"padding": 1, "groups": 3}),
    "depthwise": ("conv2d", (2, 7, 6, 5), (14, 1, 3, 3), True, {"padding": 1, "groups": 7, "stride": 2}),
    "pointwise": ("conv2d", (3, 7, 5, 3), (5, 7, 1, 1), True, {}),
    "same": ("conv2d", (1, 3, 6, 5), (4, 3, 4, 3), False, {"padding": "same"}),
    "signal": ("conv1d", (2, 4, 17), (6, 2, 4), True, {"padding": 2, "groups": 2, "stride": 2}),
    "volume": ("conv3d", (2, 3, 5, 6, 7), (4, 3, 3, 2, 3), True, {"padding": (0, 1, 2), "dilation": (1, 1, 2)}),
    "transposed": ("conv_transpose2d", (2, 4, 5, 6), (4, 3, 3, 3), True, {"padding": 1, "stride": 2, "output_padding": 1}),
    "transposed groups": ("conv_transpose2d", (2, 6, 5, 3), (6, 2, 4, 3), True, {"stride": (2, 1), "groups": 3}),
    "beyond": ("conv_transpose2d", (1, 3, 3, 4), (3, 2, 2, 2), False, {"stride": 3, "output_padding": (2, 1)}),
    "transposed signal": ("conv_transpose1d", (2, 3, 6), (3, 4, 2), True, {"stride": 2, "dilation": 4, "output_padding": 3}),
    "transposed volume": ("conv_transpose3d", (1, 3, 3, 2, 4), (3, 2, 2, 3, 2), True, {"stride": 2, "padding": 1}),
    # oneDNN has computed this one wrongly, or never ended (its issue 6035).
    "oneDNN 6035": ("conv2d", (32, 4, 32, 32), (8, 4, 1, 1), False, {"stride": 2}),
}


def random(*shape: int, dtype: Any = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()


def operands(name: str, dtype: Any = torch.float32) -> list[Tensor]:
    function, x, w, bias, options = LAYERS[name]
    channels = w[1] * options.get("groups", 1) if "transpose" in function else w[0]
    shapes = [x, w, *([(channels,)] if bias else [])]
    return [random(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]


def close(result: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    assert result.shape == expected.shape
    largest = float(expected.detach().abs().max())
    assert float((result - expected).detach().abs().max()) <= tolerance * largest


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_results_and_gradients(name: str, dtype: Any) -> None:
    function, *_, options = LAYERS[name]
    args = operands(name, dtype)
    wanted = [arg.detach().double().requires_grad_() for arg in args]
    y, expected = getattr(ours, function)(*args, **options), getattr(F, function)(*wanted, **options)
    assert y.stride() == strides_of(y.shape)
    dy = random(*y.shape, dtype=dtype, seed=9).detach()
    tolerance = 2e-6 if dtype == torch.float32 else 1e-14
    close(y, expected, tolerance)
    found, right = torch.autograd.grad(y, args, dy), torch.autograd.grad(expected, wanted, dy.double())
    assert found[0].stride() == strides_of(args[0].shape)
    for one, other in zip(found, right):
        close(one, other, tolerance)


@pytest.mark.parametrize("memory", ["contiguous", "channels last", "strided"])
def test_any_memory_gives_the_same_bits(memory: str) -> None:
    x, w, bias = operands("plain")
    expected = ours.conv2d(x, w, bias, padding=1)
    dy = torch.ones_like(expected)
    if memory == "channels last":
        x, w = (t.detach().to(memory_format=torch.channels_last).requires_grad_() for t in (x, w))
    elif memory == "strided":
        x = torch.stack([x.detach(), x.detach()], -1)[..., 1].requires_grad_()
        dy = torch.ones(()).expand(dy.shape)
    y = ours.conv2d(x, w, bias, padding=1)
    assert torch.equal(y, expected)
    grads = [torch.autograd.grad(out, (x, w, bias), dy) for out in (y, ours.conv2d(x, w, bias, padding=1))]
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def test_large_images_are_converted_by_the_compiled_transpose() -> None:
    x, w = random(2, 9, 31, 33), random(4, 9, 3, 3)
    close(ours.conv2d(x, w), F.conv2d(x.double(), w.double()))


def test_uneven_padding() -> None:
    x, w, bias = operands("plain", torch.float64)
    y = ours.conv2d(x, w, bias, padding=((2, 0), (1, 3)))
    close(y, F.conv2d(F.pad(x, (1, 3, 2, 0)), w, bias), 1e-14)


def test_linear() -> None:
    args = [random(3, 2, 7), random(5, 7), random(5)]
    y, expected = ours.linear(*args), F.linear(*(arg.double() for arg in args))
    close(y, expected)
    dy = random(*y.shape)
    for one, other in zip(torch.autograd.grad(y, args, dy), torch.autograd.grad(expected, args, dy.double())):
        close(one, other)
    assert torch.equal(ours.linear(args[0][0, 0], args[1]), ours.linear(args[0][:1, 0], args[1])[0])


def shifted(x: Tensor, kernel: int, dilation: int, modulo: bool, stride: int) -> Tensor:
    """The definition, channel by channel."""
    groups, each, y = kernel * kernel, x.shape[1] // kernel**2, torch.zeros_like(x)
    reach = kernel * dilation
    padded = F.pad(x, (reach,) * 4)
    for c in range(x.shape[1]):
        group = (c % groups if modulo else c // each) if c < groups * each else groups // 2
        dy, dx = ((group // kernel - kernel // 2) * dilation, (group % kernel - kernel // 2) * dilation)
        h, w = x.shape[2:]
        y[:, c] = padded[:, c, reach + dy : reach + dy + h, reach + dx : reach + dx + w]
    return y[:, :, ::stride, ::stride]


@pytest.mark.parametrize(("kernel", "dilation", "modulo", "stride"), [(3, 1, False, 1), (3, 2, True, 2), (5, 1, True, 3)])
def test_shift(kernel: int, dilation: int, modulo: bool, stride: int) -> None:
    x, w = random(2, 29, 7, 6), random(4, 29, 1, 1)
    convention = "modulo" if modulo else "contiguous"
    expected = shifted(x, kernel, dilation, modulo, stride)
    y = ours.shift2d(x, kernel, dilation, convention, stride)
    assert torch.equal(y, expected) and y.stride() == strides_of(y.shape)
    dy = random(*y.shape).detach()
    assert torch.equal(*(torch.autograd.grad(out, x, dy, retain_graph=True)[0] for out in (y, expected)))
    fused = ours.shift_conv2d(x, w, None, kernel, dilation, convention, stride)
    product = F.conv2d(expected, w)
    close(fused, product)
    dy = random(*fused.shape).detach()
    for one, other in zip(*(torch.autograd.grad(out, (x, w), dy) for out in (fused, product))):
        close(one, other)


def test_a_fused_shift_saves_its_operands_alone() -> None:
    x, w = random(2, 29, 7, 6), random(4, 29, 1, 1)
    saved: list[Tensor] = []

    def save(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        ours.shift_conv2d(x, w, None)
        assert {t.data_ptr() for t in saved} == {x.data_ptr(), w.data_ptr()}
        saved.clear()
        ours.shift_conv2d(x.detach(), w, None)
        assert [t.data_ptr() for t in saved] == [x.data_ptr()]
        ours.shift2d(x)
        assert len(saved) == 1


STRIDED = ([2, 1], [1, 0, 1, 2], [1, 1], False, [0, 0], 1)
BACK = ([2, 1], [1, 0, 1, 1], [1, 1], True, [1, 0], 1)
SHIFTS = ([3, 3], [1, 1], "contiguous", [2, 2])
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("convolution", ((2, 5, 9, 7), (6, 5, 3, 3), (6,), *STRIDED)),
    ("convolution", ((2, 5, 9, 7), (5, 6, 3, 3), None, *BACK)),
    ("convolution", ((2, 5, 9), (6, 5, 3), None, [1], [1, 1], [1], False, [0], 1)),
    (
        "convolution_input_gradient",
        ((2, 6, 5, 8), (6, 5, 3, 3), [2, 5, 9, 7], [2, 1], [1, 1, 1, 2], [1, 1], False, [0, 0], 1),
    ),
    (
        "convolution_weight_gradient",
        ((2, 6, 5, 8), (2, 5, 9, 7), [6, 5, 3, 3], [2, 1], [1, 1, 1, 2], [1, 1], False, [0, 0], 1),
    ),
    ("linear", ((3, 2, 7), (5, 7), (5,))),
    ("linear_input_gradient", ((3, 2, 5), (5, 7), [3, 2, 7])),
    ("linear_weight_gradient", ((3, 2, 5), (3, 2, 7), [5, 7])),
    ("shift", ((2, 20, 7, 6), *SHIFTS)),
    ("shift_back", ((2, 20, 4, 3), [2, 20, 7, 6], *SHIFTS)),
    ("shift_convolution", ((2, 20, 7, 6), (5, 20, 1, 1), (5,), *SHIFTS)),
    ("shift_convolution_input_gradient", ((2, 5, 4, 3), (5, 20, 1, 1), [2, 20, 7, 6], *SHIFTS)),
    ("shift_convolution_weight_gradient", ((2, 5, 4, 3), (2, 20, 7, 6), [5, 20, 1, 1], *SHIFTS)),
    ("channel_sum", ((2, 5, 3, 4), 1)),
]


@pytest.mark.parametrize(("name", "args"), CALLS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_opcheck(name: str, args: tuple[Any, ...]) -> None:
    """Schema, fake kernel (strides too), autograd and AOTAutograd with symbolic sizes."""
    tensors = [random(*arg, seed=at) if isinstance(arg, tuple) else arg for at, arg in enumerate(args)]
    torch.library.opcheck(getattr(OPS, name).default, tensors)


def test_opcheck_covers_every_operator() -> None:
    names = {name.split("::")[1] for name in LIBRARY._op_defs}
    assert names == {name for name, _ in CALLS} | {operator.name for operator, _ in test_torch_layers.CALLS}


SMALL: dict[str, tuple[Any, list[tuple[int, ...]]]] = {
    "conv2d": (lambda x, w, b: ours.conv2d(x, w, b, 2, ((1, 0), (2, 1))), [(2, 3, 5, 4), (4, 3, 3, 3), (4,)]),
    "conv1d": (lambda x, w: ours.conv1d(x, w, None, 1, 1, 2, 2), [(2, 4, 7), (2, 2, 3)]),
    "conv3d": (lambda x, w: ours.conv3d(x, w, None, 2, 1), [(1, 2, 3, 4, 3), (2, 2, 2, 3, 2)]),
    "transposed": (lambda x, w, b: ours.conv_transpose2d(x, w, b, 2, 1, 1), [(1, 3, 3, 2), (3, 2, 3, 3), (2,)]),
    "beyond": (lambda x, w: ours.conv_transpose2d(x, w, None, 3, 0, 2), [(1, 2, 2, 2), (2, 2, 2, 2)]),
    "linear": (ours.linear, [(2, 3), (4, 3), (4,)]),
    "shift": (lambda x: ours.shift2d(x, 3, 1, "modulo", 2), [(1, 11, 5, 4)]),
    "shift_conv": (lambda x, w, b: ours.shift_conv2d(x, w, b, 3, 1, "contiguous", 2), [(1, 11, 5, 4), (3, 11, 1, 1), (3,)]),
}


@pytest.mark.parametrize("name", SMALL)
def test_gradcheck(name: str) -> None:
    """First and second derivatives against differences, in float64."""
    function, shapes = SMALL[name]
    args = tuple(random(*shape, dtype=torch.float64) for shape in shapes)
    assert torch.autograd.gradcheck(function, args)
    assert torch.autograd.gradgradcheck(function, args)


def test_nothing_is_computed_that_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from sevenloops.torch.convolution import CONVOLUTION

    called: list[str] = []

    def noted(name: str, kernel: Any) -> Any:
        def call(*args: Any) -> Tensor:
            called.append(name)
            return kernel(*args)

        return call

    for name in ("input_gradient", "weight_gradient"):
        operator = getattr(CONVOLUTION, name)
        monkeypatch.setattr(operator, "kernel", noted(name, operator.kernel))
    x, w, bias = operands("plain")
    ours.conv2d(x.detach(), w, bias, padding=1).sum().backward()
    assert called == ["weight_gradient"] and x.grad is None
    called.clear()
    ours.conv2d(x, w.detach(), None, padding=1).sum().backward()
    assert called == ["input_gradient"]
    called.clear()
    ours.conv2d(x.detach(), w.detach(), bias, padding=1).sum().backward()
    assert called == []


@pytest.mark.parametrize("name", ["plain", "transposed", "signal"])
def test_empty_batch(name: str) -> None:
    """As in PyTorch: an empty result, gradients of zeros."""
    function, *_, options = LAYERS[name]
    x, w, bias = operands(name)
    x = x.detach()[:0].requires_grad_()
    y, expected = getattr(ours, function)(x, w, bias, **options), getattr(F, function)(x, w, bias, **options)
    assert y.shape == expected.shape
    for one, other in zip(*(torch.autograd.grad(out.sum(), (x, w, bias)) for out in (y, expected))):
        assert torch.equal(one, other)
    assert ours.linear(torch.empty(0, 3), torch.ones(2, 3)).shape == (0, 2)
    assert ours.shift2d(torch.empty(0, 9, 3, 3)).shape == (0, 9, 3, 3)


def test_unbatched() -> None:
    x, w, bias = operands("plain")
    assert torch.equal(ours.conv2d(x[0], w, bias), ours.conv2d(x[:1], w, bias)[0])


def test_thread_counts_give_the_same_bits() -> None:
    x, w, bias = operands("plain")
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            y = ours.conv2d(x, w, bias, padding=1)
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, w, bias))])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))


ONE, WEIGHT = torch.ones(1, 3, 5, 5), torch.ones(4, 3, 3, 3)
FLAT = ([1, 1], [0] * 4, [1, 1], False, [0, 0], 1)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: ours.conv2d(ONE, WEIGHT[:, :2]), ArrayError, "weight must have shape"),
        (lambda: ours.conv2d(ONE, torch.ones(4, 3, 7, 7)), ProblemError, "does not fit"),
        (lambda: ours.conv2d(ONE[0, 0], WEIGHT), ArrayError, "must have 4 axes"),
        (lambda: ours.conv2d(ONE.half(), WEIGHT.half()), DtypeError, "got float16"),
        (lambda: ours.conv2d(ONE, WEIGHT.double()), DtypeError, "float32, float64"),
        (lambda: ours.conv2d(ONE, WEIGHT, torch.ones(5)), ArrayError, "bias must have"),
        (lambda: ours.conv2d(ONE, WEIGHT, padding="full"), ProblemError, '"same"'),
        (lambda: ours.conv2d(ONE, WEIGHT, padding="same", stride=2), ProblemError, "stride 1"),
        (lambda: ours.conv2d(ONE, WEIGHT, padding=(1, 2, 3)), ProblemError, "each of 2 axes"),
        (lambda: ours.conv_transpose2d(ONE, WEIGHT[:3], padding="same"), ProblemError, "must be numbers"),
        (lambda: ours.linear(torch.ones(2, 3), torch.ones(4, 2)), ArrayError, "linear needs"),
        (lambda: ours.shift_conv2d(ONE, WEIGHT), ArrayError, "weight\\[oc, c, 1, 1\\]"),
        (lambda: ours.shift2d(ONE[0]), ArrayError, "x\\[n, c, h, w\\]"),
        (lambda: ours.shift2d(ONE, convention="spiral"), ProblemError, "convention"),
        (lambda: OPS.convolution_input_gradient(ONE, WEIGHT, [1, 3, 5, 5], *FLAT), ArrayError, "dy must have shape"),
        (lambda: ours.conv2d(ONE.to_sparse(), WEIGHT), NotImplementedError, "Sparse"),
    ],
)
def test_errors(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_short_way_is_for_plain_tensors_only() -> None:
    x = torch.ones(2)
    assert is_plain((x, torch.nn.Parameter(x), None))
    with torch.inference_mode():
        assert is_plain((x, torch.ones(2), None))
    assert not is_plain((x, torch.ones(2, device="meta")))
    assert not is_plain((x.to_sparse(),))
    assert not is_plain((torch._neg_view(x),))
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        assert not is_plain((x,))
    plain: list[bool] = []

    def note(one: Tensor) -> Tensor:
        plain.append(is_plain((one,)))
        return one.sum()

    torch.func.vmap(note)(x)
    torch.func.grad(note)(x)
    assert plain == [False, False]
