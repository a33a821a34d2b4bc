"""Layers of a training step against their definition in float64: odd shapes, large means, ties, any order of tasks."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kernels import MACHINES
from layer_kernels import random_inputs, row_of, run, run_all
from operands import Array
from scheduler import Task, can_schedule, late
from sevenloops.compile.build import build_image
from sevenloops.errors import DtypeError, ProblemError
from sevenloops.layers.batch_norm import ACTIVATIONS, BatchNorm, BatchNormGradient, ChannelSums
from sevenloops.layers.lrn import LRN
from sevenloops.layers.lrn_gradient import LRNGradient
from sevenloops.layers.pool import Pool
from sevenloops.layers.pool_gradient import PoolGradient, PoolIndices
from sevenloops.machine import Machine
from test_layers_pool import pool

NORMS = [
    BatchNorm(18, 5),
    BatchNorm(1, 7),
    BatchNorm(37, 3, activation="relu"),
    BatchNorm(5000, 1, activation="relu"),
    BatchNorm(1000, 24, 1e-3, "relu6"),
    BatchNorm(530, 67, activation="relu", residual=True),
    BatchNorm(300, 130, residual=True),
    BatchNorm(17, 700, activation="relu6", residual=True),
    BatchNorm(2000, 8, activation="relu", given=True),
    BatchNorm(777, 20, activation="relu6", residual=True, given=True),
]


def backwards(task: Task, count: int) -> None:
    """A loop from the last task to the first."""
    for number in reversed(range(count)):
        task(number)


def every_way(problem: Any, arrays: list[Array]) -> list[Array]:
    """The outputs, the same to the bit for each machine however the tasks run."""
    for machine in MACHINES.values():
        schedule = row_of(problem).schedules(problem, machine)[0].replace(parallel=True)  # however little there is to do
        found = run_all(problem, arrays, machine, 2, schedule)
        others = [run_all(problem, arrays, machine, 1, schedule), run_all(problem, arrays, machine, 3, schedule)]
        if can_schedule(machine):
            others += [run_all(problem, arrays, machine, 2, schedule, loop) for loop in (backwards, late(3, seed=1))]
        for other in others:
            for a, b in zip(found, other):
                assert a.tobytes() == b.tobytes(), f"{problem} depends on the order of its tasks"
    return found


def close(result: Array, expected: Array, tolerance: float) -> None:
    error, largest = np.abs(result - expected).max(), max(np.abs(expected).max(), 1e-3)
    assert error <= tolerance * largest, f"off by {error:.3e}, the largest is {largest:.3e}"


def activated(v: Array, activation: str) -> Array:
    low, high = ACTIVATIONS[activation] or (-math.inf, math.inf)
    return np.clip(v, low, high)


def norm_inputs(problem: BatchNorm, seed: int = 0) -> list[Array]:
    arrays = random_inputs(problem, seed)
    arrays[0] = arrays[0] * np.float32(1.5) + np.float32(0.5)
    if problem.given:
        arrays[4] = np.abs(arrays[4]) + np.float32(0.1)
    return arrays


def norm_reference(problem: BatchNorm, arrays: list[Array]) -> list[Array]:
    """y, mean, variance as the paper defines them."""
    x, scale, bias, *more = (array.astype(np.float64) for array in arrays)
    mean, variance = more[:2] if problem.given else (x.mean(0), x.var(0))
    v = (x - mean) / np.sqrt(variance + problem.epsilon) * scale + bias
    return [activated(v + more[-1] if problem.residual else v, problem.activation), mean, variance]


@pytest.mark.parametrize("problem", NORMS, ids=str)
def test_batch_norm(problem: BatchNorm) -> None:
    arrays = norm_inputs(problem)
    for result, expected in zip(every_way(problem, arrays), norm_reference(problem, arrays)):
        close(result, expected, 2e-6)


@pytest.mark.parametrize("problem", NORMS, ids=str)
def test_batch_norm_gradient(problem: BatchNorm) -> None:
    arrays, gradient = norm_inputs(problem), BatchNormGradient(problem)
    x, scale, bias = arrays[:3]
    y, *found = run_all(problem, arrays, next(iter(MACHINES.values())))
    mean, variance = arrays[3:5] if problem.given else found
    dy = np.random.default_rng(7).standard_normal(problem.shape).astype(np.float32)
    # Where y, as it was computed, lies within the limits: at the limits the last bit decides.
    low, high = ACTIVATIONS[problem.activation] or (-math.inf, math.inf)
    g = np.where((y > low) & (y < high), dy, 0).astype(np.float64)
    xhat = (x.astype(np.float64) - mean) / np.sqrt(variance.astype(np.float64) + problem.epsilon)
    dbias, dscale = g.sum(0), (g * xhat).sum(0)
    n, factor = problem.pixels, scale / np.sqrt(variance.astype(np.float64) + problem.epsilon)
    dx = factor * (g if problem.given else g - dbias / n - xhat * dscale / n)
    results = every_way(gradient, [dy, x, scale, bias, mean, variance, *[y] * gradient.reads_y])
    for result, expected in zip(results, [dx, *[g] * gradient.reads_y, dscale, dbias]):
        close(result, expected, 3e-6)
    if problem.pixels > 1:  # another mask would show in every channel, as no sum hides it
        assert ((results[0] != 0) | (g == 0)).all() or not problem.given


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e5])
def test_large_means(mean: float) -> None:
    """The variance is as exact as for centred values; the values themselves have lost digits already."""
    problem = BatchNorm(3001, 20, activation="relu")
    arrays = norm_inputs(problem)
    arrays[0] = np.random.default_rng(3).standard_normal(problem.shape).astype(np.float32) + np.float32(mean)
    y, found, variance = run_all(problem, arrays, next(iter(MACHINES.values())))
    expected = norm_reference(problem, arrays)
    assert np.abs(variance / expected[2] - 1).max() < 1e-6
    # A part adds up 256 distances in float32, each sum rounded by some 5e-7: 16 of them by chance, divided by 256.
    assert (np.abs(found - expected[1]) <= np.spacing(np.abs(expected[1]).astype(np.float32)) + 3e-7).all()
    assert np.abs(y - expected[0]).max() < 1e-6 * max(10, abs(mean))


def test_an_outlier_does_not_hide_the_others() -> None:
    problem = BatchNorm(3001, 9)
    arrays = norm_inputs(problem)
    arrays[0][0] = 1e6  # the first pixel of the first part
    _, mean, variance = run_all(problem, arrays, next(iter(MACHINES.values())))
    expected = norm_reference(problem, arrays)
    np.testing.assert_allclose(mean, expected[1], rtol=1e-6)
    # 255 small squares are added to a huge one in float32, each rounded by half of its last digit at most.
    np.testing.assert_allclose(variance, expected[2], rtol=255 * 2**-25)


def test_constant_channels_have_no_variance() -> None:
    problem = BatchNorm(999, 11, activation="relu")
    arrays = norm_inputs(problem)
    arrays[0][...] = np.linspace(-1e6, 1e6, 11, dtype=np.float32)
    y, _, variance = run_all(problem, arrays, next(iter(MACHINES.values())))
    assert (variance == 0).all()
    np.testing.assert_array_equal(y, np.maximum(np.broadcast_to(arrays[2], y.shape), 0))


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_odd_values_stay_in_their_channel(odd: float) -> None:
    problem = BatchNorm(530, 67, activation="relu", residual=True)
    arrays = norm_inputs(problem)
    plain = run_all(problem, arrays, next(iter(MACHINES.values())))
    arrays[0][77, 13] = odd
    results = run_all(problem, arrays, next(iter(MACHINES.values())))
    others = np.arange(67) != 13
    for a, b in zip(plain, results):
        np.testing.assert_array_equal(a[..., others], b[..., others])
    assert np.isnan(results[0][:, 13]).all() and np.isnan(results[2][13])


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (900, 3), (3333, 67), (20, 1000)])
def test_channel_sums(shape: tuple[int, int]) -> None:
    problem = ChannelSums(*shape)
    (x,) = random_inputs(problem)
    (result,) = every_way(problem, [x])
    np.testing.assert_allclose(result, x.astype(np.float64).sum(0), atol=1e-7 * np.abs(x).sum(0).max())
    whole = np.random.default_rng(1).integers(-9, 9, shape).astype(np.float32)
    np.testing.assert_array_equal(run(problem, [whole], next(iter(MACHINES.values()))), whole.sum(0))


POOLS = [
    pool("max", 64, (13, 17), 3, 2, 1),
    pool("max", 67, (13, 11), 3, 2, ceil=True),
    pool("max", 20, (14, 14), 2, 2),
    pool("max", 5, (9, 10), 3, 1, 1),
    pool("max", 1, (8, 9), (2, 3), (3, 1), ((1, 0), (0, 2))),
    pool("max", 17, (12, 11), 5, 1, 2),
    pool("max", 3, (9,), 3, 2, 1),
    pool("max", 9, (5, 6, 7), 3, 2, 1),
    pool("max", 4, (7, 7), 2, 3),
    pool("max", 33, (6, 6), 6, 1, batch=1),
    pool("average", 64, (13, 17), 3, 2, 1),
    pool("average", 30, (13, 17), 3, 2, 1, count_include_pad=True),
    pool("average", 11, (13, 14), 3, 2, 1, ceil=True, count_include_pad=True),
    pool("average", 7, (5, 6, 7), (2, 3, 3), (2, 1, 2), 1, count_include_pad=True),
    pool("average", 50, (7, 7), 7, 7),
    pool("average", 4, (10,), 4, 3, 2, ceil=True),
]
MAXIMA = [problem for problem in POOLS if problem.kind == "max"]


def window(p: Pool, o: tuple[int, ...]) -> list[tuple[int, tuple[Any, ...]]]:
    """The taps of a window that lie inside, with their numbers, in raster order."""
    found = []
    for number, k in enumerate(itertools.product(*map(range, p.kernel))):
        at = tuple(oo * s + kk - b for oo, s, kk, (b, _) in zip(o, p.stride, k, p.padding))
        if all(0 <= i < size for i, size in zip(at, p.in_size)):
            found.append((number, at))
    return found


def largest(p: Pool, x: Any) -> tuple[Any, Any]:
    """Values and taps as PyTorch's loop finds them: larger ones, and any NaN, take the place of what was there."""
    y: Any = np.empty(p.y_shape, np.float32)
    index: Any = np.empty(p.y_shape, np.uint8)
    for o in itertools.product(*map(range, p.out_size)):
        (first, at), *rest = window(p, o)
        best, where = x[(slice(None), *at)].copy(), np.full((p.batch, p.channels), first)
        for number, at in rest:
            value = x[(slice(None), *at)]
            better = (value > best) | np.isnan(value)
            best, where = np.where(better, value, best), np.where(better, number, where)
        y[(slice(None), *o)], index[(slice(None), *o)] = best, where
    return y, index


