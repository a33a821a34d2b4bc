"""The documentation of the command line: complete, up to date, and every command of the guide works."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops import records
from sevenloops.cli import reference
from sevenloops.cli.main import app
from sevenloops.graph.builder import GraphBuilder
from sevenloops.machine import Machine

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages whose commands other tests run: the guide below, in its order, the ladder's in test_ladder.py, and those that train
#: for minutes, on small networks, in test_train_command.py and test_bench_training.py.
ELSEWHERE = ("profiling.md", "ladder.md", "training_recipes.md", "training_benchmarks.md")
#: The short form of a command: smaller values, no other engines, one round; every option stays.
SMALLER = {
    "efficientnet_lite0": "lenet5",
    "resnet50": "model.onnx",
    "alexnet_two_towers": "model.onnx",
    "resnet50.onnx": "model.onnx",
    "resnet18": "lenet5",
    "mnist": "synthetic",
    "input=1x3x224x224": "x=1x3x16x16",
    "onnxruntime,openvino,mnn,torch": "none",
    "onnxruntime,torch": "none",
    "numpy": "none",
    "512": "16",
    "1021": "33",
    "mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1 bias act=relu": "mb1 ic16 ih14 iw14 oc16 kh3 kw3 ph1 pw1",
}
SHORTER = {
    ("bench", "accuracy"): ["--kernels", "3", "--channels", "4"],
    ("bench", "shift"): ["--rounds", "1", "--against", "none"],
    ("bench", "train"): ["--rounds", "1", "--batch", "2", "--against", "none"],
    ("bench",): ["--rounds", "1"],
    ("profile",): ["--runs", "1"],
    ("report",): ["--runs", "1"],
    ("run",): ["--against", "none"],
    ("train",): ["--limit", "128", "--epochs", "1"],
    ("tune",): ["--budget", "0.1", "--algorithm", "naive"],
}


def test_every_command_and_option_is_described() -> None:
    assert not reference.undocumented()
    assert len(list(reference.commands())) >= 20


def test_a_hole_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    name, command = next(reference.commands())
    monkeypatch.setattr(command, "help", "")
    monkeypatch.setattr(command.params[0], "help", None)
    monkeypatch.setattr(reference, "commands", lambda: iter([(name, command)]))
    assert reference.undocumented() == [name, f"{name} {command.params[0].name}"]


def test_the_reference_is_up_to_date() -> None:
    expected = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert reference.page() == expected, "run: python -m sevenloops.cli.reference > docs/cli.md"


def shell_lines(page: Path) -> list[list[str]]:
    """The `sevenloops` commands in the code blocks of a page, without comments."""
    text = page.read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    lines = [(language, line.strip()) for language, block in fenced for line in block.splitlines() if language in ("", "sh")]
    found = [line for _, line in lines if re.match(r"(\$ )?(sevenloops|make|python\S*|pip|\.venv\S*) ", line)]
    strange = [line for language, line in lines if language == "sh" and line and line not in found]
    assert not strange, f"{page.name} has commands that no test knows: {strange}"
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in found]


def known(words: list[str]) -> Iterator[str]:
    """What is wrong with a command line: an unknown command, or an option that it does not have."""
    rows = {tuple(name.split()): command for name, command in reference.commands()}
    found: Any = next((rows[tuple(words[:n])] for n in (2, 1) if tuple(words[:n]) in rows), None)
    if found is None and words[0] == "bench":
        found = rows[("bench", "model")]
    if found is None:
        yield f"no command {' '.join(words[:2])}"
        return
    options = {name for param in found.params for name in (*param.opts, *param.secondary_opts)}
    yield from (f"{words[0]} has no {word}" for word in words if re.match(r"--?[a-z]", word) and word not in options)


def mentioned(page: Path) -> list[list[str]]:
    """Commands with arguments in the running text."""
    spans = re.findall(r"`sevenloops ([^`]+)`", page.read_text(encoding="utf-8"))
    return [shlex.split(span) for span in spans if " " in span]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist(page: Path) -> None:
    for words in [*(words[1:] for words in shell_lines(page) if words[0] == "sevenloops"), *mentioned(page)]:
        assert not list(known(words)), words


def test_a_command_that_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nsevenloops profile x --tracing t\n```\nand `sevenloops wash x`", encoding="utf-8")
    assert list(known(shell_lines(page)[0][1:])) == ["profile has no --tracing"]
    assert list(known(mentioned(page)[0])) == ["no command wash x"]
    page.write_text("```sh\nconv2d --fast\n```", encoding="utf-8")
    with pytest.raises(AssertionError, match="commands that no test knows"):
        shell_lines(page)


def short(words: list[str]) -> list[str]:
    """The short form of a command; the networks of `--network` have one layer in these tests."""
    smaller = [word if before == "--network" else SMALLER.get(word, word) for before, word in zip(["", *words], words)]
    more = next((SHORTER[tuple(words[:n])] for n in (2, 1) if tuple(words[:n]) in SHORTER), [])
    return smaller + more


def others() -> list[list[str]]:
    """The command lines of all pages that no other test runs, each once."""
    lines = [tuple(words) for page in PAGES if page.name not in ELSEWHERE for words in shell_lines(page)]
    return [list(words) for words in dict.fromkeys(lines)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a photograph and a network of the user's, and records of tuning of its own."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(records, "path", lambda: tmp_path / "tuned.jsonl")
    records._forget()
    image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)).save("photo.jpg")
    net = GraphBuilder("model")
    y = net.max_pool(net.relu(net.conv(net.input("x", ("N", 3, 16, 16)), 8, 3)), 2, stride=2)
    net.graph(y=net.linear(net.flatten(y), 4)).save_onnx("model.onnx")
    yield tmp_path
    records._forget()


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of one layer, one way to compute it, a machine whose speeds are known."""
    from sevenloops import demo
    from sevenloops.bench import accuracy, networks

    whole = networks.layers

    def one(network: str, batch: int = 1) -> list[Any]:
        found = whole(network, batch)
        return [next((layer for layer in found if getattr(layer.problem, "shift", None)), found[-1])]

    monkeypatch.setattr(networks, "layers", one)
    ways = accuracy.ways
    monkeypatch.setattr(accuracy, "ways", lambda problem: itertools.islice(ways(problem), 1))
    monkeypatch.setattr(demo, "LADDER", demo.LADDER[-1:])
    machine = dataclasses.replace(Machine.host(), peak_gflops=100.0, peak_gflops_core=50.0, bandwidth_gbs=10.0)
    monkeypatch.setattr(Machine, "measured", classmethod(lambda cls, again=False: machine))


