"""The choice: which algorithm and schedule computes a problem on a machine, and why.

1. A tuned record for the problem and machine (`sevenloops.records`): the fastest of its schedules that is allowed and
   still fits. An algorithm that did not exist when the record was made wins only if its prediction beats both the
   measured time and what would be predicted of that schedule now by `CLEARLY`.
   For a layer of a network, what was fastest in a trial inside one comes first (`Record.trial`), if there was one.
2. Else the cost model: the best schedule of every algorithm that supports the problem gets a predicted time
   (`Algorithm.predicted_s`), times a factor that the records of this machine have taught: the mean of measured over
   predicted time of that algorithm for the most similar problems.

Weights that are `"varying"`, new in every call, are packed in every call: what that takes by the cost model
(`Algorithm.pack_s`) is part of all times, measured ones too, as records are of weights packed before. Other schedules may
be the best then, of fewer bytes, so predictions of all algorithms compete with the record.

The choice depends on the problem, the machine, the records, `accuracy` and `weights` alone; not on the threads of a call, so
that results do not. Nothing is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import records
from .algorithms import ALGORITHMS, Algorithm
from .errors import ProblemError, Unsupported
from .learned import learned_factor
from .machine import Machine
from .problem import ConvProblem, Problem
from .records import Record, Result, Trial
from .schedule import Schedule

__all__ = [
    "ACCURACIES",
    "WEIGHTS",
    "Candidate",
    "Choice",
    "candidates",
    "check_accuracy",
    "check_weights",
    "choose",
    "chosen_as",
    "forced",
    "untuned",
    "usable_results",
]

#: "fast" allows every algorithm inside the error bound of its row, "strict" those that sum up as the definition does. Of
#: these it chooses, for transposed problems, one that has no products beside the definition's (`Algorithm.edges`).
ACCURACIES = ("fast", "strict")
#: "constant" weights are packed once, "varying" ones in every call
WEIGHTS = ("constant", "varying")
#: a prediction has to be so much below a measured time (and its prediction) to win against it
CLEARLY = 0.8


@dataclass(frozen=True)
class Candidate:
    """One algorithm's offer: its schedule, the time predicted for it (`factor` included), and the measured one if known.

    `pack_s` is predicted for packing the weights in the call; 0 if they are packed before.
    """

    schedule: Schedule
    predicted_s: float
    factor: float = 1.0
    measured_s: float | None = None
    pack_s: float = 0.0

    @property
    def expected_s(self) -> float:
        """Measured if that is known, else predicted; with packing."""
        return self.pack_s + (self.predicted_s if self.measured_s is None else self.measured_s)

    def __str__(self) -> str:
        how = "predicted" if self.measured_s is None else "measured"
        packing = f", {1e3 * self.pack_s:.4g} of it packing" if self.pack_s else ""
        return f"{self.schedule.algorithm} {1e3 * self.expected_s:.4g} ms {how}{packing}"


@dataclass(frozen=True)
class Choice:
    """A schedule and why it was chosen; `candidates` has what it was compared with, the expected fastest first."""

    schedule: Schedule
    why: str
    candidates: tuple[Candidate, ...] = ()


def check_accuracy(accuracy: str) -> None:
    """Raise `ProblemError` unless it is one of `ACCURACIES`."""
    if accuracy not in ACCURACIES:
        raise ProblemError(f"accuracy must be one of {', '.join(ACCURACIES)}, got {accuracy!r}")


def check_weights(weights: str) -> None:
    """Raise `ProblemError` unless it is one of `WEIGHTS`."""
    if weights not in WEIGHTS:
        raise ProblemError(f"weights must be one of {', '.join(WEIGHTS)}, got {weights!r}")


def forced(problem: Problem, name: str, accuracy: str = "fast") -> Algorithm:
    """The algorithm of that name; raises `Unsupported` with its reason if it cannot compute the problem, or may not."""
    if name not in ALGORITHMS:
        raise Unsupported(f"there is no algorithm {name!r}; there are {', '.join(ALGORITHMS)}")
    row = ALGORITHMS[name]
    reason = row.supports(problem)
    if reason is not None:
        able = [row.name for row in ALGORITHMS.values() if row.supports(problem) is None]
        raise Unsupported(f"{name} cannot compute {problem}: {reason}. These can: {', '.join(able)}")
    reason = _forbidden(row, accuracy)
    if reason is not None:
        raise Unsupported(f"{name} was asked, but {reason}; leave out one of the two")
    return row


def _forbidden(row: Algorithm, accuracy: str) -> str | None:
    if accuracy == "strict" and not row.accumulates_as_defined:
        return (
            f'accuracy="strict" keeps to algorithms that accumulate as the definition does, and {row.name} does not (its '
            f"error is at most {row.tolerance:.0e} of the largest output)"
        )
    return None


def _allowed(problem: Problem, accuracy: str) -> list[Algorithm]:
    """The algorithms that compute the problem; raises `Unsupported` with every reason if there is none."""
    rows, reasons = [], []
    for row in ALGORITHMS.values():
        if isinstance(problem, row.kinds):
            reason = row.supports(problem) or _forbidden(row, accuracy)
            if reason is None:
                rows.append(row)
            else:
                reasons.append(f"{row.name}: {reason}")
    if not rows:
        raise Unsupported(f"no algorithm computes {problem}: " + "; ".join(reasons))
    if accuracy == "strict" and isinstance(problem, ConvProblem) and _reaches_outside(problem):
        defined = [row for row in rows if row.edges != "zeros"]
        if any(row.name != "naive" for row in defined):  # naive alone would be hundreds of times slower
            return defined
    return rows


def _reaches_outside(problem: ConvProblem) -> bool:
    """Whether a tap of a transposed problem meets an output from outside the image: the definition has no such product."""
    if not problem.transposed:
        return False
    sizes = zip(problem.in_size, problem.out_size, problem.kernel, problem.stride, problem.dilation, problem.padding)
    for size, out, taps, stride, dilation, (before, _) in sizes:
        for tap in range(taps):
            shift = before - tap * dilation
            met = range(shift + -shift % stride, shift + out, stride)  # stride times the inputs that it meets
            if met and (met[0] < 0 or met[-1] > (size - 1) * stride):
                return True
    return False


def chosen_as(problem: Problem) -> Problem:
    """The problem under which a choice is made: where the output lies makes no difference, but for transposed
    convolutions, which see phases as channels only when it is dense."""
    return problem.dense if isinstance(problem, ConvProblem) and not problem.transposed else problem


def choose(
    problem: Problem,
    machine: Machine,
    *,
    accuracy: str = "fast",
    algorithm: str | None = None,
    in_network: bool = False,
    weights: str = "constant",
) -> Choice:
    """The schedule for a problem on a machine, alone or `in_network`, of the algorithm given or of any; see above.

    Raises `Unsupported` if no algorithm computes it, or not the one given; `ProblemError` for another accuracy or `weights`.
    """
    check_accuracy(accuracy)
    check_weights(weights)
    varying, state = weights == "varying", (records.generation, records.path())
    return _choose(chosen_as(problem), machine, accuracy, algorithm, in_network, varying, *state)


@functools.lru_cache(maxsize=4096)
def _choose(
    problem: Problem,
    machine: Machine,
    accuracy: str,
    algorithm: str | None,
    in_network: bool,
    varying: bool,
    generation: int,
    path: Path,
) -> Choice:
    rows = [forced(problem, algorithm, accuracy)] if algorithm else _allowed(problem, accuracy)
    given = "the algorithm was given; " if algorithm else ""
    given += "the weights are new in every call; " if varying else ""
    record = records.find(problem, machine)
    if record is not None:
        measured = usable_results(record, problem, machine, rows)
        if in_network and not varying and record.trial and _usable(record.trial.schedule, problem, machine, rows):
            return _by_trial(record.trial, record, measured, given)
        if measured:
            return _by_record(record, measured, problem, machine, rows, given, varying)
    offers = _predicted(problem, machine, rows, varying=varying)
    if algorithm:
        return Choice(offers[0].schedule, f"{given}the schedule is the best by the cost model", offers)
    return Choice(offers[0].schedule, f"{given}the fastest by the cost model: {_list(offers)}", offers)


def untuned(problem: Problem, machine: Machine, accuracy: str = "fast") -> Choice:
    """What would be chosen if no problem of these sizes had ever been tuned; records of other sizes still teach factors.

    Raises as `choose` does.
    """
    check_accuracy(accuracy)
    offers = _predicted(chosen_as(problem), machine, _allowed(problem, accuracy), own_records=False)
    return Choice(offers[0].schedule, f"the fastest by the cost model, without records of it: {_list(offers)}", offers)


def candidates(problem: Problem, machine: Machine) -> tuple[Candidate, ...]:
    """Every algorithm that computes the problem, the expected fastest first, with measured times where there are any."""
    rows = _allowed(problem, "fast")
    record = records.find(problem, machine)
    measured = usable_results(record, problem, machine, rows) if record else []
    known = {result.schedule.algorithm for result in measured}
    rest = _predicted(problem, machine, [row for row in rows if row.name not in known])
    return _ranked([*map(_candidate, measured), *rest])


def _ranked(offers: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """The expected fastest first; the order of the table decides between equals."""
    order = list(ALGORITHMS)
    return tuple(sorted(offers, key=lambda c: (c.expected_s, order.index(c.schedule.algorithm))))


def _list(offers: Sequence[Candidate]) -> str:
    return ", ".join(map(str, offers[:4])) + (f" and {len(offers) - 4} more" if len(offers) > 4 else "")


# -------------------------------------------------------------------------------------------------- records


def usable_results(
    record: Record, problem: Problem, machine: Machine, rows: Collection[Algorithm] = ALGORITHMS.values()
) -> list[Result]:
    """The results of a record that may be used: of these algorithms, and schedules that (still) fit this problem."""
    return [result for result in record.results if _usable(result.schedule, problem, machine, rows)]


def _usable(schedule: Schedule, problem: Problem, machine: Machine, rows: Collection[Algorithm]) -> bool:
    """Whether a schedule is of one of these algorithms and (still) fits the problem."""
    row = ALGORITHMS.get(schedule.algorithm)
    return row is not None and row in rows and row.check(problem, schedule, machine) is None


def _candidate(result: Result, pack_s: float = 0.0) -> Candidate:
    return Candidate(result.schedule, result.predicted_s, measured_s=result.median_s, pack_s=pack_s)


def _by_trial(trial: Trial, record: Record, measured: list[Result], given: str) -> Choice:
    times = f"{1e3 * trial.median_s:.4g} ms there, {1e3 * trial.alone_s:.4g} ms for what is fastest alone"
    why = f"tuned inside {trial.network}, {record.date[:10]} on {record.cpu}: {times}"
    return Choice(trial.schedule, given + why, _ranked(list(map(_candidate, measured))))


def _by_record(
    record: Record,
    measured: list[Result],
    problem: Problem,
    machine: Machine,
    rows: Sequence[Algorithm],
    given: str,
    varying: bool,
) -> Choice:
    others = rows if varying else [row for row in rows if row.name not in record.considered]
    newer = _predicted(problem, machine, others, varying=varying)
    known = _ranked([_candidate(result, _pack_s(problem, result.schedule, machine, varying)) for result in measured])
    offers, best = _ranked([*known, *newer]), known[0]
    source = f"{record.date[:10]} on {record.cpu}"
    if record.problem != str(problem):
        source += f", as {record.problem!r}"
    now_s = best.pack_s + (_predicted_s(problem, best.schedule, machine)[0] if newer else 0.0)
    if newer and newer[0].expected_s < CLEARLY * min(best.expected_s, now_s):
        new = "not in" if varying else "newer than"
        why = f"{newer[0]}, {new} the tuned record of {source} and clearly below {_list([best])}"
        return Choice(newer[0].schedule, given + why, offers)
    return Choice(best.schedule, f"{given}tuned, {source}: {_list(offers)}", offers)


# -------------------------------------------------------------------------------------------------- the model


def _predicted(
    problem: Problem, machine: Machine, rows: Sequence[Algorithm], own_records: bool = True, varying: bool = False
) -> tuple[Candidate, ...]:
    """The best schedule of each algorithm; `schedules` rank without packing, so with it all of them are compared."""
    offers = []
    for row in rows:
        found = row.schedules(problem, machine)[: None if varying else 1]
        factor = learned_factor(row, problem, machine, own_records)
        of_row = [
            Candidate(s, factor * row.predicted_s(problem, s, machine), factor, pack_s=_pack_s(problem, s, machine, varying))
            for s in found
        ]
        offers.append(min(of_row, key=lambda c: c.expected_s))
    return _ranked(offers)


def _pack_s(problem: Problem, schedule: Schedule, machine: Machine, varying: bool) -> float:
    return ALGORITHMS[schedule.algorithm].pack_s(problem, schedule, machine) if varying else 0.0


def _predicted_s(problem: Problem, schedule: Schedule, machine: Machine, own_records: bool = True) -> tuple[float, float]:
    """The corrected prediction, and the factor in it."""
    row = ALGORITHMS[schedule.algorithm]
    factor = learned_factor(row, problem, machine, own_records)
    return factor * row.predicted_s(problem, schedule, machine), factor
