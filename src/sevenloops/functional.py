"""Convolutions and products as functions of arrays, with PyTorch's argument names and defaults.

Each call finds its kernel by the shapes (compiled on first use, then kept), packs the weights and runs. To pack once and
call often, use `sevenloops.compile`. Arrays may be NumPy arrays or anything with `__array_interface__` or `__dlpack__`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from . import records
from .arrays import address, as_array, check_output
from .compile import Kernel, compile
from .compile.relayout import channels_first, channels_last
from .epilogue import Epilogue
from .errors import ArrayError, DtypeError, ProblemError
from .problem import DTYPES, ConvProblem, GemmProblem
from .recent import Recent
from .schedule import Schedule
from .shift import Shift

__all__ = [
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "depthwise_conv2d", "linear",
    "matmul",
]  # fmt: skip

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

#: Kernels by everything in a call that they depend on; only shapes and plain values are in a key.
_conv_kernels: Recent[Any, Kernel] = Recent()
_gemm_kernels: Recent[Any, Kernel] = Recent()
LAYOUTS = ("NCHW", "NHWC")


def conv1d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1, **options: Any) -> Array:  # fmt: skip
    """Convolve `x[n, ic, w]` with `weight[oc, ic / groups, kw]`; options and errors as `conv2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, **options)


def conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1, **options: Any) -> Array:  # fmt: skip
    """Convolve `x[n, ic, h, w]` with `weight[oc, ic / groups, kh, kw]`, as `torch.nn.functional.conv2d` does.

    Args:
        x: float32 (or float64: computed by naive), `(n, ic, h, w)`, or `(n, h, w, ic)` with `layout="NHWC"`.
        weight: `(oc, ic / groups, kh, kw)` in either layout.
        bias: `(oc,)` or None.
        stride, dilation: one integer or one per axis.
        padding: as in `ConvProblem`: numbers, `(before, after)` pairs, `"same"` or `"valid"`.
        groups: divides both channel counts.

    Options:
        layout: `"NCHW"` (default) or `"NHWC"`. An NCHW array whose memory is channels-last is not copied, and then the
            result's memory is channels-last too.
        activation: a name of `sevenloops.epilogue.ACTIVATIONS`, done in the kernel; `activation_params` its numbers.
        residual: an array of the result's shape to add before the activation.
        out: where to write; must not overlap an input.
        threads: at most this many threads; never more than the process may use. The result does not depend on it.
        algorithm, schedule: force one instead of the choice (a tuned record, else the cost model), which counts the packing
            of the weights in every call. For constant weights, `sevenloops.compile` packs once and may choose another.
        accuracy: `"fast"` allows every algorithm inside the error bound of its row, `"strict"` only those that accumulate
            as the definition does. A NaN or an infinity may reach the outputs around those that see it with `"fast"`.

    Returns the result, `(n, oc, oh, ow)` or `(n, oh, ow, oc)`.
    Raises `ProblemError`, `ArrayError`, `DtypeError`, `Unsupported`, `ScheduleError`, `CompileError`.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, **options)


def conv3d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
           groups: int = 1, **options: Any) -> Array:  # fmt: skip
    """Convolve `x[n, ic, d, h, w]` with `weight[oc, ic / groups, kd, kh, kw]`; options and errors as `conv2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, **options)


def depthwise_conv2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
                     **options: Any) -> Array:  # fmt: skip
    """Convolve each channel of `x[n, c, h, w]` with its own `weight[c * multiplier, 1, kh, kw]`; as `conv2d`."""
    x = as_array("x", x)
    axis = -1 if options.get("layout") == "NHWC" else 1
    if x.ndim != 4:
        raise ArrayError(f"x must have 4 axes, got shape {x.shape}")
    return _conv(2, x, weight, bias, stride, padding, dilation, x.shape[axis], **options)


def conv_transpose1d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                     groups: int = 1, dilation: Any = 1, **options: Any) -> Array:  # fmt: skip
    """The adjoint of `conv1d`: `x[n, ic, w]`, `weight[ic, oc / groups, kw]`; options and errors as `conv_transpose2d`."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups, output_padding, **options)


def conv_transpose2d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                     groups: int = 1, dilation: Any = 1, **options: Any) -> Array:  # fmt: skip
    """The adjoint of `conv2d` ("deconvolution"), as `torch.nn.functional.conv_transpose2d` computes it.

    Input pixel i is spread over the outputs `i*stride + k*dilation - padding`, for every tap k of the kernel.

    Args:
        x: float32 (or float64: computed by naive), `(n, ic, h, w)`, or `(n, h, w, ic)` with `layout="NHWC"`.
        weight: `(ic, oc / groups, kh, kw)` in either layout.
        bias: `(oc,)` or None.
        stride, dilation: one integer or one per axis.
        padding: numbers or `(before, after)` pairs: as many rows and columns are cut off the result.
        output_padding: rows and columns added at the end, fewer than the stride or the dilation.
        groups: divides both channel counts.

    Options and errors are those of `conv2d`.
    Returns the result, `(n, oc, oh, ow)` with `oh = (h - 1)*sh - 2*ph + dh*(kh - 1) + 1 + output_padding`, or NHWC.
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups, output_padding, **options)


