"""Trainings in processes of their own: killed and resumed, several in a team, AlexNet's towers in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch trains")
pytest.importorskip("safetensors", reason="checkpoints are written by safetensors")

from sevenloops.train.checkpoint import load_checkpoint  # noqa: E402
from sevenloops.train.errors import TrainingError  # noqa: E402
from sevenloops.train.loop import Training  # noqa: E402
from sevenloops.train.towers import OneProcess, Tower, Worker  # noqa: E402
from train_jobs import child, same_bits, small_job, weights  # noqa: E402

gloo = pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights and momenta that an uninterrupted training ends with."""
    job = small_job(tmp_path_factory.mktemp("whole"))
    Training(job).run()
    return weights(job.checkpoint)


@pytest.mark.parametrize(
    ("kill", "left_at"),
    [
        ("step:17", (1, 4)),  # in mid-epoch: the last checkpoint is of step 4 of the second epoch
        (
            "checkpoint:4",
            (0, 8),
        ),  # the one at the end of the first epoch is half written
        ("replace:4", (1, 0)),  # that of the second epoch's step 4 is written, and not yet in its place
    ],
)
def test_killed_and_resumed_to_the_same_bits(
    whole: dict[str, Any], tmp_path: Path, kill: str, left_at: tuple[int, int]
) -> None:
    killed = child(tmp_path, "--kill", kill)
    assert killed.returncode == -9, killed.stderr
    job = small_job(tmp_path)
    state = load_checkpoint(job.checkpoint)[1]
    resumed = Training(job)
    resumed.resume()
    assert (state["epoch"], state["step"]) == (resumed.epoch, resumed.step) == left_at
    resumed.run()
    assert same_bits(weights(job.checkpoint), whole)


@gloo
def test_two_processes_are_one_with_the_double_batch(tmp_path: Path) -> None:
    """And one of them killed ends the other with a message; resumed, they end with the same bits."""
    two = child(tmp_path / "two", "--batch", "8", processes=2)
    assert two.returncode == 0, two.stderr
    one = Training(small_job(tmp_path / "one", recipe={"batch": 16}))
    one.run()
    mine, theirs = weights(tmp_path / "two" / "checkpoint.safetensors"), weights(one.job.checkpoint)
    for name, array in theirs.items():
        np.testing.assert_allclose(mine[name], array, rtol=1e-3, atol=1e-5, err_msg=name)
    killed = child(tmp_path / "killed", "--batch", "8", "--kill", "step:17", "--rank", "1", processes=2)
    assert killed.returncode not in (0, -9)
    assert "another of the 2 processes of this training has ended" in killed.stderr
    resumed = child(tmp_path / "killed", "--batch", "8", "--resume", processes=2)
    assert resumed.returncode == 0, resumed.stderr
    assert same_bits(weights(tmp_path / "killed" / "checkpoint.safetensors"), mine)


# ---- AlexNet's towers ---------------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"widths": (8, 16, 24, 24, 16), "hidden": 32}


def towers(**options: Any) -> list[Tower]:
    torch.manual_seed(5)
    found = [Tower(tower, 67, 3, 10, **SMALL, **options) for tower in range(2)]
    for tower in found:
        for weight in tower.parameters():
            torch.nn.init.normal_(weight, 0, 0.1)
    return found


def pictures(step: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 67, 67, generator=generator), torch.randint(0, 10, (4,), generator=generator)


def train_towers(model: Any) -> list[float]:
    """Three steps; their losses."""
    optimizer, losses = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9), []
    for step in range(3):
        images, labels = pictures(step)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_towers_are_alexnet_with_two_groups() -> None:
    """Against plain layers on all channels: grouped convolutions, normalisation in each half."""
    nn, f = torch.nn, torch.nn.functional
    pair = towers(dropout=0.0)
    state = {
        name: torch.cat([tower.state_dict()[name] for tower in pair]) for name in pair[0].state_dict()
    }  # the whole network's, as a zoo's state dict has them
    images, _ = pictures(0)
    norm = nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)

    def conv(x: Any, number: int, groups: int, **window: int) -> Any:
        return f.relu(f.conv2d(x, state[f"conv{number}.weight"], state[f"conv{number}.bias"], groups=groups, **window))

    def halves(x: Any) -> Any:
        return torch.cat([norm(half) for half in x.chunk(2, 1)], 1)

    x = f.max_pool2d(halves(conv(images, 1, 1, stride=4)), 3, 2)
    x = f.max_pool2d(halves(conv(x, 2, 2, padding=2)), 3, 2)
    x = f.max_pool2d(conv(conv(conv(x, 3, 1, padding=1), 4, 2, padding=1), 5, 2, padding=1), 3, 2).flatten(1)
    for name in ("fc6", "fc7"):
        x = f.relu(f.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]))
    x = f.linear(x, state["fc8.weight"], state["fc8.bias"])
    torch.testing.assert_close(OneProcess(pair)(images), x)
    fresh = [tower.load_whole(state) for tower in towers(dropout=0.0)]
    torch.testing.assert_close(OneProcess(fresh)(images), x)


@gloo
def test_two_workers_are_the_network_in_one_process(tmp_path: Path) -> None:
    """Losses and weights after three steps, dropout at work."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, __file__, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    model = OneProcess(towers())
    losses = train_towers(model)
    for tower in range(2):
        found = json.loads((tmp_path / f"{tower}.json").read_text())
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        assert found["talked"] == [3 * 4 * n * 4 for n in (8 * 3 * 3, 8, 16, 16, 5)]
        for name, weight in model.towers[tower].state_dict().items():
            np.testing.assert_allclose(found["weights"][name], weight.numpy(), rtol=1e-4, atol=1e-6)


def test_towers_need_halves() -> None:
    with pytest.raises(TrainingError, match="must be even"):
        Tower(0, 67, 3, 9)
    with pytest.raises(TrainingError, match="below 67 x 67, got 64"):
        Tower(0, 64, 3, 10)


def main() -> None:
    """One of two workers."""
    from sevenloops.train.team import joined

    with joined() as team:
        worker = Worker(towers()[team.rank])
        document = {"losses": train_towers(worker), "talked": worker.talked}
        document["weights"] = {name: weight.tolist() for name, weight in worker.tower.state_dict().items()}
        Path(sys.argv[1], f"{team.rank}.json").write_text(json.dumps(document))


if __name__ == "__main__":
    main()
