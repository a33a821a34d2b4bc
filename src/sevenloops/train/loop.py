"""The training loop: steps, tests, checkpoints, the log.

    with joined() as team:
        training = Training(job, team)
        training.resume()
        result = training.run(print)

What is random in a step (dropout) is drawn from a generator seeded by (seed, step, process), so a checkpoint between any two
steps needs no state of generators, and the training goes on from it to the same weights, bit for bit.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .checkpoint import load_checkpoint, load_optimizer, optimizer_tensors, save_checkpoint
from .errors import Interrupted, TrainingError, need
from .evaluate import Score, evaluate
from .job import Job, prepare, rates
from .log import Log
from .network import use_layers
from .team import Team

__all__ = ["Progress", "Result", "Training"]


@dataclass(frozen=True)
class Progress:
    """Where a training is: `step` of `steps` in `epoch` (from 0) of `epochs`; loss and accuracy in training in this epoch.

    `over` says that the epoch is: then `tested` is its test, before it is that of the epoch before.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_s: float
    seconds_left: float
    tested: Score | None
    over: bool = False


@dataclass(frozen=True)
class Result:
    """How a training ended: the last test, and the best accuracy of all tests."""

    epochs: int
    steps: int
    test: Score
    best_accuracy: float
    seconds: float


class Training:
    """A training, from its first step or from a checkpoint. Raises what `prepare` does."""

    def __init__(self, job: Job, team: Team | None = None) -> None:
        self.job, self.team = job, team or Team()
        self.setup = prepare(job, self.team)
        job.folder.mkdir(parents=True, exist_ok=True)
        self.module, self.optimizer = self.setup.module, self.setup.optimizer
        self.layers: list[str] = list(self.setup.engine.replaced)
        if self.team.world > 1:
            self._use(self.team.agree(self.layers))
        self.steps = self.setup.epochs.steps
        self.epoch, self.step = 0, 0
        self.best_accuracy, self.seconds = -1.0, 0.0
        self.sums = [0.0, 0.0, 0.0]  # of losses, of right answers, of pictures in this epoch
        self.tested: Score | None = None
        self.log = Log(job.log)
        self.stopped = False
        self._fresh = True

    def _use(self, layers: list[str]) -> None:
        """Let these layers have our kernels: others would round differently."""
        if layers != self.layers:
            use_layers(self.module, layers)
            self.layers = layers

    # ---- checkpoints ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Take up the state of the last checkpoint. Raises `TrainingError` where there is none, or of another training."""
        if not self.job.checkpoint.is_file():
            raise TrainingError(f"there is no checkpoint in {self.job.folder} to resume from")
        tensors, state = load_checkpoint(self.job.checkpoint)
        mine = self.job.identity(self.team)
        for name, value in mine.items():
            theirs = state["training"].get(name)
            if theirs != value:
                raise TrainingError(f"the checkpoint in {self.job.folder} was made with {name} {theirs!r}, not {value!r}")
        prefixes = ("model.", "optimizer.")
        parts = [{n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)} for p in prefixes]
        self.module.load_state_dict(parts[0])
        load_optimizer(self.optimizer, parts[1])
        self.epoch, self.step = state["epoch"], state["step"]
        self.best_accuracy, self.seconds = state["best_accuracy"], state["seconds"]
        self.sums = list(state["sums"]) if self.team.leads else [0.0] * 3
        self.tested = Score(**state["tested"]) if state["tested"] else None
        self._use(state["layers"])
        self._fresh = False
        if self.team.leads:
            self.log.rewind(self.done)
            self.log.write("resume", self.done)

    def save(self) -> None:
        """Write the checkpoint; every process of a team must be here."""
        self._join_sums()
        if self.team.leads:
            tensors = {f"model.{name}": tensor for name, tensor in self.module.state_dict().items()}
            tensors |= {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self.optimizer)}
            save_checkpoint(self.job.checkpoint, tensors, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "training": self.job.identity(self.team),
            "layers": self.layers,
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "best_accuracy": self.best_accuracy,
            "seconds": self.seconds,
            "tested": self.tested.to_dict() if self.tested else None,
            "classes": list(self.setup.data.classes),
            "mean": self.setup.statistics.mean,
            "deviation": self.setup.statistics.deviation,
        }

    def _join_sums(self) -> None:
        """Move the sums of all processes to the first."""
        total = self.team.total(self.sums)
        self.sums = total if self.team.leads else [0.0] * len(total)

    @property
    def done(self) -> int:
        """Steps since the start of the training."""
        return self.epoch * self.steps + self.step

    # ---- the loop -------------------------------------------------------------------------------------------------------

    def run(self, tell: Callable[[Progress], None] = lambda progress: None) -> Result:
        """Train to the last epoch; `tell` hears of every step.

        Raises `Interrupted` after a checkpoint where the user stopped it (Ctrl-C), `TrainingError` for a loss that is no
        number and, in a team, when another process ends.
        """
        self._first_line()
        scheduler = rates(self.optimizer, self.job.recipe, self.steps, self.done)
        trained = self._parallel()
        with self._stopping(), _writer(self.job, self.team) as board:
            while self.epoch < self.job.recipe.epochs:
                self._epoch(trained, scheduler, tell, board)
            if self.tested is None:  # no epoch was asked for
                self.tested = self.test()
        return Result(self.epoch, self.done, self.tested, self.best_accuracy, self.seconds)

    def test(self) -> Score:
        """Loss and accuracy on the pictures for testing."""
        return evaluate(self.module, self.setup.test, self.job.recipe.ten_crops, self.team)

    def _first_line(self) -> None:
        if self._fresh and self.team.leads:
            self.job.log.unlink(missing_ok=True)
            setup, data = self.setup, self.setup.data
            self.log.write(
                "start", 0, **self.job.identity(self.team), source=data.source, side=setup.side, channels=data.channels,
                train=len(data.train.labels), test=len(data.test.labels), classes=len(data.classes),
                parameters=setup.parameters, steps_per_epoch=self.steps, computes=setup.engine.summary,
                layers=setup.engine.layers, mean=setup.statistics.mean,
                deviation=setup.statistics.deviation, threads=torch.get_num_threads(), torch=str(torch.__version__),
            )  # fmt: skip

    def _parallel(self) -> Any:
        if self.team.world == 1:
            return self.module
        return torch.nn.parallel.DistributedDataParallel(self.module)

    def _epoch(self, trained: Any, scheduler: Any, tell: Callable[[Progress], None], board: Any) -> None:
        began, from_step, since = time.perf_counter(), self.step, list(self.sums)
        before, told = self.seconds, None
        trained.train()
        for images, labels in self.setup.epochs.batches(self.epoch, self.step):
            self._train_step(trained, images, labels, scheduler)
            elapsed = time.perf_counter() - began
            self.seconds = before + elapsed
            per_step = elapsed / (self.step - from_step)
            speed = self.job.recipe.batch * self.team.world / per_step
            left = per_step * (self.job.recipe.epochs * self.steps - self.done)
            told = Progress(
                self.epoch, self.job.recipe.epochs, self.step, self.steps, *_means(self.sums), speed, left, self.tested
            )
            tell(told)
            if self.done % self.job.log_every == 0:
                since = self._log_steps(since, speed, scheduler, board)
            self._maybe_stop()
            if self.job.save_every and self.step % self.job.save_every == 0 and self.step < self.steps:
                self.save()
        self._end_epoch(time.perf_counter() - began, before, from_step, scheduler, board)
        if told is not None:
            tell(replace(told, tested=self.tested, over=True))

    def _train_step(self, trained: Any, images: Any, labels: Any, scheduler: Any) -> None:
        seeds = np.random.SeedSequence([self.job.seed, self.done, self.team.rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        self.optimizer.zero_grad(set_to_none=True)
        scores = trained(images)
        loss = cross_entropy(scores, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(f"the loss is {value} in epoch {self.epoch + 1}, step {self.step + 1}: try a lower --lr")
        loss.backward()
        self.optimizer.step()
        scheduler.step()
        right = int((scores.argmax(1) == labels).sum())
        self.sums = [total + part for total, part in zip(self.sums, (value * len(labels), right, len(labels)))]
        self.step += 1

    def _log_steps(self, since: list[float], speed: float, scheduler: Any, board: Any) -> list[float]:
        """One line for the steps since the last one, of the first process."""
        if self.team.leads:
            loss, accuracy = _means([now - then for now, then in zip(self.sums, since)])
            rate = scheduler.get_last_lr()[0]
            self.log.write(
                "steps", self.done, epoch=self.epoch, loss=loss, accuracy=accuracy, lr=rate, images_per_s=round(speed, 1)
            )
            if board is not None:
                for name, value in (("train/loss", loss), ("train/accuracy", accuracy), ("lr", rate)):
                    board.add_scalar(name, value, self.done)
        return list(self.sums)

    def _end_epoch(self, seconds: float, before: float, from_step: int, scheduler: Any, board: Any) -> None:
        self._join_sums()
        loss, accuracy = _means(self.sums)
        started = time.perf_counter()
        self.tested = self.test()
        tested_s = time.perf_counter() - started
        self.seconds = before + seconds + tested_s
        is_best = self.tested.accuracy > self.best_accuracy
        self.best_accuracy = max(self.best_accuracy, self.tested.accuracy)
        self.epoch, done_steps, self.step, self.sums = self.epoch + 1, self.step - from_step, 0, [0.0] * 3
        speed = done_steps * self.job.recipe.batch * self.team.world / seconds if done_steps else 0.0
        if self.team.leads:
            self.log.write(
                "epoch", self.done, epoch=self.epoch - 1, loss=loss, accuracy=accuracy, lr=scheduler.get_last_lr()[0],
                test=self.tested.to_dict(), images_per_s=round(speed, 1), train_s=round(seconds, 2),
                test_s=round(tested_s, 2), seconds=round(self.seconds, 2),
            )  # fmt: skip
            if is_best:
                weights = {f"model.{name}": tensor for name, tensor in self.module.state_dict().items()}
                save_checkpoint(self.job.best, weights, self._state())
            if board is not None:
                board.add_scalar("test/loss", self.tested.loss, self.done)
                board.add_scalar("test/accuracy", self.tested.accuracy, self.done)
        self.save()

    # ---- stopping -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _stopping(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM let the step end; not in a team, whose processes would end at different steps."""
        if self.team.world > 1:
            yield
            return

        def stop(*ignored: Any) -> None:
            if self.stopped:  # asked twice: at once, without a checkpoint
                raise KeyboardInterrupt
            self.stopped = True

        names = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(name, stop) for name in names]
        except ValueError:  # not the main thread: whoever owns that gets the signals
            yield
            return
        try:
            yield
        finally:
            for name, handler in zip(names, before):
                signal.signal(name, handler)

    def _maybe_stop(self) -> None:
        if self.stopped:
            self.save()
            raise Interrupted(
                f"stopped in epoch {self.epoch + 1}, after step {self.step} of {self.steps}; the checkpoint is "
                f"{self.job.checkpoint}. The same command with --resume goes on"
            )


def _means(sums: list[float]) -> tuple[float, float]:
    """Loss and accuracy for each picture."""
    return (sums[0] / sums[2], sums[1] / sums[2]) if sums[2] else (math.nan, math.nan)


@contextlib.contextmanager
def _writer(job: Job, team: Team) -> Iterator[Any]:
    """TensorBoard's writer, or None."""
    if not job.tensorboard or not team.leads:
        yield None
        return
    need("tensorboard", "--tensorboard")
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(job.folder / "tensorboard"))
    try:
        yield writer
    finally:
        writer.close()
