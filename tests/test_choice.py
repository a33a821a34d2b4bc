"""The choice: by records where there are some, else by the model; what strict accuracy forbids; the cost model's sanity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sevenloops
from problems import ALL, conv
from sevenloops import choice, records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.algorithms.cost import clock_hz, memory_s, phase_s
from sevenloops.choice import candidates, choose, forced
from sevenloops.descriptor import parse_problem
from sevenloops.errors import ProblemError, ScheduleError, Unsupported
from sevenloops.learned import learned_factor, model_digest
from sevenloops.machine import Machine
from sevenloops.problem import Problem
from sevenloops.records import Record, Result, machine_kind
from sevenloops.schedule import Schedule

CONV = conv("mb1 ic16 ih14 iw14 oc32 kh3 kw3 ph1 pw1 bias act=relu")
MACHINE = Machine.described("avx2", name="test processor", cores=4, os="linux")


@pytest.fixture(autouse=True)
def no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seven_algorithms: None) -> Iterator[None]:
    """A database that starts empty, without what is shipped; the kernels stay where they are."""
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "default.jsonl")
    monkeypatch.setattr(records, "path", lambda: tmp_path / "tuned.jsonl")
    yield
    records._forget()


def result(name: str, median_s: float, problem: Problem = CONV, machine: Machine = MACHINE, nth: int = 0) -> Result:
    schedule = ALGORITHMS[name].schedules(problem, machine)[nth]
    predicted = ALGORITHMS[name].predicted_s(problem, schedule, machine)
    return Result(schedule, median_s, predicted, model_digest(name), 1e-7)


def record(*results: Result, problem: Problem = CONV, machine: Machine = MACHINE, knows: tuple[str, ...] = ()) -> Record:
    ranked = tuple(sorted(results, key=lambda r: r.median_s))
    considered = knows or tuple(ALGORITHMS)
    return Record(
        str(problem), machine_kind(machine), machine.name, ranked, considered, "2026-01-02T03:04:05", "digest", 1.0
    )


# ---- the model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("isa", ["avx512", "avx2", "sse4", "neon"])
def test_every_candidate_has_a_finite_prediction(isa: str) -> None:
    machine = Machine.described(isa)
    for problem in map(parse_problem, ALL):
        offers = candidates(problem, machine)
        assert {o.schedule.algorithm for o in offers} == {n for n, r in ALGORITHMS.items() if r.supports(problem) is None}
        assert all(0 < offer.predicted_s < 10 for offer in offers)
        assert [o.expected_s for o in offers] == sorted(o.expected_s for o in offers)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1", "direct"),
        ("mb1 g96 ic96 ih56 iw56 oc96 kh3 kw3 ph1 pw1", "depthwise"),
        ("mb1 ic256 ih14 iw14 oc1024 kh1 kw1", "pointwise"),
        ("gemm m512 n512 k512", "gemm"),
        ("gemm m1 n1000 k2048 tb", "gemv"),
        ("mb1 ic5 ih9 iw8 oc21 kh3 kw3 float64", "naive"),
    ],
)
def test_the_untuned_choice(text: str, name: str) -> None:
    problem = parse_problem(text)
    chosen = choose(problem, Machine.described("avx512"))
    assert chosen.schedule == ALGORITHMS[name].schedules(problem, Machine.described("avx512"))[0]
    assert "cost model" in chosen.why and f"{name} " in chosen.why and "predicted" in chosen.why


def test_an_algorithm_without_a_cost_is_a_roofline() -> None:
    row = dataclasses.replace(ALGORITHMS["direct"], cost=None)
    schedule = row.schedules(CONV, MACHINE)[0]
    least = row.macs_executed(CONV, schedule) / (16 * 4 * clock_hz(MACHINE))
    assert least < row.predicted_s(CONV, schedule, MACHINE) < 10 * least


def test_phases() -> None:
    machine = dataclasses.replace(MACHINE, peak_gflops=400.0, bandwidth_gbs=10.0, l2_bytes=1 << 20, l3_bytes=10 << 20)
    assert clock_hz(machine) == pytest.approx(400e9 / (4 * 32))
    fork_s = 6000 / clock_hz(machine)
    assert phase_s(machine, macs=2e9, efficiency=0.5) == pytest.approx(0.02 + fork_s)
    assert phase_s(machine, macs=2e9, efficiency=0.5, parallel=False) == pytest.approx(0.08)
    assert phase_s(machine, moved_bytes=1e9) == pytest.approx(0.1 + fork_s)  # memory
    level = [phase_s(machine, moved_bytes=1e6, resident_bytes=size) for size in (1e6, 5e6, 20e6)]
    assert level == sorted(level) and len(set(level)) == 3
    assert memory_s(machine, 5e6) == 0 and memory_s(machine, 1e9) == pytest.approx(0.1)


def test_the_choice_does_not_depend_on_threads_or_measurements_taken_meanwhile() -> None:
    kernels = [sevenloops.compile(CONV, threads=threads) for threads in (1, 2, None)]
    assert len({kernel.schedule for kernel in kernels}) == 1
    assert choose(CONV, MACHINE) is choose(CONV, MACHINE)


# ---- accuracy --------------------------------------------------------------------------------------------------------


@pytest.fixture
def transforming(monkeypatch: pytest.MonkeyPatch) -> str:
    """An algorithm that is predicted to be the fastest, and does not accumulate as the definition does."""
    row = dataclasses.replace(
        ALGORITHMS["direct"],
        name="transforming",
        accumulates_as_defined=False,
        tolerance=2e-5,
        cost=lambda problem, schedule, machine: 1e-9,
        schedules=lambda p, m: [Schedule("transforming", **s.params) for s in ALGORITHMS["direct"].schedules(p, m)],
    )
    monkeypatch.setitem(ALGORITHMS, "transforming", row)
    choice._choose.cache_clear()
    return "transforming"


def test_strict_keeps_to_the_definition(transforming: str) -> None:
    assert choose(CONV, MACHINE).schedule.algorithm == transforming
    assert choose(CONV, MACHINE, accuracy="strict").schedule.algorithm == "direct"
    with pytest.raises(Unsupported, match=r'accuracy="strict" keeps to .* error is at most 2e-05'):
        choose(CONV, MACHINE, accuracy="strict", algorithm=transforming)
    with pytest.raises(Unsupported, match="leave out one of the two"):
        sevenloops.compile(CONV, algorithm=transforming, accuracy="strict")
    schedule = choose(CONV, Machine.host()).schedule
    with pytest.raises(Unsupported, match="strict"):
        sevenloops.compile(CONV, schedule=schedule, accuracy="strict")
    assert forced(CONV, transforming).name == transforming


def test_strict_takes_the_best_allowed_result_of_a_record(transforming: str) -> None:
    direct = ALGORITHMS["direct"].schedules(CONV, MACHINE)[3]
    other = Schedule(transforming, **direct.params)
    results = [Result(other, 1e-6, 1e-9, "m", 1e-5), Result(direct, 2e-6, 1e-6, "m", 1e-7)]
    records.add([record(*results)])
    assert choose(CONV, MACHINE).schedule == other
    assert choose(CONV, MACHINE, accuracy="strict").schedule == direct


def test_accuracy_is_checked_everywhere() -> None:
    x, w = np.zeros((1, 2, 4, 4), np.float32), np.zeros((3, 2, 3, 3), np.float32)
    for call in (
        lambda: sevenloops.compile(CONV, accuracy="exact"),
        lambda: sevenloops.compile(CONV, schedule=Schedule("naive"), accuracy="exact"),
        lambda: sevenloops.compile_many([CONV], accuracy="exact"),
        lambda: sevenloops.conv2d(x, w, accuracy="exact"),
        lambda: sevenloops.matmul(x[0, 0], x[0, 0], accuracy="exact"),
        lambda: sevenloops.linear(x[0, 0], x[0, 0], accuracy="exact"),
    ):
        with pytest.raises(ProblemError, match="accuracy must be one of fast, strict"):
            call()
    assert sevenloops.conv2d(x, w, accuracy="strict").shape == (1, 3, 2, 2)


def test_a_schedule_of_another_algorithm() -> None:
    with pytest.raises(ScheduleError, match="but the schedule is for 'naive'"):
        sevenloops.compile(CONV, algorithm="direct", schedule=Schedule("naive"))


# ---- records ---------------------------------------------------------------------------------------------------------


def test_a_record_decides() -> None:
    records.add([record(result("im2col", 1e-4, nth=2), result("direct", 2e-4))])
    chosen = choose(CONV, MACHINE)
    assert chosen.schedule == ALGORITHMS["im2col"].schedules(CONV, MACHINE)[2]
    assert "tuned, 2026-01-02 on test processor" in chosen.why
    assert "im2col 0.1 ms measured, direct 0.2 ms measured" in chosen.why
    only = choose(CONV, MACHINE, algorithm="direct")
    assert only.schedule == ALGORITHMS["direct"].schedules(CONV, MACHINE)[0] and "given; tuned" in only.why
    assert "cost model" in choose(CONV, MACHINE, algorithm="naive").why
    offers = candidates(CONV, MACHINE)
    assert [(o.schedule.algorithm, o.measured_s) for o in offers[:2]] == [("im2col", 1e-4), ("direct", 2e-4)]
    assert offers[-1].schedule.algorithm == "naive" and offers[-1].measured_s is None


def test_another_epilogue_counts_another_kind_of_machine_does_not() -> None:
    records.add([record(result("im2col", 1e-4))])
    assert ", as '" not in choose(CONV, MACHINE).why
    for epilogue in (sevenloops.Epilogue(), sevenloops.Epilogue(True, "relu", residual="before")):
        chosen = choose(CONV.with_epilogue(epilogue), MACHINE)
        assert chosen.schedule.algorithm == "im2col" and f", as '{CONV}'" in chosen.why
    assert choose(CONV, dataclasses.replace(MACHINE, name="a sibling")).schedule.algorithm == "im2col"
    for other in ({"cores": 2}, {"l2_bytes": 1 << 24}):
        assert choose(CONV, dataclasses.replace(MACHINE, **other)).schedule.algorithm == "direct"  # type: ignore[arg-type]
    assert choose(parse_problem("mb2 " + str(CONV)[4:]), MACHINE).schedule.algorithm == "direct"


def test_a_schedule_that_no_longer_fits_is_passed_over() -> None:
    good = result("direct", 2e-4, nth=1)
    broken = Result(good.schedule.replace(tile_channels=7), 1e-4, 1e-4, "m", 0.0)
    unknown = Result(Schedule("forgotten", size=1), 1e-5, 1e-4, "m", 0.0)
    records.add([record(unknown, broken, good)])
    assert choose(CONV, MACHINE).schedule == good.schedule
    records.add([record(unknown, broken)])
    assert "cost model" in choose(CONV, MACHINE).why


def test_a_newer_algorithm_wins_only_when_it_is_clearly_faster() -> None:
    predicted = candidates(CONV, MACHINE)[0]
    assert predicted.schedule.algorithm == "direct"
    for factor, winner in ((1.1, "naive"), (3.0, "direct")):
        records.add([record(result("naive", predicted.predicted_s * factor), knows=("im2col", "naive"))])
        chosen = choose(CONV, MACHINE)
        assert chosen.schedule.algorithm == winner
        assert ("newer than the tuned record" in chosen.why) == (winner == "direct")


def test_records_correct_the_model() -> None:
    """Where direct was found three times slower than predicted, similar problems are not given to it."""
    assert choose(CONV, MACHINE).schedule.algorithm == "direct"
    others = [parse_problem(f"mb1 ic16 ih{size} iw14 oc32 kh3 kw3 ph1 pw1") for size in (11, 12, 13, 15, 16)]
    found = []
    for problem in others:
        direct, im2col = result("direct", 1.0, problem), result("im2col", 1.0, problem)
        direct = dataclasses.replace(direct, median_s=3 * direct.predicted_s)
        found.append(record(direct, dataclasses.replace(im2col, median_s=im2col.predicted_s), problem=problem))
    records.add(found)
    chosen = choose(CONV, MACHINE)
    assert chosen.schedule.algorithm == "im2col"
    slow = next(c for c in chosen.candidates if c.schedule.algorithm == "direct")
    assert 2 < slow.factor < 3
    far = learned_factor(ALGORITHMS["direct"], parse_problem("mb1 ic512 ih56 iw56 oc512 kh7 kw7"), MACHINE)
    assert far == 1
    stale = [dataclasses.replace(s, model="old", predicted_s=1e3) for r in found for s in r.results]
    records.add([dataclasses.replace(r, results=tuple(stale[2 * at : 2 * at + 2])) for at, r in enumerate(found)])
    assert choose(CONV, MACHINE).schedule == chosen.schedule  # what another model had predicted is predicted again


def test_untuned_is_the_choice_without_records_of_these_sizes() -> None:
    """With any epilogue: what was measured of the same sizes neither decides nor teaches."""
    before = choose(CONV, MACHINE)
    assert before.schedule.algorithm == "direct"
    plain = parse_problem(records.sizes_of(str(CONV)))
    records.add([record(result("direct", 1.0, plain), result("im2col", 1e-6, plain), problem=plain)])
    assert choose(CONV, MACHINE).schedule.algorithm == "im2col"
    left_out = choice.untuned(CONV, MACHINE)
    assert left_out.schedule == before.schedule and all(c.factor == 1 for c in left_out.candidates)
    assert "without records" in left_out.why


def test_a_kernel_tells_why() -> None:
    host = Machine.host()
    first = sevenloops.compile(CONV)
    assert "cost model" in first.why
    records.add([record(result("direct", 1e-4, machine=host), machine=host)])
    second = sevenloops.compile(CONV)
    assert second.why.startswith("tuned") and second.schedule == first.schedule and second.loaded is first.loaded
    assert "direct 0.1 ms measured" in second.explain()
    assert "naive" in second.explain()
