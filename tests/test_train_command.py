"""`sevenloops train` and the curves of a training: what is printed and written, and mistakes in one line."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sevenloops.cli.main import app
from sevenloops.train.log import Log

SMALL = ("lenet5", "--data", "synthetic", "--engine", "torch", "--threads", "1", "--limit", "64", "--batch", "16")


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def train(*arguments: str) -> tuple[int, str, str]:
    pytest.importorskip("torch", reason="PyTorch trains")
    pytest.importorskip("safetensors", reason="checkpoints are written by safetensors")
    return run("train", *SMALL, *arguments)


def test_it_trains_exports_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the network is exported by onnx")
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    model, curves, folder = tmp_path / "model.onnx", tmp_path / "curves.svg", tmp_path / "run"
    status, text, told = train("--epochs", "2", "--folder", str(folder), "--output", str(model), "--curves", str(curves))
    assert status == 0, told
    accuracies = re.findall(r"accuracy ([\d.]+ %)", text)
    assert len(accuracies) == 2 and accuracies[0] == accuracies[1] and "by InferenceSession" in text
    assert "2 epochs of 4 steps of 16 pictures, rate 0.02 (cosine)" in told and "computed by PyTorch" in told
    assert len(re.findall(r"^epoch \d/2: loss .*; test: loss .*images/s", told, flags=re.MULTILINE)) == 2
    assert curves.read_text().lstrip().startswith("<?xml")
    status, _, told = train("--epochs", "2", "--folder", str(folder))
    assert status == 2 and "has a checkpoint: go on from it with --resume" in told
    status, text, _ = train("--epochs", "2", "--folder", str(folder), "--resume", "--json")
    document = json.loads(text)
    assert status == 0 and document["epochs"] == 2 and document["recipe"]["batch"] == 16
    assert f"{100 * document['test']['accuracy']:.2f} %" == accuracies[0]


def test_batches_from_workers(tmp_path: Path) -> None:
    """The same weights as without."""
    from train_jobs import same_bits, weights

    for workers in ("0", "2"):
        command = ("--epochs", "2", "--pad", "2", "--flip", "--workers", workers, "--folder", str(tmp_path / workers))
        assert train(*command)[0] == 0
    assert same_bits(*(weights(tmp_path / workers / "checkpoint.safetensors") for workers in ("0", "2")))


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard's logs are written by its package")
    assert train("--epochs", "1", "--log-every", "2", "--tensorboard", "--folder", str(tmp_path))[0] == 0
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"test/accuracy" in events.read_bytes() and b"train/loss" in events.read_bytes()


def test_tensorboard_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    status, _, told = train("--tensorboard", "--folder", str(tmp_path))
    assert status == 2 and "--tensorboard needs tensorboard: pip install 'sevenloops[train]'" in told


def test_memory(tmp_path: Path) -> None:
    status, text, told = train("--memory", "--folder", str(tmp_path / "run"))
    assert status == 0, told
    assert len(re.findall(r"1\.0000", text)) == 6 and not (tmp_path / "run").exists()
    document = json.loads(train("--memory", "--json")[1])
    assert [row["measured_bytes"] == row["predicted_bytes"] for row in document["stages"]] == [True] * 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "there is no data set and no folder 'nowhere'"),
        (("--batch", "65"), "has 64 pictures to train on, too few for one batch of 65"),
        (("--crop", "32"), "a crop of 32 does not fit into pictures of 28 with a padding of 0: use --resize"),
        (("--schedule", "linear"), "schedule must be one of"),
        (("--milestones", "a"), "--milestones takes epochs with commas between"),
        (("--milestones", "99"), "milestones are shares of the epochs"),
        (("--option", "expansion"), "--option takes NAME=VALUE"),
        (("--option", "expansion=3"), "lenet5 has no option 'expansion'"),
        (("--engine", "jax"), "engine must be one of sevenloops, torch"),
        (("--resume",), "there is no checkpoint in"),
        (("--output", "/no/such/folder/model.onnx"), "its folder does not exist"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    status, _, told = train("--folder", str(tmp_path / "run"), *arguments)
    assert status == 2 and message in told and told.startswith("sevenloops: ") and told.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("safetensors", reason="checkpoints are written by safetensors")
    pytest.importorskip("torch", reason="PyTorch trains")
    from sevenloops.train.loop import Training

    step = Training._train_step

    def interrupted(self: Any, *arguments: Any) -> None:
        step(self, *arguments)
        if self.done == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Training, "_train_step", interrupted)
    status, _, told = train("--epochs", "1", "--folder", str(tmp_path))
    assert status == 130 and "after step 3 of 4; the checkpoint is" in told and "--resume goes on" in told


# ---- curves -------------------------------------------------------------------------------------------------------------


def write_log(path: Path) -> None:
    log = Log(path)
    log.write("start", 0, model="lenet5", data="<b>digits</b>")
    for epoch in range(3):
        test = {"loss": 1 / (epoch + 2), "accuracy": 0.9 + epoch / 50}
        log.write("epoch", 10 * (epoch + 1), epoch=epoch, loss=1 / (epoch + 1), accuracy=0.8 + epoch / 10, test=test)


def test_curves_of_a_report(tmp_path: Path) -> None:
    pytest.importorskip("plotly", reason="charts are drawn by plotly")
    from sevenloops.report.charts import ReportError
    from sevenloops.report.training import save_curves, training_charts

    path = tmp_path / "log.jsonl"
    write_log(path)
    loss, accuracy = training_charts([path, path])
    assert (loss.key, accuracy.key) == ("training-loss", "training-accuracy") and len(loss.figure.data) == 4
    assert list(accuracy.figure.data[1].y) == pytest.approx([90, 92, 94]) and list(loss.figure.data[0].x) == [1, 2, 3]
    assert loss.figure.data[0].name == "lenet5 on &lt;b&gt;digits&lt;/b&gt;, training"
    (tmp_path / "empty.jsonl").write_text('{"event": "start", "step": 0}\n')
    with pytest.raises(ReportError, match="has no epoch that is over"):
        training_charts([tmp_path / "empty.jsonl"])
    with pytest.raises(ReportError, match=r"curves are drawn into .png or .svg files, not curves.pdf"):
        save_curves([path], tmp_path / "curves.pdf")
    (tmp_path / "other.jsonl").write_text("{}\n")
    status, _, told = run("report", "lenet5", "--training", str(tmp_path / "other.jsonl"))
    assert status == 2 and "is no line of a log of `sevenloops train`" in told