@pytest.mark.parametrize("kind", ["normal", "ties", "odd", "low"])
@pytest.mark.parametrize("problem", MAXIMA, ids=str)
def test_pool_indices(problem: Pool, kind: str) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal(problem.x_shapes[0]).astype(np.float32)
    if kind == "ties":
        x = rng.integers(-1, 2, x.shape).astype(np.float32)
    elif kind == "odd":
        x[rng.random(x.shape) < 0.3] = np.nan
        x[rng.random(x.shape) < 0.2] = np.inf
    elif kind == "low":
        x[...] = -np.inf
    y, index = (
        every_way(PoolIndices(problem), [x]) if kind == "normal" else run_all(PoolIndices(problem), [x], Machine.host())
    )
    expected = largest(problem, x)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(index, expected[1])


@pytest.mark.parametrize("problem", POOLS, ids=str)
def test_pool_gradient(problem: Pool) -> None:
    rng = np.random.default_rng(6)
    dy: Any = rng.standard_normal(problem.y_shape).astype(np.float32)
    x = rng.integers(-2, 3, problem.x_shapes[0]).astype(np.float32)
    index = largest(problem, x)[1] if problem.kind == "max" else None
    expected: Any = np.zeros(x.shape)
    counts = [problem.counts(axis) for axis in range(problem.rank)]
    for o in itertools.product(*map(range, problem.out_size)):
        slope = dy[(slice(None), *o)].astype(np.float64)
        share = 1 / math.prod(count[at] for count, at in zip(counts, o))
        for number, at in window(problem, o):
            mask = index[(slice(None), *o)] == number if index is not None else share
            expected[(slice(None), *at)] += slope * mask
    (result,) = every_way(PoolGradient(problem), [dy, *[index] * (index is not None)])  # type: ignore[list-item]
    close(result, expected, 5e-7)