def conv_transpose3d(x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
                     groups: int = 1, dilation: Any = 1, **options: Any) -> Array:  # fmt: skip
    """The adjoint of `conv3d`, with `weight[ic, oc / groups, kd, kh, kw]`; options and errors as `conv_transpose2d`."""
    return _conv(3, x, weight, bias, stride, padding, dilation, groups, output_padding, **options)


def _freeze(value: Any) -> Any:
    return tuple(map(_freeze, value)) if isinstance(value, (list, tuple, np.ndarray)) else value


def _conv(
    rank: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
    output_padding: Any = None,  # None: not transposed
    *,
    layout: str = "NCHW",
    activation: str = "none",
    activation_params: tuple[float, ...] = (),
    residual: Any = None,
    out: Any = None,
    threads: int | None = None,
    algorithm: str | None = None,
    schedule: Schedule | None = None,
    accuracy: str = "fast",
    shift: Shift | None = None,
) -> Array:
    if type(x) is not np.ndarray:
        x = as_array("x", x)
    if type(weight) is not np.ndarray:
        weight = as_array("weight", weight)
    if bias is not None and type(bias) is not np.ndarray:
        bias = as_array("bias", bias)
    key = (
        rank, x.shape, x.dtype.char, weight.shape, bias is None, residual is None, stride, padding, dilation, groups,
        output_padding, layout, activation, activation_params, threads, algorithm, schedule, accuracy, records.generation,
        shift,
    )  # fmt: skip
    try:
        kernel = _conv_kernels.find(key)
    except TypeError:  # lists among the arguments
        key = _freeze(key)
        kernel = _conv_kernels.find(key)
    if kernel is None:
        where = None if residual is None else "before"
        epilogue = Epilogue(bias is not None, activation, tuple(activation_params), where)
        problem = _conv_problem(rank, x, weight, stride, padding, dilation, groups, output_padding, layout, epilogue, shift)
        options: Options = {"algorithm": algorithm, "schedule": schedule, "threads": threads, "accuracy": accuracy}
        kernel = compile(problem, weights="varying", **options)
        _conv_kernels.keep(key, kernel)
    bias = None if bias is None else np.ascontiguousarray(bias)
    if layout == "NHWC":
        residual = None if residual is None else np.ascontiguousarray(as_array("residual", residual))
        return kernel.once(np.ascontiguousarray(x), weight, bias=bias, residual=residual, out=out)
    return _conv_nchw(kernel, x, weight, bias, residual, out)


def _conv_nchw(kernel: Kernel, x: Array, weight: Array, bias: Any, residual: Any, out: Any) -> Array:
    if residual is not None:
        shape = nchw_shape(kernel.problem.y_shape)
        residual = as_array("residual", residual)
        if residual.shape != shape:
            raise ArrayError(f"residual must have shape {shape}, got {residual.shape}")
        residual = channels_last(residual, kernel.threads)
    inner = channels_last(x, kernel.threads)
    if out is not None:
        shape = nchw_shape(kernel.problem.y_shape)
        target = np.moveaxis(out, 1, -1) if isinstance(out, np.ndarray) and out.ndim == len(shape) else out
        if isinstance(target, np.ndarray) and target.flags.c_contiguous and target.shape == kernel.problem.y_shape:
            kernel.once(inner, weight, bias=bias, residual=residual, out=target)
            return out  # type: ignore[no-any-return]
        check_output(out, shape, kernel.problem.dtype, {"x": x})
    y = kernel.once(inner, weight, bias=bias, residual=residual)
    if out is None and not x.flags.c_contiguous and address(inner) == address(x):
        return np.moveaxis(y, -1, 1)  # channels-last in, channels-last out
    return channels_first(y, kernel.threads, out)


def nchw_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """`(n, *spatial, c)` as `(n, c, *spatial)`."""
    return (shape[0], shape[-1], *shape[1:-1])


