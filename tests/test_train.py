"""Training: recipes, rates, the first weights, checkpoints, the log, testing, memory."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch trains")
pytest.importorskip("safetensors", reason="checkpoints are written by safetensors")

from sevenloops.analysis.training import infer_training, training_memory  # noqa: E402
from sevenloops.graph.builder import GraphBuilder  # noqa: E402
from sevenloops.models import ZOO, build  # noqa: E402
from sevenloops.torch.accelerate import Report  # noqa: E402
from sevenloops.train.errors import Interrupted, TrainingError  # noqa: E402
from sevenloops.train.evaluate import evaluate, evaluate_onnx, export  # noqa: E402
from sevenloops.train.job import rates  # noqa: E402
from sevenloops.train.log import read_log  # noqa: E402
from sevenloops.train.loop import Progress, Training  # noqa: E402
from sevenloops.train.memory import STAGES, measure_step, predicted_step  # noqa: E402
from sevenloops.train.network import begin, module_of  # noqa: E402
from sevenloops.train.recipes import Recipe, recipe_for  # noqa: E402
from train_jobs import same_bits, small_job, weights  # noqa: E402


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training from the first step to the last, and its result."""
    training = Training(small_job(tmp_path_factory.mktemp("finished")))
    return training, training.run()


# ---- recipes ------------------------------------------------------------------------------------------------------------


def test_the_published_recipes() -> None:
    alexnet = recipe_for("alexnet_two_towers")
    assert (alexnet.batch, alexnet.lr, alexnet.momentum, alexnet.weight_decay) == (128, 0.01, 0.9, 5e-4)
    assert (alexnet.resize, alexnet.crop, alexnet.flip, alexnet.colour, alexnet.ten_crops) == (256, 227, True, 0.1, True)
    assert alexnet.epochs == 90 and len(alexnet.milestones) == 3 and recipe_for("alexnet").crop == 224
    shift = recipe_for("ShiftResNet-20")
    assert (shift.epochs, shift.batch, shift.lr, shift.weight_decay, shift.pad, shift.flip) == (164, 128, 0.1, 5e-4, 4, True)
    assert [round(share * 164) for share in shift.milestones] == [81, 122]
    assert recipe_for("alexnet_slim").crop == 28 and recipe_for("resnet20") == recipe_for("shiftresnet56_sc2")
    assert recipe_for("resnet50") != recipe_for("resnet56")
    for name in ZOO:
        assert Recipe.from_dict(json.loads(json.dumps(recipe_for(name).to_dict()))) == recipe_for(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of steps, cosine, constant"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": -1.0}, "lr must not be negative"),
        ({"lr": math.nan}, "lr must not be negative"),
        ({"milestones": (2.0,)}, "milestones are shares"),
    ],
)
def test_recipes_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        recipe_for("lenet5").changed(**changes)


def stepped(recipe: Recipe, steps: int, done: int = 0) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], recipe.lr)
    scheduler = rates(optimizer, recipe, steps, done)
    found = []
    for _ in range(recipe.epochs * steps - done):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_rates_are_divided_at_whole_epochs() -> None:
    rate = stepped(recipe_for("shiftresnet20").changed(epochs=8), 3)  # 81 and 122 of 164 are 4 and 6 of 8
    assert rate == pytest.approx([0.1] * 12 + [0.01] * 6 + [0.001] * 6)


@pytest.mark.parametrize("schedule", ["steps", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 1.5])
def test_rates_from_the_middle_are_the_same_bits(schedule: str, warmup: float) -> None:
    recipe = recipe_for("shiftresnet20").changed(epochs=6, schedule=schedule, warmup=warmup)
    whole = stepped(recipe, 4)
    for done in (1, 6, 7, 13, 23):
        assert stepped(recipe, 4, done) == whole[done:]
    if warmup:
        assert whole[0] == pytest.approx(0.01) and whole[6] == pytest.approx(0.1) and whole[:7] == sorted(whole[:7])
    if schedule == "cosine":
        assert whole[-1] < 0.02 and whole[7:] == sorted(whole[7:], reverse=True)


# ---- the first weights --------------------------------------------------------------------------------------------------


def test_alexnet_begins_as_published() -> None:
    graph = begin(build("alexnet_one_tower", classes=10, size=67), "alexnet", seed=1)
    ones = {name for name, array in graph.constants.items() if name.endswith(".bias") and array.all()}
    assert ones == {"conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias"}
    assert not graph.constants["fc8.bias"].any() and not graph.constants["conv1.bias"].any()
    for name in ("conv3.weight", "fc7.weight"):
        assert graph.constants[name].std() == pytest.approx(0.01, rel=0.01)
    again = begin(build("alexnet_one_tower", classes=10, size=67), "alexnet", seed=2)
    assert not np.array_equal(again.constants["conv1.weight"], graph.constants["conv1.weight"])


