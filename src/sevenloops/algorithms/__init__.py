"""The table of algorithms; `sevenloops.choice` chooses between them."""

from __future__ import annotations

from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule
from .base import Algorithm
from .depthwise import DEPTHWISE
from .direct import DIRECT
from .fft import FFT
from .gemm import GEMM, POINTWISE
from .gemv import GEMV
from .im2col import IM2COL
from .kn2row import KN2ROW
from .mec import MEC
from .naive import NAIVE
from .shift import SHIFT
from .transposed import TRANSPOSED
from .transposed_winograd import TRANSPOSED_WINOGRAD
from .winograd import WINOGRAD

__all__ = ["ALGORITHMS", "Algorithm", "check_schedule"]

#: Every algorithm by name; the order decides only between equal predictions.
ALGORITHMS: dict[str, Algorithm] = {
    row.name: row
    for row in (
        DEPTHWISE, SHIFT, POINTWISE, DIRECT, TRANSPOSED, TRANSPOSED_WINOGRAD, GEMV, GEMM, IM2COL, MEC, KN2ROW, WINOGRAD, FFT,
        NAIVE,
    )
}  # fmt: skip


def check_schedule(problem: Problem, schedule: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    return ALGORITHMS[schedule.algorithm].check(problem, schedule, machine)