def _conv_problem(
    rank: int, x: Array, weight: Array, stride: Any, padding: Any, dilation: Any, groups: int, output_padding: Any,
    layout: str, e: Epilogue, shift: Shift | None = None,
) -> ConvProblem:  # fmt: skip
    if layout not in LAYOUTS:
        raise ProblemError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    names = ("n", "ic", *"dhw"[3 - rank :]) if layout == "NCHW" else ("n", *"dhw"[3 - rank :], "ic")
    if x.ndim != rank + 2:
        raise ArrayError(f"x must have {rank + 2} axes ({', '.join(names)}), got shape {x.shape}")
    transposed = output_padding is not None
    if weight.ndim != rank + 2:
        axes = "ic, oc / groups" if transposed else "oc, ic / groups"
        raise ArrayError(f"weight must have {rank + 2} axes ({axes}, kernel...), got shape {weight.shape}")
    dtype = _common_dtype(x, weight)
    in_size = x.shape[2:] if layout == "NCHW" else x.shape[1:-1]
    channels = x.shape[1] if layout == "NCHW" else x.shape[-1]
    problem = ConvProblem(
        batch=x.shape[0], in_channels=channels, in_size=in_size,
        out_channels=weight.shape[1] * (groups if is_count(groups) else 1) if transposed else weight.shape[0],
        kernel=weight.shape[2:], stride=stride, padding=padding, dilation=dilation, groups=groups,
        transposed=transposed, output_padding=output_padding if transposed else (0,), epilogue=e, dtype=dtype, shift=shift,
    )  # fmt: skip
    if weight.shape != problem.w_shape:
        raise ArrayError(
            f"weight must have shape {problem.w_shape} for {channels} input channels in {groups} groups, got {weight.shape}"
        )
    return problem


def is_count(value: Any) -> bool:
    """Whether a value can be a number of groups; what cannot is refused by `ConvProblem`."""
    return isinstance(value, (int, np.integer)) and bool(value > 0)


def _common_dtype(a: Array, b: Array) -> str:
    if a.dtype != b.dtype or a.dtype.name not in DTYPES:
        raise DtypeError(f"both arrays must be float32 (or both float64), got {a.dtype} and {b.dtype}")
    return str(a.dtype.name)


def matmul(
    a: Any, b: Any, *, out: Any = None, threads: int | None = None, algorithm: str | None = None,
    schedule: Schedule | None = None, accuracy: str = "fast",
) -> Array:  # fmt: skip
    """The product of `a[m, k]` and `b[k, n]`, float32 or float64; a transposed view is read as it lies, without a copy.

    Returns `y[m, n]`, in `out` if it is given. Raises `ArrayError`, `DtypeError`, and what `sevenloops.compile` raises.
    """
    a, b = as_array("a", a), as_array("b", b)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ArrayError(f"matmul needs a[m, k] and b[k, n], got shapes {a.shape} and {b.shape}")
    return _product(a, b, None, Epilogue(), out, threads, algorithm, schedule, accuracy)


def linear(
    x: Any, weight: Any, bias: Any = None, *, activation: str = "none", activation_params: tuple[float, ...] = (),
    out: Any = None, threads: int | None = None, algorithm: str | None = None, schedule: Schedule | None = None,
    accuracy: str = "fast",
) -> Array:  # fmt: skip
    """A fully connected layer: `x[..., in] @ weight[out, in].T + bias[out]`, and an activation.

    Returns `y[..., out]`. Raises as `matmul` does.
    """
    x, weight = as_array("x", x), as_array("weight", weight)
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ArrayError(f"linear needs x[..., in] and weight[out, in], got shapes {x.shape} and {weight.shape}")
    epilogue = Epilogue(bias is not None, activation, tuple(activation_params))
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    shape = (*x.shape[:-1], weight.shape[0])
    if out is not None:
        check_output(out, shape, x.dtype.name, {"x": x, "weight": weight})
        out = out.reshape(rows.shape[0], -1)
    bias = None if bias is None else np.ascontiguousarray(as_array("bias", bias))
    return _product(rows, weight.T, bias, epilogue, out, threads, algorithm, schedule, accuracy).reshape(shape)


def _stored(array: Array) -> tuple[Array, bool]:
    """The dense array behind a matrix, and whether the matrix is its transpose."""
    if array.flags.c_contiguous:
        return array, False
    if array.T.flags.c_contiguous:
        return array.T, True
    return np.ascontiguousarray(array), False


def _product(
    a: Array, b: Array, bias: Any, epilogue: Epilogue, out: Any, threads: Any, algorithm: Any, schedule: Any, accuracy: str
) -> Array:
    (a, trans_a), (b, trans_b) = _stored(a), _stored(b)
    if not (a.flags.aligned and b.flags.aligned):
        a, b = np.require(a, requirements=("C", "A")), np.require(b, requirements=("C", "A"))
    key = (
        a.shape, b.shape, trans_a, trans_b, a.dtype.char, b.dtype.char, epilogue, threads, algorithm, schedule, accuracy,
        records.generation,
    )  # fmt: skip
    kernel = _gemm_kernels.find(key)
    if kernel is None:
        dtype = _common_dtype(a, b)
        k, m = a.shape if trans_a else a.shape[::-1]
        n = b.shape[0] if trans_b else b.shape[1]
        if min(m, n, k) < 1:
            raise ProblemError(f"a product needs at least one row, column and term, got m={m}, n={n}, k={k}")
        problem = GemmProblem(m, n, k, trans_a, trans_b, epilogue=epilogue, dtype=dtype)
        options: Options = {"algorithm": algorithm, "schedule": schedule, "threads": threads, "accuracy": accuracy}
        kernel = compile(problem, weights="varying", **options)
        _gemm_kernels.keep(key, kernel)
    return kernel.once(a, b, bias=bias, out=out)
