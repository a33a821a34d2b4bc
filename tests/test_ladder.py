"""The ladder: every rung is right, its trace is what its loops say, and a reader's own file is a rung."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops.cli.main import app
from sevenloops.compile.explain import loop_nest
from sevenloops.errors import CompileError, KernelError
from sevenloops.inputs import largest_error, make_inputs, reference_output
from sevenloops.ladder import CONV, CONV_CASES, GEMM, LADDERS, LadderError, Options, Rung, measure, own_rung, rungs_named
from sevenloops.ladder.access import Trace, small_case, touches
from sevenloops.ladder.access_text import picture
from sevenloops.ladder.kernels import Ready, convolve, python_seconds, rung_text
from sevenloops.ladder.kernels import tiny as tiny_layer
from sevenloops.ladder.results import Case, LadderRun, Point, series
from sevenloops.ladder.text import byte_text, fits, rung_lines, working_set_lines
from sevenloops.ladder.tiles import own_tile
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem, GemmProblem, Problem

GEMM_FILES = [rung for rung in GEMM.values() if rung.kind == "file"]
CONV_FILES = [rung for rung in CONV.values() if rung.kind == "file"]
TUTORIAL = sorted((Path(__file__).parents[1] / "docs" / "tutorial").glob("[0-9]*.py"))


@pytest.fixture
def known_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose peak need not be measured: the tests are of everything but the figures."""
    machine = dataclasses.replace(Machine.host(), peak_gflops=1.0, peak_gflops_core=1.0, bandwidth_gbs=1.0)
    monkeypatch.setattr(Machine, "measured", classmethod(lambda cls: machine))
    monkeypatch.setattr(measure, "peak_sampler", lambda machine, threads: lambda seconds: 1.0)


def error_of(rung: Rung, problem: Problem) -> float:
    inputs = make_inputs(problem, 1)
    ready = Ready.of(rung, problem, inputs, 2)
    assert np.isnan(ready.out).all()
    ready.run()
    return largest_error(ready.out, reference_output(problem, inputs))


@pytest.mark.parametrize("rung", GEMM_FILES, ids=lambda rung: rung.name)
@pytest.mark.parametrize("sizes", [(67, 131, 19), (64, 128, 64)], ids=str)
def test_the_files_of_the_product_are_right(rung: Rung, sizes: tuple[int, int, int]) -> None:
    assert error_of(rung, GemmProblem(*sizes)) < 2e-6


CONVOLUTIONS = [
    ConvProblem(2, 5, (11, 13), 17, (3, 2), stride=(2, 1), padding=((1, 0), (1, 2)), dilation=(1, 2)),
    ConvProblem(1, 4, (9, 9), 32, (3, 3), padding=((1, 1),)),
]


@pytest.mark.parametrize("rung", CONV_FILES, ids=lambda rung: rung.name)
@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_the_files_of_the_convolution_are_right(rung: Rung, problem: ConvProblem) -> None:
    assert error_of(rung, problem) < 2e-6


def test_the_seven_loops_in_python() -> None:
    problem = CONVOLUTIONS[0]
    inputs = make_inputs(problem, 1)
    found = np.asarray(convolve(inputs.x.tolist(), inputs.w.tolist(), problem))
    assert largest_error(found, reference_output(problem, inputs)) < 1e-12
    small = tiny_layer(CONV_CASES["vgg"])
    assert small.in_channels == 3 and small.out_channels == 4 and small.macs < 20_000
    assert python_seconds(small, make_inputs(small, 0))[0] > 0


def test_the_layer_of_the_walk_through() -> None:
    assert CONV_CASES["walkthrough"].macs == 85_162_752
    assert CONV_CASES["vgg"].macs == 256 * 256 * 9 * 56 * 56


# ------------------------------------------------------------------------------------------------ addresses


@pytest.fixture(scope="module")
def traces() -> dict[str, Trace]:
    problem = GemmProblem(12, own_tile(Machine.host())[1], 3)
    return {name: touches(GEMM[name], problem) for name in ("ijk", "ikj", "packed")}