LRNS = [LRN((30, 96), 5, 1e-2, 0.75, 2.0), LRN((7, 3), 5, 1.0), LRN((33, 67), 3, 0.5, 0.5), LRN((9, 20), 4, 1.0, 0.6, 1.5),
        LRN((2, 40), 33, 1.0, 1.0), LRN((700, 16), 5, 2.0)]  # fmt: skip


@pytest.mark.parametrize("problem", LRNS, ids=str)
def test_lrn_gradient(problem: LRN) -> None:
    dy, x = random_inputs(LRNGradient(problem))
    (result,) = every_way(LRNGradient(problem), [dy, x])
    before, after = problem.window
    channels = np.arange(problem.shape[-1])
    distance = channels[None] - channels[:, None]  # [c, j]
    sees = ((distance >= -before) & (distance <= after)).astype(np.float64)
    x64, dy64 = x.astype(np.float64), dy.astype(np.float64)
    scale = problem.bias + problem.alpha / problem.size * x64**2 @ sees.T
    product = dy64 * x64 * scale ** (-problem.beta - 1)
    expected = dy64 * scale**-problem.beta - 2 * problem.alpha * problem.beta / problem.size * x64 * (product @ sees)
    close(result, expected, 2e-6)


def test_code_for_avx512() -> None:
    machine = Machine.described("avx512")
    norm = BatchNorm(530, 67, activation="relu", residual=True)
    problems: list[Any] = [
        norm,
        BatchNormGradient(norm),
        PoolIndices(POOLS[0]),
        PoolGradient(POOLS[0]),
        LRNGradient(LRNS[0]),
    ]
    for problem in problems:
        (schedule,) = row_of(problem).schedules(problem, machine)
        build_image(problem, schedule, machine, "k")


