"""The benchmarks of training: layers in each direction, and whole training steps."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sevenloops.bench import runner
from sevenloops.bench.engines import Settings
from sevenloops.bench.gradient_peers import PREPARE, prepare_gradient
from sevenloops.bench.gradients import DIRECTIONS, GradientWork, cases, make_operands, run_gradients, sampled_error
from sevenloops.bench.markdown import page
from sevenloops.bench.networks import layers
from sevenloops.bench.report import render, render_steps, to_json
from sevenloops.bench.runner import BenchError, Options, as_layers
from sevenloops.bench.training import PARTS, TrainingCase, run_training
from sevenloops.bench.training_peers import MODELS, Trainer, TrainingTask, prepare_training
from sevenloops.cli.main import app
from sevenloops.descriptor import parse_problem
from sevenloops.errors import ProblemError, Unsupported
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.ir import Graph
from sevenloops.machine import Machine

LAYERS = [
    "mb2 ic5 ih9 iw7 oc6 kh3 kw3 ph1 pw1 bias act=relu",
    "mb2 g6 ic6 ih9 iw9 oc6 kh3 kw3 sh2 sw2 ph1 pw1",
    "mb3 ic20 ih6 iw5 oc7 kh1 kw1 shift=3",
    "gemm m5 n6 k7 tb bias",
]
QUICK: dict[str, Any] = {"rounds": 2, "slice_s": 0.0, "min_iterations": 2, "pause_s": 0.0}


@pytest.fixture
def quick_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataclasses.replace(Machine.host(), peak_gflops=100.0, bandwidth_gbs=10.0)
    monkeypatch.setattr(runner, "_limits", lambda isa, threads: known)
    monkeypatch.setattr(runner, "measure", lambda machine: known)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("text", LAYERS)
@pytest.mark.parametrize("engine", list(PREPARE))
def test_every_engine_computes_the_gradient(engine: str, text: str, direction: str) -> None:
    if engine != "sevenloops":
        pytest.importorskip("torch", reason="it is the peer")
    work = GradientWork(direction, parse_problem(text))
    try:
        prepared = prepare_gradient(engine, work, 3, Settings(1))
    except ProblemError:
        assert (engine, direction) == ("sevenloops", "data") and "shift" in text
        return
    for _ in range(2):
        prepared.run()
    assert sampled_error(work, make_operands(work.conv, 3), prepared.output(), 3) < 1e-5


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_sample_sees_what_the_whole_shows(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, whole sums of some channels and images are as exact as all of them; a wrong channel is noticed."""
    problem = parse_problem("mb3 g2 ic6 ih5 iw6 oc8 kh3 kw3 sh2 sw2 ph1 pw1 float64")
    work = GradientWork(direction, problem)
    prepared = prepare_gradient("sevenloops", work, 0, Settings(1))
    prepared.run()
    operands, output = make_operands(work.conv, 0), prepared.output()
    monkeypatch.setattr("sevenloops.bench.gradients.WHOLE_MACS", 0)
    assert all(sampled_error(work, operands, output, seed) < 1e-14 for seed in range(4))
    assert all(sampled_error(work, operands, output + 0.5, seed) > 1e-3 for seed in range(4))


def test_layers_of_a_network() -> None:
    found = cases(layers("resnet18", 2))
    names = [(name, work.direction) for name, work, _ in found]
    assert ("conv1", "data") not in names and ("conv1", "weights") in names
    repeats = {(name, work.direction): count for name, work, count in found}
    # of the first stage all four layers are one problem when none has its activation
    assert repeats["conv2_1.a", "forward"] == 4 and repeats["fc", "data"] == 1
    kinds = {name: work.kinds for name, work, _ in found if work.direction == "weights"}
    assert kinds["conv2_1.a"] == ("weights", "weights, 3x3 of stride 1")
    assert kinds["conv1"] == ("weights", "weights, all but 3x3 of stride 1")


