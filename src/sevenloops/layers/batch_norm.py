"""batch_norm: batch normalisation of channels-last images as a training step needs it, forward and backward.

    v[p, c] = (x[p, c] - mean[c]) * a[c] + bias[c] + residual[p, c],    a[c] = scale[c] / sqrt(variance[c] + epsilon)
    y[p, c] = activation(v[p, c])

(Ioffe, Szegedy, arXiv 1502.03167, algorithm 1.) Mean and variance are those of the batch, over all pixels, or given. Each
part of the pixels has its own mean, and its squares are of distances to that (the corrected two-pass algorithm); the
parts are put together in float64 (Chan, Golub, LeVeque, Updating formulae and a pairwise algorithm for computing sample
variances, 1979). So the variance is right however large the mean is. Backward, with n pixels, and g = dy where the
activation lets it through:

    dbias[c] = sum of g[p, c],    dscale[c] = sum of g[p, c] * xhat[p, c],    xhat = (x - mean) / sqrt(variance + epsilon)
    dx[p, c] = a[c] * (g[p, c] - dbias[c] / n - xhat[p, c] * dscale[c] / n)

and `dx = a * g` for a given mean and variance. The activation's mask is computed again from x, in the same operations;
with a residual it is read from y. Limit: memory; x is read twice forward, x and dy twice backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int
from .base import as_expr, as_shape, check_float32, definition, layer_row, tasks, vectorize

__all__ = [
    "ACTIVATIONS",
    "BATCH_NORM",
    "BATCH_NORM_GRADIENT",
    "CHANNEL_SUMS",
    "BatchNorm",
    "BatchNormGradient",
    "ChannelSums",
]

#: Activation -> the values between which its gradient is one; at the limits and beyond it is zero.
ACTIVATIONS: dict[str, tuple[float, float] | None] = {"none": None, "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
#: Vectors of channels that an elementwise loop takes at once.
VECTORS = 4


@dataclass(frozen=True)
class BatchNorm:
    """Of `(pixels, channels)`; `given` is for a mean and a variance that are inputs (running statistics).

    Inputs: x, scale, bias, then mean and variance if they are given, then the residual if there is one. Outputs: y, then
    mean and (biased) variance if they are not given. Raises `ProblemError`.
    """

    pixels: int
    channels: int
    epsilon: float = 1e-5
    activation: str = "none"
    residual: bool = False
    given: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("pixels", "channels"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), 1))
        as_shape("input", self.shape)
        object.__setattr__(self, "epsilon", float(self.epsilon))
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ProblemError(f"epsilon must be a number of at least 0, got {self.epsilon}")
        if self.activation not in ACTIVATIONS:
            raise ProblemError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        check_float32(self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """The images in memory."""
        return self.pixels, self.channels

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        return (self.shape, *((self.channels,),) * (4 if self.given else 2), *[self.shape] * self.residual)

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The outputs in memory."""
        return (self.shape, *((self.channels,),) * (0 if self.given else 2))

    def __str__(self) -> str:
        words = ["residual"] * self.residual + ["given"] * self.given
        return " ".join([f"batch_norm {self.pixels}x{self.channels} {self.activation}", *words, repr(self.epsilon)])


@dataclass(frozen=True)
class BatchNormGradient:
    """The gradients of a `BatchNorm`.

    Inputs: dy, x, scale, bias, mean, variance, then y if there are a residual and an activation. Outputs: dx, in the
    same case the gradient of the residual (without an activation it is dy itself), dscale, dbias.
    """

    forward: BatchNorm

    @property
    def dtype(self) -> str:
        """That of the forward problem."""
        return self.forward.dtype

    @property
    def reads_y(self) -> bool:
        """Whether the mask comes from y, and the gradient of the residual is an output."""
        return self.forward.residual and self.forward.activation != "none"

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The inputs in memory."""
        shape = self.forward.shape
        return (shape, shape, *((self.forward.channels,),) * 4, *[shape] * self.reads_y)

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The outputs in memory."""
        shape = self.forward.shape
        return (shape, *[shape] * self.reads_y, *((self.forward.channels,),) * 2)

    def __str__(self) -> str:
        return f"gradient of {self.forward}"


