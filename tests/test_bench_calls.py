"""The benchmark of what a call costs beside its arithmetic."""

from __future__ import annotations

import os
from typing import Any

import pytest
from typer.testing import CliRunner

from sevenloops.bench import calls
from sevenloops.bench.calls import COLD, Calls, measure_calls
from sevenloops.bench.process import WorkerError
from sevenloops.cli.main import app


def test_every_kind_of_call_is_timed() -> None:
    said: list[str] = []
    found = measure_calls(1, said.append)
    assert {layout: len(times) for layout, times in found.warm.items()} == {"NCHW": 20, "NHWC": 20}
    assert (len(found.first), len(found.start), len(found.cold)) == (1, 1, len(COLD) - 1)
    assert all(second > 0 for _, _, times in found.rows() for second in times)
    assert said == ["warm calls", "first calls: 1 of 1", "cold compiles: 1 of 1"]


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(WorkerError, match="lukewarm"):
        calls._process("lukewarm", dict(os.environ))


def test_the_command_prints_medians_in_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: Any) -> Calls:
        return Calls({"NCHW": (2e-6, 3e-6, 9e-6)}, (0.02, 0.04), (3.0,), (0.5, 0.7))

    monkeypatch.setattr("sevenloops.cli.calls.measure_calls", measured)
    result = CliRunner().invoke(app, ["bench", "calls", "--markdown"])
    lines = result.output.splitlines()
    assert lines[0] == "| what | unit | median | least | most | samples |"
    assert lines[2] == "| conv2d, warm, NCHW | us | 3 | 2 | 9 | 3 |"
    assert lines[3].endswith("| ms | 30 | 20 | 40 | 2 |") and lines[5] == "| any other compile | s | 0.6 | 0.5 | 0.7 | 2 |"
