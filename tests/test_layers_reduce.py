"""Reductions, normalisations, local response normalisation and softmax over odd shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import layer_reference
from kernels import MACHINES
from layer_kernels import assert_close, check, random_inputs, run
from sevenloops.errors import ProblemError
from sevenloops.layers.lrn import LRN
from sevenloops.layers.normalize import Normalize
from sevenloops.layers.reduce import Reduce
from sevenloops.layers.softmax import Softmax

REDUCTIONS = [
    Reduce("mean", (2, 7, 7, 65), (1, 2)),
    Reduce("mean", (1, 7, 7, 1280), (1, 2)),
    Reduce("mean", (1, 3, 5), (0, 1, 2)),
    Reduce("sum", (37, 130), (1,)),
    Reduce("sum", (300, 300), (-1,)),
    Reduce("sum", (4, 5, 6, 7), (0, 2)),
    Reduce("sum", (4, 5, 6, 7), (1, 3)),
    Reduce("sum", (4, 5), ()),
    Reduce("max", (5, 9, 3), (1,)),
    Reduce("max", (6, 1, 77), (2,)),
    Reduce("min", (3, 4, 5, 6), (0, 1, 2, 3)),
    Reduce("prod", (9, 11), (0,)),
    Reduce("l1", (12, 70), (1,)),
    Reduce("l2", (12, 33, 5), (1,)),
    Reduce("sumsq", (3, 40), (1,)),
    Reduce("logsum", (3, 40), (0,)),
    Reduce("logsumexp", (8, 45), (1,)),
    Reduce("logsumexp", (2, 9, 21), (1,)),
    Reduce("mean", (1, 1), (0,)),
]
NORMS = [
    LRN((2, 5, 3, 96), 5, 1e-2),
    LRN((1, 27, 27, 67), 5, 0.5, 0.75, 2.0),
    LRN((3, 6), 4, 1.0, 0.5),
    LRN((5, 40), 3, 2.0, 0.75, 0.0),
    LRN((3, 4, 3), 9, 1.0, 1.0),
    LRN((2, 3, 80), 33, 1.0, 0.6, 1.0),
    LRN((7, 1), 3, 1.0, 0.9),
]
SOFTMAXES = [
    Softmax(1, 1000, 1),
    Softmax(5, 17, 1, log=True),
    Softmax(3, 10, 37),
    Softmax(2, 6, 5, log=True),
    Softmax(300, 129, 1),
    Softmax(4, 1, 1),
    Softmax(2, 3, 1),
]
NORMALIZATIONS = [
    Normalize((2, 9, 11, 37), (1, 2), (37,), (37,)),  # instance normalisation
    Normalize((1, 40, 40, 64), (1, 2), (64,), (64,), 1e-3),
    Normalize((3, 5, 70), (2,), (70,), (70,)),  # layer normalisation
    Normalize((3, 5, 7), (1, 2), (5, 7), None),
    Normalize((2, 30, 6, 5), (1, 3), (6, 5), (6, 5)),  # group normalisation
    Normalize((50, 300), (1,)),
    Normalize((5,), (0,), (1,), (5,)),
]
CASES: list[Any] = [*REDUCTIONS, *NORMS, *SOFTMAXES, *NORMALIZATIONS]


@pytest.mark.parametrize("problem", REDUCTIONS, ids=str)
def test_reduce(problem: Reduce) -> None:
    check(problem, layer_reference.reduce, special=problem.kind in ("max", "min"))


@pytest.mark.parametrize("kind", list(layer_reference.REDUCTIONS))
def test_reductions_of_numbers_that_are_not_finite(kind: str) -> None:
    x = np.ones((8, 33), np.float32)
    x[1, 3], x[2, 4], x[3, 32], x[4, 1], x[4, 2] = np.nan, np.inf, -np.inf, np.inf, np.nan
    x[5], x[6], x[7, 32] = np.inf, 88.0, np.nan
    for axis in (0, 1):
        problem = Reduce(kind, x.shape, (axis,))
        with np.errstate(all="ignore"):
            expected = layer_reference.reduce(problem, x.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(run(problem, [x], next(iter(MACHINES.values()))), expected, rtol=1e-6)


def test_long_sums_are_accurate() -> None:
    """The error of a mean over an image does not grow with the image."""
    for problem in (Reduce("mean", (300, 301, 16), (0, 1)), Reduce("mean", (16, 300, 301), (1, 2))):
        x = random_inputs(problem)[0] + np.float32(1000)
        expected = layer_reference.reduce(problem, x.astype(np.float64))
        assert_close(run(problem, [x], next(iter(MACHINES.values()))), expected, 1.2e-7)


@pytest.mark.parametrize("problem", NORMS, ids=str)
def test_local_response_normalisation(problem: LRN) -> None:
    check(problem, layer_reference.local_norm, tolerance=2e-6)
    x = random_inputs(problem)[0]
    x.reshape(-1)[5], x.reshape(-1)[-1], x.reshape(-1)[-2] = np.nan, np.inf, 1e20
    with np.errstate(all="ignore"):
        expected = layer_reference.local_norm(problem, x.astype(np.float64))
        squares = layer_reference.local_norm(problem, x).astype(np.float64)  # 1e20 squared is infinite in float32
    expected[np.isnan(squares) | (squares == 0)] = squares[np.isnan(squares) | (squares == 0)]
    assert_close(run(problem, [x], next(iter(MACHINES.values()))), expected, 2e-6)


@pytest.mark.parametrize("problem", SOFTMAXES, ids=str)
def test_softmax(problem: Softmax) -> None:
    check(problem, layer_reference.softmax, tolerance=1e-6)
    large = [(array * 200).astype(np.float32) for array in random_inputs(problem)]
    large[0][0, 0, 0] = -np.inf
    if problem.outer > 2:
        large[0][1, 0, 0], large[0][2, 0, 0] = np.nan, np.inf
    with np.errstate(all="ignore"):
        expected = layer_reference.softmax(problem, large[0].astype(np.float64))
    result = run(problem, large, next(iter(MACHINES.values())))
    np.testing.assert_allclose(result, expected.astype(np.float32), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("problem", NORMALIZATIONS, ids=str)
def test_normalize(problem: Normalize) -> None:
    check(problem, layer_reference.normalize, tolerance=2e-6)
    arrays = random_inputs(problem)
    arrays[0] += np.float32(300)  # the variance is a ten-thousandth of the mean of the squares
    expected = layer_reference.normalize(problem, *(array.astype(np.float64) for array in arrays))
    assert_close(run(problem, arrays, next(iter(MACHINES.values()))), expected, 1e-4)
    arrays[0].reshape(-1)[3] = np.nan
    with np.errstate(invalid="ignore"):
        expected = layer_reference.normalize(problem, *(array.astype(np.float64) for array in arrays))
    np.testing.assert_array_equal(np.isnan(run(problem, arrays, next(iter(MACHINES.values())))), np.isnan(expected))


BAD: list[tuple[Any, str]] = [
    (lambda: Reduce("median", (3,), (0,)), "kind of a reduction"),
    (lambda: Reduce("sum", (3, 4), (2,)), "distinct and below 2"),
    (lambda: Reduce("sum", (3, 4), (1, -1)), "distinct and below 2"),
    (lambda: Reduce("sum", (3, 4), (-3,)), "axis must be at least -2"),
    (lambda: LRN((), 3), "needs an axis"),
    (lambda: LRN((3,), 0), "size must be at least 1"),
    (lambda: LRN((3,), 3, float("nan")), "alpha must be finite"),
    (lambda: Normalize((3, 4), ()), "needs an axis"),
    (lambda: Normalize((3, 4), (1,), (3,)), "does not broadcast"),
    (lambda: Normalize((3, 4), (1,), epsilon=-1.0), "epsilon must be"),
    (lambda: Softmax(1, 0, 1), "n must be at least 1"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_problems(make: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        make()
