"""The profile: figures that follow from the definition, exports that others read, and times that add up."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from sevenloops import InferenceSession
from sevenloops.analysis.export import as_csv, as_dict, as_trace
from sevenloops.analysis.profile import LayerProfile, Profile, profile
from sevenloops.cli.main import app
from sevenloops.errors import GraphError
from sevenloops.graph import Graph
from sevenloops.graph.builder import GraphBuilder
from sevenloops.machine import Machine

MACHINE = Machine.described(Machine.host().isa, peak_gflops_core=50.0, peak_gflops=100.0, bandwidth_gbs=10.0)


def network(size: int = 16) -> Graph:
    """Two convolutions, a normalisation that is folded, one that cannot be, pools, a fully connected layer."""
    net = GraphBuilder("small")
    x = net.input("x", (1, 3, size, size))
    y = net.relu(net.batch_norm(net.conv(x, 16, 3, padding=1)))
    z = net.conv(y, 16, 3, padding=1)
    both = net.add(net.max_pool(z, 2, stride=2), net.max_pool(net.batch_norm(z), 2, stride=2))
    return net.graph(y=net.linear(net.flatten(both), 10))


def feeds(size: int = 16) -> dict[str, Any]:
    return {"x": np.random.default_rng(3).standard_normal((1, 3, size, size), dtype=np.float32)}


@pytest.fixture(scope="module")
def found() -> Profile:
    return profile(InferenceSession(network()), feeds(), 5, machine=MACHINE)


def test_the_layers_have_the_figures_of_the_definition(found: Profile) -> None:
    conv2 = next(layer for layer in found.layers if layer.name == "conv2")
    assert conv2.shape == (1, 16, 16, 16) and conv2.is_product and conv2.problem.startswith("mb1 ic16")
    assert conv2.macs == 16 * 16 * 16 * 16 * 9 and conv2.flops == 2 * conv2.macs
    assert conv2.params == 16 * 16 * 9 + 16
    assert conv2.bytes == 4 * (2 * 16 * 16 * 16 + conv2.params)
    assert conv2.intensity == conv2.flops / conv2.bytes
    assert conv2.schedule.startswith(f"Schedule('{conv2.algorithm}'")
    assert sum(layer.macs for layer in found.layers) == found.macs
    assert (found.model, found.sizes, found.threads) == ("small", {"x": (1, 3, 16, 16)}, Machine.host().cores)
    # 32 numbers of the normalisation are in the convolution's bias and weights
    assert found.params == sum(layer.params for layer in found.layers) + 32


def test_medians_spreads_and_shares() -> None:
    layer = LayerProfile("a", "Conv", (1,), "", "", "", 0, 500_000, 0, 10_000, 0, (1e-5, 2e-5, 4e-5, 3e-5, 9e-5))
    other = replace(layer, name="b", op="MaxPool", macs=0, times_s=(7e-5,) * 5)
    assert layer.seconds == 3e-5 and layer.spread_s == pytest.approx(2e-5)
    assert layer.gflops == pytest.approx(1e6 / 3e-5 / 1e9) and layer.gbs == pytest.approx(1e4 / 3e-5 / 1e9)
    whole = Profile(
        "m", {}, 1, "", 100.0, 10.0, (layer, other), (2e-4,) * 5, (2.1e-4, 2e-4, 3e-4, 2.2e-4, 2.1e-4), 0, 0, 0, 0, (), ()
    )
    assert whole.steps_s == pytest.approx(1e-4) and whole.product_share == pytest.approx(0.3)
    assert whole.share(other) == pytest.approx(0.7)
    assert whole.compute_share(layer) == pytest.approx(1 / 3) and whole.bandwidth_share(layer) == pytest.approx(1 / 30)
    assert (whole.bound(layer), whole.bound(other)) == ("compute", "memory")
    assert whole.coverage == pytest.approx(1e-4 / 2e-4) and whole.overhead == pytest.approx(0.05)
    assert whole.overhead_quartiles == pytest.approx((0.05, 0.1))
    # 80, 90, 110, 100, 160 us of steps in 210, 200, 300, 220, 210
    assert whole.around_s == pytest.approx(1.2e-4)
    unmeasured = replace(whole, peak_gflops=None)
    assert unmeasured.compute_share(layer) is None and unmeasured.bound(layer) == ""


def test_kinds_and_memory_add_up(found: Profile) -> None:
    kinds = found.kinds()
    assert [kind.seconds for kind in kinds] == sorted((kind.seconds for kind in kinds), reverse=True)
    assert sum(kind.steps for kind in kinds) == len(found.layers)
    assert sum(kind.seconds for kind in kinds) == pytest.approx(found.steps_s)
    assert {kind.op: kind.steps for kind in kinds}["MaxPool"] == 2
    for at, layer in enumerate(found.layers):
        assert layer.live_bytes == sum(block.n_bytes for block in found.blocks if block.first <= at <= block.last)
    assert found.peak_bytes <= found.arena_bytes
    assert max(block.offset + block.n_bytes for block in found.blocks) <= found.arena_bytes
    assert found.constant_bytes >= 4 * sum(layer.params for layer in found.layers)
    assert all(block.name for block in found.blocks)


def test_fusions_made_and_missed(found: Profile) -> None:
    assert any(re.match(r"fold_affine: bn1 into conv1", str(note)) for note in found.fused)
    assert found.missed and all("stays" in str(note) for note in found.missed)
    assert set(found.fused) | set(found.missed) == set(found.notes)
    document = as_dict(found)
    assert document["notes"] == [str(note) for note in found.notes]
    assert (len(document["fused"]), len(document["missed"])) == (len(found.fused), len(found.missed))


def test_json_csv_and_the_trace(found: Profile) -> None:
    document = json.loads(json.dumps(as_dict(found)))
    assert document["latency_s"] == found.latency_s and len(document["layers"]) == len(found.layers)
    assert document["layers"][1]["times_s"] == list(found.layers[1].times_s)
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [row["name"] for row in rows] == [layer.name for layer in found.layers]
    assert [float(row["median_s"]) for row in rows] == [layer.seconds for layer in found.layers]
    assert {row["shape"] for row in rows} >= {"1x16x16x16"}
    events = json.loads(json.dumps(as_trace(found), allow_nan=False))["traceEvents"]
    steps = [event for event in events if event.get("tid") == 2 and event["ph"] == "X"]
    runs = [event for event in events if event.get("tid") == 1 and event["ph"] == "X"]
    assert len(steps) == 5 * len(found.layers) and len(runs) == 5
    for event in steps:
        run = next(r for r in runs if r["ts"] <= event["ts"] < r["ts"] + r["dur"])
        assert event["ts"] + event["dur"] <= run["ts"] + run["dur"] * (1 + 1e-9) and event["args"]["name"] == event["name"]
    assert sum(event["dur"] for event in steps) == pytest.approx(1e6 * sum(sum(row.times_s) for row in found.layers))


def check_event(event: dict[str, Any]) -> None:
    """By the Trace Event Format (Google, 2016), as Perfetto's JSON importer reads it: what each phase must have."""
    assert isinstance(event["pid"], int) and isinstance(event["name"], str) and event["name"]
    if event["ph"] == "M":  # metadata: a name for a process or a thread
        assert event["name"] in ("process_name", "thread_name") and isinstance(event["tid"], int)
        assert set(event["args"]) == {"name"} and isinstance(event["args"]["name"], str)
        return
    assert isinstance(event["ts"], (int, float)) and event["ts"] >= 0  # microseconds
    if event["ph"] == "X":  # complete: begins at ts, takes dur
        assert isinstance(event["dur"], (int, float)) and event["dur"] >= 0 and isinstance(event["tid"], int)
        assert isinstance(event["cat"], str) and isinstance(event.get("args", {}), dict)
    else:  # a counter: a number for each series
        assert event["ph"] == "C" and event["args"] and all(isinstance(n, (int, float)) for n in event["args"].values())


