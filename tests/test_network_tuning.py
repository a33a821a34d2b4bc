"""Tuning inside a network: what wins there is used there and nowhere else, and what a caller asks for is what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sevenloops
from sevenloops import InferenceSession, network_tuning, records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.choice import choose
from sevenloops.compile import Kernel
from sevenloops.errors import GraphError, ScheduleError
from sevenloops.graph import Graph
from sevenloops.graph.builder import GraphBuilder
from sevenloops.machine import Machine
from sevenloops.network_tuning import Step, candidates, tune_network
from sevenloops.problem import ConvProblem
from sevenloops.records import Record, RecordError, Result, Trial, machine_kind
from sevenloops.schedule import Schedule

HOST = Machine.host()
FEEDS = {"x": np.random.default_rng(3).standard_normal((1, 16, 9, 10)).astype(np.float32)}
SECONDS = {"direct": 1.0, "winograd": 1.2, "im2col": 5.0}


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "default.jsonl")
    monkeypatch.setattr(records, "path", lambda: tmp_path / "tuned.jsonl")
    records._forget()
    yield
    records._forget()


def network() -> Graph:
    build = GraphBuilder("two")
    x = build.input("x", (1, 16, 9, 10))
    y = build.relu(build.conv(x, 32, 3, padding=1))
    return build.graph(y=build.relu(build.conv(y, 32, 3, padding=1)))


def problems() -> list[ConvProblem]:
    steps = InferenceSession(network()).plan().steps
    return [step.problem for step in steps if isinstance(step.problem, ConvProblem)]


def record(problem: ConvProblem, trial: Trial | None = None) -> Record:
    """Tuned alone: direct is the fastest, winograd near, im2col far away."""
    results = [
        Result(ALGORITHMS[name].schedules(problem, HOST)[0], seconds, seconds, "m", 1e-7)
        for name, seconds in SECONDS.items()
    ]
    kind = machine_kind(HOST)
    return Record(str(problem), kind, HOST.name, tuple(results), tuple(ALGORITHMS), "2026-01-01", "d", 3.0, {}, trial)


def test_candidates_are_what_came_close() -> None:
    problem = problems()[0]
    found = candidates(problem, record(problem), HOST)
    assert found[0] == ALGORITHMS["direct"].schedules(problem, HOST)[0]
    assert found[1] == ALGORITHMS["winograd"].schedules(problem, HOST)[0]
    assert {s.algorithm for s in found} == {"direct", "winograd"}  # im2col took five times as long
    assert len(set(found)) == len(found) <= network_tuning.CANDIDATES
    assert candidates(problem, record(problem), HOST, 1) == found[:1]


def test_what_wins_inside_is_used_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = problems()
    records.add([record(first), record(second)])

    def turn(_: object, session: InferenceSession, layers: list[network_tuning._Layer]) -> list[float]:
        """Winograd takes half the time in the second layer and twice in the first."""
        factor = {str(first): 2.0, str(second): 0.5}
        chosen = {str(step.problem): step.algorithm for step in session.plan().steps}
        return [factor[l.record.problem] if chosen[l.record.problem] == "winograd" else 1.0 for l in layers]  # noqa: E741

    monkeypatch.setattr(network_tuning._Trial, "_turn", turn)
    steps: list[Step] = []
    found = tune_network(network(), FEEDS, "two", on_progress=steps.append)
    assert [r.trial.schedule.algorithm for r in found if r.trial] == ["direct", "winograd"]
    assert [(r.trial.alone_s, r.trial.median_s) for r in found if r.trial] == [(1.0, 1.0), (1.0, 0.5)]
    assert steps[-1].done == steps[-1].total > 1
    assert [record.trial for record, _ in records.entries()].count(None) == 0

    kernels = {str(step.problem): step.kernel for step in InferenceSession(network()).plan().steps}
    inside = kernels[str(second)]
    assert isinstance(inside, Kernel) and inside.algorithm == "winograd" and "tuned inside two" in inside.why
    assert sevenloops.compile(second).algorithm == "direct"  # alone
    assert sevenloops.compile(second, accuracy="strict", in_network=True).algorithm == "direct"
    assert choose(second, HOST, algorithm="im2col", in_network=True).schedule.algorithm == "im2col"
    assert tune_network(network(), FEEDS, "two") == []  # all of them were in a trial
    assert len(tune_network(network(), FEEDS, "two", again=True)) == 2


def test_a_lucky_measurement_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    records.add([record(problems()[0])])
    times = iter([1.0, 0.5] * network_tuning.TURNS + [1.0, 1.0] * 1000)
    monkeypatch.setattr(network_tuning._Trial, "_turn", lambda self, session, layers: [next(times)] * len(layers))
    (found,) = tune_network(network(), FEEDS, "two", limit=3)
    assert found.trial is not None and found.trial.schedule.algorithm == "direct"


def test_a_real_trial() -> None:
    records.add(map(record, problems()))
    found = tune_network(network(), FEEDS, "two", limit=2)
    assert len(found) == 2
    for r in found:
        assert r.trial is not None and 0 < r.trial.median_s <= r.trial.alone_s < 0.1
        assert Record.from_json(r.to_json()) == r


def test_layers_that_were_not_tuned_are_left() -> None:
    assert tune_network(network(), FEEDS, "two") == []


def test_outputs_must_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    records.add([record(problems()[0])])
    monkeypatch.setattr(network_tuning, "TOLERANCE", -1.0)
    with pytest.raises(GraphError, match="outputs change"):
        tune_network(network(), FEEDS, "two", limit=2)
    assert records.find(problems()[0], HOST).trial is None  # type: ignore[union-attr]


def test_damaged_trials_are_refused() -> None:
    schedule = ALGORITHMS["direct"].schedules(problems()[0], HOST)[0]
    good = Trial(schedule, 1.0, 2.0, "two").to_dict()
    assert Trial.from_dict(good) == Trial(schedule, 1.0, 2.0, "two")
    with pytest.raises(RecordError, match="above 0"):
        Trial.from_dict({**good, "alone_s": 0})
    with pytest.raises(ScheduleError):
        Trial.from_dict({**good, "schedule": {"tile": 1}})


def test_schedules_of_ones_own() -> None:
    first, second = problems()
    own = ALGORITHMS["im2col"].schedules(first, HOST)[1]
    session = InferenceSession(network(), schedules={str(first): own})
    assert [step.schedule for step in session.plan().steps if step.problem == first] == [own]
    expected = InferenceSession(network()).run(None, FEEDS)[0]
    np.testing.assert_allclose(session.run(None, FEEDS)[0], expected, rtol=0, atol=1e-5 * abs(expected).max())
    other = ConvProblem(1, 16, (9, 10), 64, (3, 3))
    with pytest.raises(GraphError, match="no step computes"):
        InferenceSession(network(), schedules={other: own})
    with pytest.raises(ScheduleError):
        InferenceSession(network(), schedules={second: Schedule("direct", tile=1)})
