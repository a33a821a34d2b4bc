"""`sevenloops train`: the job, a progress bar, and what is said at the end."""

from __future__ import annotations

import contextlib
import json as json_format
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..bench.report import plain
from ..errors import SevenLoopsError
from ..models import find
from ..train.errors import need
from .analysis import console

if TYPE_CHECKING:
    from ..train.job import Job
    from ..train.loop import Progress as Told
    from ..train.loop import Result, Training
    from ..train.team import Team

__all__ = ["TrainOptions", "train_command"]


@dataclass(frozen=True)
class TrainOptions:
    """What the command takes beside the recipe."""

    folder: Path
    resume: bool
    engine: str
    output: Path | None
    curves: Path | None
    tensorboard: bool
    memory: bool
    seed: int
    threads: int | None
    workers: int
    limit: int | None
    network: tuple[str, ...]
    log_every: int
    save_every: int
    json: bool


def train_command(
    model: str, data: str, changes: Mapping[str, Any], milestones: str | None, options: TrainOptions
) -> None:  # fmt: skip
    """Train, say how it went, and write what was asked for."""
    need("sevenloops.torch", "training")  # before PyTorch, so that its threads sleep while they wait
    from ..train.team import joined

    name = find(model).name
    job = _job(name, data, changes, milestones, options)
    if options.memory:
        from .train_memory import memory_command

        memory_command(job, options.json)
        return
    for path in (options.output, options.curves):
        if path is not None and not path.absolute().parent.is_dir():  # better now than after the training
            raise SevenLoopsError(f"cannot write {path}: its folder does not exist")
    if job.checkpoint.is_file() and not options.resume:
        raise SevenLoopsError(
            f"{job.folder} has a checkpoint: go on from it with --resume, or name another folder with --folder"
        )
    with joined() as team:
        _train(job, team, options)


def _job(name: str, data: str, changes: Mapping[str, Any], milestones: str | None, options: TrainOptions) -> Job:
    from ..train.job import Job
    from ..train.recipes import recipe_for

    recipe = recipe_for(name).changed(**changes)
    if milestones is not None:
        try:
            shares = tuple(float(word) / recipe.epochs for word in milestones.split(",") if word)
        except ValueError:
            raise SevenLoopsError(f"--milestones takes epochs with commas between, got {milestones!r}") from None
        recipe = recipe.changed(milestones=shares)
    return Job(
        name, data, recipe, options.folder, options.engine, options.seed, options.threads, options.workers,
        options.log_every, options.save_every, options.limit, options.tensorboard, _network_options(options.network),
    )  # fmt: skip


def _network_options(texts: tuple[str, ...]) -> dict[str, Any]:
    """`expansion=6` is a number, `convention=contiguous` a text."""
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise SevenLoopsError(f"--option takes NAME=VALUE, got {text!r}")
        found[key] = int(value) if value.lstrip("-").isdigit() else value
    return found


def _train(job: Job, team: Team, options: TrainOptions) -> None:
    from ..train.loop import Training

    err = console(stderr=True)
    training = Training(job, team)
    if options.resume:
        training.resume()
    if team.leads:
        _say_start(err, training)
    with _bar(err, team.leads) as tell:
        result = training.run(tell)
    if not team.leads:
        return
    document = _document(training, result, options)
    if options.curves is not None:
        from ..report.training import save_curves

        save_curves([job.log], options.curves)
    if options.json:
        print(json_format.dumps(document, indent=2))
    else:
        _say_end(document, options)


def _say_start(err: Console, training: Training) -> None:
    setup, job = training.setup, training.job
    data, recipe = setup.data, job.recipe
    err.print(
        f"[bold]{plain(job.model)}[/bold], {setup.parameters:,} parameters, on {plain(data.name)} ({plain(data.source)}): "
        f"{len(data.train.labels):,} pictures to train on, {len(data.test.labels):,} to test on, "
        f"{data.channels} x {setup.side} x {setup.side}"
    )
    processes = f" in each of {training.team.world} processes" if training.team.world > 1 else ""
    err.print(
        f"{recipe.epochs} epochs of {training.steps} steps of {recipe.batch} pictures{processes}, rate {recipe.lr:g} "
        f"({recipe.schedule}), momentum {recipe.momentum:g}, weight decay {recipe.weight_decay:g}"
    )
    err.print(f"computed by {plain(setup.engine.summary)}")
    if training.done:
        err.print(f"resumed in epoch {training.epoch + 1}, after step {training.step}")


@contextlib.contextmanager
def _bar(err: Console, shown: bool) -> Iterator[Callable[[Told], None]]:
    """A bar for the epoch; a line for each epoch that is over."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[told]}"),
    )
    with Progress(*columns, console=err, transient=True, disable=not shown) as bar:
        task = bar.add_task("", total=None, told="")

        def tell(now: Told) -> None:
            if now.over and shown:
                bar.console.print(_epoch_line(now))
            told = (
                f"loss {now.loss:.4f}, accuracy {100 * now.accuracy:.2f} %, {now.images_per_s:,.0f} images/s, "
                f"{_duration(now.seconds_left)} left"
            )
            bar.update(
                task, description=f"epoch {now.epoch + 1}/{now.epochs}", completed=now.step, total=now.steps, told=told
            )

        yield tell


def _epoch_line(now: Told) -> str:
    test = f"; test: loss {now.tested.loss:.4f}, accuracy {100 * now.tested.accuracy:.2f} %" if now.tested else ""
    return (
        f"epoch {now.epoch + 1}/{now.epochs}: loss {now.loss:.4f}, accuracy {100 * now.accuracy:.2f} %{test}; "
        f"{now.images_per_s:,.0f} images/s, {_duration(now.seconds_left)} left"
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _document(training: Training, result: Result, options: TrainOptions) -> dict[str, Any]:
    job = training.job
    document: dict[str, Any] = {
        "model": job.model,
        "data": training.setup.data.name,
        "computed_by": training.setup.engine.summary,
        "parameters": training.setup.parameters,
        "epochs": result.epochs,
        "steps": result.steps,
        "seconds": result.seconds,
        "test": result.test.to_dict(),
        "best_accuracy": result.best_accuracy,
        "recipe": asdict(job.recipe),
        "log": str(job.log),
        "checkpoint": str(job.checkpoint),
    }
    if options.output is not None:
        from ..train.evaluate import evaluate_onnx, export

        export(training.module, options.output)
        score = evaluate_onnx(options.output, training.setup.test, job.recipe.ten_crops, job.threads)
        document["onnx"] = {"file": str(options.output), "test": score.to_dict()}
    return document


def _say_end(document: Mapping[str, Any], options: TrainOptions) -> None:
    out, test = console(), document["test"]
    out.print(
        f"{document['epochs']} epochs in {_duration(document['seconds'])}: "
        f"accuracy [bold]{100 * test['accuracy']:.2f} %[/bold] of {test['pictures']:,} test pictures, "
        f"loss {test['loss']:.4f}; best of all epochs "
        f"{100 * document['best_accuracy']:.2f} %"
    )
    out.print(f"log: {plain(document['log'])}; checkpoint: {plain(document['checkpoint'])}")
    if "onnx" in document:
        onnx = document["onnx"]
        out.print(f"{plain(onnx['file'])}: accuracy {100 * onnx['test']['accuracy']:.2f} % by InferenceSession")
    if options.curves is not None:
        out.print(f"curves: {plain(str(options.curves))}")
