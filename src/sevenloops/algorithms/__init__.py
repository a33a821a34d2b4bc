"""The table of algorithms; `sevenloops.choice` chooses between them."""

from __future__ import annotations

from ..machine import Machine
from ..problem import Problem
from ..rows import Rows
from ..schedule import Schedule
from .base import Algorithm

__all__ = ["ALGORITHMS", "Algorithm", "check_schedule"]

#: Every algorithm by name, and where it is; the order decides only between equal predictions.
ALGORITHMS: Rows[Algorithm] = Rows(
    __name__,
    {
        "depthwise": "depthwise:DEPTHWISE",
        "shift": "shift:SHIFT",
        "pointwise": "gemm:POINTWISE",
        "direct": "direct:DIRECT",
        "transposed": "transposed:TRANSPOSED",
        "transposed_winograd": "transposed_winograd:TRANSPOSED_WINOGRAD",
        "transposed_depthwise": "transposed_depthwise:TRANSPOSED_DEPTHWISE",
        "turned_depthwise": "turned:TURNED_DEPTHWISE",
        "turned_pointwise": "turned:TURNED_POINTWISE",
        "turned_direct": "turned:TURNED_DIRECT",
        "turned_winograd": "turned:TURNED_WINOGRAD",
        "gemv": "gemv:GEMV",
        "gemm": "gemm:GEMM",
        "im2col": "im2col:IM2COL",
        "mec": "mec:MEC",
        "kn2row": "kn2row:KN2ROW",
        "winograd": "winograd:WINOGRAD",
        "fft": "fft:FFT",
        "naive": "naive:NAIVE",
    },
)


def check_schedule(problem: Problem, schedule: Schedule, machine: Machine) -> str | None:
    """The reason why a schedule does not fit, or None."""
    return ALGORITHMS[schedule.algorithm].check(problem, schedule, machine)
