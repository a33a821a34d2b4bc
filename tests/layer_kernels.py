"""Running a layer into a poisoned output and comparing it with its reference: what the tests of the layers share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kernels import MACHINES
from operands import GUARD, Array
from scheduler import Loop, OneByOne, can_schedule, with_loop
from sevenloops.arrays import address
from sevenloops.compile.layer import layer_kernel
from sevenloops.compile.store import kernel_image
from sevenloops.compile.workers import TIME_LIMIT_S
from sevenloops.layers import LAYERS
from sevenloops.machine import Machine
from sevenloops.schedule import Schedule

#: Odd values that a layer must treat as NumPy does, put into every `STEP`-th place or so.
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-42, 3e38, -3e38, 88.8, -104.0, -np.nan], np.float32)

GUARD_BYTE = 250


def row_of(problem: Any) -> Any:
    """The row of `LAYERS` that a problem is for."""
    (row,) = (row for row in LAYERS.values() if row.supports(problem) is None)
    return row


def guarded(values: Array) -> tuple[Array, Array]:
    """`(whole, inside)`: a copy between guards of NaN, or of a byte."""
    dtype = np.dtype(np.uint8 if values.dtype == np.uint8 else np.float32)
    whole = np.full(math.prod(values.shape) + 2 * GUARD, GUARD_BYTE if dtype == np.uint8 else np.nan, dtype)
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
    """Run once, for the only output; see `run_all`."""
    (out,) = run_all(problem, arrays, machine, threads, schedule)
    return out


def run_all(
    problem: Any, arrays: Sequence[Array], machine: Machine, threads: int = 2, schedule: Any = None, loop: Loop | None = None
) -> list[Array]:
    """Run once; assert that nothing but the outputs was written, and all of them. `loop` runs the tasks.

    What was not computed is left as 12345.678, or 251 in an output of uint8.
    """
    row = row_of(problem)
    kernel = layer_kernel(row, problem, threads, machine=machine, schedule=schedule)
    image = kernel_image(problem, schedule or row.schedules(problem, machine)[0], machine, TIME_LIMIT_S)
    if loop is not None:
        kernel = with_loop(image, machine, loop)
    inputs = [guarded(array) for array in arrays]
    poisons = [np.uint8(251) if b.dtype == "uint8" else np.float32(12345.678) for b in image.buffers[len(arrays) :]]
    outputs = [guarded(np.full(shape, poison)) for shape, poison in zip(y_shapes(problem), poisons)]
    assert kernel.run(*(address(inside) for _, inside in [*inputs, *outputs])) == 0
    for whole, _ in [*inputs, *outputs]:
        guards = np.concatenate([whole[:GUARD], whole[-GUARD:]])
        assert (np.isnan(guards) | (guards == GUARD_BYTE)).all(), "something was written outside"
    for (_, inside), original in zip(inputs, arrays):
        np.testing.assert_array_equal(inside, original, "an input was changed")
    for (_, out), poison in zip(outputs, poisons):
        assert not (out == poison).any(), "outputs were not computed"
    return [out for _, out in outputs]


def y_shapes(problem: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of all outputs."""
    return tuple(problem.y_shapes) if hasattr(problem, "y_shapes") else (problem.y_shape,)


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
