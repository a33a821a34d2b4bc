"""From the naive loops to the machine's peak, one named schedule after the other.

>>> from sevenloops.ladder import climb, gemm_cases, rungs_named
>>> run = climb("gemm", rungs_named("gemm"), gemm_cases([512]))  # doctest: +SKIP
"""

from __future__ import annotations

from .measure import CONV_CASES, GEMM_SIZES, Options, climb, gemm_cases
from .results import Case, LadderRun, Point, series
from .table import CONV, GEMM, LADDERS, LadderError, Rung, own_rung, rungs_named

__all__ = [
    "CONV",
    "CONV_CASES",
    "GEMM",
    "GEMM_SIZES",
    "LADDERS",
    "Case",
    "LadderError",
    "LadderRun",
    "Options",
    "Point",
    "Rung",
    "climb",
    "gemm_cases",
    "own_rung",
    "rungs_named",
    "series",
]
