"""The choice for weights that are new in every call: packing counts."""

from __future__ import annotations

import numpy as np
import pytest

import sevenloops
from sevenloops import functional, records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.choice import choose
from sevenloops.descriptor import parse_problem
from sevenloops.errors import ProblemError
from sevenloops.learned import model_digest
from sevenloops.machine import Machine
from sevenloops.recent import Recent
from sevenloops.records import Record, Result, machine_kind

#: No records but those that a test makes.
pytestmark = pytest.mark.usefixtures("no_records")
MACHINE = Machine.described("avx2", name="test processor", cores=2, os="linux", l2_bytes=1 << 19, l3_bytes=32 << 20)
#: 9 MB of weights for 196 pixels
HEAVY = parse_problem("mb1 ic512 ih14 iw14 oc512 kh3 kw3 ph1 pw1")


def test_packing_is_part_of_the_prediction() -> None:
    constant, varying = choose(HEAVY, MACHINE), choose(HEAVY, MACHINE, weights="varying")
    assert constant.schedule.algorithm == "winograd" and constant.candidates[0].pack_s == 0
    assert varying.schedule != constant.schedule and varying.why.startswith("the weights are new in every call; ")
    best = varying.candidates[0]
    assert best.expected_s == best.predicted_s + best.pack_s and "of it packing" in varying.why
    kept = ALGORITHMS["winograd"].pack_s(HEAVY, constant.schedule, MACHINE)
    assert best.expected_s < constant.candidates[0].predicted_s + kept
    alone = choose(HEAVY, MACHINE, weights="varying", algorithm="winograd")
    assert "the algorithm was given; the weights are new" in alone.why


@pytest.mark.parametrize("name", ["direct", "mec", "kn2row", "winograd", "fft", "naive"])
def test_packing_takes_as_long_as_its_bytes(name: str) -> None:
    row = ALGORITHMS[name]
    weights = 4 * 512 * 512 * 9
    for schedule in row.schedules(HEAVY, MACHINE)[:4]:
        seconds = row.pack_s(HEAVY, schedule, MACHINE)
        assert seconds == 0 if row.reads_as_stored else seconds > 2 * weights / 100e9


def test_what_is_read_as_it_is_stored_needs_no_packing() -> None:
    problem = parse_problem("gemm m1 n1000 k2048 tb")
    chosen = choose(problem, MACHINE, weights="varying")
    assert chosen.schedule.algorithm == "gemv" and chosen.candidates[0].pack_s == 0


def test_packing_is_added_to_measured_times() -> None:
    results = []
    for name, median_s in (("winograd", 1e-3), ("direct", 1.2e-3)):
        schedule = ALGORITHMS[name].schedules(HEAVY, MACHINE)[0]
        predicted_s = ALGORITHMS[name].predicted_s(HEAVY, schedule, MACHINE)
        results.append(Result(schedule, median_s, predicted_s, model_digest(name), 1e-7))
    names = tuple(ALGORITHMS)
    row = Record(str(HEAVY), machine_kind(MACHINE), MACHINE.name, tuple(results), names, "2026-01-02", "digest", 1.0)
    records.add([row])
    assert choose(HEAVY, MACHINE).schedule.algorithm == "winograd"
    varying = choose(HEAVY, MACHINE, weights="varying")
    assert varying.schedule == results[1].schedule
    assert "tuned, 2026-01-02" in varying.why and "measured" in varying.why and "of it packing" in varying.why


def test_plain_calls_have_varying_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compile(problem: object, **options: object) -> object:
        asked.append(options["weights"])
        raise ProblemError("enough")

    monkeypatch.setattr(functional, "compile", compile)
    monkeypatch.setattr(functional, "_conv_kernels", Recent())
    monkeypatch.setattr(functional, "_gemm_kernels", Recent())
    x, w = np.zeros((1, 2, 4, 4), np.float32), np.zeros((3, 2, 3, 3), np.float32)
    for call in (lambda: sevenloops.conv2d(x, w), lambda: sevenloops.matmul(x[0, 0], x[0, 0])):
        with pytest.raises(ProblemError, match="enough"):
            call()
    assert asked == ["varying", "varying"]


def test_other_words_are_refused() -> None:
    with pytest.raises(ProblemError, match="weights must be one of constant, varying, got 'sometimes'"):
        sevenloops.compile(HEAVY, weights="sometimes")
