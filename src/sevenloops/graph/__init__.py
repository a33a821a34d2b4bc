"""Networks: the graph as a value, ONNX in and out, passes, and the plan that runs."""

from __future__ import annotations

from .ir import OPSET, OWN, Graph, Node, Note, Value

__all__ = ["OPSET", "OWN", "Graph", "Node", "Note", "Value"]
