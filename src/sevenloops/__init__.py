"""sevenloops: convolutions and matrix products at the speed of the machine, and why.

Importing the package loads nothing; what it offers is imported when it is touched.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

#: The modules that public names are in, as above.
_MODULES = {
    "compile": ("Kernel", "Packed", "compile", "compile_many"),
    "descriptor": ("parse_problem",),
    "epilogue": ("Epilogue",),
    "errors": ("SevenLoopsError",),
    "functional": (
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "depthwise_conv2d",
        "linear",
        "matmul",
    ),
    "functional_shift": ("shift2d", "shift_conv2d"),
    "machine": ("Machine",),
    "problem": ("ConvProblem", "GemmProblem"),
    "schedule": ("Schedule",),
    "session": ("InferenceSession",),
    "shift": ("Shift",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package, when it is touched first."""
    if name in _MODULE_OF:
        value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """`compile` is the function, although the import system puts the package of that name into its place."""

    @property
    def compile(self) -> Any:
        """See `sevenloops.compile.compile`."""
        return self.__dict__.get("compile") or __getattr__("compile")

    @compile.setter
    def compile(self, value: Any) -> None:
        if not isinstance(value, ModuleType):
            self.__dict__["compile"] = value


sys.modules[__name__].__class__ = _Package
