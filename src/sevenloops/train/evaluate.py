"""How good a network is: in PyTorch while it is trained, and as an ONNX model by `InferenceSession`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..session import InferenceSession
from ..torch.graphs import to_graph
from .team import Team

__all__ = ["Score", "evaluate", "evaluate_onnx", "export"]

VIEWS = 10


@dataclass(frozen=True)
class Score:
    """Of `pictures`: the mean of -log p of the right class, and how often it is the first guess, or of the first five."""

    loss: float
    accuracy: float
    top5: float
    pictures: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def evaluate(module: Any, batches: Iterable[Any], ten_crops: bool, team: Team | None = None) -> Score:
    """The score of a module, in its evaluation mode; with `ten_crops` the probabilities of ten views are averaged."""
    module.eval()
    with torch.inference_mode():
        return _score(module, batches, ten_crops, team or Team())


def _score(scores_of: Callable[[Any], Any], batches: Iterable[Any], ten_crops: bool, team: Team) -> Score:
    sums = [0.0] * 4
    for images, labels in batches:
        scores = scores_of(images).double()
        logs = scores.log_softmax(1)
        if ten_crops:
            logs = logs.reshape(len(labels), VIEWS, -1).logsumexp(1) - math.log(VIEWS)
        best = logs.topk(min(5, logs.shape[1]), 1).indices == labels[:, None]
        losses = torch.nn.functional.nll_loss(logs, labels, reduction="sum")
        parts = (float(losses), int(best[:, 0].sum()), int(best.sum()), len(labels))
        sums = [total + part for total, part in zip(sums, parts)]
    loss, first, five, n = team.total(sums)
    return Score(loss / n, first / n, five / n, int(n))


def export(module: Any, path: Path) -> None:
    """Write the network with the weights of now as an ONNX model, for batches of any size. Needs the package `onnx`."""
    to_graph(module).save_onnx(path)


def evaluate_onnx(path: Path, batches: Iterable[Any], ten_crops: bool, threads: int | None = None) -> Score:
    """The score of an ONNX model as `InferenceSession` runs it. Shorter batches are filled up: one plan serves all."""
    session = InferenceSession(path, threads=threads)
    (value,) = session.get_inputs()
    size = 0

    def scores_of(images: Any) -> Any:
        nonlocal size
        size = max(size, len(images))
        filled = torch.cat([images, images[-1:].expand(size - len(images), -1, -1, -1)]) if len(images) < size else images
        (scores,) = session.run(None, {value.name: filled.contiguous().numpy()})
        return torch.from_numpy(scores[: len(images)])

    return _score(scores_of, batches, ten_crops, Team())
