"""Random problems: every algorithm that supports one agrees with the definition, and with the identities.

More of them: `pytest tests/test_properties.py --hypothesis-profile=thorough`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sevenloops
from kernels import MACHINES, check, run
from operands import GUARD, Operands
from sevenloops.algorithms import ALGORITHMS
from sevenloops.epilogue import Epilogue
from sevenloops.problem import ConvProblem, GemmProblem, Problem
from strategies import conv_problems, gemm_problems

ISAS = st.sampled_from(sorted(MACHINES))


def check_a_random_algorithm(data: st.DataObject, problem: Problem, isa: str) -> None:
    """Force one of the algorithms that support the problem, with any of its schedules."""
    machine = MACHINES[isa]
    names = [name for name in ALGORITHMS if ALGORITHMS[name].supports(problem) is None]
    assert names, f"no algorithm computes {problem}"
    schedules = ALGORITHMS[data.draw(st.sampled_from(names), "algorithm")].schedules(problem, machine)
    check(problem, data.draw(st.sampled_from(schedules), "schedule"), machine, may_cancel=True)


@given(st.data(), conv_problems(st.sampled_from([False, False, False, True])), ISAS)
def test_convolutions(data: st.DataObject, problem: ConvProblem, isa: str) -> None:
    check_a_random_algorithm(data, problem, isa)


@given(st.data(), gemm_problems(), ISAS)
def test_products(data: st.DataObject, problem: GemmProblem, isa: str) -> None:
    check_a_random_algorithm(data, problem, isa)


def compute(problem: ConvProblem, operands: Operands, w: Any = None) -> Any:
    """The kernel that sums exactly, on the operands of a problem of the same input and, perhaps, other weights."""
    kernel = sevenloops.compile(problem, accuracy="strict")
    return kernel(operands.x, kernel.pack(operands.w if w is None else w))


PLAIN = st.builds(replace, conv_problems(), epilogue=st.just(Epilogue()))


@pytest.mark.parametrize("stride", [2, 3])
def test_a_stride_is_stride_one_subsampled(stride: int) -> None:
    dense = ConvProblem(2, 5, (11, 14), 19, (3, 4), padding=((1, 0), (2, 3)))
    operands = Operands(dense, integers=True)
    strided = compute(replace(dense, stride=(stride, stride)), operands)
    np.testing.assert_array_equal(strided, compute(dense, operands)[:, ::stride, ::stride])


def test_groups_are_convolutions_side_by_side() -> None:
    grouped = ConvProblem(1, 15, (9, 7), 51, (3, 3), padding=((1, 1), (1, 1)), groups=3)
    operands = Operands(grouped, integers=True)
    single = replace(grouped, groups=1, in_channels=5, out_channels=17)
    kernel = sevenloops.compile(single, accuracy="strict")
    pairs = zip(np.split(operands.x, 3, axis=-1), np.split(operands.w, 3))
    parts = [kernel(np.ascontiguousarray(x), kernel.pack(w)) for x, w in pairs]
    np.testing.assert_array_equal(compute(grouped, operands), np.concatenate(parts, axis=-1))


def test_one_by_one_is_a_matrix_product() -> None:
    problem = ConvProblem(2, 27, (7, 5), 58, (1, 1))
    operands = Operands(problem, integers=True)
    kernel = sevenloops.compile(GemmProblem(70, 58, 27, trans_b=True))
    product = kernel(operands.x.reshape(70, 27), kernel.pack(operands.w.reshape(58, 27)))
    np.testing.assert_array_equal(compute(problem, operands).reshape(70, 58), product)


@given(PLAIN)
def test_linear_in_the_weights(problem: ConvProblem) -> None:
    operands = Operands(problem, integers=True)
    other = operands.w[::-1]
    parts = compute(problem, operands) + 2 * compute(problem, operands, other)
    np.testing.assert_array_equal(compute(problem, operands, operands.w + 2 * other), parts)


def test_run_finds_what_a_kernel_leaves_out() -> None:
    """The checks themselves: a missing element, a write behind the output, and a changed input are all noticed."""

    class Wrong:
        def __init__(self, mistake: str) -> None:
            self.mistake = mistake

        def pack(self, weights: Any) -> Any:
            return weights

        def __call__(self, x: Any, w: Any, *, out: Any) -> Any:
            out[...] = 0
            whole = out
            while whole.base is not None:
                whole = whole.base
            if self.mistake == "missing":
                out[0, 0, 0, -1] = np.nan
            elif self.mistake == "behind":
                whole[-GUARD] = 0
            elif self.mistake == "before":
                whole[GUARD - 1] = 0
            elif self.mistake == "input":
                x[0, 0, 0, 0] += 1
            return out

    problem = ConvProblem(1, 3, (4, 4), 5, (1, 1))
    run(Wrong("none"), Operands(problem, integers=False))
    mistakes = {
        "missing": "1 elements were not computed",
        "behind": "something was written behind out",
        "before": "something was written before out",
        "input": "the input x was changed",
    }
    for mistake, message in mistakes.items():
        with pytest.raises(AssertionError, match=message):
            run(Wrong(mistake), Operands(problem, integers=False))
