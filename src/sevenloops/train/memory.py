"""What a training step holds, stage by stage: measured in PyTorch, beside what `analysis.training` predicts.

Measured are the memories (storages) of tensors, each once, that are alive after a stage because somebody holds them: the
caller its pictures, labels, scores and loss; the module its parameters, gradients and buffers; the optimizer its state; and
autograd what it saved for the backward pass, which passes through hooks. Not in it are temporaries inside operators,
workspaces of libraries, and numbers (tensors without axes).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ..analysis.training import TrainingMemory

__all__ = ["STAGES", "StepMemory", "measure_step", "predicted_step"]

STAGES = ("inputs", "weights", "after forward", "after loss", "after backward", "after step")


@dataclass(frozen=True)
class StepMemory:
    """Bytes that are alive after each of `STAGES`, in that order; "weights" has running statistics with it."""

    n_bytes: tuple[int, ...]

    def rows(self) -> Iterator[tuple[str, int]]:
        """Each stage with its bytes."""
        yield from zip(STAGES, self.n_bytes)


class _Saved:
    """What autograd holds in place of a tensor that it saved; it ends with the graph."""

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor


def measure_step(module: Any, optimizer: Any, data: Any, labels: Any, batch: int) -> StepMemory:
    """Run one step, the first, on the first `batch` rows of `data` and `labels`, which are counted whole.

    `module` gives scores (batch, classes), `optimizer` has not made a step yet.
    """
    saved: weakref.WeakSet[_Saved] = weakref.WeakSet()
    found: list[int] = []

    def note(*held: Any) -> None:
        gradients = (parameter.grad for parameter in module.parameters())
        state = (value for values in optimizer.state.values() for value in values.values())
        alive = (entry.tensor for entry in saved)
        weights = (*module.parameters(), *module.buffers()) if found else ()  # the first stage is the inputs alone
        found.append(_bytes((data, labels, *weights, *gradients, *state, *alive, *held)))

    def pack(tensor: Any) -> _Saved:
        entry = _Saved(tensor)
        saved.add(entry)
        return entry

    module.train()
    note()
    note()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda entry: entry.tensor):
        scores = module(data[:batch])
        note(scores)
        loss = cross_entropy(scores, labels[:batch])
        note(scores, loss)
    loss.backward()
    note(scores, loss)
    optimizer.step()
    note(scores, loss)
    return StepMemory(tuple(found))


def _bytes(tensors: Iterable[Any]) -> int:
    """Bytes of the storages behind tensors, each once."""
    storages = {}
    for tensor in tensors:
        if isinstance(tensor, torch.Tensor) and tensor.dim():
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def predicted_step(memory: TrainingMemory, input_bytes: int) -> StepMemory:
    """The same stages as predicted; `input_bytes` are those of the caller's pictures and labels.

    After the backward pass what was saved is gone; the scores, as large as the loss's log-probabilities, stay the caller's.
    """
    weights = input_bytes + memory.parameter_bytes
    forward = weights + memory.activation_bytes
    backward = weights + memory.loss_bytes + memory.gradient_bytes
    return StepMemory((
        input_bytes, weights, forward, forward + memory.loss_bytes, backward, backward + memory.optimizer_bytes
    ))  # fmt: skip
