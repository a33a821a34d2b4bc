"""What the backend made of a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .backend_parts import Leftover

__all__ = ["BackendReport", "GraphReport"]


@dataclass(frozen=True)
class GraphReport:
    """One graph: its kind (`"inference"`, `"forward"`, `"backward"`), how many of its operators make a tensor, in how many
    parts sevenloops computes, and what is left to PyTorch."""

    kind: str
    operators: int
    parts: int
    leftovers: tuple[Leftover, ...]

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.operators} operators, {self.parts} parts by sevenloops, {len(self.leftovers)} left"]
        counts = Counter((left.op, left.reason) for left in self.leftovers)
        lines += [f"  {count} x {op}: {reason}" for (op, reason), count in counts.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class BackendReport:
    """What `torch.compile(model, backend="sevenloops")` makes of a call: graph breaks with Dynamo's reasons, and graphs."""

    graph_breaks: tuple[str, ...]
    graphs: tuple[GraphReport, ...]

    def __str__(self) -> str:
        lines = [f"{len(self.graph_breaks)} graph breaks", *(f"  {reason}" for reason in self.graph_breaks)]
        return "\n".join([*lines, *map(str, self.graphs)])