def test_the_trace_is_what_perfetto_reads(found: Profile) -> None:
    text = json.dumps(as_trace(found), allow_nan=False)  # JSON has no NaN
    document = json.loads(text)
    assert document["displayTimeUnit"] in ("ms", "ns") and isinstance(document["otherData"], dict)
    events = document["traceEvents"]
    for event in events:
        check_event(event)
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    named = {event["tid"] for event in events if event["name"] == "thread_name"}
    slices = [event for event in events if event["ph"] == "X"]
    assert {event["tid"] for event in slices} == named and len({event["pid"] for event in events}) == 1
    for thread in named:  # slices of a thread may nest, and must not cross: here one ends before the next begins
        mine = sorted((event["ts"], event["ts"] + event["dur"]) for event in slices if event["tid"] == thread)
        assert all(end <= begin * (1 + 1e-12) + 1e-9 for (_, end), (begin, _) in itertools.pairwise(mine))
    with pytest.raises((KeyError, AssertionError)):
        check_event({"ph": "X", "pid": 1, "tid": 1, "ts": 0.0, "name": "no duration"})


def test_the_steps_are_the_run() -> None:
    """The steps of a run lie inside it and are most of it, on machines that are busy with other tests too.

    How near the sum is to a whole run, and what profiling adds, is recorded in docs/profiling.md.
    """
    size = 96
    net = GraphBuilder("larger")
    y = net.input("x", (1, 3, size, size))
    for _ in range(3):
        y = net.relu(net.conv(y, 64, 3, padding=1))
    measured = profile(InferenceSession(net.graph(y=y), accuracy="strict"), feeds(size), 9, machine=MACHINE)
    sums = [sum(times) for times in zip(*(layer.times_s for layer in measured.layers))]
    shares = [steps / whole for steps, whole in zip(sums, measured.profiled_s)]
    assert len(shares) == len(measured.runs_s) == 9
    assert max(shares) <= 1 and statistics.median(shares) > 0.75
    assert measured.product_share > 0.7


def test_the_command(tmp_path: Path) -> None:
    network().save_onnx(tmp_path / "small.onnx")

    def run(*options: str) -> str:
        result = CliRunner().invoke(app, ["profile", str(tmp_path / "small.onnx"), "--runs", "2", *options])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    text = run("--trace", str(tmp_path / "trace.json"))
    for part in ("conv1", "MaxPool", "multiply-adds", "fusions:", "missed", "arena"):
        assert part in text
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert json.loads(run("--json"))["model"] == "small"
    assert run("--csv").startswith("name,op,shape,problem,algorithm,schedule,params,macs,")
    result = CliRunner().invoke(app, ["profile", "lenet5", "--trace", "/no/such/folder/t.json"])
    assert result.exit_code == 2 and "its folder does not exist" in result.stderr


def test_no_runs_are_refused() -> None:
    with pytest.raises(GraphError, match="at least 1, got 0"):
        profile(InferenceSession(network()), feeds(), 0, machine=MACHINE)
