"""Tuning: the search finds what is fastest in a table of times, survives what fails, resumes, and keeps its budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

import sevenloops
from problems import conv, gemm
from sevenloops import records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.choice import choose
from sevenloops.errors import CompileError, ProblemError, ScheduleError, Unsupported
from sevenloops.machine import Machine, MachineError
from sevenloops.problem import Problem
from sevenloops.schedule import Schedule
from sevenloops.tune import Progress, tune
from sevenloops.tune.lab import Lab, Sample
from sevenloops.tune.neighbours import neighbours

#: No records but those that a test makes.
pytestmark = pytest.mark.usefixtures("no_records")
CONV = conv("mb1 ic64 ih28 iw28 oc64 kh3 kw3 ph1 pw1 bias act=relu")
SMALL = conv("mb1 ic8 ih9 iw9 oc16 kh3 kw3 ph1 pw1 bias")
HOST = Machine.host()
Times = Callable[[Schedule], float]


class Table:
    """A bench whose times are a function of the schedule; every call takes as many seconds of its clock as asked."""

    def __init__(self, time: Times, *, fails: Times = lambda s: 0.0, wrong: Times = lambda s: 0.0, takes_s: float = 0.1):
        self.time, self.fails, self.wrong, self.takes_s = time, fails, wrong, takes_s
        self.now = 0.0
        self.built: list[Schedule] = []
        self.measured: list[Schedule] = []
        self.opened: list[Problem] = []

    def __call__(self, problem: Problem, machine: Machine) -> Table:
        self.opened.append(problem)
        return self

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def clock(self) -> float:
        return self.now

    def build(self, schedules: Sequence[Schedule]) -> dict[Schedule, str]:
        self.built += schedules
        self.now += self.takes_s * len(schedules)
        return {s: "it does not compile" for s in schedules if self.fails(s) == 1}

    def compare(
        self, schedules: Sequence[Schedule], against: Schedule, rounds: int, limit_s: float
    ) -> dict[Schedule, Sample]:
        self.measured += schedules
        if self.fails(against) == 2:
            raise CompileError("it crashed")
        able = [s for s in (against, *schedules) if self.fails(s) != 2]
        return {s: Sample(self.time(s), self.time(s) / self.time(against)) for s in able}

    def error(self, schedule: Schedule) -> float:
        return self.wrong(schedule)


def search(table: Table, problem: Problem = CONV, **options: Any) -> records.Record:
    (record,) = tune([problem], open_bench=table, clock=table.clock, **options)
    return record


def hidden(schedule: Schedule) -> float:
    """The fastest is no candidate of the model, but some steps away from one: five pixels, three taps a turn."""
    if schedule.algorithm != "direct":
        return 2.0
    params: dict[str, Any] = schedule.params
    steps = abs(params["tile_pixels"] - 5) + abs(params["unroll"] - 3)
    return float(1 + steps + 0.01 * math.log2(params["task_pixels"]))


@pytest.mark.usefixtures("seven_algorithms")
def test_the_search_climbs_to_the_fastest() -> None:
    table = Table(hidden)
    record = search(table)
    best = record.results[0]
    assert best.schedule.algorithm == "direct"
    assert (best.schedule.tile_pixels, best.schedule.unroll) == (5, 3)
    assert best.median_s == pytest.approx(hidden(best.schedule))
    assert len(set(table.built)) == len(table.built), "nothing is compiled twice"
    first = choose(CONV, HOST)
    assert first.schedule == best.schedule and first.why.startswith("tuned")
    favourite = ALGORITHMS["direct"].schedules(CONV, HOST)[0]
    assert record.untuned_s == pytest.approx(hidden(favourite))


@pytest.mark.usefixtures("seven_algorithms")
def test_the_record_has_the_best_of_each_algorithm() -> None:
    record = search(Table(lambda s: 1.0 if s.algorithm == "im2col" else 1.5))
    assert [r.schedule.algorithm for r in record.results] == ["im2col", "direct"]
    assert [r.median_s for r in record.results] == [1.0, 1.5]
    assert set(record.considered) == {"direct", "im2col", "naive"}  # naive was too slow to be measured
    assert all(r.predicted_s > 0 for r in record.results)


@pytest.mark.usefixtures("seven_algorithms")
def test_what_does_not_compile_crashes_or_is_wrong_is_left_out() -> None:
    favourites = ALGORITHMS["direct"].schedules(CONV, HOST)
    broken = {favourites[0]: 2, favourites[1]: 1, favourites[2]: 2}
    said: list[str] = []
    table = Table(
        lambda s: 1.0 if s in broken else 1.1 if s == favourites[4] else 1.5,
        fails=lambda s: broken.get(s, 0),
        wrong=lambda s: 1e-3 if s == favourites[4] else 1e-7,
    )
    record = search(table, on_progress=lambda step: said.append(step.text))
    assert record.results[0].schedule not in [*broken, favourites[4]]
    assert any("does not compile" in text for text in said)
    assert any("its result is wrong: off by 1.0e-03, 3.0e-06 is allowed" in text for text in said)
    assert any("it crashed" in text for text in said)


def test_nothing_works() -> None:
    for table in (Table(lambda s: 1.0, fails=lambda s: 1), Table(lambda s: 1.0, fails=lambda s: 2)):
        with pytest.raises(Unsupported, match="no candidate"):
            search(table)
    with pytest.raises(Unsupported, match="computes it correctly"):
        search(Table(lambda s: 1.0, wrong=lambda s: math.nan))
    assert not records.entries()


def test_the_budget_ends_refining() -> None:
    slow = Table(lambda s: 1 / (1 + s.params.get("unroll", 0)), takes_s=10.0)  # type: ignore[operator]
    quick = Table(slow.time, takes_s=0.01)
    search(slow)
    search(quick, again=True)
    assert len(slow.built) < len(quick.built)


def test_a_schedule_of_ones_own_enters() -> None:
    own = ALGORITHMS["direct"].schedules(CONV, HOST)[0].replace(tile_pixels=2, unroll=1)
    record = search(Table(lambda s: 0.5 if s == own else 1.0), extra_schedules=[own])
    assert record.results[0].schedule == own
    with pytest.raises(ScheduleError, match=r"fits none of the problems.*tile_channels=7"):
        search(Table(hidden), extra_schedules=[own.replace(tile_channels=7)])
    with pytest.raises(ScheduleError, match="no algorithm 'other'"):
        search(Table(hidden), extra_schedules=[Schedule("other")])


@pytest.mark.usefixtures("seven_algorithms")
def test_algorithms_can_be_named() -> None:
    table = Table(lambda s: 1.0)
    record = search(table, algorithms=["naive"])
    assert record.considered == ("naive",) and {s.algorithm for s in table.built} == {"naive"}
    assert choose(CONV, HOST).schedule.algorithm == "direct"  # what was not considered competes by its prediction
    both = search(Table(lambda s: 2.0), algorithms=["direct", "direct"])
    assert {r.schedule.algorithm for r in both.results} == {"direct", "naive"}
    assert set(both.considered) == {"direct", "naive"}
    with pytest.raises(Unsupported, match="groups = in_channels"):
        search(table, algorithms=["depthwise"])


def test_a_stopped_run_goes_on_where_it_was() -> None:
    problems: list[Problem] = [CONV, SMALL, gemm("gemm m64 n64 k64"), CONV]

    class Stopped(Table):
        def __call__(self, problem: Problem, machine: Machine) -> Table:
            if problem == problems[2]:
                raise KeyboardInterrupt
            return super().__call__(problem, machine)

    with pytest.raises(KeyboardInterrupt):
        tune(problems, open_bench=Stopped(hidden))
    assert len(records.entries()) == 2
    steps: list[Progress] = []
    table = Table(lambda s: 1.0)
    found = tune(problems, open_bench=table, clock=table.clock, on_progress=steps.append)
    assert table.opened == [problems[2]] and len(found) == 3
    assert [step.problem for step in steps if step.kept] == [CONV, SMALL]
    assert steps[-1].done == steps[-1].total == 3 and steps[-1].left_s == 0
    assert tune(problems, open_bench=Table(hidden), again=True, clock=table.clock) != found


def test_what_is_left_is_estimated() -> None:
    steps: list[Progress] = []
    table = Table(hidden, takes_s=1.0)
    problems = [conv(f"mb1 ic16 ih{size} iw9 oc16 kh3 kw3") for size in (9, 10, 11)]
    tune(problems, open_bench=table, clock=table.clock, on_progress=steps.append)
    ends = [step for step in steps if step.record]
    assert steps[0].left_s is None and [step.done for step in ends] == [1, 2, 3]
    assert ends[0].left_s == pytest.approx(2 * len(table.built) / 3, rel=0.5) and ends[2].left_s == 0


@pytest.mark.usefixtures("seven_algorithms")
def test_one_failing_problem_does_not_stop_the_others() -> None:
    table = Table(lambda s: 1.0, fails=lambda s: 1 if s.algorithm in ("direct", "im2col", "naive") else 0)
    steps: list[Progress] = []
    with pytest.raises(Unsupported, match="ih28"):
        tune([CONV, gemm("gemm m64 n64 k64")], open_bench=table, clock=table.clock, on_progress=steps.append)
    assert [bool(step.error) for step in steps if step.error or step.record] == [True, False]
    assert len(records.entries()) == 1


def test_bad_arguments() -> None:
    with pytest.raises(ProblemError, match="budget_s"):
        tune([CONV], budget_s=0)
    with pytest.raises(MachineError, match="only this machine"):
        tune([CONV], machine=Machine.described(HOST.isa, name="another"))
    assert tune([]) == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_neighbours_are_valid_and_near(name: str) -> None:
    texts = ["mb1 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1", "mb1 ic96 ih14 iw14 oc64 kh1 kw1", "gemm m8 n512 k512 tb"]
    texts += ["mb1 g64 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1"]
    for problem in map(sevenloops.parse_problem, texts):
        row = ALGORITHMS[name]
        if row.supports(problem) is not None:
            continue
        start = row.schedules(problem, HOST)[0]
        near = neighbours(problem, start, HOST, 6, seen=[start])
        assert (len(near) == 6) == bool(start.params), name
        for schedule in near:
            assert row.check(problem, schedule, HOST) is None
            assert sum(schedule.params[key] != value for key, value in start.params.items()) == 1
        assert not set(neighbours(problem, start, HOST, 6, seen=near)) & set(near)


def test_the_real_lab() -> None:
    """Compiles, measures in alternation, and compares with float64; a schedule that crashes is named."""
    schedules = ALGORITHMS["direct"].schedules(SMALL, HOST)[:2]
    with Lab(SMALL, HOST) as lab:
        assert lab.build([*schedules, Schedule("naive")]) == {}
        samples = lab.compare(schedules[1:], schedules[0], rounds=2, limit_s=5)
        assert set(samples) == set(schedules)
        assert all(sample.median_s > 0 and sample.ratio > 0 for sample in samples.values())
        assert 0 < lab.error(schedules[0]) < 3e-6
        assert lab.compare(schedules[1:], schedules[0], rounds=2, limit_s=0.0).keys() == {schedules[0]}
        bad = schedules[0].replace(unroll=1000)
        assert set(lab.compare([bad, schedules[1]], schedules[0], rounds=1, limit_s=5)) == set(schedules)
        assert lab.error(bad) == math.inf
        with pytest.raises(CompileError):
            lab.compare([schedules[0]], bad, rounds=1, limit_s=5)


def test_a_slice_of_channels_is_tuned() -> None:
    (record,) = tune([conv("mb1 ic8 ih6 iw6 oc16 kh1 kw1 yp40")], algorithms=["naive"], budget_s=1)
    assert record.results[0].error < 3e-6


def test_a_real_problem_is_tuned() -> None:
    record = tune([SMALL], algorithms=["direct"], budget_s=0.5)[0]
    assert record.results[0].error < 3e-6 and record.untuned_s > 0
    kernel = sevenloops.compile(SMALL, algorithm="direct")
    assert kernel.schedule == record.results[0].schedule and "tuned" in kernel.why
