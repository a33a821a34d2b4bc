"""resize: images of another size, channels last, each output a weighted sum of pixels along every axis.

    y[n, o, c] = sum over k of w[o, k] * x[n, i[o, k], c],    w and i products of tables of each axis

The tables are made in float64 when the problem is compiled, as ONNX's operator Resize defines them (opset 19: nearest,
linear, cubic; all coordinate transformations but tf_crop_and_resize; exclude_outside, antialias). Limit: memory.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ..algorithms.base import Definition
from ..errors import ProblemError
from ..machine import Machine
from ..schedule import Schedule
from ..sizes import as_int, as_tuple
from .base import as_shape, check_float32, definition, dims, layer_row, table, tasks, vectorize

__all__ = ["COORDINATES", "MODES", "NEAREST", "RESIZE", "Resize"]

MODES = ("nearest", "linear", "cubic")
COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
NEAREST = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
#: Pixels of an output up to which their sum is unrolled.
MOST_UNROLLED = 16


@dataclass(frozen=True)
class Resize:
    """`batch` images of `channels` and `in_size` (one to three axes) to `out_size`; `scales` are out / in where not given.

    Raises `ProblemError` for sizes and words without meaning.
    """

    batch: int
    channels: int
    in_size: tuple[int, ...]
    out_size: tuple[int, ...]
    mode: str = "nearest"
    scales: tuple[float, ...] | None = None
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name in ("batch", "channels"):
            put(name, as_int(name, getattr(self, name), 1))
        put("in_size", as_shape("in_size", self.in_size))
        if not 1 <= len(self.in_size) <= 3:
            raise ProblemError(f"a resize has one to three spatial axes, got in_size={self.in_size}")
        put("out_size", as_tuple("out_size", self.out_size, len(self.in_size), 1))
        ratios = [o / i for o, i in zip(self.out_size, self.in_size)]
        put("scales", tuple(map(float, ratios if self.scales is None else self.scales)))
        if len(self.scales or ()) != len(self.in_size) or not all(0 < s < math.inf for s in self.scales or ()):
            raise ProblemError(f"scales needs a positive number for each of {len(self.in_size)} axes, got {self.scales}")
        for name, words in (("mode", MODES), ("coordinates", COORDINATES), ("nearest", NEAREST)):
            if getattr(self, name) not in words:
                raise ProblemError(f"{name} of a resize must be one of {', '.join(words)}, got {getattr(self, name)!r}")
        put("cubic_a", float(self.cubic_a))
        as_shape("input", self.x_shapes[0])
        as_shape("output", self.y_shape)
        check_float32(self.dtype)

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The input in memory."""
        return ((self.batch, *self.in_size, self.channels),)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The output in memory."""
        return (self.batch, *self.out_size, self.channels)

    def place(self, axis: int, o: int) -> float:
        """The coordinate of the input that an output coordinate stands for."""
        assert self.scales is not None
        scale, size, out = self.scales[axis], self.in_size[axis], self.out_size[axis]
        exact = scale * size  # what the size of the output would be if it were no whole number
        if self.coordinates == "align_corners":
            return 0.0 if exact == 1 else o * (size - 1) / (exact - 1)
        if self.coordinates == "asymmetric":
            return o / scale
        if self.coordinates == "pytorch_half_pixel" and exact == 1:
            return -0.5
        offset = size / 2 * (1 - out / exact) if self.coordinates == "half_pixel_symmetric" else 0.0
        return offset + (o + 0.5) / scale - 0.5

    def pixels(self, axis: int, o: int) -> list[tuple[int, float]]:
        """`(pixel, weight)` of an output coordinate; a pixel outside counts as the nearest inside."""
        assert self.scales is not None
        at, size = self.place(axis, o), self.in_size[axis]
        base = math.ceil(at) - 1
        ratio = at - base  # above 0, at most 1
        if self.mode == "nearest":
            found = [(base + self._rounded_up(ratio), 1.0)]
        else:
            shrink = min(self.scales[axis], 1.0) if self.antialias else 1.0
            reach = 1 if self.mode == "linear" else 2
            first = math.floor(-reach / shrink) + 1
            weight = _tent if self.mode == "linear" else self._cubic
            found = [(base + k, weight(abs(k - ratio) * shrink)) for k in range(first, 2 - first)]
            total = sum(w for _, w in found) if self.antialias else 1.0
            found = [(i, w / total) for i, w in found]
        if self.exclude_outside:
            inside = [(i, w) for i, w in found if 0 <= i < size] or found
            found = [(i, w if (i, w) in inside else 0.0) for i, w in found]
            total = sum(w for _, w in found)
            found = [(i, w / total) for i, w in found]
        return [(min(max(i, 0), size - 1), w) for i, w in found]

    def _rounded_up(self, ratio: float) -> bool:
        if ratio == 1 or self.nearest == "ceil":
            return True
        if self.nearest == "floor":
            return False
        return ratio > 0.5 if self.nearest == "round_prefer_floor" else ratio >= 0.5

    def _cubic(self, d: float) -> float:
        """The weight of a pixel at a distance (Keys, Cubic convolution interpolation, 1981, equation 4)."""
        a = self.cubic_a
        if d <= 1:
            return ((a + 2) * d - (a + 3)) * d * d + 1
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a if d < 2 else 0.0

    def __str__(self) -> str:
        sizes = f"mb{self.batch} c{self.channels} {dims(self.in_size)} to {dims(self.out_size)} by {self.scales}"
        words = [self.mode, self.coordinates, self.nearest, f"a={self.cubic_a!r}"]
        words += [word for word in ("exclude_outside", "antialias") if getattr(self, word)]
        return f"resize {sizes} {' '.join(words)}"


def _tent(d: float) -> float:
    return max(0.0, 1 - d)


class _Axis:
    """The tables of one axis: where an output reads its taps, and their weights."""

    def __init__(self, rows: list[list[tuple[int, float]]], size: int, name: str) -> None:
        self.size, self.taps = size, len(rows[0])
        self.plain = self.taps == 1 and [row[0][0] for row in rows] == list(range(size))
        self.weighted = any(w != 1 for row in rows for _, w in row)
        if not self.plain:
            import numpy as np

            self.places = table([i for row in rows for i, _ in row], f"places_{name}")
            self.weights = table(np.array([w for row in rows for _, w in row], np.float32), f"weights_{name}")

    def tap(self, o: Any, k: Any) -> tuple[Any, Any]:
        """The pixel, and its weight (None: one)."""
        import halide as hl

        if self.plain:
            return o, None
        at = o * self.taps + k
        return hl.clamp(self.places[at], 0, self.size - 1), self.weights[at] if self.weighted else None


def _term(x: Any, taps: list[tuple[Any, Any]], c: Any, n: Any) -> Any:
    """One pixel times its weights; `taps` outermost axis first."""
    value, weight = x[(c, *(i for i, _ in reversed(taps)), n)], None
    for _, w in taps:
        weight = w if weight is None else weight if w is None else weight * w
    return value if weight is None else value * weight


def define(problem: Resize, schedule: Schedule, machine: Machine) -> Definition:
    """The sum over taps, unrolled or as a loop, vectorised over channels."""
    import halide as hl

    from ..algorithms.funcs import image
    from .base import as_expr

    p, missing = problem, 3 - len(problem.in_size)
    sizes, outs = (1,) * missing + p.in_size, (1,) * missing + p.out_size
    rows: list[list[list[tuple[int, float]]]] = [[[(0, 1.0)]]] * missing
    rows += [[p.pixels(axis, o) for o in range(extent)] for axis, extent in enumerate(p.out_size)]
    axes = [_Axis(row, size, str(at)) for at, (row, size) in enumerate(zip(rows, sizes))]
    x = image("x", (p.batch, *sizes, p.channels))
    c, ox, oy, oz, n = (hl.Var(v) for v in ("c", "ox", "oy", "oz", "n"))
    places, counts, out = [oz, oy, ox], [axis.taps for axis in axes], hl.Func("out")
    loop = math.prod(counts) > MOST_UNROLLED
    total = hl.Func("total")
    if loop:
        k = hl.RDom([hl.Range(0, count) for count in reversed(counts)], "k")
        taps = [axis.tap(o, k[2 - at]) for at, (axis, o) in enumerate(zip(axes, places))]
        total[c, ox, oy, oz, n] = hl.f32(0)
        total[c, ox, oy, oz, n] += _term(x, taps, c, n)
    else:
        terms = []
        for ks in itertools.product(*map(range, counts)):
            terms.append(as_expr(_term(x, [axis.tap(o, tap) for axis, o, tap in zip(axes, places, ks)], c, n)))
        total[c, ox, oy, oz, n] = sum(terms[1:], terms[0])
    out[c, ox, oy, oz, n] = total[c, ox, oy, oz, n]
    block = vectorize(out, c, p.channels, machine.lanes)
    if loop:
        total.compute_at(out, block).vectorize(c)
        total.update(0).reorder(c, k[0], k[1], k[2]).vectorize(c)
    if schedule.parallel:
        tasks(out, [(oy, outs[1]), (oz, outs[0]), (n, p.batch)], machine)
    return definition(out, [("x", x, (p.batch, *sizes, p.channels))], (p.batch, *outs, p.channels))


RESIZE = layer_row(
    "resize",
    "y[n, o, c] = sum over k of w[o, k] * x[n, i[o, k], c]",
    Resize,
    define,
    work=lambda problem: 4 * math.prod(problem.y_shape),
)