def test_what_is_no_layer_is_refused() -> None:
    with pytest.raises(BenchError, match="direction is one of forward, data, weights; got 'back'"):
        GradientWork("back", parse_problem(LAYERS[0]))
    with pytest.raises(BenchError, match="a fully connected layer is"):
        GradientWork("data", parse_problem("gemm m5 n6 k7"))
    with pytest.raises(BenchError, match="no layer"):
        run_gradients([], Options(()))
    with pytest.raises(Unsupported, match="numpy computes no gradients"):
        prepare_gradient("numpy", GradientWork("data", parse_problem(LAYERS[0])), 0, Settings(1))


@pytest.mark.usefixtures("quick_limits")
def test_a_run_of_layers() -> None:
    pytest.importorskip("torch", reason="it is the peer")
    run = run_gradients(as_layers([parse_problem(LAYERS[0])]), Options(("torch", "numpy"), threads=1, **QUICK))
    assert [row.problem.direction for row in run.rows] == list(DIRECTIONS)  # type: ignore[attr-defined]
    for row in run.rows:
        assert row.timings["numpy"].reason is not None
        for name in ("sevenloops", "torch"):
            timing = row.timings[name]
            assert len(timing.rounds_s) == 2 and timing.error is not None and timing.error < 1e-5
    document = json.loads(to_json(run))
    macs, moved = run.rows[0].problem.macs, run.rows[0].problem.unique_bytes
    assert document["rows"][0]["floor_s"] == pytest.approx(max(2e-9 * macs / 100, 1e-9 * moved / 10))
    assert document["summary"]["kinds"]["data"]["geometric_mean_ratio"] == pytest.approx(run.rows[1].ratio)
    document["environment"]["command"] = "sevenloops bench gradients --network resnet18"
    assert "| gradients of resnet18, batch 16: weights | 1 |" in page([document])
    console = Console(width=250)
    with console.capture() as capture:
        console.print(render(run))
    assert "weights, 3x3 of stride 1: geometric mean" in capture.get() and "floor" in capture.get()


# ---- whole steps ----------------------------------------------------------------------------------------------------


def small(shifts: bool = False) -> Graph:
    net = GraphBuilder("small", seed=1)
    y = net.relu(net.batch_norm(net.conv(net.input("x", ("N", 4, 8, 8)), 9, 3, padding=1)))
    y = net.relu(net.batch_norm(net.conv(net.shift(y, 3), 6, 1, stride=2))) if shifts else y
    return net.graph(y=net.linear(net.dropout(net.flatten(net.global_average_pool(y))), 5))


def task(graph: Graph) -> TrainingTask:
    return TrainingTask(graph, None, (3, 4, 8, 8), 5, 7)


@pytest.fixture
def eager_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes longer than all other tests here; what is around it is the same with a compiler that does nothing."""
    torch: Any = pytest.importorskip("torch", reason="it trains")
    monkeypatch.setattr(torch, "compile", lambda module, options: module)


@pytest.mark.usefixtures("eager_compile")
@pytest.mark.parametrize("engine", list(MODELS))
def test_a_step_in_every_engine(engine: str) -> None:
    prepared = prepare_training(engine, task(small()), Settings(1))
    losses = prepared.details["losses"]
    assert len(losses) == 4 and len(set(losses)) == 4
    expected = prepare_training("torch", task(small()), Settings(1)).details["losses"]
    assert losses == pytest.approx(expected, rel=1e-4)
    before = {part: len(seconds) for part, seconds in prepared.parts.items()}
    prepared.run()
    assert tuple(before) == PARTS and {part: len(s) - 1 for part, s in prepared.parts.items()} == before
    assert prepared.details["start_s"] > 0 and prepared.note


def test_weights_rest_while_steps_are_timed() -> None:
    pytest.importorskip("torch", reason="it trains")
    trainer = Trainer(task(small()), MODELS["torch"](task(small()))["NCHW"])
    weight = next(trainer.model.parameters())
    moved = []
    for rests in (False, True):
        if rests:
            trainer.rest()
        before = weight.detach().clone()
        trainer.step()
        moved.append(float((weight.detach() - before).abs().max()))
    assert moved[0] > 0 and moved[1] == 0


@pytest.mark.usefixtures("eager_compile")
def test_shifts_take_both_roads_and_one_hots_are_not_trained() -> None:
    ways = MODELS["torch"](task(small(shifts=True)))
    assert list(ways) == ["depthwise, channels last", "depthwise, NCHW", "slices, channels last", "slices, NCHW"]
    found = [Trainer(task(small(shifts=True)), way) for way in ways.values()]
    losses = [[trainer.step() for _ in range(3)] for trainer in found]
    assert all(other == pytest.approx(losses[0], rel=1e-4) for other in losses[1:])
    sizes = [sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"]) for trainer in found]
    assert len(set(sizes)) == 1
    assert list(MODELS["torch-compile"](task(small(shifts=True)))) == ["depthwise, inductor", "slices, inductor"]


def test_networks_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a module in its place: it is an option of whoever measures, and not needed by anything else."""
    torch: Any = pytest.importorskip("torch", reason="it trains")
    made: list[Any] = []

    def get_model(name: str, weights: Any, num_classes: int) -> Any:
        made.append((name, weights))
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=4), torch.nn.Flatten(), torch.nn.Linear(72, num_classes))

    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", types.SimpleNamespace(get_model=get_model))
    given = TrainingTask.from_values(None, [2, 3, 14, 14], torchvision="tiny", classes=10, seed=0)
    prepared = prepare_training("torch", given, Settings(1))
    assert set(made) == {("tiny", None)} and prepared.details["macs"] == 2 * (9 * 8 * 27 + 72 * 10)