def test_the_trace_is_the_order_of_the_loops(traces: dict[str, Trace]) -> None:
    """ijk reads a column of B, ikj a row: written out by hand from the three loops."""
    n = traces["ijk"].problem.y_shape[1]
    for name, expected in (
        ("ijk", [(k, j) for i in range(12) for j in range(n) for k in range(3)]),
        ("ikj", [(k, j) for i in range(12) for k in range(3) for j in range(n)]),
    ):
        trace = traces[name]
        mine = trace.array == trace.names.index("b")
        assert trace.first[mine].tolist() == [4 * (k * n + j) for k, j in expected]
        assert not trace.store[mine].any() and set(trace.size[mine]) == {4}
        assert [line for array, line in trace.lines() if array == "b"] == [(k * n + j) // 16 for k, j in expected]


def test_the_figures_of_a_trace(traces: dict[str, Trace]) -> None:
    ijk, ikj, packed = (traces[name] for name in ("ijk", "ikj", "packed"))
    assert ijk.new_lines()["b"] == 100.0 and ikj.new_lines()["b"] == pytest.approx(100 / 16)
    macs = ijk.problem.macs
    stored = 4 * 12 * ijk.problem.y_shape[1]  # the zeros
    assert ijk.bytes_touched == stored + 4 * 4 * macs  # a, b and y loaded, y stored, for each multiply-add
    assert ijk.intensity == pytest.approx(2 * macs / (stored + 16 * macs))
    assert packed.names == ("a", "b", "y", "panels") and packed.local > 0 and packed.intensity > 2 * ijk.intensity
    assert packed.extent[3] == packed.extent[1]
    begin = packed.begin()
    assert packed.names[packed.array[begin]] in ("a", "panels") and begin > 0


def test_pictures_and_refusals(traces: dict[str, Trace]) -> None:
    text = picture(traces["ijk"])
    assert "  b: " in text and "o..o.." in text and "100 multiply-adds" in text
    with pytest.raises(LadderError, match="not code of ours"):
        touches(GEMM["numpy"], small_case("gemm"))
    with pytest.raises(LadderError, match="at most"):
        touches(GEMM["ijk"], GemmProblem(512, 512, 512))


def test_an_algorithm_is_traced_as_it_stands() -> None:
    """im2col writes its columns, and `direct` sees pixel and channel as one axis."""
    tiny = ConvProblem(1, 4, (6, 6), 16, (3, 3), padding=((1, 1),))
    assert "col" in touches(CONV["im2col"], tiny).names
    assert touches(CONV["direct"], tiny).names[:3] == ("x", "packed", "y")


# ------------------------------------------------------------------------------------------ a reader's own file


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GEMM["ikj"].code().replace("reorder(j, k, i)", "reorder(j, k, i).vectorize(j, 8)"), encoding="utf-8")
    rung = own_rung(path)
    assert error_of(rung, GemmProblem(64, 64, 8)) < 2e-6
    assert "ramp" in rung_text(rung, GemmProblem(64, 64, 8))["loops"]
    path.write_text(GEMM["tile6x16"].code(), encoding="utf-8")  # the file is read again, not remembered
    for _ in range(2):  # and the compiler's process does not number its names
        assert "   allocate sums[float32 * 16 * 6]" in loop_nest(rung_text(rung, GemmProblem(64, 64, 9))["loops"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("reorder(j, k, i)", "reorder(j, k, nothing)", "line [0-9]+: NameError"),
        ("reorder(j, k, i)", "reorder(j, k, hl.Var('z'))", "Halide refused|z"),
        ("return c, [a, b]", "return c, [a]", "two inputs"),
        ("from typing import Any", "from typing import (", "SyntaxError"),
        ("def define", "def other", "KeyError"),
    ],
)
def test_mistakes_in_a_file_are_told(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "mine.py"
    text = GEMM["ikj"].code()
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(CompileError, match=message):
        Ready.of(own_rung(path), GemmProblem(64, 64, 64), make_inputs(GemmProblem(64, 64, 64), 0), 1)


def test_a_schedule_that_goes_beyond_its_operands_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GEMM["ikj"].code().replace("b[j, k]", "b[j + 1, k]"), encoding="utf-8")
    problem = GemmProblem(64, 64, 64)
    with pytest.raises(KernelError, match="code -"):
        Ready.of(own_rung(path), problem, make_inputs(problem, 0), 1).run()