def test_he_keeps_the_signal() -> None:
    graph = begin(build("resnet20"), "he", seed=0)
    weight = graph.constants["layer2.1.conv1.weight"]
    assert weight.std() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    assert (graph.constants["bn1.weight"] == 1).all() and (graph.constants["bn1.running_mean"] == 0).all()


def test_engines_have_names() -> None:
    with pytest.raises(TrainingError, match="engine must be one of sevenloops, torch; got 'jax'"):
        module_of(build("lenet5"), "jax", (1, 1, 28, 28))


# ---- training, checkpoints, the log -------------------------------------------------------------------------------------


def test_it_learns_and_the_log_says_so(finished: Any) -> None:
    training, result = finished
    rows = read_log(training.job.log)
    assert [row["event"] for row in rows] == ["start"] + ["steps", "steps", "epoch"] * 3
    epochs = [row for row in rows if row["event"] == "epoch"]
    assert epochs[-1]["loss"] < epochs[0]["loss"] and epochs[-1]["test"] == result.test.to_dict()
    assert result.steps == 30 and rows[-1]["step"] == 30 and result.best_accuracy > 0.8
    assert rows[0]["computes"].startswith("PyTorch") and rows[0]["parameters"] == 61_706
    assert [row["lr"] for row in epochs][-1] == 0  # the cosine has ended


def test_a_training_is_the_same_in_every_run(finished: Any, tmp_path: Path) -> None:
    """With batches from workers, too, and with other checkpoints."""
    again = Training(small_job(tmp_path, save_every=0))
    again.run()
    assert same_bits(weights(tmp_path / "checkpoint.safetensors"), weights(finished[0].job.checkpoint))
    other = Training(small_job(tmp_path / "other", seed=1))
    other.run()
    assert not same_bits(weights(other.job.checkpoint), weights(again.job.checkpoint))


@pytest.mark.parametrize("at", [3, 10, 17])
def test_ctrl_c_writes_a_checkpoint_to_go_on_from(finished: Any, tmp_path: Path, at: int) -> None:
    def interrupt(progress: Progress) -> None:
        if not progress.over and progress.epoch * progress.steps + progress.step == at:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="The same command with --resume goes on"):
        Training(small_job(tmp_path)).run(interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = Training(small_job(tmp_path))
    resumed.resume()
    assert resumed.done == at
    result = resumed.run()
    assert same_bits(weights(resumed.job.checkpoint), weights(finished[0].job.checkpoint))
    assert result.test == finished[1].test
    measured = ("loss", "accuracy", "test", "lr", "epoch")
    for mine, theirs in zip(epochs_of(resumed.job.log), epochs_of(finished[0].job.log), strict=True):
        assert [mine[key] for key in measured] == [theirs[key] for key in measured]


def epochs_of(log: Path) -> list[dict[str, Any]]:
    return [row for row in read_log(log) if row["event"] == "epoch"]


def test_a_finished_training_resumes_to_its_result(finished: Any) -> None:
    again = Training(finished[0].job)
    again.resume()
    assert again.run().test == finished[1].test


def test_only_the_same_training_is_continued(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no checkpoint in .* to resume from"):
        Training(small_job(tmp_path)).resume()
    folder = finished[0].job.folder
    for changes, message in (
        ({"recipe": {"lr": 0.5}}, "was made with lr 0.01, not 0.5"),
        ({"seed": 3}, "was made with seed 0, not 3"),
        ({"limit": 60}, "was made with limit 160, not 60"),
    ):
        with pytest.raises(TrainingError, match=message):
            Training(small_job(folder, **changes)).resume()


@pytest.mark.parametrize("content", [b"", b"half of a checkpoint", None])
def test_damaged_checkpoints_are_refused(finished: Any, tmp_path: Path, content: bytes | None) -> None:
    whole = finished[0].job.checkpoint.read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(TrainingError, match=r"checkpoint.safetensors is damaged, or no checkpoint"):
        Training(small_job(tmp_path)).resume()


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch 1, step \d+: try a lower --lr"):
        Training(small_job(tmp_path, recipe={"lr": 1e30, "warmup": 0.0})).run()


def test_logs_that_a_crash_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"event": "start", "step": 0}\n{"event": "ep')
    assert read_log(log) == [{"event": "start", "step": 0}]
    log.write_text('{"event"\n{"event": "start", "step": 0}\n')
    with pytest.raises(TrainingError, match=r"log.jsonl:1 is no line of a log"):
        read_log(log)
    log.write_text("[1]\n")
    with pytest.raises(TrainingError, match="no line of a log"):
        read_log(log)


# ---- testing, export ----------------------------------------------------------------------------------------------------


def test_scores_by_hand() -> None:
    """Three classes, ten views of each picture: probabilities are averaged, not scores."""
    rng = np.random.default_rng(3)
    scores, labels = rng.standard_normal((40, 3)).astype(np.float32) * 3, np.array([0, 2, 1, 1])
    likely = np.exp(scores.astype(float))
    likely /= likely.sum(1, keepdims=True)
    mean = likely.reshape(4, 10, 3).mean(1)
    batch = [(torch.from_numpy(scores), torch.from_numpy(labels))]
    found = evaluate(torch.nn.Identity(), batch, ten_crops=True)
    assert found.loss == pytest.approx(-np.log(mean[range(4), labels]).mean())
    assert found.accuracy == (mean.argmax(1) == labels).mean() and found.pictures == 4 and found.top5 == 1


def test_onnx_has_the_same_accuracy(finished: Any, tmp_path: Path) -> None:
    training, result = finished
    export(training.module, tmp_path / "model.onnx")
    found = evaluate_onnx(tmp_path / "model.onnx", training.setup.test, ten_crops=False)
    assert found.accuracy == result.test.accuracy and found.loss == pytest.approx(result.test.loss, abs=1e-5)


# ---- memory -------------------------------------------------------------------------------------------------------------


def test_memory_of_two_linear_layers() -> None:
    """X 1024 x 1024, of which 256 rows are a batch; every stage as counted by hand."""
    nn = torch.nn
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1024, bias=False))
    data, labels = torch.randn(1024, 1024), torch.randint(0, 1024, (1024,))
    found = measure_step(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), data, labels, 256)
    more = (4_202_496, 8_388_608, 2 * 1_048_576, 1_048_576)
    sums = [sum(more[: at + 1]) for at in range(4)]
    after = sums[1] + 8_388_608 + 1_048_576  # what was saved is gone, the caller's scores are not
    assert found.n_bytes == (*sums, after, after + 8_388_608)
    net = GraphBuilder("two")
    x = net.input("x", (256, 1024))
    graph = net.graph(y=net.linear(net.linear(x, 1024, bias=False), 1024, bias=False))
    assert predicted_step(training_memory(graph, "momentum"), data.nbytes + labels.nbytes) == found