def test_what_cannot_be_trained_says_why() -> None:
    with pytest.raises(Unsupported, match="onnxruntime does not train; sevenloops, torch, torch-compile do"):
        prepare_training("onnxruntime", task(small()), Settings(1))
    with pytest.raises(BenchError, match="no network"):
        run_training([], Options(()))
    two = TrainingCase("two", small(), {"x": (1, 4, 8, 8), "z": (1,)})
    with pytest.raises(BenchError, match="two has 2 inputs"):
        run_training([two], Options(()))


@pytest.mark.usefixtures("quick_limits")
def test_a_run_of_steps() -> None:
    pytest.importorskip("torch", reason="it trains")
    cases = [TrainingCase("small", small(), {"x": (3, 4, 8, 8)})]
    run = run_training(cases, Options(("torch", "numpy"), threads=1, **QUICK))
    (row,) = run.rows
    assert row.problem.macs == 3 * 3 * (64 * 9 * 36 + 9 * 5)
    assert row.timings["numpy"].reason == "numpy does not train; sevenloops, torch, torch-compile do"
    for name in ("sevenloops", "torch"):
        timing = row.timings[name]
        assert timing.reason is None and tuple(timing.parts_s) == PARTS
        assert {len(times) for times in timing.parts_s.values()} == {4}
        assert sum(timing.part_medians_s.values()) < 2 * max(max(times) for times in timing.rounds_s)
    error = row.timings["sevenloops"].error
    assert error is not None and error < 1e-4 and row.timings["torch"].error is None
    document = json.loads(to_json(run))
    assert set(document["rows"][0]["engines"]["torch"]["parts_s"]) == set(PARTS)
    document["environment"]["command"] = "sevenloops bench train small --batch 3"
    assert "| network | engine | ms | forward |" in page([document]) and "## train, batch 3" in page([document])
    console = Console(width=250)
    with console.capture() as capture:
        console.print(render_steps(run))
    assert f"{error:.1e}" in capture.get() and "modules have kernels of sevenloops" in capture.get()


def test_the_command_takes_the_networks_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measured(cases: Any, options: Options, progress: Any) -> Any:
        asked.extend((case.name, case.sizes["input"], case.graph is None) for case in cases)
        raise BenchError("enough")

    monkeypatch.setattr("sevenloops.cli.bench.run_training", measured)
    words = ["bench", "train", "alexnet", "lenet5", "torchvision:resnet18"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and "enough" in result.output
    assert asked == [
        ("alexnet", (64, 3, 224, 224), False),
        ("lenet5", (16, 1, 28, 28), False),
        ("torchvision:resnet18", (16, 3, 224, 224), True),
    ]
