"""Schedules near a schedule: one parameter changed, valid, the most promising of each parameter in turn."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import chain, islice, zip_longest

from ..algorithms import ALGORITHMS
from ..machine import Machine
from ..problem import Problem
from ..schedule import Schedule

__all__ = ["neighbours"]


def neighbours(
    problem: Problem, schedule: Schedule, machine: Machine, limit: int, seen: Collection[Schedule] = ()
) -> list[Schedule]:
    """At most `limit` schedules that differ in one parameter, pass `check` and are not in `seen`.

    Each parameter has its turn with the best by predicted time (the smallest change first, where the model sees no
    difference); the parameter with the most promising change begins.
    """
    row = ALGORITHMS[schedule.algorithm]
    listed = row.schedules(problem, machine)
    ranked = []
    for name, value in schedule.params.items():
        near = [schedule.replace(**{name: v}) for v in dict.fromkeys(_values(name, schedule, listed, machine.lanes))]
        able = [s for s in near if s != schedule and s not in seen and row.check(problem, s, machine) is None]
        step = {s: abs(int(s.params[name]) - int(value)) if isinstance(value, int) else 1 for s in able}
        rated = sorted(((row.predicted_s(problem, s, machine), step[s], at) for at, s in enumerate(able)))
        ranked.append(([able[at] for *_, at in rated], rated[0][0] if rated else 0.0))
    turns = zip_longest(*(group for group, best in sorted(ranked, key=lambda entry: entry[1])))
    return list(islice((s for s in chain.from_iterable(turns) if s is not None), limit))


def _values(name: str, schedule: Schedule, listed: list[Schedule], lanes: int) -> Iterator[int | str | bool]:
    """Values to try for a parameter: what the algorithm offers itself, and for numbers what lies around."""
    value = schedule.params[name]
    for other in listed:
        if name in other.params:
            yield other.params[name]
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        others = {v for v in schedule.params.values() if isinstance(v, int) and not isinstance(v, bool)}
        around = [value * 2, value // 2, value * 3 // 2, value * 2 // 3]
        around += [value + sign * step for step in sorted({1, 2, lanes} | others) for sign in (1, -1)]
        yield from (number for number in around if number > 0)
