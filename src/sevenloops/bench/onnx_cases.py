"""The test cases of single nodes that come with the `onnx` package."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import Any

__all__ = ["Case", "node_cases"]


@dataclass(frozen=True)
class Case:
    """A test case of onnx: a model, pairs of inputs and expected outputs, and how exact they are."""

    name: str
    model: Any
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float

    @property
    def operator(self) -> str:
        """The operator that a model of one node (constants aside) is about, else nothing."""
        nodes = [node for node in self.model.graph.node if node.op_type != "Constant"]
        return nodes[0].op_type if len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") else ""


@functools.cache
def node_cases() -> tuple[Case, ...]:
    """Every node case of the installed `onnx`; some seconds."""
    from onnx import TensorProto, numpy_helper
    from onnx.backend.test.loader import load_model_tests

    plain = lambda value: numpy_helper.to_array(value) if isinstance(value, TensorProto) else value  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy, on the way to infinities that the cases are about
        cases = load_model_tests(kind="node")
    return tuple(
        Case(c.name, c.model, tuple(([*map(plain, x)], [*map(plain, y)]) for x, y in c.data_sets), c.rtol, c.atol)
        for c in cases
    )