@dataclass(frozen=True)
class ChannelSums:
    """The sums over pixels of `(pixels, channels)`: the gradient of a bias. Input: dy. Output: one number a channel."""

    pixels: int
    channels: int
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("pixels", "channels"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), 1))
        as_shape("input", (self.pixels, self.channels))
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return ((self.pixels, self.channels),)

    @property
    def y_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The output in memory."""
        return ((self.channels,),)

    def __str__(self) -> str:
        return f"channel_sums {self.pixels}x{self.channels}"


def _activated(v: Any, activation: str) -> Any:
    """The activation; NaN stays."""
    import halide as hl

    limits = ACTIVATIONS[activation]
    if limits is None:
        return v
    v = hl.select(v < hl.f32(limits[0]), hl.f32(limits[0]), v)
    return v if math.isinf(limits[1]) else hl.select(v > hl.f32(limits[1]), hl.f32(limits[1]), v)


def _passed(v: Any, dy: Any, activation: str) -> Any:
    """`dy` where the activation of `v` lets it through; where `v` is NaN too, as in PyTorch."""
    import halide as hl

    limits = ACTIVATIONS[activation]
    if limits is None:
        return dy
    stopped = v <= hl.f32(limits[0])
    if not math.isinf(limits[1]):
        stopped = stopped | (v >= hl.f32(limits[1]))
    return hl.strict_float(hl.select(stopped, hl.f32(0), dy))


def _channelwise(name: str, value: Any, c: Any, channels: int, machine: Machine) -> Any:
    """A Func of `c`, computed once."""
    import halide as hl

    func = hl.Func(name)
    func[c] = value
    func.compute_root()
    vectorize(func, c, channels, machine.lanes)
    return func


def _pixelwise(out: Any, c: Any, pixel: Any, problem: BatchNorm, schedule: Schedule, machine: Machine) -> None:
    """Schedule a loop over all elements."""
    vectorize(out, c, problem.channels, machine.lanes, VECTORS)
    if schedule.parallel:
        tasks(out, [(pixel, problem.pixels)], machine)


def define(problem: BatchNorm, schedule: Schedule, machine: Machine) -> Definition:
    """The statistics of parts and of all, then every element."""
    import halide as hl

    from ..algorithms.funcs import image
    from .parts import Parts

    channels, one = problem.channels, (problem.channels,)
    x, scale, bias = image("x", problem.shape), image("scale", one), image("bias", one)
    inputs = [("x", x, problem.shape), ("scale", scale, one), ("bias", bias, one)]
    c, pixel, more = hl.Var("c"), hl.Var("pixel"), []
    if problem.given:
        mean, variance = image("mean", one), image("variance", one)
        inputs += [("mean", mean, one), ("variance", variance, one)]
    else:
        mean, variance = _statistics(x, Parts(*problem.shape, machine, parallel=schedule.parallel))
        # Copies: Halide loads what a pipeline has computed by aligned instructions, and outputs may lie anywhere.
        more = [(n, _channelwise(n, f[c], c, channels, machine), one) for n, f in (("mean", mean), ("variance", variance))]
    factor = _channelwise("factor", _factor(scale, variance, c, problem.epsilon), c, channels, machine)
    v = _normalised(x, mean, factor, bias, c, pixel)
    if problem.residual:
        residual = image("residual", problem.shape)
        inputs.append(("residual", residual, problem.shape))
        v = v + residual[c, pixel]
    out = hl.Func("out")
    out[c, pixel] = hl.strict_float(_activated(hl.strict_float(v), problem.activation))
    _pixelwise(out, c, pixel, problem, schedule, machine)
    return definition(out, inputs, problem.shape, more)


def _factor(scale: Any, variance: Any, c: Any, epsilon: float) -> Any:
    import halide as hl

    return hl.strict_float(scale[c] / hl.sqrt(variance[c] + hl.f32(epsilon)))


def _normalised(x: Any, mean: Any, factor: Any, bias: Any, c: Any, pixel: Any) -> Any:
    """What the activation sees but for a residual: the same operations forward and backward, so that masks agree."""
    import halide as hl

    return hl.strict_float((x[c, pixel] - mean[c]) * factor[c] + bias[c])


def _statistics(x: Any, parts: Any) -> tuple[Any, Any]:
    """Mean and biased variance of each channel, as Funcs of `c`."""
    import halide as hl

    c, p, f64 = parts.c, parts.p, hl.Float(64)
    sums, sums_r = parts.sums("sums", lambda c, pixel: [x[c, pixel]])
    middle = hl.strict_float(sums[c, p] / hl.cast(hl.Float(32), parts.size(p)))  # the mean but for its last digits

    def distances(c: Any, pixel: Any) -> list[Any]:
        away = x[c, pixel] - middle
        return [away, away * away]

    apart, apart_r = parts.sums("apart", distances)
    # What the distances add up to says how far the middle is off: it corrects the mean and the squares.
    off, count = hl.cast(f64, apart[c, p][0]), hl.cast(f64, parts.size(p))
    part = hl.Func("part")  # [c, p], the mean and the sum of squared distances to it
    squares = hl.cast(f64, apart[c, p][1]) - off * off / count
    part[c, p] = hl.Tuple([hl.strict_float(hl.cast(f64, middle) + off / count), hl.strict_float(squares)])
    parts.schedule(part, [(sums, sums_r), (apart, apart_r)])
    n = hl.f64(parts.pixels)
    size = lambda p: hl.cast(f64, parts.size(p))  # noqa: E731
    center = parts.total("center", lambda c, p: size(p) * part[c, p][0])

    def spread(c: Any, p: Any) -> Any:
        away = part[c, p][0] - center[c] / n
        return part[c, p][1] + size(p) * away * away

    total = parts.total("spread", spread)
    narrow = lambda value: hl.strict_float(hl.cast(hl.Float(32), value / n))  # noqa: E731
    found = [("kept_mean", narrow(center[c])), ("kept_variance", narrow(total[c]))]
    mean, variance = (_channelwise(name, value, c, parts.channels, parts.machine) for name, value in found)
    return mean, variance


def define_gradient(problem: BatchNormGradient, schedule: Schedule, machine: Machine) -> Definition:
    """The sums of parts and of all, then every element."""
    import halide as hl

    from ..algorithms.funcs import image
    from .parts import Parts

    forward, f64 = problem.forward, hl.Float(64)
    channels, shape, one = forward.channels, forward.shape, (forward.channels,)
    names = ("dy", "x", "scale", "bias", "mean", "variance", *["y"] * problem.reads_y)
    inputs = [(name, image(name, size), size) for name, size in zip(names, problem.x_shapes)]
    dy, x, scale, bias, mean, variance, *y = (param for _, param, _ in inputs)
    c, pixel = hl.Var("c"), hl.Var("pixel")
    factor = _channelwise("factor", _factor(scale, variance, c, forward.epsilon), c, channels, machine)
    gradient = hl.Func("gradient")  # [c, pixel], of what the activation sees
    seen = y[0][c, pixel] if y else _normalised(x, mean, factor, bias, c, pixel)
    gradient[c, pixel] = _passed(seen, dy[c, pixel], forward.activation)
    parts = Parts(*shape, machine, parallel=schedule.parallel)
    away = lambda c, pixel: x[c, pixel] - mean[c]  # noqa: E731
    sums, domain = parts.sums("sums", lambda c, i: [as_expr(gradient[c, i]), hl.strict_float(gradient[c, i] * away(c, i))])
    part = hl.Func("part")
    part[parts.c, parts.p] = hl.Tuple([sums[parts.c, parts.p][0], sums[parts.c, parts.p][1]])
    parts.schedule(part, [(sums, domain)])
    total = parts.total("total", lambda c, p: part[c, p][0])
    product = parts.total("product", lambda c, p: part[c, p][1])
    spread = hl.cast(f64, variance[c]) + hl.f64(forward.epsilon)
    narrow = lambda value: hl.strict_float(hl.cast(hl.Float(32), value))  # noqa: E731
    dbias = _channelwise("dbias", narrow(total[c]), c, channels, machine)
    dscale = _channelwise("dscale", narrow(product[c] / hl.sqrt(spread)), c, channels, machine)
    dx = hl.Func("dx")
    value = as_expr(gradient[c, pixel])
    if not forward.given:
        n = hl.f64(forward.pixels)
        level = _channelwise("level", narrow(total[c] / n), c, channels, machine)
        slope = _channelwise("slope", narrow(product[c] / (spread * n)), c, channels, machine)
        value = value - level[c] - away(c, pixel) * slope[c]
    value = hl.strict_float(value * factor[c])
    dx[c, pixel] = hl.Tuple([value, as_expr(gradient[c, pixel])]) if y else value
    _pixelwise(dx, c, pixel, forward, schedule, machine)
    return definition(dx, inputs, shape, [("dscale", dscale, one), ("dbias", dbias, one)])


def define_sums(problem: ChannelSums, schedule: Schedule, machine: Machine) -> Definition:
    """The sums of parts, then of all."""
    import halide as hl

    from ..algorithms.funcs import image
    from .parts import Parts

    shape = (problem.pixels, problem.channels)
    x, out, part = image("x", shape), hl.Func("out"), hl.Func("part")
    parts = Parts(*shape, machine, parallel=schedule.parallel)
    sums, domain = parts.sums("sums", lambda c, pixel: [x[c, pixel]])
    part[parts.c, parts.p] = sums[parts.c, parts.p]
    parts.schedule(part, [(sums, domain)])
    total = parts.total("total", lambda c, p: part[c, p])
    out[parts.c] = hl.strict_float(hl.cast(hl.Float(32), total[parts.c]))
    vectorize(out, parts.c, problem.channels, machine.lanes)
    return definition(out, [("x", x, shape)], (problem.channels,))


BATCH_NORM = layer_row(
    "batch_norm",
    "y = activation((x - mean) / sqrt(variance + epsilon) * scale + bias + residual)",
    BatchNorm,
    define,
    work=lambda problem: 3 * math.prod(problem.shape),
)
BATCH_NORM_GRADIENT = layer_row(
    "batch_norm_gradient",
    "dx = a * (g - dbias / n - xhat * dscale / n)",
    BatchNormGradient,
    define_gradient,
    work=lambda problem: 5 * math.prod(problem.forward.shape),
)
CHANNEL_SUMS = layer_row(
    "channel_sums",
    "y[c] = sum over p of x[p, c]",
    ChannelSums,
    define_sums,
    work=lambda problem: problem.pixels * problem.channels,
)