def test_a_wrong_result_is_never_timed(tmp_path: Path, known_speeds: None) -> None:
    path = tmp_path / "mine.py"
    path.write_text(GEMM["ikj"].code().replace("c[j, i] = 0.0", "c[j, i] = 1.0"), encoding="utf-8")
    with pytest.raises(LadderError, match="mine is wrong"):
        measure.climb("gemm", [own_rung(path)], measure.gemm_cases([64]))


def test_files_compute_plain_problems_only() -> None:
    problem = GemmProblem(64, 64, 64, trans_b=True)
    with pytest.raises(CompileError, match="plain"):
        Ready.of(GEMM["ijk"], problem, make_inputs(problem, 0), 1)
    with pytest.raises(LadderError, match="no rung"):
        rungs_named("gemm", ("ijk", "jki"))
    with pytest.raises(LadderError, match="no such file"):
        own_rung(Path("/no/such/file.py"))
    with pytest.raises(LadderError, match="at least 64"):
        measure.gemm_cases([32])
    with pytest.raises(LadderError, match="at least 1"):
        Options(rounds=0)


# ------------------------------------------------------------------------------------------------- figures


def test_figures_follow_from_the_times() -> None:
    case = Case("1000", GemmProblem(1000, 1000, 1000))
    first = Point(GEMM["ijk"], case, ((2.0,), (4.0,)), peaks_gflops=(2.0,))
    last = Point(GEMM["tuned"], case, ((0.02,), (0.02, 0.02, 0.1), (0.02,)), peaks_gflops=(100.0, 200.0, 400.0))
    none = Point(GEMM["numpy"], case, reason="not installed")
    run = LadderRun("gemm", (first.rung, last.rung, none.rung), (case,), (first, last, none), 400.0, {})
    assert first.median_s == 3.0 and first.spread == 2.0 and first.gflops == pytest.approx(2 / 3)
    assert last.share_of_peak == pytest.approx(0.5) and run.climb("1000") == pytest.approx(150)
    assert none.gflops is None and none.share_of_peak is None
    assert list(series(run)) == ["ijk", "tuned"]
    ((x, gflops),) = series(run)["tuned"]
    assert x == 1000 and gflops == pytest.approx(100.0)
    assert last.best_share == pytest.approx(0.25) and none.best_share is None
    assert case.intensity == pytest.approx(2e9 / 12e6)
    assert json.loads(json.dumps(run.to_dict()))["points"][2]["reason"] == "not installed"


def test_what_would_take_too_long_is_left_out(known_speeds: None) -> None:
    run = measure.climb("gemm", [GEMM["ijk"]], measure.gemm_cases([64, 128]), Options(rounds=1, limit_s=1e-5))
    assert run.points[0].gflops and run.points[1].gflops is None
    assert "would take about" in str(run.points[1].reason)


def test_working_sets_and_caches() -> None:
    machine = Machine.described("avx2", l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=8 << 20)
    assert [fits(size, machine) for size in (32 << 10, 33 << 10, 8 << 20, 9 << 20)] == ["L1", "L2", "L3", "memory"]
    assert byte_text(100) == "100 bytes" and byte_text(3 << 19) == "1.5 MiB"
    lines = working_set_lines(GEMM["ijk"], GemmProblem(1024, 1024, 1024), machine)
    assert lines == [
        "a column of B, a line for each value, for the next 15 columns: 64 KiB, fits L2",
        "all of B, for the next row of C: 4 MiB, fits L3",
    ]


@pytest.mark.parametrize("kind", LADDERS)
def test_every_rung_says_what_it_is(kind: str) -> None:
    case = Case("small", small_case(kind))
    for rung in LADDERS[kind].values():
        lines = rung_lines(rung, case, loops=False)
        assert lines[0] == f"{rung.name}: {rung.adds}" and "working sets" in lines
        assert ("def define" in "\n".join(lines)) == (rung.kind in ("file", "algorithm"))


# -------------------------------------------------------------------------------------------- the commands


