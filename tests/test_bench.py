"""The benchmark: peers compute the right thing, failures become reasons, and the figures follow from the times."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from sevenloops.bench import runner
from sevenloops.bench.engines import ENGINES, NETWORKS_ONLY, Prepared, fastest
from sevenloops.bench.networks import Layer
from sevenloops.bench.process import EngineProcess, WorkerError
from sevenloops.bench.report import render, summary, to_json, write_atomically
from sevenloops.bench.results import BenchRun, Row, Timing, geometric_mean
from sevenloops.bench.runner import BenchError, Options, as_layers, run_bench
from sevenloops.descriptor import parse_problem
from sevenloops.inputs import largest_error, make_inputs, reference_output
from sevenloops.machine import Machine

PROBLEMS = [
    "mb2 g4 ic8 ih9 iw7 oc12 kh3 kw2 sh2 pt1 pr2 bias act=clip:0.0:6.0 res=after",
    "mb1 ic5 iw20 oc7 kw3 act=silu",
    "mb1 ic3 id4 ih6 iw5 oc4 kd2 kh3 kw1 pd1 bias act=leaky_relu:0.1",
    "mb2 ic4 ih5 iw6 oc6 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1 bias act=hard_swish",
    "mb1 ic4 ih8 iw6 oc6 kh3 kw3 dh2 act=sigmoid res=before",
    "mb1 g16 ic16 ih9 iw9 oc16 kh3 kw3 ph1 pw1 bias act=relu",
    "gemm m13 n11 k7",
    "gemm m1 n100 k70 tb bias act=relu",
    "gemm m13 n11 k7 ta tb alpha=0.5 beta=2.0 bias res=before act=relu",
    "gemm m5 n6 k4 alpha=2.0 float64",
]
#: what a peer does not compute, by the beginning of the descriptor
NOT_COMPUTED = {
    "numpy": ("mb", "gemm m13 n11 k7 ta"),
    "openvino": ("gemm m5 n6 k4 alpha=2.0 float64",),
}


@pytest.fixture(scope="module", params=[name for name in ENGINES if name not in NETWORKS_ONLY])
def engine(request: pytest.FixtureRequest) -> Iterator[EngineProcess]:
    reason = ENGINES[request.param].missing()
    if reason:
        pytest.skip(reason)
    with EngineProcess(request.param, threads=1) as process:
        yield process


def prepare(process: EngineProcess, problem: str, output: Path, **values: Any) -> dict[str, Any]:
    values = {"seed": 5, "threads": 1, "algorithm": None, "isa": None, **values}
    return process.ask("prepare", problem=problem, output=str(output), **values)


@pytest.mark.parametrize("text", PROBLEMS)
def test_every_engine_computes_the_problem(engine: EngineProcess, text: str, tmp_path: Path) -> None:
    if text.startswith(NOT_COMPUTED.get(engine.name, ("-",))):
        try:
            prepare(engine, text, tmp_path / "y.npy")
        except WorkerError:
            return
    prepare(engine, text, tmp_path / "y.npy")
    problem = parse_problem(text)
    reference = reference_output(problem, make_inputs(problem, 5))
    assert largest_error(np.load(tmp_path / "y.npy"), reference) < 2e-6
    times = engine.ask("time", min_time_s=0.0, min_iterations=4)["times_s"]
    assert len(times) == 4 and min(times) > 0


def test_inputs_depend_on_the_seed_only() -> None:
    problem = parse_problem("gemm m3 n4 k5 beta=1.0 bias res=after")
    first, second, other = (make_inputs(problem, seed) for seed in (1, 1, 2))
    for name in ("x", "w", "bias", "residual", "c"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))
        assert getattr(first, name).dtype == np.float32


def test_the_error_is_relative_to_the_largest_output() -> None:
    assert largest_error([1.0, -7.0], np.array([1.0, -8.0])) == 1 / 8
    assert largest_error([0.5], np.array([0.0])) == 0.5
    assert np.isnan(largest_error([np.nan], np.array([1.0])))
    with pytest.raises(AssertionError):
        largest_error([1.0], np.array([1.0, 2.0]))


def test_the_fastest_way_is_kept_and_later_ways_may_fail() -> None:
    def fails() -> Prepared:
        raise RuntimeError("not in this version")

    slow = Prepared(lambda: sum(range(30_000)), lambda: np.zeros(1))
    quick = Prepared(lambda: None, lambda: np.ones(1))
    best = fastest({"slow": lambda: slow, "quick": lambda: quick, "fails": fails})
    assert best.note == "quick" and best.output()[0] == 1
    with pytest.raises(RuntimeError):
        fastest({"fails": fails, "quick": lambda: quick})


# ---- workers that fail ----------------------------------------------------------------------------------------------


def test_a_worker_that_ends_is_reported_and_started_anew(tmp_path: Path) -> None:
    with EngineProcess("numpy", threads=1) as process:
        prepare(process, "gemm m2 n2 k2", tmp_path / "y.npy")
        assert process._process is not None
        process._process.kill()
        process._process.wait()
        with pytest.raises(WorkerError, match="nothing is prepared"):
            process.ask("time", min_time_s=0.0, min_iterations=1)
        assert process.ask("hello")["version"] == np.__version__


def test_a_worker_that_does_not_answer_in_time_is_stopped(tmp_path: Path) -> None:
    with EngineProcess("numpy", threads=1) as process:
        with pytest.raises(WorkerError, match="no answer"):
            process.ask("hello", time_limit_s=0.0)
        assert process.ask("hello")["version"] == np.__version__


def test_a_worker_that_cannot_start_gives_its_last_words() -> None:
    with EngineProcess("no-such-engine", threads=1) as process, pytest.raises(WorkerError, match="KeyError"):
        process.ask("hello")


# ---- whole runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.described(Machine.host().isa, peak_gflops=100.0, peak_gflops_core=60.0, bandwidth_gbs=10.0)
    monkeypatch.setattr(runner, "_limits", lambda isa, threads: machine)
    monkeypatch.setattr(runner, "measure", lambda known: dataclasses.replace(known, peak_gflops=120.0))


QUICK: dict[str, Any] = {"rounds": 2, "slice_s": 0.0, "min_iterations": 2, "pause_s": 0.0}


@pytest.mark.usefixtures("quick_limits")
def test_a_run_end_to_end() -> None:
    problems = [parse_problem("gemm m16 n16 k16"), parse_problem("mb1 ic4 ih6 iw6 oc5 kh3 kw3")]
    said: list[str] = []
    run = run_bench(as_layers(problems), Options(("numpy", "sevenloops:naive"), threads=1, **QUICK), said.append)
    gemm, conv = run.rows
    assert (run.peak_gflops, run.bandwidth_gbs) == (120.0, 10.0)
    assert gemm.ratio is not None and gemm.ratio > 0
    assert [len(times) for times in gemm.timings["numpy"].rounds_s] == [2, 2]
    assert conv.timings["numpy"].reason == "NumPy has no convolution"
    assert conv.timings["sevenloops:naive"].note == "naive" and conv.timings["sevenloops"].note != "naive"
    for row in run.rows:
        assert len(row.timings["sevenloops"].peaks_gflops) == 2 and not row.timings["sevenloops:naive"].peaks_gflops
        for timing in row.timings.values():
            assert timing.reason or (timing.error is not None and timing.error < 1e-6)
    assert run.environment["engines"]["numpy"] == np.__version__
    assert any("2/2" in text for text in said)
    assert json.loads(to_json(run))["summary"]["rows"] == 2


@pytest.mark.usefixtures("quick_limits")
def test_an_unknown_algorithm_is_a_reason_not_an_end() -> None:
    run = run_bench(as_layers([parse_problem("gemm m4 n4 k4")]), Options((), threads=1, algorithm="nope", **QUICK))
    reason = run.rows[0].timings["sevenloops"].reason
    assert reason and "nope" in reason


@pytest.mark.parametrize(
    "options, text",
    [({"against": ("numpie",)}, "numpie"), ({"against": ("sevenloops",)}, "sevenloops"), ({"rounds": 0}, "rounds")],
)
def test_bad_options_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(BenchError, match=text):
        Options(**options)


def test_nothing_to_measure_and_a_foreign_machine_are_refused() -> None:
    with pytest.raises(BenchError, match="no problem"):
        run_bench([], Options())
    foreign = "neon" if Machine.host().arch != "arm-64" else "avx2"
    with pytest.raises(BenchError, match=foreign):
        run_bench(as_layers([parse_problem("gemm m4 n4 k4")]), Options(isa=foreign))


# ---- figures and reports --------------------------------------------------------------------------------------------


def a_run() -> BenchRun:
    problem = parse_problem("gemm m100 n100 k100")
    layer = Layer("fc", problem, repeats=3)
    own = Timing("sevenloops", ((1e-3, 2e-3, 9e-3), (2e-3, 2e-3)), error=1e-7, note="gemm")
    peers = {
        "torch": Timing("torch", ((1e-3,), (1e-3,)), note="functional"),
        "numpy": Timing("numpy", ((4e-3,),)),
        "openvino": Timing("openvino", reason="openvino is not installed"),
    }
    won = dataclasses.replace(peers["torch"], rounds_s=((4e-3,),))
    rows = (
        Row(layer.name, problem, 3, {"sevenloops": own, **peers}),
        Row("won", problem, 1, {"sevenloops": own, **peers, "torch": won}),
    )
    environment = {"cpu": "a processor", "isa": "avx2", "threads": 2, "date": "today", "engines": {"torch": "2"}}
    return BenchRun(rows, ("torch", "numpy", "openvino"), 10.0, 5.0, environment)


def test_figures_follow_from_the_times() -> None:
    run = a_run()
    lost, won = run.rows
    assert lost.timings["sevenloops"].median_s == 2e-3 and lost.timings["sevenloops"].best_s == 1e-3
    assert lost.ratio == 0.5 and won.ratio == 2.0
    assert lost.gflops("sevenloops") == pytest.approx(2e6 / 2e-3 / 1e9)
    figures = summary(run)
    assert figures["geometric_mean_ratio"] == pytest.approx(1.0)
    assert (figures["least_ratio"], figures["rows_below_1"], figures["rows_compared"]) == (0.5, 1, 2)
    assert figures["total_s"] == {
        "sevenloops": pytest.approx(8e-3),
        "torch": pytest.approx(7e-3),
        "numpy": pytest.approx(16e-3),
        "openvino": None,
    }
    assert geometric_mean([]) is None


def test_the_table_shows_losses_and_reasons() -> None:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(a_run()))
    text = capture.get()
    for part in (
        "0.50",
        "2.00",
        "1 of 2 rows below 1",
        "openvino is not installed",
        "geometric mean 1.000",
        "a processor",
    ):
        assert part in text


def test_the_table_says_when_the_machine_was_disturbed() -> None:
    run = a_run()
    shaky = dataclasses.replace(run.rows[0].timings["sevenloops"], rounds_s=((1e-3,), (2e-3,)))
    rows = (dataclasses.replace(run.rows[0], timings={**run.rows[0].timings, "sevenloops": shaky}), run.rows[1])
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(dataclasses.replace(run, rows=rows)))
    assert "noisy: in 1 row(s)" in capture.get()


def test_the_json_has_times_and_reasons() -> None:
    document = json.loads(to_json(a_run()))
    engines = document["rows"][0]["engines"]
    assert engines["sevenloops"]["median_s"] == 2e-3 and engines["sevenloops"]["round_medians_s"] == [2e-3, 2e-3]
    assert engines["sevenloops"]["share_of_peak"] == pytest.approx(0.1)
    assert engines["openvino"] == {"reason": "openvino is not installed"}


def test_the_share_is_of_the_peak_beside_where_it_was_sampled() -> None:
    run = a_run()
    row = run.rows[0]
    assert run.share_of_peak(row, "sevenloops") == pytest.approx(0.1) and run.share_of_peak(row, "openvino") is None
    own = dataclasses.replace(row.timings["sevenloops"], rounds_s=((1e-3,), (2e-3,), (4e-3,)), peaks_gflops=(5.0, 4.0, 1.0))
    run = dataclasses.replace(run, rows=(dataclasses.replace(row, timings={**row.timings, "sevenloops": own}),))
    values = json.loads(to_json(run))["rows"][0]["engines"]["sevenloops"]
    assert (values["share_of_peak"], values["share_of_peak_beside"]) == (pytest.approx(0.1), pytest.approx(0.4))
    assert values["peak_gflops_beside"] == 4.0  # 1 over 4 would be a quarter: the median of 2/5, 1/4 and 0.5/1 is not
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render(run))
    assert "beside each row: 4 to 4 GFLOP/s" in capture.get()


def test_writing_replaces_a_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "one")
    write_atomically(path, "two")
    assert path.read_text() == "two" and path.stat().st_mode & 0o777 == 0o644
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        write_atomically(tmp_path / "none" / "result.json", "one")
