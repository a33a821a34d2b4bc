"""Several processes that train one network: each takes its share of a batch, gradients are averaged (torchrun, gloo)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as distributed

from .errors import TrainingError

__all__ = ["Team", "joined"]

#: What PyTorch says of a connection that ended.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Read error", "Timed out waiting")


@dataclass(frozen=True)
class Team:
    """This process among all: `rank` of `world`."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and reports."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor)
        return [float(value) for value in tensor]

    def agree(self, value: Any) -> Any:
        """What the first process has; a plain value, the same in all processes then."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]


@contextlib.contextmanager
def joined() -> Iterator[Team]:
    """The team that `torchrun` started this process in, or a team of one.

    Raises `TrainingError` inside the block when another process of the team ends.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Team()
        return
    distributed.init_process_group("gloo")
    try:
        yield Team(distributed.get_rank(), world)
    except RuntimeError as error:
        if any(text in str(error) for text in LOST):
            raise TrainingError(
                f"another of the {world} processes of this training has ended; --resume goes on from the last checkpoint"
            ) from error
        raise
    finally:
        distributed.destroy_process_group()