def run_command(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["ladder", *arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_ladder_of_the_product(tmp_path: Path, known_speeds: None) -> None:
    plot, output = tmp_path / "ladder.png", tmp_path / "ladder.json"
    arguments = ["--size", "64,96", "--rounds", "1", "--plot", str(plot), "--output", str(output)]
    status, text, _ = run_command("gemm", *arguments)
    assert status == 0 and all(name in text for name in GEMM) and "times as fast as the first" in text
    document = json.loads(output.read_text())
    assert [rung["name"] for rung in document["rungs"]] == list(GEMM)
    assert all(point["error"] < 1e-5 and point["gflops"] > 0 for point in document["points"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_one_rung_in_full(tmp_path: Path, known_speeds: None) -> None:
    status, code, _ = run_command("gemm", "--rung", "tile6x16", "--code")
    assert status == 0 and code == GEMM["tile6x16"].code()
    mine, plot = tmp_path / "mine.py", tmp_path / "access.svg"
    mine.write_text(code.replace("rows, columns = 6, 16", "rows, columns = 4, 32"), encoding="utf-8")
    arguments = ["--schedule", str(mine), "--size", "64", "--rounds", "1", "--picture", "--assembly"]
    status, text, _ = run_command("gemm", *arguments, "--access-plot", str(plot))
    assert status == 0 and "sums[float32 * 32 * 4]" in text and "your own schedule" in text
    assert "hot loop" in text and "changes of line" in text and "working sets" in text
    assert "<svg" in plot.read_text()


def test_the_ladder_of_the_convolution(tmp_path: Path, known_speeds: None) -> None:
    plot = tmp_path / "ladder.svg"
    layer = "mb1 ic5 ih13 iw11 oc16 kh3 kw3 ph1 pw1"
    status, text, _ = run_command("conv", "--layer", layer, "--rounds", "1", "--json", "--no-peers", "--plot", str(plot))
    document = json.loads(text)
    found = {point["rung"]: point for point in document["points"]}
    assert status == 0 and list(found) == [name for name, rung in CONV.items() if rung.kind != "engine"]
    assert all(point["gflops"] > 0 and point["error"] < 1e-4 for point in found.values())
    assert "times" in found["python"]["extrapolated"] and found["direct"]["extrapolated"] is None
    assert "<svg" in plot.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gemm", "--rung", "jki"], "the rungs are ijk"),
        (["gemm", "--code"], "add --rung"),
        (["gemm", "--rung", "numpy", "--code"], "of ours"),
        (["gemm", "--size", "16"], "at least 64"),
        (["gemm", "--plot", "ladder.pdf"], ".png or .svg"),
        (["gemm", "--plot", "/no/such/folder/ladder.png"], "folder"),
        (["gemm", "--schedule", "/no/such/file.py"], "no such file"),
        (["conv", "--layer", "nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    status, text, errors = run_command(*arguments)
    assert status == 2 and text == "" and message in errors and len(errors.strip().splitlines()) == 1


def test_without_matplotlib_a_plot_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, _, errors = run_command("gemm", "--plot", "ladder.png")
    assert status == 2 and "pip install 'sevenloops[plots]'" in errors


@pytest.mark.parametrize("script", TUTORIAL, ids=lambda path: path.stem)
def test_the_tutorial_runs(script: Path, known_speeds: None, capsys: pytest.CaptureFixture[str]) -> None:
    """In its short form: small sizes, one round."""
    runpy.run_path(str(script))["main"](short=True)
    assert len(capsys.readouterr().out.splitlines()) > 5


def test_the_commands_of_the_docs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known_speeds: None) -> None:
    """As printed, but on small sizes and without the peers."""
    text = (Path(__file__).parents[1] / "docs" / "ladder.md").read_text(encoding="utf-8")
    commands = [line.partition("#")[0].split() for line in text.splitlines() if line.startswith("sevenloops ladder")]
    assert len(commands) >= 5
    monkeypatch.chdir(tmp_path)
    for words in commands:
        words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
        small = ["--size", "64"] if "gemm" in words else ["--layer", "mb1 ic5 ih13 iw11 oc16 kh3 kw3 ph1 pw1"]
        status, out, errors = run_command(*words[2:], *small, "--rounds", "1", "--no-peers")
        assert status == 0, errors
        if target:
            Path(target).write_text(out, encoding="utf-8")
