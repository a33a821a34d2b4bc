"""The benchmark of packing."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from sevenloops.algorithms import ALGORITHMS
from sevenloops.bench.networks import Layer
from sevenloops.bench.packs import PackTime, measure_packs
from sevenloops.bench.results import Timing
from sevenloops.cli.main import app
from sevenloops.descriptor import parse_problem

LAYER = Layer("small", parse_problem("mb1 ic16 ih9 iw9 oc24 kh3 kw3"), 2)


def test_bytes_are_those_of_the_weights_and_of_the_packed_ones() -> None:
    (pack,) = measure_packs([LAYER], "direct", rounds=1)
    weights = 4 * 16 * 24 * 9
    assert (pack.name, pack.algorithm, pack.repeats) == ("small", "direct", 2)
    assert pack.read_bytes == weights and weights <= pack.written_bytes < 2 * weights
    assert pack.timing.median_s is not None and pack.timing.median_s > 0


def test_every_algorithm_that_computes_a_layer_is_measured() -> None:
    said: list[str] = []
    problem = LAYER.problem
    able = [row.name for row in ALGORITHMS.values() if isinstance(problem, row.kinds) and row.supports(problem) is None]
    assert [pack.algorithm for pack in measure_packs([LAYER], "all", rounds=1, say=said.append)] == able
    assert said == [f"small: {name}" for name in able]


def test_the_command_prints_shares_and_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = Timing("sevenloops", rounds_s=((1e-3, 2e-3, 9e-3),))
    other = PackTime("b", "winograd", 1, 1_000_000, 4_000_000, timing)
    packs = [PackTime("a", "direct", 3, 4_000_000, 6_000_000, timing), other]
    monkeypatch.setattr("sevenloops.cli.packs.measure_packs", lambda *_: packs)
    result = CliRunner().invoke(app, ["bench", "pack", "--network", "3x3", "--markdown"])
    lines = result.output.splitlines()
    assert lines[0].startswith("| layer | algorithm | layers | MB read + written | ms | GB/s | % of ")
    assert lines[2].startswith("| a | direct | 3 | 10 | 2 | 5 | ")
    assert lines[4].startswith("| all |  | 4 | 35 | 8 | 4.38 | ")
