"""sevenloops: convolutions and matrix products at the speed of the machine, and why."""

from __future__ import annotations

from .compile import Kernel, Packed, compile, compile_many
from .descriptor import parse_problem
from .epilogue import Epilogue
from .errors import SevenLoopsError
from .functional import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    depthwise_conv2d,
    linear,
    matmul,
)
from .functional_shift import shift2d, shift_conv2d
from .machine import Machine
from .problem import ConvProblem, GemmProblem
from .schedule import Schedule
from .session import InferenceSession
from .shift import Shift

__all__ = [
    "ConvProblem",
    "Epilogue",
    "GemmProblem",
    "InferenceSession",
    "Kernel",
    "Machine",
    "Packed",
    "Schedule",
    "SevenLoopsError",
    "Shift",
    "compile",
    "compile_many",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "depthwise_conv2d",
    "linear",
    "matmul",
    "parse_problem",
    "shift2d",
    "shift_conv2d",
]
__version__ = "0.1.0"
