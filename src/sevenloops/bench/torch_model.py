"""PyTorch as a peer for networks: a graph as a module of PyTorch's own operators, channels last, since it reads no ONNX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..graph.ir import OWN, Graph

__all__ = ["compute", "outputs", "peer"]

Array = np.ndarray[Any, Any]


def peer(graph: Graph, sizes: Mapping[str, tuple[int, ...]], dtype: str = "float32") -> Any:
    """A `torch.nn.Module` that computes a graph for exact sizes, as in inference, without anything of ours.

    Raises `Unsupported` for the first operator that is not converted; our own are not.
    """
    import torch

    from ..torch.graphs import from_graph

    for node in graph.nodes:
        if node.domain == OWN:
            raise Unsupported(f"{node.op} is not among the operators that are converted to PyTorch's own")
    module: Any = from_graph(graph, sizes, dtype=getattr(torch, dtype)).eval().requires_grad_(False)
    return module.to(memory_format=torch.channels_last)


def compute(graph: Graph, feeds: Mapping[str, Array], dtype: str = "float64") -> list[Array]:
    """The outputs for given inputs, in the precision of `dtype`."""
    import torch

    module = peer(graph, {name: array.shape for name, array in feeds.items()}, dtype)
    inputs = [torch.from_numpy(np.array(feeds[value.name])) for value in graph.inputs]
    with torch.inference_mode():
        results = module(*(x.to(getattr(torch, dtype)) if x.is_floating_point() else x for x in inputs))
    return [result.numpy() for result in outputs(results)]


def outputs(result: Any) -> list[Any]:
    """The outputs of a call of a `peer`: it returns one tensor, or a tuple."""
    return list(result) if isinstance(result, tuple) else [result]
