"""sevenloops under PyTorch: operators with gradients, modules, and what replaces those of a model. Needs PyTorch."""

from typing import Any

from . import _openmp as _openmp
from . import nn
from .accelerate import accelerate, restore
from .functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    linear,
    shift2d,
    shift_conv2d,
)
from .graphs import from_graph, to_graph

__all__ = [
    "accelerate",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "explain_backend",
    "from_graph",
    "linear",
    "nn",
    "restore",
    "shift2d",
    "shift_conv2d",
    "to_graph",
]


def __getattr__(name: str) -> Any:
    """`explain_backend`, for which PyTorch's compiler has to be imported: that takes longer than all else here."""
    if name == "explain_backend":
        from .backend import explain_backend

        return explain_backend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
