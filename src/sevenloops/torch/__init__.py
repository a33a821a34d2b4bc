"""sevenloops under PyTorch: operators with gradients, modules, and what replaces those of a model. Needs PyTorch."""

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
    "from_graph",
    "linear",
    "nn",
    "restore",
    "shift2d",
    "shift_conv2d",
    "to_graph",
]
