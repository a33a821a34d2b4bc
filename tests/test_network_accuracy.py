"""Whole networks against float64, in both accuracies: small ones here, the large ones by `sevenloops bench accuracy`."""

from __future__ import annotations

import re

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops.bench import network_accuracy
from sevenloops.bench.network_accuracy import BOUNDS, NetworkAccuracy, measure_networks, network_errors
from sevenloops.cli.main import app
from sevenloops.graph.evaluate import evaluate
from sevenloops.models import build


def test_small_networks_are_within_the_bounds() -> None:
    told: list[NetworkAccuracy] = []
    results = measure_networks(["lenet5", "shiftresnet20"], told.append)
    assert results == told
    assert [(r.name, r.weights) for r in results] == [("lenet5", "random"), ("shiftresnet20", "random")]
    for result in results:
        assert result.holds
        assert all(0 < result.errors[accuracy] <= bound for accuracy, bound in BOUNDS.items())


def test_a_wrong_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight of the first layer, off by a thousandth of the largest, is far beyond both bounds."""
    graph = build("lenet5", batch=1)
    name = next(node.inputs[1] for node in graph.nodes if node.op == "Conv")
    weights = np.array(graph.constants[name])
    weights[0, 0, 2, 2] += 1e-3 * np.abs(weights).max()
    wrong = graph.replace(constants={**graph.constants, name: weights})
    monkeypatch.setattr(network_accuracy, "evaluate", lambda _, feeds: evaluate(wrong, feeds))
    errors = network_errors(graph)
    assert not NetworkAccuracy("lenet5", "random", errors).holds
    assert errors["strict"] > BOUNDS["strict"]


def test_the_command_fails_beyond_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    run = CliRunner()
    good = run.invoke(app, ["bench", "accuracy", "--networks", "lenet5", "--markdown"])
    assert good.exit_code == 0, good.output
    assert re.search(r"\| lenet5 \| random \| \d\.\de-\d\d \| \d\.\de-\d\d \| yes \|", good.output)
    monkeypatch.setitem(BOUNDS, "strict", 1e-12)
    bad = run.invoke(app, ["bench", "accuracy", "--networks", "lenet5", "--markdown"])
    assert bad.exit_code == 1
    assert "| no |" in bad.output
