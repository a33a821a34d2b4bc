"""`sevenloops bench calls`: the overhead of a call as a table."""

from __future__ import annotations

import statistics

from rich.console import Console

from ..bench.calls import measure_calls
from .accuracy import print_table

__all__ = ["calls_command"]

PER_SECOND = {"us": 1e6, "ms": 1e3, "s": 1.0}


def calls_command(rounds: int, markdown: bool) -> None:
    """Measure, and print median, least and most of each kind of call."""
    with Console(stderr=True).status("") as status:
        calls = measure_calls(rounds, status.update)
    lines = []
    for what, unit, times in calls.rows():
        figures = (statistics.median(times), min(times), max(times))
        lines.append([what, unit, *(f"{PER_SECOND[unit] * second:.3g}" for second in figures), str(len(times))])
    print_table(
        "what a call costs beside its arithmetic", ["what", "unit", "median", "least", "most", "samples"], lines, markdown
    )
