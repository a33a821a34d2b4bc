"""The benchmark of the first second: whole processes, and the parts of our own start."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sevenloops.bench import start
from sevenloops.bench.network_bench import case
from sevenloops.bench.process import WorkerError
from sevenloops.bench.results import OWN
from sevenloops.cli.main import app
from sevenloops.errors import ProblemError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.kept import folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = GraphBuilder("little")
    x = net.input("x", ("N", 3, 8, 8))
    path = tmp_path / "little.onnx"
    net.graph(y=net.conv(x, 4, 3)).save_onnx(path)
    return path


def test_the_parts_are_within_the_whole() -> None:
    said: list[str] = []
    net = GraphBuilder("little")
    graph = net.graph(y=net.conv(net.input("x", (1, 3, 8, 8)), 4, 3))
    (found,) = start.measure_starts([(case("little", graph), None)], (), 1, 2, said.append)
    assert said == [
        *(f"little: {engine}, once untimed" for engine in (OWN, start.KEPT)),
        "little: round 1 of 2",
        "little: round 2 of 2",
    ]
    assert not list(folder().glob("*"))
    assert list(found.parts) == ["import numpy", "import InferenceSession", *start.PARTS]
    times = found.seconds[OWN]
    assert len(times) == 2 and all(len(part) == 2 and min(part) > 0 for part in found.parts.values())
    assert sum(min(part) for part in found.parts.values()) < 2 * found.median_s(OWN)  # type: ignore[operator]


def test_an_engine_that_fails_has_a_reason(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(start.ENGINES, "broken", "raise ValueError('no such luck')")
    result = CliRunner().invoke(app, ["bench", "start", str(model), "--against", "broken", "--rounds", "1", "--markdown"])
    assert result.exit_code == 0, result.stderr
    lines = result.output.splitlines()
    assert lines[0] == "| network | fastest | sevenloops | sevenloops, kept | broken | speedup |"
    assert lines[2].startswith("| little | sevenloops") and lines[2].endswith("| cannot run | - |")
    assert lines[3] == "| part | unit | little |" and lines[5].startswith("| import sevenloops, beyond NumPy | ms | ")
    with pytest.raises(WorkerError, match="no such luck"):
        start._process(start.ENGINES["broken"])


def test_an_unknown_engine_is_an_error() -> None:
    with pytest.raises(ProblemError, match="onnxruntime, openvino; got 'torch'"):
        start.measure_starts([], ("torch",), 1, 1)