def test_bad_problems() -> None:
    with pytest.raises(ProblemError, match="activation must be one of none, relu, relu6"):
        BatchNorm(4, 4, activation="gelu")
    with pytest.raises(ProblemError, match="epsilon"):
        BatchNorm(4, 4, -1.0)
    with pytest.raises(ProblemError, match="pixels must be at least 1"):
        BatchNorm(0, 4)
    with pytest.raises(ProblemError, match="more than the"):
        ChannelSums(2**20, 2**12)
    with pytest.raises(DtypeError, match="float32"):
        BatchNorm(4, 4, dtype="float64")
    with pytest.raises(ProblemError, match="without dilation"):
        PoolGradient(pool("max", 4, (9, 9), 3, 1, dilation=2))
    with pytest.raises(ProblemError, match="only the largest value has an index"):
        PoolIndices(POOLS[-1])
    with pytest.raises(ProblemError, match="at most 255 taps"):
        PoolIndices(pool("max", 4, (40, 40), 16, 16))
    with pytest.raises(ProblemError, match="windows over an input"):
        PoolGradient(pool("average", 4, (40, 40), 16, 1))
    with pytest.raises(ProblemError, match="sees no pixel"):
        PoolIndices(replace(POOLS[2], stride=(14, 14), padding=((0, 30), (0, 30))))
