"""The public functions: layouts, array kinds, output arguments, and every kind of bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sevenloops
from sevenloops import conv1d, conv2d, conv3d, depthwise_conv2d, linear, matmul
from sevenloops.errors import ArrayError, DtypeError, ProblemError, SevenLoopsError
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv

RNG = np.random.default_rng(11)


def as_any(value: Any) -> Any:
    return value


def array(*shape: int) -> np.ndarray[Any, Any]:
    return RNG.integers(-4, 5, shape).astype(np.float32)


X, W, B = array(2, 6, 9, 11), array(10, 6, 3, 3), array(10)
EXPECTED = np.moveaxis(
    reference_conv(ConvProblem(2, 6, (9, 11), 10, (3, 3), padding=((1, 1), (1, 1))), np.moveaxis(X, 1, -1), W), -1, 1
)


def test_both_layouts_agree() -> None:
    np.testing.assert_array_equal(conv2d(X, W, padding=1), EXPECTED)
    nhwc = conv2d(np.ascontiguousarray(np.moveaxis(X, 1, -1)), W, padding=1, layout="NHWC")
    np.testing.assert_array_equal(np.moveaxis(nhwc, -1, 1), EXPECTED)


def test_large_nchw_goes_through_the_compiled_transpose() -> None:
    x, w = array(2, 24, 37, 41), array(17, 24, 1, 1)
    np.testing.assert_array_equal(conv2d(x, w), np.einsum("nchw,oc->nohw", x, w[:, :, 0, 0]))


def test_channels_last_memory_stays_channels_last() -> None:
    x = np.moveaxis(np.ascontiguousarray(np.moveaxis(X, 1, -1)), -1, 1)
    y = conv2d(x, W, padding=1)
    np.testing.assert_array_equal(y, EXPECTED)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    assert conv2d(X, W, padding=1).flags.c_contiguous


def test_strided_and_read_only_inputs_are_taken() -> None:
    wide = array(2, 6, 9, 22)
    view = wide[..., ::2]
    expected = conv2d(np.ascontiguousarray(view), W)
    np.testing.assert_array_equal(conv2d(view, W), expected)
    x = X.copy()
    x.flags.writeable = False
    np.testing.assert_array_equal(conv2d(x, W, padding=1), EXPECTED)


def test_misaligned_input_is_taken() -> None:
    raw = np.empty(X.nbytes + 1, np.uint8)
    x = raw[1:].view(np.float32).reshape(X.shape)
    x[...] = X
    assert not x.flags.aligned
    np.testing.assert_array_equal(conv2d(x, W, padding=1), EXPECTED)


def test_array_interfaces() -> None:
    class Interface:
        def __init__(self, value: Any) -> None:
            self.__array_interface__ = value.__array_interface__
            self.keep = value

    class Dlpack:
        def __init__(self, value: Any) -> None:
            self.value = value

        def __dlpack__(self, **kwargs: Any) -> Any:
            return self.value.__dlpack__(**kwargs)

        def __dlpack_device__(self) -> Any:
            return self.value.__dlpack_device__()

    for kind in (Interface, Dlpack):
        np.testing.assert_array_equal(conv2d(kind(X), kind(W), kind(B), padding=1), EXPECTED + B[:, None, None])


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    np.testing.assert_array_equal(conv2d(torch.from_numpy(X), torch.from_numpy(W), padding=1), EXPECTED)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_out_is_written_and_returned(layout: str) -> None:
    x = X if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(X, 1, -1))
    expected = EXPECTED if layout == "NCHW" else np.moveaxis(EXPECTED, 1, -1)
    out = np.full(expected.shape, np.nan, np.float32)
    assert conv2d(x, W, padding=1, layout=layout, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_residual_and_activation() -> None:
    residual = array(*EXPECTED.shape)
    y = conv2d(X, W, B, padding=1, residual=residual, activation="relu")
    np.testing.assert_array_equal(y, np.maximum(EXPECTED + B[:, None, None] + residual, 0))


def test_one_and_three_dimensions() -> None:
    x, w = array(1, 5, 17), array(3, 5, 4)
    expected = sum(np.einsum("ncw,oc->now", x[:, :, k : k + 14], w[:, :, k]) for k in range(4))
    np.testing.assert_array_equal(conv1d(x, w), expected)
    x, w = array(1, 3, 5, 6, 7), array(4, 3, 1, 1, 1)
    np.testing.assert_array_equal(conv3d(x, w), np.einsum("ncdhw,oc->nodhw", x, w[..., 0, 0, 0]))


def test_depthwise() -> None:
    w = array(12, 1, 3, 3)
    np.testing.assert_array_equal(depthwise_conv2d(X, w, padding=1), conv2d(X, w, padding=1, groups=6))


def test_lists_and_arrays_as_sizes() -> None:
    for one in ([1, 1], np.array([1, 1]), (1, 1)):
        np.testing.assert_array_equal(conv2d(X, W, stride=one, padding=one), EXPECTED)


def test_float64() -> None:
    np.testing.assert_array_equal(conv2d(X.astype(float), W.astype(float), padding=1), EXPECTED)


def test_products() -> None:
    a, b, bias = array(7, 13), array(13, 9), array(9)
    for left, right in ((a, b), (np.asfortranarray(a), b), (a, np.asfortranarray(b)), (a[::1, ::1], b[:, :])):
        np.testing.assert_array_equal(matmul(left, right), a @ b)
    np.testing.assert_array_equal(linear(a, b.T, bias), a @ b + bias)
    np.testing.assert_array_equal(linear(a[0], np.ascontiguousarray(b.T)), a[0] @ b)
    np.testing.assert_array_equal(linear(a.reshape(7, 1, 13), b.T, activation="relu")[:, 0], np.maximum(a @ b, 0))


@pytest.mark.parametrize("activation", ["relu", "relu6", "leaky_relu", "hard_swish", "sigmoid", "silu"])
@pytest.mark.parametrize("channels", [3, 16])
def test_nan_and_infinity_pass_through(activation: str, channels: int) -> None:
    x = np.zeros((1, 1, 1, 4), np.float32)
    x[0, 0, 0] = [np.nan, np.inf, -np.inf, 1]
    y = conv2d(x, np.ones((channels, 1, 1, 1), np.float32), activation=activation)
    assert np.isnan(y[..., 0]).all()
    assert np.isfinite(y[..., 3]).all()
    expected = {"relu": (np.inf, 0), "relu6": (6, 0), "leaky_relu": (np.inf, -np.inf), "sigmoid": (1, 0)}
    if activation in expected:
        np.testing.assert_allclose(y[0, :, 0, 1], expected[activation][0])
        np.testing.assert_allclose(y[0, :, 0, 2], expected[activation][1])


BAD_CALLS: list[tuple[str, Any, type[Exception], str]] = [
    ("rank of x", lambda: conv2d(X[0], W), ArrayError, "x must have 4 axes"),
    ("rank of weight", lambda: conv2d(X, W[0]), ArrayError, "weight must have 4 axes"),
    ("channels", lambda: conv2d(X, W[:, :5]), ArrayError, r"weight must have shape \(10, 6, 3, 3\)"),
    ("groups", lambda: conv2d(X, W, groups=4), ProblemError, "groups=4 does not divide"),
    ("empty", lambda: conv2d(X[:0], W), ProblemError, "batch must be at least 1"),
    ("empty image", lambda: conv2d(X[:, :, :0], W), ProblemError, "in_size must be at least 1"),
    ("kernel too large", lambda: conv2d(X[:, :, :2], W), ProblemError, "the kernel does not fit"),
    ("stride", lambda: conv2d(X, W, stride=0), ProblemError, "stride"),
    ("negative padding", lambda: conv2d(X, W, padding=-1), ProblemError, "padding must be at least 0"),
    ("float stride", lambda: conv2d(X, W, stride=1.5), ProblemError, "stride.* must be an integer"),
    ("padding name", lambda: conv2d(X, W, padding="full"), ProblemError, '"same", "valid"'),
    ("layout", lambda: conv2d(X, W, layout="CHWN"), ProblemError, "layout must be one of"),
    ("activation", lambda: conv2d(X, W, activation="tanhh"), ProblemError, "activation must be one of"),
    ("dtype", lambda: conv2d(X.astype(np.float16), W), DtypeError, "float16"),
    ("mixed dtypes", lambda: conv2d(X, W.astype(float)), DtypeError, "float64"),
    ("integers", lambda: conv2d(X.astype(int), W.astype(int)), DtypeError, "int64"),
    ("not an array", lambda: conv2d(object(), W), DtypeError, "array of numbers"),
    ("bias shape", lambda: conv2d(X, W, B[:3]), ArrayError, r"bias must have shape \(10,\)"),
    ("bias dtype", lambda: conv2d(X, W, B.astype(float)), DtypeError, "bias must be float32"),
    ("residual shape", lambda: conv2d(X, W, residual=X), ArrayError, "residual must have shape"),
    ("out shape", lambda: conv2d(X, W, out=np.empty((1, 1, 1, 1), np.float32)), ArrayError, "out must have shape"),
    ("out dtype", lambda: conv2d(X, W, out=np.empty((2, 10, 7, 9))), DtypeError, "out must be float32"),
    ("threads", lambda: conv2d(X, W, threads=0), ProblemError, "threads must be"),
    ("algorithm", lambda: conv2d(X, W, algorithm="depthwise"), SevenLoopsError, "depthwise cannot compute"),
    ("matmul shapes", lambda: matmul(X[0, 0], W[0, 0]), ArrayError, "matmul needs"),
    ("matmul empty", lambda: matmul(np.empty((0, 3), np.float32), np.empty((3, 2), np.float32)), ProblemError, "m=0"),
    ("linear shapes", lambda: linear(X, W), ArrayError, "linear needs"),
    (
        "bytes beyond 32 bits",
        lambda: conv2d(np.broadcast_to(np.float32(1), (1, 1, 40_000, 40_000)), W[:, :1]),
        ProblemError,
        "takes 6,400,000,000 bytes",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [row[1:] for row in BAD_CALLS], ids=[row[0] for row in BAD_CALLS])
def test_bad_call(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_out_must_be_writable_and_apart() -> None:
    w = array(6, 6, 1, 1)
    x = X.copy()
    with pytest.raises(ArrayError, match="overlaps x"):
        conv2d(x, w, out=x)
    nhwc = np.ascontiguousarray(np.moveaxis(X, 1, -1))
    with pytest.raises(ArrayError, match="overlaps"):
        conv2d(nhwc, w, layout="NHWC", out=nhwc)
    out = np.empty_like(x)
    out.flags.writeable = False
    with pytest.raises(ArrayError, match="read-only"):
        conv2d(x, w, out=out)
    with pytest.raises(ArrayError, match="C-contiguous"):
        conv2d(x, w, out=np.empty((2, 6, 9, 22), np.float32)[..., ::2])


def test_kernel_arguments_are_checked() -> None:
    problem = ConvProblem(1, 4, (6, 6), 8, (3, 3), epilogue=sevenloops.Epilogue(bias=True))
    kernel = sevenloops.compile(problem)
    x, packed, bias = array(*problem.x_shape), kernel.pack(array(*problem.w_shape)), array(8)
    other = sevenloops.compile(ConvProblem(1, 4, (6, 6), 16, (3, 3)))
    bad: list[tuple[Any, str]] = [
        (lambda: kernel(x[:, :5], packed, bias=bias), "x must have shape"),
        (lambda: kernel(x, packed), "the problem has a bias"),
        (lambda: kernel(x, packed, bias=bias, residual=x), "the problem has no residual"),
        (lambda: kernel(x, other.pack(array(16, 4, 3, 3)), bias=bias), "must come from this kernel's pack"),
        (lambda: kernel(x, as_any(packed.array), bias=bias), "must come from this kernel's pack"),
        (lambda: kernel(x.transpose(0, 2, 1, 3), packed, bias=bias), "C-contiguous"),
        (lambda: kernel(x.tolist(), packed, bias=bias), "must be a NumPy array"),
        (lambda: kernel.pack(array(8, 4, 3, 2)), "weights must have shape"),
    ]
    for call, message in bad:
        with pytest.raises(SevenLoopsError, match=message):
            call()
