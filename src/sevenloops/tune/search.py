"""The search for one problem: which schedules are tried, in which order, and which becomes the record.

1. Screen. Every algorithm offers its candidates, the best by the cost model first; algorithms that are predicted to be
   much slower offer few or none. All are measured briefly against the favourite of the model.
2. Halve. The better third, and the best of each algorithm, are measured for longer.
3. Refine. Neighbours of the best (one parameter changed) challenge it; a winner's neighbours are next. Runners-up of
   other algorithms that came close get their turn too.
4. Finish. The best of each algorithm are measured together, checked against float64, and recorded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..algorithms import ALGORITHMS
from ..errors import CompileError, Unsupported
from ..learned import learned_factor, model_digest
from ..machine import Machine
from ..problem import Problem
from ..records import Result
from ..schedule import Schedule
from .lab import Bench, Sample
from .neighbours import neighbours

__all__ = ["Search"]

#: predicted time over that of the fastest algorithm, and how many candidates are tried up to there
OFFERS = ((1.6, 12), (3.0, 6), (8.0, 2))
#: a challenger has to be so much faster than the best, and a runner-up so close to it
BETTER, CLOSE = 0.985, 1.15
NEIGHBOURS, GENERATIONS = 8, 3
#: how many schedules besides the best are measured again at the end, and how often if there is time: a lucky measurement
#: must not win, and on a shared machine six rounds were off by a tenth
RUNNERS_UP, FINAL_ROUNDS = 4, 40
#: the share of the budget after which no new stage of refining begins
REFINE_UNTIL = 0.75


@dataclass
class Search:
    """One problem's search. `say` is told what is done; `clock` counts the seconds of `budget_s`."""

    problem: Problem
    machine: Machine
    bench: Bench
    names: Sequence[str]
    budget_s: float
    clock: Callable[[], float]
    say: Callable[[str], None] = lambda text: None
    extra: Sequence[Schedule] = ()
    least: int = 0  # candidates of an algorithm however slow it is predicted to be
    ratios: dict[Schedule, float] = field(default_factory=dict)  # to the first favourite
    failures: dict[Schedule, str] = field(default_factory=dict)
    favourite: Schedule | None = None  # what the model alone would have chosen
    untuned_s: float = math.nan  # and its time, measured beside the results

    def run(self) -> list[Result]:
        """The best result of each algorithm, the fastest first; raises `Unsupported` if none can be used."""
        self.until = self.clock() + self.budget_s
        pool = self._offers()
        self.say(f"compiling {len(pool)} candidates of {len({s.algorithm for s in pool})} algorithms")
        pool = self._built(pool)
        best = self._screen(pool)
        for name in self._close(best):
            best = self._refine(self._best_of(name), best)
        return self._finish()

    # ---- candidates --------------------------------------------------------------------------------------------------

    def _offers(self) -> list[Schedule]:
        """The candidates, the favourite of the model first."""
        listed = {name: ALGORITHMS[name].schedules(self.problem, self.machine) for name in self.names}
        predicted = {name: self._predicted(schedules[0]) for name, schedules in listed.items()}
        ranked = sorted(listed, key=lambda name: predicted[name])
        offers = list(listed[ranked[0]][: OFFERS[0][1]])
        for name in ranked[1:]:
            slower = predicted[name] / predicted[ranked[0]]
            count = next((count for limit, count in OFFERS if slower <= limit), self.least)
            if not count:
                self.say(f"{name} is left out: predicted {slower:.1f} times slower than {ranked[0]}")
            offers += listed[name][:count]
        return list(dict.fromkeys([*offers, *self.extra]))

    def _predicted(self, schedule: Schedule) -> float:
        row = ALGORITHMS[schedule.algorithm]
        factor = learned_factor(row, self.problem, self.machine)
        return factor * row.predicted_s(self.problem, schedule, self.machine)

    def _built(self, schedules: Sequence[Schedule]) -> list[Schedule]:
        failed = self.bench.build(schedules)
        for schedule, reason in failed.items():
            self._drop(schedule, reason)
        return [schedule for schedule in schedules if schedule not in failed]

    def _drop(self, schedule: Schedule, reason: str) -> None:
        self.failures[schedule] = reason
        self.ratios.pop(schedule, None)
        self.say(f"{schedule!r} cannot be used: {reason}")

    # ---- stages ------------------------------------------------------------------------------------------------------

    def _compare(
        self, schedules: Sequence[Schedule], against: Schedule, rounds: int, share: float = 0.1
    ) -> dict[Schedule, Sample]:
        """Measure, and keep the ratios to the first favourite; what fails is dropped. `share` is of the budget."""
        samples = self.bench.compare(schedules, against, rounds, share * self.budget_s)
        scale = self.ratios.setdefault(against, 1.0)
        for schedule in schedules:
            if schedule not in samples:
                if schedule not in self.ratios:
                    self._drop(schedule, "it crashed, or there was no time for it")
            elif schedule != against:
                self.ratios[schedule] = scale * samples[schedule].ratio
        return samples

    def _screen(self, pool: Sequence[Schedule]) -> Schedule:
        """The best of the pool, after a short and a longer comparison."""
        for at, favourite in enumerate(pool):
            self.say(f"measuring {len(pool) - at} candidates")
            try:
                self._compare(pool[at + 1 :], favourite, rounds=2, share=0.35)
            except CompileError as error:
                self._drop(favourite, str(error))
                continue
            self.favourite = favourite
            few = sorted(self.ratios, key=self.ratios.__getitem__)[: max(4, len(self.ratios) // 3)]
            few = list(dict.fromkeys([*few, *map(self._best_of, self._names())]))
            longer = [s for s in few if s != favourite and self.ratios[s] < 3]
            self._compare(longer, favourite, rounds=4, share=0.15)
            return self._best()
        raise Unsupported(f"no candidate for {self.problem} could be used: {next(iter(self.failures.values()), 'none')}")

    def _names(self) -> list[str]:
        return list(dict.fromkeys(schedule.algorithm for schedule in self.ratios))

    def _best(self) -> Schedule:
        return min(self.ratios, key=self.ratios.__getitem__)

    def _best_of(self, name: str) -> Schedule:
        return min((s for s in self.ratios if s.algorithm == name), key=self.ratios.__getitem__)

    def _close(self, best: Schedule) -> list[str]:
        """Algorithms whose best schedule came close to the best, that one's first."""
        limit = CLOSE * self.ratios[best]
        close = [name for name in self._names() if self.ratios[self._best_of(name)] <= limit]
        return sorted(close, key=lambda name: self.ratios[self._best_of(name)])

    def _refine(self, start: Schedule, best: Schedule) -> Schedule:
        """Climb from `start` through better neighbours; returns the better of where that ends and `best`."""
        begin = self.until - self.budget_s
        for _ in range(GENERATIONS):
            if self.clock() - begin > REFINE_UNTIL * self.budget_s:
                self.say("the time for refining is used up")
                break
            seen = {*self.ratios, *self.failures}
            near = self._built(neighbours(self.problem, start, self.machine, NEIGHBOURS, seen))
            if not near:
                break
            self.say(f"refining {start.algorithm}: {len(near)} neighbours")
            samples = self._compare(near, start, rounds=3)
            able = [s for s in near if s in samples]
            winner = min(able, key=lambda s: samples[s].ratio, default=start)
            if winner == start or samples[winner].ratio > BETTER:
                break
            again = self._compare([winner], start, rounds=5)
            if winner not in again or again[winner].ratio > BETTER:
                break
            start = winner
        return min((start, best), key=lambda s: self.ratios.get(s, math.inf))

    def _finish(self) -> list[Result]:
        """The best correct schedule of each algorithm, measured side by side with the runners-up and the favourite."""
        finalists, errors = self._correct()
        if not finalists:
            raise Unsupported(f"no candidate for {self.problem} computes it correctly")
        best, *others = finalists
        samples = self._compare(others or [best], best, rounds=FINAL_ROUNDS if others else 3, share=0.15)
        over = {s: samples[s].ratio if s in samples else self.ratios[s] / self.ratios[best] for s in others}
        times = {s: samples[best].median_s * ratio for s, ratio in {**over, best: 1.0}.items()}
        ranked = sorted(times, key=times.__getitem__)
        self.untuned_s = times[self.favourite] if self.favourite in times else times[ranked[0]]
        firsts = {
            name: next(s for s in ranked if s.algorithm == name) for name in dict.fromkeys(s.algorithm for s in ranked)
        }
        return [self._result(s, times[s], errors[s]) for s in firsts.values()]

    def _correct(self) -> tuple[list[Schedule], dict[Schedule, float]]:
        """The best of each algorithm, `RUNNERS_UP` more of the fastest, and the favourite, all checked; and their errors."""
        kept: list[Schedule] = []
        errors: dict[Schedule, float] = {}
        for schedule in sorted(self.ratios, key=self.ratios.__getitem__):
            first = all(schedule.algorithm != other.algorithm for other in kept)
            if first or len(kept) <= RUNNERS_UP or schedule == self.favourite:
                errors[schedule] = self.bench.error(schedule)
                allowed = _allowed_error(self.problem, schedule)
                if errors[schedule] <= allowed:
                    kept.append(schedule)
                else:
                    self._drop(schedule, f"its result is wrong: off by {errors[schedule]:.1e}, {allowed:.1e} is allowed")
        return kept, errors

    def _result(self, schedule: Schedule, median_s: float, error: float) -> Result:
        row = ALGORITHMS[schedule.algorithm]
        predicted = row.predicted_s(self.problem, schedule, self.machine)
        return Result(schedule, median_s, predicted, model_digest(schedule.algorithm), error)


def _allowed_error(problem: Problem, schedule: Schedule) -> float:
    scale = np.finfo(problem.dtype).eps / np.finfo(np.float32).eps
    return float(ALGORITHMS[schedule.algorithm].tolerance * scale)
