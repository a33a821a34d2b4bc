"""Well-known networks, each defined once: `build("resnet50")` is a `Graph`, with seeded or given weights.

`pretrained("efficientnet_lite0")` is one with the weights that it was trained to.
"""

from __future__ import annotations

from .pretrained import PRETRAINED, class_names, has_weights, packaged, pretrained
from .table import ZOO, Model, Preprocessing, build, find, known

__all__ = [
    "PRETRAINED", "ZOO", "Model", "Preprocessing", "build", "class_names", "find", "has_weights", "known", "packaged",
    "pretrained",
]  # fmt: skip
