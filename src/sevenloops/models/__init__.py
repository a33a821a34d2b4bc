"""Well-known networks, each defined once: `build("resnet50")` is a `Graph`, with seeded or given weights."""

from __future__ import annotations

from .table import ZOO, Model, Preprocessing, build, find

__all__ = ["ZOO", "Model", "Preprocessing", "build", "find"]
