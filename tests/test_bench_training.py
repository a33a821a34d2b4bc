"""The benchmarks of training: layers in each direction, and whole training steps."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from rich.console import Console

from sevenloops.bench import runner
from sevenloops.bench.engines import Settings
from sevenloops.bench.gradient_peers import PREPARE, prepare_gradient
from sevenloops.bench.gradients import DIRECTIONS, GradientWork, cases, make_operands, run_gradients, sampled_error
from sevenloops.bench.markdown import page
from sevenloops.bench.networks import layers
from sevenloops.bench.report import render, to_json
from sevenloops.bench.runner import BenchError, Options, as_layers
from sevenloops.descriptor import parse_problem
from sevenloops.errors import ProblemError, Unsupported
from sevenloops.machine import Machine

LAYERS = [
    "mb2 ic5 ih9 iw7 oc6 kh3 kw3 ph1 pw1 bias act=relu",
    "mb2 g6 ic6 ih9 iw9 oc6 kh3 kw3 sh2 sw2 ph1 pw1",
    "mb3 ic20 ih6 iw5 oc7 kh1 kw1 shift=3",
    "gemm m5 n6 k7 tb bias",
]
QUICK: dict[str, Any] = {"rounds": 2, "slice_s": 0.0, "min_iterations": 2, "pause_s": 0.0}


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataclasses.replace(Machine.host(), peak_gflops=100.0, bandwidth_gbs=10.0)
    monkeypatch.setattr(runner, "_limits", lambda isa, threads: known)
    monkeypatch.setattr(runner, "measure", lambda machine: known)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("text", LAYERS)
@pytest.mark.parametrize("engine", list(PREPARE))
def test_every_engine_computes_the_gradient(engine: str, text: str, direction: str) -> None:
    if engine != "sevenloops":
        pytest.importorskip("torch", reason="it is the peer")
    work = GradientWork(direction, parse_problem(text))
    try:
        prepared = prepare_gradient(engine, work, 3, Settings(1))
    except ProblemError:
        assert (engine, direction) == ("sevenloops", "data") and "shift" in text
        return
    for _ in range(2):
        prepared.run()
    assert sampled_error(work, make_operands(work.conv, 3), prepared.output(), 3) < 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_sample_sees_what_the_whole_shows(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, whole sums of some channels and images are as exact as all of them; a wrong channel is noticed."""
    problem = parse_problem("mb3 g2 ic6 ih5 iw6 oc8 kh3 kw3 sh2 sw2 ph1 pw1 float64")
    work = GradientWork(direction, problem)
    prepared = prepare_gradient("sevenloops", work, 0, Settings(1))
    prepared.run()
    operands, output = make_operands(work.conv, 0), prepared.output()
    monkeypatch.setattr("sevenloops.bench.gradients.WHOLE_MACS", 0)
    assert all(sampled_error(work, operands, output, seed) < 1e-14 for seed in range(4))
    assert all(sampled_error(work, operands, output + 0.5, seed) > 1e-3 for seed in range(4))


def test_layers_of_a_network() -> None:
    found = cases(layers("resnet18", 2))
    names = [(name, work.direction) for name, work, _ in found]
    assert ("conv1", "data") not in names and ("conv1", "weights") in names
    repeats = {(name, work.direction): count for name, work, count in found}
    # of the first stage all four layers are one problem when none has its activation
    assert repeats["conv2_1.a", "forward"] == 4 and repeats["fc", "data"] == 1
    kinds = {name: work.kinds for name, work, _ in found if work.direction == "weights"}
    assert kinds["conv2_1.a"] == ("weights", "weights, 3x3 of stride 1")
    assert kinds["conv1"] == ("weights", "weights, all but 3x3 of stride 1")


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(BenchError, match="direction is one of forward, data, weights; got 'back'"):
        GradientWork("back", parse_problem(LAYERS[0]))
    with pytest.raises(BenchError, match="a fully connected layer is"):
        GradientWork("data", parse_problem("gemm m5 n6 k7"))
    with pytest.raises(BenchError, match="no layer"):
        run_gradients([], Options(()))
    with pytest.raises(Unsupported, match="numpy computes no gradients"):
        prepare_gradient("numpy", GradientWork("data", parse_problem(LAYERS[0])), 0, Settings(1))


@pytest.mark.usefixtures("quick_limits")
def test_a_run_of_layers() -> None:
    pytest.importorskip("torch", reason="it is the peer")
    run = run_gradients(as_layers([parse_problem(LAYERS[0])]), Options(("torch", "numpy"), threads=1, **QUICK))
    assert [row.problem.direction for row in run.rows] == list(DIRECTIONS)  # type: ignore[attr-defined]
    for row in run.rows:
        assert row.timings["numpy"].reason is not None
        for name in ("sevenloops", "torch"):
            timing = row.timings[name]
            assert len(timing.rounds_s) == 2 and timing.error is not None and timing.error < 1e-5
    document = json.loads(to_json(run))
    macs, moved = run.rows[0].problem.macs, run.rows[0].problem.unique_bytes
    assert document["rows"][0]["floor_s"] == pytest.approx(max(2e-9 * macs / 100, 1e-9 * moved / 10))
    assert document["summary"]["kinds"]["data"]["geometric_mean_ratio"] == pytest.approx(run.rows[1].ratio)
    document["environment"]["command"] = "sevenloops bench gradients --network resnet18"
    assert "| gradients of resnet18, batch 16: weights | 1 |" in page([document])
    console = Console(width=250)
    with console.capture() as capture:
        console.print(render(run))
    assert "weights, 3x3 of stride 1: geometric mean" in capture.get() and "floor" in capture.get()