def test_memory_of_alexnet_is_as_predicted() -> None:
    """The two towers with normalisation and dropout, on small pictures."""
    graph = build("alexnet_two_towers", classes=10, size=67)
    module, _ = module_of(graph, "torch", (4, 3, 67, 67))
    images, labels = torch.randn(4, 3, 67, 67), torch.randint(0, 10, (4,))
    found = measure_step(module, torch.optim.SGD(module.parameters(), 0.1, momentum=0.9), images, labels, 4)
    memory = training_memory(infer_training(graph, {"input": (4, 3, 67, 67)}), "momentum")
    expected = predicted_step(memory, images.nbytes + labels.nbytes)
    assert [stage for stage, _ in found.rows()] == list(STAGES)
    assert found == expected


# ---- our kernels --------------------------------------------------------------------------------------------------------


def test_our_kernels_train_and_resume_in_the_same_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is faster on the day: the layers of the checkpoint keep their kernels."""
    from sevenloops.train import network as module_of_networks

    network: Any = module_of_networks

    def some(names: tuple[str, ...]) -> None:
        def choose(module: Any, example: Any = None) -> Any:
            if example is None:
                return accelerate(module)
            return Report([row for name in names for row in named(name, accelerate(module.get_submodule(name)))])

        monkeypatch.setattr(network, "accelerate", choose)

    def named(name: str, report: Any) -> list[Any]:
        return [dataclasses.replace(row, name=name) for row in report.rows]

    accelerate = network.accelerate
    job = small_job(tmp_path, engine="sevenloops", recipe={"epochs": 1})
    some(("conv1", "fc3"))
    first = Training(job)
    assert first.layers == ["conv1", "fc3"] and "in 2 of 2 layers" in first.setup.engine.summary
    first.run()
    some(())
    again = Training(small_job(tmp_path, engine="sevenloops", recipe={"epochs": 1}))
    assert again.layers == []
    again.resume()
    assert again.layers == ["conv1", "fc3"]
    assert type(again.module.conv1) is type(first.module.conv1) and type(again.module.conv1) is not torch.nn.Conv2d
    assert type(again.module.conv2) is torch.nn.Conv2d and again.run().test == first.tested
    plain = Training(small_job(tmp_path / "plain", recipe={"epochs": 1})).run()
    assert plain.test.loss == pytest.approx(first.tested.loss, rel=1e-3)
