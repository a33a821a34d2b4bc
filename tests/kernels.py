"""Running an algorithm on a problem and comparing it with the reference: what the table and the properties share."""

from __future__ import annotations

from typing import Any

import numpy as np

import sevenloops
from operands import Operands
from problems import exact_on_integers
from scheduler import OneByOne, Task, can_schedule, kernel_with_loop
from sevenloops.algorithms import ALGORITHMS
from sevenloops.machine import Machine
from sevenloops.problem import Problem
from sevenloops.schedule import Schedule


def machines() -> dict[str, Machine]:
    """The machines whose code runs here: this one, and this one with AVX2 only where it has more."""
    host = Machine.host()
    return {host.isa: host} | ({"avx2": Machine.described("avx2")} if host.isa == "avx512" else {})


MACHINES = machines()


def run(kernel: Any, operands: Operands) -> Any:
    """Run once into the poisoned output; assert that all of it and nothing else was written."""
    operands.poison()
    result = kernel(operands.x, kernel.pack(operands.w), out=operands.out, **operands.extra)
    assert result is operands.out
    operands.check_nothing_else_was_written()
    missing = np.argwhere(np.isnan(result))
    assert not len(missing), f"{len(missing)} elements were not computed or read beyond an input, first {missing[0]}"
    return result


def check(problem: Problem, schedule: Schedule, machine: Machine, *, may_cancel: bool = False) -> None:
    """Compare with the reference: exactly on whole numbers where that must hold, within the tolerance on others.

    The tolerance is a share of the largest output. `may_cancel` is for problems that nobody has looked at: where all
    outputs may be nearly zero, it is a share of the largest sum of magnitudes if that is more; and for an algorithm that
    transforms, whose errors come from pixels too that no output sees, of that sum with the largest input throughout.
    """
    algorithm = ALGORITHMS[schedule.algorithm]
    kernel = sevenloops.compile(problem, schedule=schedule, machine=machine)
    assert (kernel.problem, kernel.schedule, kernel.algorithm) == (problem, schedule, schedule.algorithm)
    if algorithm.exact_on_integers and exact_on_integers(problem):
        whole = Operands(problem, integers=True, seed=1)
        np.testing.assert_array_equal(run(kernel, whole), whole.expected())
    operands = Operands(problem, integers=False, seed=2)
    expected = operands.expected()
    largest = np.abs(expected).max()
    if may_cancel:
        largest = max(largest, operands.largest_sum_of_magnitudes())
        if not algorithm.accumulates_as_defined:
            largest = max(largest, np.abs(operands.x).max() * np.abs(operands.w).reshape(len(operands.w), -1).sum(1).max())
    result = run(kernel, operands)
    error = np.abs(result - expected).max()
    allowed = algorithm.tolerance * np.finfo(problem.dtype).eps / np.finfo(np.float32).eps
    assert error <= allowed * largest, f"off by {error:.3e} where outputs reach {largest:.3e}; {allowed:.1e} is allowed"
    if can_schedule(machine):
        check_packing(kernel, operands.w)
        if schedule.params.get("parallel"):
            check_tasks(kernel, operands, result.copy())


def check_tasks(kernel: Any, operands: Operands, expected: Any) -> None:
    """Assert that no two tasks write the same element, and that the last task may come first."""
    for backwards in (False, True):
        loop = OneByOne(operands.out, backwards=backwards)
        result = run(kernel_with_loop(kernel, loop), operands)
        assert loop.most <= 1, f"{loop.most} tasks of {kernel.schedule} write the same element"
        assert result.tobytes() == expected.tobytes(), f"the result of {kernel.schedule} depends on the order of its tasks"


def check_packing(kernel: Any, weights: Any) -> None:
    """Assert that packed weights do not depend on the order of the tasks that pack them."""

    def backwards(task: Task, count: int) -> None:
        for number in reversed(range(count)):
            task(number)

    packed = kernel_with_loop(kernel, backwards).pack(weights).array
    assert packed.tobytes() == kernel.pack(weights).array.tobytes(), f"packing for {kernel.schedule} depends on the order"