@pytest.mark.parametrize("words", others(), ids=" ".join)
def test_the_commands_of_the_pages_run(words: list[str], folder: Path, little: None) -> None:
    for package in ("matplotlib", "onnxruntime", "plotly", "skimage"):
        pytest.importorskip(package)
    program, *arguments = words
    if program == "make":
        done = subprocess.run(["make", "-n", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return
    assert program == "sevenloops"
    result = CliRunner().invoke(app, short(arguments))
    assert result.exit_code == 0, (result.stderr, result.exception)


def test_extras_that_are_to_be_installed_exist() -> None:
    known_extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for names in re.findall(r"pip install '[\w.]*\[([\w,]+)\]'", page.read_text(encoding="utf-8")):
            assert set(names.split(",")) <= known_extras, f"{page.name}: {names}"


def test_the_guide_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is made; what goes into it is held to pyproject.toml by the test above."""
    monkeypatch.chdir(tmp_path)
    make, install = [words for words in shell_lines(ROOT / "docs" / "profiling.md") if words[0] != "sevenloops"]
    assert make[:3] == ["python3", "-m", "venv"] and install[1:2] == ["install"]
    subprocess.run([sys.executable, *make[1:], "--without-pip"], check=True)
    assert (tmp_path / install[0]).parent.is_dir()


def test_the_guide_runs_from_end_to_end(folder: Path, little: None) -> None:
    for package in ("matplotlib", "plotly"):
        pytest.importorskip(package)
    lines = [words for program, *words in shell_lines(ROOT / "docs" / "profiling.md") if program == "sevenloops"]
    assert len(lines) >= 10
    for words in lines:
        arguments = [SMALLER.get(word, word) for word in words]
        result = CliRunner().invoke(
            app, arguments + (["--size", "64", "--no-peers", "--rounds", "1"] if words[0] == "ladder" else [])
        )
        assert result.exit_code == 0, (words, result.stderr, result.exception)
    assert {path.name for path in folder.iterdir()} >= {"report.html", "trace.json", "filters.png", "maps.svg"}
