"""Schedules near a schedule: one parameter changed, valid, the most promising first."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..algorithms import ALGORITHMS
from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule

__all__ = ["neighbours"]


def neighbours(
    problem: Problem, schedule: Schedule, machine: Machine, limit: int, seen: Collection[Schedule] = ()
) -> list[Schedule]:
    """At most `limit` schedules that differ in one parameter, pass `check` and are not in `seen`, by predicted time."""
    row = ALGORITHMS[schedule.algorithm]
    near = dict.fromkeys(_changed(schedule, row.schedules(problem, machine), machine.lanes))
    able = [s for s in near if s != schedule and s not in seen and row.check(problem, s, machine) is None]
    return sorted(able, key=lambda s: row.predicted_s(problem, s, machine))[:limit]


def _changed(schedule: Schedule, listed: list[Schedule], lanes: int) -> Iterator[Schedule]:
    params = schedule.params
    numbers = {v for v in params.values() if isinstance(v, int) and not isinstance(v, bool)}
    for name, value in params.items():
        for other in listed:  # values that the algorithm itself offers
            if name in other.params:
                yield schedule.replace(**{name: other.params[name]})
        if isinstance(value, bool):
            yield schedule.replace(**{name: not value})
        elif isinstance(value, int):
            steps = sorted({1, 2, lanes} | numbers)
            around = [value * 2, value // 2, value * 3 // 2, value * 2 // 3]
            around += [value + sign * step for step in steps for sign in (1, -1)]
            for number in around:
                if number > 0:
                    yield schedule.replace(**{name: number})
