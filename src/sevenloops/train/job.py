"""What a training is asked to do, and all that it begins with: data, network, optimizer, rates, loaders."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import batches
from .datasets import load_data
from .errors import TrainingError
from .network import Engine, module_of, network
from .pictures import Colours, Data, Files, colours
from .recipes import Recipe
from .team import Team

__all__ = ["Job", "Setup", "prepare"]


@dataclass(frozen=True)
class Job:
    """A training: a network of the zoo on a data set, by a recipe.

    Attributes:
        model, options: a name of the zoo, and options of that network.
        data, limit: as `load_data` takes it; at most so many pictures of each part.
        folder: where checkpoint and log go.
        engine: "sevenloops" or "torch".
        seed: of the weights, the order, the pictures and dropout.
        threads: of PyTorch and of sevenloops in each process; None leaves PyTorch's choice.
        workers: processes that make the batches; 0: none, the training does it.
        log_every, save_every: steps between lines of the log, and between checkpoints within an epoch (0: none).
        tensorboard: also write TensorBoard's files, into the folder `tensorboard` beside the log.
    """

    model: str
    data: str
    recipe: Recipe
    folder: Path
    engine: str = "sevenloops"
    seed: int = 0
    threads: int | None = None
    workers: int = 0
    log_every: int = 50
    save_every: int = 500
    limit: int | None = None
    tensorboard: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Path:
        """The last state."""
        return self.folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """The weights with the best accuracy in testing so far."""
        return self.folder / "best.safetensors"

    @property
    def log(self) -> Path:
        """Its log."""
        return self.folder / "log.jsonl"

    def identity(self, team: Team) -> dict[str, Any]:
        """What must be the same for a checkpoint to be continued: another value would be another training."""
        return {
            "model": self.model,
            "options": dict(self.options),
            "data": self.data,
            "limit": self.limit,
            "seed": self.seed,
            "processes": team.world,
            "engine": self.engine,
            **self.recipe.to_dict(),
        }


@dataclass
class Setup:
    """A training that is ready to start: `module` trains, `engine` says by what; `side` is that of the input."""

    data: Data
    statistics: Colours
    side: int
    module: Any
    engine: Engine
    optimizer: Any
    epochs: batches.Epochs
    test: Any

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.module.parameters())


def prepare(job: Job, team: Team) -> Setup:
    """Load the data, build the network. Raises `DataError`, `TrainingError`, `GraphError` for what does not fit."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    recipe = job.recipe
    data = load_data(job.data)
    data = data if job.limit is None else data.limited(job.limit)
    resize = recipe.resize or (recipe.crop if isinstance(data.train, Files) else None)
    if isinstance(data.train, Files) and resize is None:
        raise TrainingError("pictures in files have many sizes: say what they are scaled to with --resize")
    data = data if resize is None else data.resized(resize)
    side = recipe.crop or data.side
    if side > data.side + 2 * recipe.pad:
        raise TrainingError(
            f"a crop of {side} does not fit into pictures of {data.side} with a padding of {recipe.pad}: use --resize"
        )
    statistics = colours(data.train)
    sharing: dict[str, Any] = {"workers": job.workers, "rank": team.rank, "world": team.world}
    epochs = batches.training(data.train, recipe, statistics, side, seed=job.seed, **sharing)
    if not epochs.steps:
        n, whole = len(data.train.labels), recipe.batch * team.world
        raise TrainingError(f"{data.name} has {n} pictures to train on, too few for one batch of {whole}: use --batch")
    shape: dict[str, Any] = {"channels": data.channels, "side": side, "classes": len(data.classes)}
    graph = network(job.model, recipe, **shape, seed=job.seed, options=job.options)
    module, engine = module_of(graph, job.engine, (recipe.batch, data.channels, side, side))
    optimizer = torch.optim.SGD(
        module.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    test = batches.evaluation(data.test, recipe, statistics, side, **sharing)
    return Setup(data, statistics, side, module, engine, optimizer, epochs, test)


def rates(optimizer: Any, recipe: Recipe, steps: int, done: int = 0) -> Any:
    """PyTorch's scheduler for a recipe, to be stepped after each of the `steps` of an epoch; `done` of them are over.

    A scheduler is a function of how often it was stepped, so stepping a new one as often gives the same rates, bit for bit.
    """
    schedulers = torch.optim.lr_scheduler
    whole, warm = recipe.epochs * steps, round(recipe.warmup * steps)
    main: Any
    if recipe.schedule == "cosine":
        main = schedulers.CosineAnnealingLR(optimizer, max(1, whole - warm))
    else:
        shares = recipe.milestones if recipe.schedule == "steps" else ()
        # Rounded to whole epochs, as recipes are published; counted from the end of the warm-up.
        milestones = [max(1, round(share * recipe.epochs)) * steps - warm for share in shares]
        main = schedulers.MultiStepLR(optimizer, milestones, gamma=0.1)
    if warm:
        first = schedulers.LinearLR(optimizer, 0.1, total_iters=warm)
        main = schedulers.SequentialLR(optimizer, [first, main], [warm])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step()")  # no step is made here
        for _ in range(done):
            main.step()
    return main
