"""Kept results as a page: all rows, with what is missing named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sevenloops.bench.markdown import MarkdownError, page, read_documents
from sevenloops.bench.networks import Layer
from sevenloops.bench.report import to_json
from sevenloops.bench.results import BenchRun, Row, Timing
from sevenloops.descriptor import parse_problem


def run(command: str) -> BenchRun:
    layer = Layer("conv1", parse_problem("mb1 ic4 ih8 iw8 oc8 kh3 kw3"), 2)
    fast, slow = ((1e-3, 2e-3, 3e-3),), ((4e-3, 4e-3, 4e-3),)
    details = {"algorithm": "direct"}
    timings = {
        "sevenloops": Timing("sevenloops", fast, error=1e-7, details=details),
        "torch": Timing("torch", slow),
        "openvino": Timing("openvino", reason="openvino is not installed"),
    }
    lost = {"sevenloops": Timing("sevenloops", slow, error=2e-7), "torch": Timing("torch", fast)}
    rows = (Row(layer.name, layer.problem, 2, timings), Row("conv2", layer.problem, 1, lost))
    environment = {
        "command": command, "cpu": "a cpu", "isa": "avx2", "threads": 2, "date": "2026-01-01",
        "engines": {"sevenloops": "1", "torch": "2"},
    }  # fmt: skip
    return BenchRun(rows, ("torch", "openvino"), 100.0, 10.0, environment)


def test_page(tmp_path: Path) -> None:
    files = []
    for name in ("alexnet", "vgg16"):
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(to_json(run(f"sevenloops bench conv --network {name} --batch 4 --output x.json")))
    text = page(read_documents(files))
    assert "## alexnet, batch 4" in text and "## vgg16, batch 4" in text
    assert "    sevenloops bench conv --network vgg16 --batch 4\n" in text
    assert "| all rows | 4 | **1.00** | 0.50 | 2 |" in text
    assert "| conv1: `mb1 ic4 ih8 iw8 oc8 kh3 kw3` | 2 | direct | 2 | 4 | - | 0 | 0 | 2.00 | 1.0e-07 |" in text
    assert "| conv2:" in text


def test_a_file_that_holds_no_results(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    for path in (other, tmp_path / "absent.json"):
        with pytest.raises(MarkdownError, match="holds no results"):
            read_documents([path])
