"""Pieces of Halide code that several algorithms share. Shape comments give the innermost axis first, as Halide does."""

from __future__ import annotations

from typing import Any

import halide as hl
import numpy as np

from ..epilogue import Epilogue
from ..problem import ConvProblem, Problem
from ..shift import Shift, channel_offsets
from .base import Buffer, Definition, Geometry, strides_of
from .tiles import tiles_per_task

__all__ = [
    "apply_epilogue",
    "definition",
    "dense",
    "epilogue_inputs",
    "image",
    "moved_by",
    "padded_input",
    "padded_rows",
    "split_tasks",
    "strided",
]

HL_TYPES = {"float32": (hl.Float, 32), "float64": (hl.Float, 64), "uint8": (hl.UInt, 8)}


def hl_type(dtype: str) -> Any:
    """Halide's type of a dtype."""
    kind, bits = HL_TYPES[dtype]
    return kind(bits)


def dense(buffer: Any, shape: tuple[int, ...]) -> None:
    """Promise that a buffer (an ImageParam or an output) is dense, with `shape` given outermost axis first."""
    strided(buffer, shape, strides_of(shape))


def strided(buffer: Any, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Promise where the elements of a buffer lie; `shape` and `strides` (in elements) are given outermost axis first."""
    for axis, (extent, stride) in enumerate(zip(reversed(shape), reversed(strides))):
        dim = buffer.dim(axis)
        dim.set_bounds(0, extent)
        dim.set_stride(stride)


def definition(
    problem: Problem,
    output: Any,
    y_shape: tuple[int, ...],
    operands: list[tuple[Any, Buffer]],
    extra: tuple[list[Any], list[tuple[str, tuple[int, ...]]]],
    pack: tuple[Any, list[Any], list[Buffer]],
) -> Definition:
    """What `Algorithm.define` returns: operands and the `epilogue_inputs` in calling order, then the output of `y_shape`.

    The output lies as the problem says (`ConvProblem.out_pitch`).
    """
    pitch = problem.out_pitch if isinstance(problem, ConvProblem) else 0
    strides = strides_of(y_shape, problem.y_shape[-1], pitch)
    strided(output.output_buffer(), y_shape, strides)
    params, specs = extra
    buffers = [buffer for _, buffer in operands] + [Buffer(name, shape) for name, shape in specs]
    buffers.append(Buffer("y", y_shape, strides if pitch else None))
    return Definition(output, [param for param, _ in operands] + params, buffers, *pack)


def image(name: str, shape: tuple[int, ...], dtype: str = "float32") -> Any:
    """A dense input of `shape`, outermost axis first."""
    param = hl.ImageParam(hl_type(dtype), len(shape), name)
    dense(param, shape)
    return param


def padded_input(x: Any, g: Geometry) -> Any:
    """The input with its zero padding, `padded[ic, ix, iy, iz, n]` in padded coordinates."""
    c, ix, iy, iz, n = (hl.Var(v) for v in ("c", "ix", "iy", "iz", "n"))
    padded = hl.Func("padded")
    inside, coords = None, []
    for var, size, before in zip((ix, iy, iz), reversed(g.size), reversed(g.before)):
        at = var - before
        ok = (at >= 0) & (at < size)
        inside = ok if inside is None else inside & ok
        coords.append(hl.clamp(at, 0, size - 1))
    padded[c, ix, iy, iz, n] = hl.select(inside, x[(c, *coords, n)], hl.f32(0) if x.type() == hl.Float(32) else hl.f64(0))
    return padded


def padded_rows(x: Any, g: Geometry) -> Any:
    """As `padded_input`, with pixel and channel as one axis: `rows[ix * channels + ic, iy, iz, n]` of `x[.., h, d, n]`.

    For images of few channels: the copy runs along the row in whole vectors.
    """
    e, iy, iz, n = (hl.Var(v) for v in ("e", "iy", "iz", "n"))
    channels = g.groups * g.ic
    rows = hl.Func("rows")
    inside, coords = None, []
    sizes, befores = (g.size[2] * channels, g.size[1], g.size[0]), (g.before[2] * channels, g.before[1], g.before[0])
    for var, size, before in zip((e, iy, iz), sizes, befores):
        at = var - before
        ok = (at >= 0) & (at < size)
        inside = ok if inside is None else inside & ok
        coords.append(hl.clamp(at, 0, size - 1))
    rows[e, iy, iz, n] = hl.select(hl.likely(inside), x[(*coords, n)], hl.f32(0))
    return rows


def moved_by(shift: Shift, channels: int, c: Any) -> list[Any]:
    """How far away channel `c` of `channels` is read on each axis, innermost first (see `sevenloops.shift`)."""
    tables = []
    for axis, values in enumerate(zip(*channel_offsets(shift, channels))):
        table = hl.Buffer(hl.Int(32), [channels], f"moved{axis}")  # owns its memory: it is needed until the code is made
        np.asarray(table)[:] = values
        tables.append(table[hl.unsafe_promise_clamped(c, 0, channels - 1)])
    return tables[::-1]


def epilogue_inputs(
    problem: Any, channels: int, y_shape: tuple[int, ...]
) -> tuple[list[Any], list[tuple[str, tuple[int, ...]]]]:
    """ImageParams of bias and residual where the epilogue has them, with their names and shapes."""
    params: list[Any] = []
    specs: list[tuple[str, tuple[int, ...]]] = []
    if problem.epilogue.bias:
        specs.append(("bias", (channels,)))
    if problem.epilogue.residual:
        specs.append(("residual", y_shape))
    for name, shape in specs:
        params.append(image(name, shape, problem.dtype))
    return params, specs


def split_tasks(stage: Any, var: Any, loops: tuple[Any, Any, Any], extent: int, tile: int, task: int) -> None:
    """Split a loop of `extent` turns into `loops`: tasks, the tiles of one, the turns of a tile.

    No turn belongs to two tasks. Tasks have `task` turns where that divides the extent, with their last tile shifted
    inwards; elsewhere they are made of whole tiles (see `tiles_per_task`), and the last task has fewer.
    """
    over_tasks, over_tiles, inner = loops
    tail = hl.TailStrategy
    if extent % task == 0:
        stage.split(var, over_tasks, over_tiles, task).split(over_tiles, over_tiles, inner, tile, tail.ShiftInwards)
    else:
        stage.split(var, over_tiles, inner, tile, tail.ShiftInwards)
        stage.split(over_tiles, over_tasks, over_tiles, tiles_per_task(extent, tile, task), tail.GuardWithIf)


def _is_nan(v: Any) -> Any:
    """By its bits: a comparison of `v` with itself is assumed away, as sums may be computed with fast-math flags."""
    bits = v.type().bits()
    word, fraction = hl.UInt(bits), {32: 23, 64: 52}[bits]
    exponent = ((1 << (bits - 1)) - 1) >> fraction << fraction
    magnitude = hl.reinterpret(word, v) & hl.cast(word, (1 << (bits - 1)) - 1)
    return magnitude > hl.cast(word, exponent)


def _sigmoid(v: Any) -> Any:
    """`1 / (1 + exp(-v))` by `exp(-|v|)`: Halide's exp is wrong where the result would overflow or underflow."""
    num = hl.f32 if v.type().bits() == 32 else hl.f64
    lowest = {32: 87.0, 64: 708.0}[v.type().bits()]  # exp(-lowest) is the last normal number but a few
    t = hl.exp(-hl.min(hl.abs(v), num(lowest)))
    gate = hl.select(v < num(0), t, num(1)) / (num(1) + t)
    return hl.select(v < num(-lowest), num(0), gate)


def activation(epilogue: Epilogue, v: Any) -> Any:
    """The activation of a value. Comparisons are written so that NaN takes the branch that returns `v` itself."""
    t = v.type()
    num = hl.f32 if t.bits() == 32 else hl.f64
    strict, name = hl.strict_float, epilogue.activation
    if name == "relu":
        return strict(hl.select(v < num(0), num(0), v))
    if name == "clip":
        low, high = epilogue.params
        v = strict(hl.select(v < num(low), num(low), v)) if low != float("-inf") else v
        return strict(hl.select(v > num(high), num(high), v)) if high != float("inf") else v
    if name == "leaky_relu":
        return strict(hl.select(v < num(0), v * num(epilogue.params[0]), v))
    if name == "hard_swish":
        gate = v * num(1 / 6) + num(0.5)
        gate = strict(hl.select(gate < num(0), num(0), gate))
        return v * strict(hl.select(gate > num(1), num(1), gate))
    if name in ("sigmoid", "silu"):
        gate = _sigmoid(v)
        return v * gate if name == "silu" else hl.select(_is_nan(v), v, gate)
    return v


def apply_epilogue(epilogue: Epilogue, v: Any, bias: Any, residual: Any) -> Any:
    """Bias, residual and activation of a finished sum (see `sevenloops.epilogue.Epilogue`)."""
    if epilogue.bias:
        v = v + bias
    if epilogue.residual == "before":
        v = v + residual
    v = activation(epilogue, v)
    return v + residual if epilogue.residual == "after" else v
