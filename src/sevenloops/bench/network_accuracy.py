"""Rounding errors of whole networks against float64, in both accuracies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..choice import ACCURACIES
from ..graph.evaluate import evaluate
from ..graph.ir import Graph
from ..inputs import largest_error
from ..models.pretrained import has_weights, pretrained
from ..models.table import build
from ..session import InferenceSession
from .network_bench import case, random_feeds

__all__ = ["BOUNDS", "NetworkAccuracy", "measure_networks", "network_errors"]

#: What is promised of whole networks: the largest error, relative to the largest output.
BOUNDS = {"fast": 1e-4, "strict": 1e-5}


@dataclass(frozen=True)
class NetworkAccuracy:
    """The largest error of a network in each accuracy, relative to the largest output, of the worst of its outputs."""

    name: str
    weights: str
    errors: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every error is within its bound."""
        return all(self.errors[accuracy] <= bound for accuracy, bound in BOUNDS.items())


def network_errors(graph: Graph, seed: int = 0) -> dict[str, float]:
    """The errors of a graph for seeded normally distributed inputs, by accuracy.

    The float64 run is that of `graph.evaluate`, in NumPy, of the graph as it is before any pass.
    """
    item = case(graph.name, graph)
    feeds = random_feeds(graph, item.sizes, seed)
    expected = evaluate(graph, feeds)
    errors = {}
    for accuracy in ACCURACIES:
        results = InferenceSession(graph, accuracy=accuracy, shapes=item.sizes).run(None, feeds)
        errors[accuracy] = max(
            largest_error(result, np.asarray(expected[name], np.float64)) for name, result in zip(graph.outputs, results)
        )
    return errors


def measure_networks(
    names: Sequence[str], on_done: Callable[[NetworkAccuracy], None] = lambda result: None
) -> list[NetworkAccuracy]:
    """Networks of the zoo at batch 1, with trained weights where their package is installed. Raises `GraphError`."""
    results = []
    for name in names:
        trained = has_weights(name)
        graph = pretrained(name, batch=1) if trained else build(name, batch=1)
        results.append(NetworkAccuracy(name, "trained" if trained else "random", network_errors(graph)))
        on_done(results[-1])
    return results
