"""Pools over odd shapes: every form of the code, borders, ceil mode, counts, NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import layer_reference
from kernels import MACHINES
from layer_kernels import check, random_inputs, row_of, run
from sevenloops.errors import DtypeError, ProblemError
from sevenloops.layers.pool import Pool


def pool(kind: str, c: int, size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, **more: Any) -> Pool:
    """A pool of 2 images; the output size by the formula of PyTorch, rounded up with `ceil`."""
    rank = len(size)
    tuples = [v if isinstance(v, tuple) else (v,) * rank for v in (kernel, stride, padding, more.pop("dilation", 1))]
    kernel, stride, padding, dilation = tuples
    padding = tuple(p if isinstance(p, tuple) else (p, p) for p in padding)
    rounded = math.ceil if more.pop("ceil", False) else math.floor
    out = []
    for i, k, s, (b, a), d in zip(size, kernel, stride, padding, dilation):
        o = rounded((i + b + a - (k - 1) * d - 1) / s) + 1
        out.append(o - ((o - 1) * s >= i + b))  # a window that begins behind the image and its first padding
    batch = more.pop("batch", 2)
    return Pool(kind, batch, c, size, kernel, stride, padding, dilation, tuple(out), **more)


CASES = [
    pool("max", 64, (23, 17), 3, 2, 1),
    pool("max", 67, (13, 11), 3, 2, ceil=True),
    pool("max", 20, (14, 14), 2, 2),
    pool("max", 5, (9, 10), 3, 1, 1),
    pool("max", 1, (8, 9), (2, 3), (3, 1), ((1, 0), (0, 2))),
    pool("max", 33, (12, 15), 3, 2, 1, dilation=2),
    pool("max", 16, (11, 12), (3, 2), 1, ((2, 1), (1, 0)), dilation=(3, 2)),
    pool("max", 17, (20, 19), 5, 1, 2),
    pool("max", 8, (25, 21), (19, 18), 2, 4),
    pool("max", 3, (7,), 3, 2, 1),
    pool("max", 9, (5, 6, 7), 3, 2, 1),
    pool("max", 12, (6, 5, 9), 2, 2, ceil=True),
    pool("max", 100, (31, 29), 3, 2, batch=1),
    pool("max", 64, (56, 56), 3, 1, 1),
    Pool("max", 1, 10, (4, 4), (2, 2), (3, 3), ((0, 0), (0, 0)), (1, 1), (2, 3)),  # the last column sees nothing
    Pool("max", 1, 10, (4, 4), (2, 2), (3, 3), ((0, 0), (0, 5)), (2, 3), (2, 3)),
    pool("average", 64, (23, 17), 3, 2, 1),
    pool("average", 30, (23, 17), 3, 2, 1, count_include_pad=True),
    pool("average", 11, (13, 14), 3, 2, 1, ceil=True),
    pool("average", 11, (13, 14), 3, 2, 1, ceil=True, count_include_pad=True),
    pool("average", 48, (12, 12), 2, 2),
    pool("average", 6, (9, 11), (3, 2), (1, 2), ((2, 1), (1, 0)), dilation=(2, 1), count_include_pad=True),
    pool("average", 16, (9, 11), 3, 1, 2, dilation=2),
    pool("average", 19, (30, 27), (17, 20), 2, 3),
    pool("average", 4, (10,), 4, 3, 2, ceil=True),
    pool("average", 7, (5, 6, 7), (2, 3, 3), (2, 1, 2), 1, count_include_pad=True),
    pool("average", 40, (40, 35), 3, 1, 1, batch=1),
]


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_pool(problem: Pool) -> None:
    check(problem, layer_reference.pool, tolerance=0 if problem.kind == "max" else 1e-6, special=problem.kind == "max")
    if problem.kind == "average":  # NaN and infinities, without huge numbers, whose sums depend on the order
        x = random_inputs(problem, seed=3)[0]
        x.reshape(-1)[::41] = np.nan
        x.reshape(-1)[7::43] = np.inf
        result = run(problem, [x], next(iter(MACHINES.values())))
        with np.errstate(invalid="ignore"):
            expected = layer_reference.pool(problem, x.astype(np.float64))
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def test_every_form_is_tested() -> None:
    machine = next(iter(MACHINES.values()))
    schedules = [row_of(problem).schedules(problem, machine)[0] for problem in CASES]
    assert {s.form for s in schedules} == {"columns", "windows", "loops"}
    assert {s.parallel for s in schedules} == {True, False}


GOOD: dict[str, Any] = {
    "kind": "max", "batch": 1, "channels": 3, "in_size": (4, 4), "kernel": (2, 2), "stride": (2, 2),
    "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "out_size": (2, 2),
}  # fmt: skip
BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"kind": "min"}, ProblemError, "kind of a pool must be one of max, average"),
    ({"channels": 0}, ProblemError, "channels must be at least 1"),
    ({"in_size": (4, 4, 4, 4)}, ProblemError, "one to three spatial axes"),
    ({"kernel": (2, 2, 2)}, ProblemError, "kernel needs 1 or 2 integers"),
    ({"padding": (0, 0)}, ProblemError, "padding needs a"),
    ({"padding": ((0, -1), (0, 0))}, ProblemError, "padding must be at least 0"),
    ({"out_size": (2**31, 2)}, ProblemError, "more than the"),
    ({"kind": "average", "out_size": (2, 3)}, ProblemError, "there is no mean"),
    ({"dtype": "float64"}, DtypeError, "float32"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
def test_bad_pools(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Pool(**{**GOOD, **change})
