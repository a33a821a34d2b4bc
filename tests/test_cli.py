"""The command line: commands that work, and errors in one line with a status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sevenloops import records
from sevenloops.bench import runner as bench_runner
from sevenloops.cli import problems
from sevenloops.cli.bench import split_names
from sevenloops.cli.main import app
from sevenloops.errors import ProblemError
from sevenloops.machine import Machine

SMALL = "mb1 ic4 ih6 iw6 oc5 kh3 kw3"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_names_every_command() -> None:
    status, text, _ = run("--help")
    assert status == 0
    for command in (
        "machine",
        "run",
        "bench",
        "compile",
        "tune",
        "tuned",
        "explain",
        "cache",
        "demo",
        "profile",
        "count",
        "report",
        "filters",
        "train",
    ):
        assert command in text


def test_explain_and_the_cache() -> None:
    status, text, _ = run("explain", *SMALL.split())
    assert status == 0 and "direct" in text
    status, text, _ = run("explain", SMALL, "--algorithm", "naive")
    assert status == 0 and "naive" in text
    status, text, _ = run("cache", "list", "--json")
    assert status == 0 and SMALL in {entry["problem"] for entry in json.loads(text)}
    status, text, _ = run("cache", "list")
    assert status == 0 and "kernels" in text
    status, text, _ = run("cache", "path")
    assert status == 0 and Path(text.strip()).is_dir()


def test_compile_fills_the_cache() -> None:
    problem = "mb1 ic4 ih7 iw6 oc5 kh3 kw3"
    status, text, _ = run("compile", problem)
    assert status == 0 and text.startswith(f"{problem}: Schedule('direct'")
    assert problem in run("cache", "list", "--json")[1]
    status, _, errors = run("compile")
    assert status == 2 and "no problem was given" in errors


def test_tune_and_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "path", lambda: tmp_path / "tuned.jsonl")  # not those of whoever runs the tests
    problem = "mb1 ic4 ih8 iw6 oc5 kh3 kw3"
    own = json.dumps({"algorithm": "naive"})
    status, text, _ = run("tune", problem, "--algorithm", "naive", "--budget", "1", "--schedule", own)
    assert status == 0 and text.startswith(f"{problem}: ") and "Schedule('naive')" in text
    assert "untuned over tuned: geometric mean" in text
    assert "(tuned before)" in run("tune", problem, "--algorithm", "naive")[1]
    status, text, _ = run("tuned", "list", "--json")
    assert status == 0 and {record["problem"]: record["shipped"] for record in json.loads(text)}[problem] is False
    status, text, _ = run("tuned", "list")
    assert status == 0 and "naive" in text
    file = tmp_path / "records.jsonl"
    status, text, _ = run("tuned", "export", str(file), "--this-machine")
    assert status == 0 and text.endswith(f"records written to {file}\n")
    assert run("tuned", "clear")[0] == 0 and problem not in run("tuned", "list", "--json")[1]
    status, text, _ = run("tuned", "import", str(file))
    assert status == 0 and problem in run("tuned", "list", "--json")[1]
    run("tuned", "clear")
    for arguments, message in (
        (["tune"], "no problem was given"),
        (["tune", problem, "--schedule", "{}"], "not a schedule"),
        (["tune", problem, "--algorithm", "depthwise"], "groups = in_channels"),
        (["tuned", "import", str(tmp_path / "none")], "No such file"),
        (["explain", SMALL, "--accuracy", "exact"], "accuracy must be one of"),
    ):
        status, _, errors = run(*arguments)
        assert status == 2 and message in errors


def test_bench_prints_a_table_and_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.described(Machine.host().isa, peak_gflops=1.0, peak_gflops_core=1.0, bandwidth_gbs=1.0)
    monkeypatch.setattr(bench_runner, "_limits", lambda isa, threads: machine)
    monkeypatch.setattr(bench_runner, "measure", lambda known: known)
    output = tmp_path / "result.json"
    status, text, _ = run("bench", "gemm", "8", "5x6x7", "--against", "numpy", "--rounds", "1", "--output", str(output))
    assert status == 0 and "numpy" in text and "geometric mean" in text
    assert [row["problem"] for row in json.loads(output.read_text())["rows"]] == ["gemm m8 n8 k8", "gemm m5 n6 k7"]
    status, text, _ = run("bench", "conv", SMALL, "--against", "none", "--rounds", "1", "--json", "--threads", "1")
    assert status == 0 and json.loads(text)["rows"][0]["problem"] == SMALL


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["bench", "conv"], "no problem"),
        (["bench", "conv", "ic3"], "no input size"),
        (["bench", "conv", "gemm m5 n5 k5"], "matrix product"),
        (["bench", "gemm", "5x"], "cannot read '5x'"),
        (["bench", "gemm", SMALL], "convolution"),
        (["bench", "gemm", "0"], "at least 1"),
        (["bench", "conv", "--network", "lenet"], "lenet"),
        (["bench", "gemm", "8", "--against", "numpie"], "numpie"),
        (["bench", "gemm", "8", "--isa", "mmx"], "mmx"),
        (["bench", "gemm", "8", "--output", "/no/such/folder/x.json"], "folder"),
        (["explain", "gemm", "m5"], "lacks"),
        (["explain", SMALL, "--algorithm", "nope"], "nope"),
        (["demo", "--photo", "/no/such/photo.png"], "photo"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    status, text, errors = run(*arguments)
    assert status == 2 and text == ""
    assert errors.startswith("sevenloops: ") and message in errors and len(errors.strip().splitlines()) == 1


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(problems, "one_problem", interrupted)
    assert run("explain", SMALL)[0] == 130


def test_the_module_runs_as_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "sevenloops", "explain", "nonsense"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_problems_as_they_are_typed() -> None:
    assert [str(problem) for problem in problems.conv_problems(SMALL.split())] == [SMALL]
    assert [str(problem) for problem in problems.conv_problems([SMALL, SMALL + " bias"])] == [SMALL, SMALL + " bias"]
    assert problems.conv_problems([]) == []
    assert [str(problem) for problem in problems.gemm_problems(["gemm", "m1", "n2", "k3"])] == ["gemm m1 n2 k3"]
    assert str(problems.one_problem(["2x3x4"])) == "gemm m2 n3 k4"
    assert split_names(" torch, numpy,") == ("torch", "numpy")
    assert split_names("none") == split_names("") == ()
    with pytest.raises(ProblemError):
        problems.gemm_problems(["1x2"])
