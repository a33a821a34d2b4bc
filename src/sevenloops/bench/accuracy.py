"""Rounding errors, measured: what each algorithm and each set of Winograd's points loses against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithms import ALGORITHMS
from ..algorithms.winograd_matrices import POINTS
from ..compile import compile
from ..problem import ConvProblem
from ..reference import reference_conv
from ..schedule import Schedule

__all__ = ["Accuracy", "measure_accuracy"]

Array = np.ndarray[Any, Any]
#: Normally distributed inputs, and weights that keep the variance, as trained layers roughly do.
SEEDS = (0, 1, 2)
SIZE = 24
#: m of F(m, r) by r
TILES = {3: (2, 3, 4, 6), 5: (2, 3, 4)}


@dataclass(frozen=True)
class Accuracy:
    """The errors of one way to compute one problem, relative to the largest output, the worst and the mean of `SEEDS`."""

    problem: ConvProblem
    what: str
    largest: float
    root_mean_square: float


def problems(kernel: int, channels: tuple[int, ...]) -> list[ConvProblem]:
    """Convolutions of `channels` to 64 channels with a square kernel."""
    around = ((kernel // 2, kernel // 2),) * 2
    return [ConvProblem(1, c, (SIZE, SIZE), 64, (kernel, kernel), padding=around) for c in channels]


def _winograd(problem: ConvProblem, m: int, points: str) -> Schedule:
    tiles = -(-SIZE // m)
    return Schedule(
        "winograd", tile_height=m, tile_width=m, points=points, block_rows=1, block_columns=tiles, block_images=1,
        tile_tiles=min(4, tiles), tile_channels=32, weight_streams=1, channel_parts=1, k_blocks=1, weights="transformed",
        shared_input=False, unroll=1, parallel=True,
    )  # fmt: skip


def ways(problem: ConvProblem) -> Iterator[tuple[str, dict[str, object]]]:
    """Names and options of `compile`: every algorithm by its own choice, and Winograd with every tile and set of points."""
    r = problem.kernel[0]
    for name, row in ALGORITHMS.items():
        if name not in ("winograd", "naive") and row.supports(problem) is None:
            yield name, {"algorithm": name}
    for points, sets in POINTS.items():
        for m in TILES.get(r, ()):
            if m + r - 2 in sets:
                yield f"winograd F({m}, {r}), {points}", {"schedule": _winograd(problem, m, points)}


def measure_accuracy(
    kernels: tuple[int, ...] = (3, 5),
    channels: tuple[int, ...] = (64, 256, 512),
    on_done: Callable[[Accuracy], None] = lambda result: None,
) -> list[Accuracy]:
    """Run every way of every problem on the same numbers and compare with float64."""
    results = []
    for problem in (p for kernel in kernels for p in problems(kernel, channels)):
        data = [_numbers(problem, seed) for seed in SEEDS]
        for what, options in ways(problem):
            kernel = compile(problem, **options)  # type: ignore[arg-type]
            errors = []
            for x, w, expected in data:
                error = np.abs(kernel(x, kernel.pack(w)) - expected) / np.abs(expected).max()
                errors.append((float(error.max()), float(np.sqrt((error**2).mean()))))
            result = Accuracy(problem, what, max(e[0] for e in errors), float(np.mean([e[1] for e in errors])))
            results.append(result)
            on_done(result)
    return results


def _numbers(problem: ConvProblem, seed: int) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(problem.x_shape, dtype=np.float32)
    spread = np.float32(1 / np.sqrt(np.prod(problem.w_shape[1:])))
    w = rng.standard_normal(problem.w_shape, dtype=np.float32) * spread
    return x, w, reference_conv(problem, x, w)
