"""The documentation of the command line: complete, up to date, and every command of the guide works."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops.cli import reference
from sevenloops.cli.main import app
from sevenloops.graph.builder import GraphBuilder

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: In tests a small network stands for one that compiles for minutes.
SMALLER = {"efficientnet_lite0": "lenet5"}


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
    blocks = [block for language, block in fenced if language in ("", "sh")]
    lines = [line for block in blocks for line in block.splitlines() if re.match(r"(sevenloops|make) ", line)]
    return [shlex.split(line, comments=True) for line in lines]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist(page: Path) -> None:
    for words in shell_lines(page):
        if words[0] == "sevenloops":
            assert not list(known(words[1:])), words


def test_the_guide_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("PIL", "matplotlib", "plotly"):
        pytest.importorskip(package)
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    net = GraphBuilder("model")
    y = net.max_pool(net.relu(net.conv(net.input("x", ("N", 3, 16, 16)), 8, 3)), 2, stride=2)
    net.graph(y=net.linear(net.flatten(y), 4)).save_onnx("model.onnx")
    lines = shell_lines(ROOT / "docs" / "profiling.md")
    assert len(lines) >= 10
    for _, *words in lines:
        result = CliRunner().invoke(app, [SMALLER.get(word, word) for word in words])
        assert result.exit_code == 0, (words, result.stderr, result.exception)
    CliRunner().invoke(app, ["tuned", "clear"])
    assert {path.name for path in tmp_path.iterdir()} >= {"report.html", "trace.json", "filters.png", "maps.svg"}
