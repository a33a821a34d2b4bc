"""Choosing, compiling and running the gradients of weights (`sevenloops.gradients`)."""

from __future__ import annotations

from ..adjoint import WeightGradient
from ..algorithms import Algorithm
from ..errors import ScheduleError, Unsupported
from ..gradients import GRADIENTS
from ..machine import Machine
from ..recent import Recent
from ..schedule import Schedule
from .layer import layer_kernel
from .runtime import LoadedKernel

__all__ = ["compile_gradient", "gradient_schedule"]

_loaded: Recent[tuple[WeightGradient, Schedule | None, int], LoadedKernel] = Recent()


def gradient_schedule(problem: WeightGradient, machine: Machine, algorithm: str | None = None) -> Schedule:
    """The schedule that the cost model expects to be the fastest, of the algorithm given or of any.

    Raises `Unsupported` for an algorithm that there is not, or that cannot compute the problem.
    """
    if algorithm is not None and algorithm not in GRADIENTS:
        raise Unsupported(f"there is no algorithm {algorithm!r} for gradients; there are {', '.join(GRADIENTS)}")
    rows = list(GRADIENTS.values()) if algorithm is None else [GRADIENTS[algorithm]]
    able = [row for row in rows if row.supports(problem) is None]
    if not able:
        raise Unsupported(f"{algorithm} cannot compute {problem}: {rows[0].supports(problem)}")

    def best(row: Algorithm) -> tuple[float, Schedule]:
        schedule = row.schedules(problem, machine)[0]
        return row.predicted_s(problem, schedule, machine), schedule

    return min((best(row) for row in able), key=lambda found: found[0])[1]


def compile_gradient(problem: WeightGradient, threads: int, schedule: Schedule | None = None) -> LoadedKernel:
    """A gradient compiled and linked, kept from then on: `run` takes the addresses of `x`, `dy` and the result.

    Without a `schedule` it is the one of `gradient_schedule`. Raises `ScheduleError` for one that does not fit,
    `CompileError`, `CompileTimeout`.
    """
    key = (problem, schedule, threads)
    kernel = _loaded.find(key)
    if kernel is None:
        machine = Machine.host()
        if schedule is None:
            schedule = gradient_schedule(problem, machine)
        row = GRADIENTS[schedule.algorithm]
        reason = row.supports(problem) or row.check(problem, schedule, machine)
        if reason is not None:
            raise ScheduleError(f"{schedule} does not fit {problem}: {reason}")
        kernel = _loaded.keep(key, layer_kernel(row, problem, threads, schedule=schedule))
    return kernel
