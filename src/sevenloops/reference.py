"""The oracle: every problem computed in NumPy as it is defined, in float64, sharing no code with the compiled kernels.

It is written to be read and trusted, not to be fast. Products and sums of integers are exact up to 2**53, so for
integer-valued inputs (and an epilogue without exponentials) the result is the exact one. Overflow and infinity * 0
give what IEEE 754 says, without a warning.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from .adjoint import WeightGradient
from .epilogue import Epilogue
from .errors import ArrayError
from .problem import ConvProblem, GemmProblem
from .shift import Shift, channel_offsets

__all__ = ["apply_epilogue", "reference_conv", "reference_gemm", "reference_weight_gradient"]

Array = npt.NDArray[np.float64]
Index = tuple[slice | int, ...]
ALL = slice(None)


@np.errstate(over="ignore", invalid="ignore")
def reference_conv(
    problem: ConvProblem,
    x: npt.ArrayLike,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    residual: npt.ArrayLike | None = None,
) -> Array:
    """Compute a convolution (or a transposed one) from its definition.

    Shapes: `x` is `problem.x_shape` (channels last), `w` is `problem.w_shape` (PyTorch's order), `bias` is
    `(out_channels,)`, `residual` and the float64 result are `problem.y_shape`.
    Raises `ArrayError` for another shape, and for a bias or residual that is missing or not asked for.
    """
    x = _operand("x", x, problem.x_shape)
    w = _operand("w", w, problem.w_shape)
    x = _shifted(problem.shift, x) if problem.shift else x
    sums = _transposed_sums(problem, x, w) if problem.transposed else _sums(problem, x, w)
    return apply_epilogue(problem.epilogue, sums, bias, residual)


@np.errstate(over="ignore", invalid="ignore")
def reference_gemm(
    problem: GemmProblem,
    a: npt.ArrayLike,
    b: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    residual: npt.ArrayLike | None = None,
    c: npt.ArrayLike | None = None,
) -> Array:
    """Compute a matrix product from its definition.

    Shapes: `a` is `problem.a_shape`, `b` is `problem.b_shape`, `bias` is `(n,)`; `c`, `residual` and the float64
    result are `(m, n)`. Raises `ArrayError` for another shape, and for an operand that is missing or not asked for.
    """
    a = _operand("a", a, problem.a_shape)
    b = _operand("b", b, problem.b_shape)
    sums = problem.alpha * ((a.T if problem.trans_a else a) @ (b.T if problem.trans_b else b))
    c = _optional("c", c, problem.y_shape, problem.beta != 0)
    if c is not None:
        sums += problem.beta * c
    return apply_epilogue(problem.epilogue, sums, bias, residual)


@np.errstate(over="ignore", invalid="ignore")
def apply_epilogue(
    epilogue: Epilogue, v: npt.ArrayLike, bias: npt.ArrayLike | None = None, residual: npt.ArrayLike | None = None
) -> Array:
    """Bias, activation and residual add on sums `v[..., oc]`; `bias` is `[oc]`, `residual` has the shape of `v`.

    NaN passes through. The result is float64 and shares no memory with `v`.
    Raises `ArrayError` for another shape, and for a bias or residual that is missing or not asked for.
    """
    v = np.array(v, dtype=np.float64)
    bias = _optional("bias", bias, v.shape[-1:], epilogue.bias)
    residual = _optional("residual", residual, v.shape, epilogue.residual is not None)
    if bias is not None:
        v += bias
    if residual is not None and epilogue.residual == "before":
        v += residual
    v = _activate(epilogue.activation, epilogue.params, v)
    if residual is not None and epilogue.residual == "after":
        v += residual
    return v


@np.errstate(over="ignore", invalid="ignore")
def reference_weight_gradient(problem: WeightGradient, x: npt.ArrayLike, dy: npt.ArrayLike) -> Array:
    """Compute the gradient of a convolution's weights from its definition.

    Shapes: `x` is `problem.forward.x_shape`, `dy` is `problem.forward.y_shape`; the float64 result is `w_shape`.
    Raises `ArrayError` for another shape.
    """
    forward = problem.forward
    x, dy = _operand("x", x, forward.x_shape), _operand("dy", dy, forward.y_shape)
    padded = np.pad(_shifted(forward.shift, x) if forward.shift else x, ((0, 0), *forward.padding, (0, 0)))
    dw, pixels = np.zeros(forward.w_shape), tuple(range(forward.rank + 1))
    for ic, oc in _group_slices(forward):
        for k in itertools.product(*map(range, forward.kernel)):
            seen: Index = (ALL, *_taps(forward, k, forward.out_size), ic)
            weights: Index = (oc, ALL, *k)
            dw[weights] = np.tensordot(dy[..., oc], padded[seen], axes=(pixels, pixels))
    return dw


def _activate(name: str, params: tuple[float, ...], v: Array) -> Array:
    result: Array = v
    if name == "relu":
        result = np.maximum(v, 0)
    elif name == "clip":
        result = np.minimum(np.maximum(v, params[0]), params[1])
    elif name == "leaky_relu":
        result = np.where(v >= 0, v, params[0] * v)
    elif name == "hard_swish":
        result = v * np.minimum(np.maximum(v / 6 + 0.5, 0), 1)
    elif name == "sigmoid":
        result = 1 / (1 + np.exp(-v))
    elif name == "silu":
        result = v / (1 + np.exp(-v))
    elif name != "none":
        raise AssertionError(f"the reference lacks the activation {name!r}")
    return result


def _shifted(shift: Shift, x: Array) -> Array:
    """Each channel of `x[n, *size, c]` moved: `out[n, o, c] = x[n, o + offset(c), c]`, zero outside."""
    out = np.zeros_like(x)
    for c, offset in enumerate(channel_offsets(shift, x.shape[-1])):
        axes = list(zip(offset, x.shape[1:-1]))
        to: Index = (ALL, *(slice(max(0, -by), max(0, size - by)) for by, size in axes), c)
        source: Index = (ALL, *(slice(max(0, by), max(0, size + by)) for by, size in axes), c)
        out[to] = x[source]
    return out


def _sums(problem: ConvProblem, x: Array, w: Array) -> Array:
    """y[n, o, oc] = sum over ic in group, k of padded[n, o*stride + k*dilation, ic] * w[oc, ic, k]."""
    padded = np.pad(x, ((0, 0), *problem.padding, (0, 0)))
    y = np.zeros(problem.y_shape)
    for ic, oc in _group_slices(problem):
        for k in itertools.product(*map(range, problem.kernel)):
            seen: Index = (ALL, *_taps(problem, k, problem.out_size), ic)
            weights: Index = (oc, ALL, *k)
            y[..., oc] += np.matmul(padded[seen], w[weights].T)
    return y


def _transposed_sums(problem: ConvProblem, x: Array, w: Array) -> Array:
    """y[n, i*stride + k*dilation - before, oc] += x[n, i, ic] * w[ic, oc, k], for every i that lands inside y."""
    canvas_size = tuple(size + sum(pair) for size, pair in zip(problem.out_size, problem.padding))
    canvas = np.zeros((problem.batch, *canvas_size, problem.out_channels))
    for ic, oc in _group_slices(problem):
        for k in itertools.product(*map(range, problem.kernel)):
            reached: Index = (ALL, *_taps(problem, k, problem.in_size), oc)
            weights: Index = (ic, ALL, *k)
            canvas[reached] += np.matmul(x[..., ic], w[weights])
    inside: Index = tuple(slice(lo, lo + size) for (lo, _), size in zip(problem.padding, problem.out_size))
    return canvas[(ALL, *inside)]


def _group_slices(problem: ConvProblem) -> list[tuple[slice, slice]]:
    """The input and output channels of each group."""
    ic, oc = problem.in_channels // problem.groups, problem.out_channels // problem.groups
    return [(slice(g * ic, (g + 1) * ic), slice(g * oc, (g + 1) * oc)) for g in range(problem.groups)]


def _taps(problem: ConvProblem, k: tuple[int, ...], size: tuple[int, ...]) -> list[slice]:
    """On each axis, the `size` positions `i*stride + k*dilation` for i = 0, 1, ..."""
    starts = [tap * dilation for tap, dilation in zip(k, problem.dilation)]
    return [slice(lo, lo + (n - 1) * step + 1, step) for lo, n, step in zip(starts, size, problem.stride)]


def _operand(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.asarray(value, dtype=np.float64)
    if array.shape != shape:
        raise ArrayError(f"{name} must have shape {shape}, got {array.shape}")
    return array


def _optional(name: str, value: npt.ArrayLike | None, shape: tuple[int, ...], wanted: bool) -> Array | None:
    if value is None:
        if wanted:
            raise ArrayError(f"the problem has {name} of shape {shape}, got None")
        return None
    if not wanted:
        raise ArrayError(f"the problem has no {name}, but one was given")
    return _operand(name, value, shape)
