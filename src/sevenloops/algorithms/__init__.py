"""The table of algorithms, and the choice between them."""

from __future__ import annotations

from ..errors import Unsupported
from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule
from .base import Algorithm
from .depthwise import DEPTHWISE
from .direct import DIRECT
from .gemm import GEMM, POINTWISE
from .gemv import GEMV
from .im2col import IM2COL
from .naive import NAIVE
from .winograd import WINOGRAD

__all__ = ["ALGORITHMS", "Algorithm", "check_schedule", "choose"]

#: Every algorithm by name, in the order in which they are considered.
ALGORITHMS: dict[str, Algorithm] = {
    row.name: row for row in (DEPTHWISE, POINTWISE, DIRECT, GEMV, GEMM, IM2COL, WINOGRAD, NAIVE)
}


def choose(problem: Problem) -> tuple[Algorithm, str]:
    """The algorithm for a problem, and why: the first of the table that supports it."""
    reasons: list[tuple[str, str]] = []
    rows = [row for row in ALGORITHMS.values() if isinstance(problem, row.kinds)]
    for row in rows:
        reason = row.supports(problem)
        if reason is None:
            passed = "".join(f"; not {name}: {why}" for name, why in reasons)
            return row, f"the first of {', '.join(row.name for row in rows)} that computes it{passed}"
        reasons.append((row.name, reason))
    raise Unsupported(f"no algorithm computes {problem}: " + "; ".join(f"{n}: {why}" for n, why in reasons))


def forced(problem: Problem, name: str) -> Algorithm:
    """The algorithm of that name; raises `Unsupported` with its reason if it cannot compute the problem."""
    if name not in ALGORITHMS:
        raise Unsupported(f"there is no algorithm {name!r}; there are {', '.join(ALGORITHMS)}")
    reason = ALGORITHMS[name].supports(problem)
    if reason is not None:
        able = [row.name for row in ALGORITHMS.values() if row.supports(problem) is None]
        raise Unsupported(f"{name} cannot compute {problem}: {reason}. These can: {', '.join(able)}")
    return ALGORITHMS[name]


def check_schedule(problem: Problem, schedule: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    return ALGORITHMS[schedule.algorithm].check(problem, schedule, machine)
