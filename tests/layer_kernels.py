"""Running a layer into a poisoned output and comparing it with its reference: what the tests of the layers share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kernels import MACHINES
from operands import GUARD, Array
from scheduler import OneByOne, can_schedule, with_loop
from sevenloops.arrays import address
from sevenloops.compile.layer import layer_kernel
from sevenloops.compile.store import kernel_image
from sevenloops.compile.workers import TIME_LIMIT_S
from sevenloops.layers import LAYERS
from sevenloops.machine import Machine
from sevenloops.schedule import Schedule

#: Odd values that a layer must treat as NumPy does, put into every `STEP`-th place or so.
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38, -3e38, 88.8, -104.0, -np.nan], np.float32)


def row_of(problem: Any) -> Any:
    """The row of `LAYERS` that a problem is for."""
    (row,) = (row for row in LAYERS.values() if row.supports(problem) is None)
    return row


def guarded(values: Array) -> tuple[Array, Array]:
    """`(whole, inside)`: a copy between guards of NaN."""
    whole = np.full(math.prod(values.shape) + 2 * GUARD, np.nan, np.float32)
    inside = whole[GUARD:-GUARD].reshape(values.shape)
    inside[...] = values
    return whole, inside


def random_inputs(problem: Any, seed: int = 0, special: bool = False) -> list[Array]:
    """Normal numbers for every input; with `special` a few of them replaced by NaN, infinities and the like."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in problem.x_shapes]
    for array in arrays if special else []:
        places = rng.choice(array.size, max(1, array.size // 20), replace=False)
        array.reshape(-1)[places] = SPECIAL[rng.integers(0, len(SPECIAL), len(places))]
    return arrays


def run(problem: Any, arrays: Sequence[Array], machine: Machine, threads: int = 2, schedule: Any = None) -> Array:
    """Run once; assert that nothing but the output was written. What was not computed is left as 12345.678."""
    kernel = layer_kernel(row_of(problem), problem, threads, machine=machine, schedule=schedule)
    inputs = [guarded(array) for array in arrays]
    whole, out = guarded(np.full(problem.y_shape, 12345.678, np.float32))
    code = kernel.run(*(address(inside) for _, inside in inputs), address(out))
    assert code == 0
    for guards, _ in [*inputs, (whole, out)]:
        assert np.isnan(guards[:GUARD]).all() and np.isnan(guards[-GUARD:]).all(), "something was written outside"
    for (_, inside), original in zip(inputs, arrays):
        np.testing.assert_array_equal(inside, original, "an input was changed")
    assert not (out == np.float32(12345.678)).any(), "outputs were not computed"
    return out


def assert_close(result: Array, expected: Array, tolerance: float) -> None:
    """Equal where the reference is not finite, else within a share of the largest finite magnitude."""
    with np.errstate(over="ignore"):
        rounded = expected.astype(np.float32)
    odd = ~np.isfinite(rounded)
    wrong = ~((result == rounded) | (np.isnan(result) & np.isnan(rounded))) & odd
    assert not wrong.any(), f"{result[wrong][:5]} instead of {expected[wrong][:5]} at {np.argwhere(wrong)[:5].tolist()}"
    largest = np.abs(expected[~odd]).max(initial=0.0)
    error = np.abs(result[~odd].astype(np.float64) - expected[~odd])
    assert np.isfinite(error).all(), f"{int((~np.isfinite(error)).sum())} outputs are not finite and should be"
    assert error.max(initial=0.0) <= tolerance * largest, f"off by {error.max():.3e}, outputs reach {largest:.3e}"


def check(
    problem: Any, reference: Any, machines: Iterable[Machine] = (), *, tolerance: float = 3e-6, special: bool = False
) -> None:
    """Compare every machine's best schedule with the reference on random inputs, and on odd ones."""
    for machine in machines or MACHINES.values():
        for odd in (False, True) if special else (False,):
            arrays = random_inputs(problem, seed=1, special=odd)
            with np.errstate(all="ignore"):
                expected = reference(problem, *(array.astype(np.float64) for array in arrays))
            schedule = row_of(problem).schedules(problem, machine)[0].replace(parallel=True)  # however little there is to do
            result = run(problem, arrays, machine, schedule=schedule)
            assert_close(result, expected, tolerance)
            if can_schedule(machine):
                check_order(problem, schedule, machine, arrays, result)


def check_order(problem: Any, schedule: Schedule, machine: Machine, arrays: Sequence[Array], expected: Array) -> None:
    """Assert that the last task may come first: where two tasks write the same element, they write the same bits."""
    out = np.full(problem.y_shape, np.nan, np.float32)
    image = kernel_image(problem, schedule, machine, TIME_LIMIT_S)
    kernel = with_loop(image, machine, OneByOne(out, backwards=True))
    assert kernel.run(*map(address, arrays), address(out)) == 0
    assert out.tobytes() == expected.tobytes(), f"the result of {problem} depends on the order of its tasks"
