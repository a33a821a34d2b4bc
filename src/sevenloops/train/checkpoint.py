"""Checkpoints: everything that a training needs to go on as if nothing had happened, in one file.

The file is in the format of `safetensors`: weights, running statistics and the optimizer's state as tensors, all other state
as JSON among its metadata. Nothing in it is code. Numbers of JSON are written in full, so they come back the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import TrainingError, need
from .files import replace_file

__all__ = ["load_checkpoint", "load_optimizer", "optimizer_tensors", "save_checkpoint"]

#: Under which the state lies among the metadata.
KEY = "sevenloops.training"


def save_checkpoint(path: Path, tensors: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint in one step: after a crash there is the one before, or this one."""
    safetensors = need("safetensors.torch", "a checkpoint")
    data = safetensors.save({name: t.detach().contiguous() for name, t in tensors.items()}, {KEY: json.dumps(state)})
    replace_file(path, lambda file: file.write(data))


def load_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and state of a checkpoint. Raises `TrainingError` for a damaged or another file, `OSError`."""
    safetensors = need("safetensors", "a checkpoint")
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in list(file.keys())}, state
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is damaged, or no checkpoint of a training: {error}") from None


def optimizer_tensors(optimizer: Any) -> Iterator[tuple[str, Any]]:
    """The state of an optimizer by names such as `0.momentum_buffer`; only tensors are state of SGD."""
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                yield f"{number}.{name}", value


def load_optimizer(optimizer: Any, tensors: dict[str, Any]) -> None:
    """Put back what `optimizer_tensors` gave; groups and rates stay."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
