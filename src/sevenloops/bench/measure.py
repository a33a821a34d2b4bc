"""Timing one kernel of one's own, in this process: for trying schedules, not for comparing libraries."""

from __future__ import annotations

import time

from ..compile import Kernel
from ..inputs import make_inputs
from .results import OWN, Timing

__all__ = ["time_kernel"]


def time_kernel(kernel: Kernel, *, rounds: int = 7, round_s: float = 0.02, seed: int = 0) -> Timing:
    """Time a kernel on random inputs, warm, weights packed outside: `rounds` rounds of at least `round_s` seconds.

    Returns a `Timing`: `median_s` and `best_s` of all iterations, `spread` between the rounds.
    """
    inputs = make_inputs(kernel.problem, seed)
    packed = kernel.pack(inputs.w)
    bound = kernel.bind(inputs.x, packed, bias=inputs.bias, residual=inputs.residual, c=inputs.c)
    bound.run()
    measured = []
    for _ in range(rounds):
        times: list[float] = []
        end = time.perf_counter() + round_s
        while len(times) < 3 or time.perf_counter() < end:
            start = time.perf_counter()
            bound.run()
            times.append(time.perf_counter() - start)
        measured.append(tuple(times))
    return Timing(OWN, rounds_s=tuple(measured))
