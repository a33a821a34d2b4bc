"""Errors of training, and packages that it needs and may lack."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import SevenLoopsError

__all__ = ["DataError", "Interrupted", "TrainingError", "need"]


class TrainingError(SevenLoopsError, RuntimeError):
    """A training that cannot start or go on: options that do not fit, a damaged checkpoint, a process that ended."""


class DataError(SevenLoopsError, ValueError):
    """A data set that is not installed, not there, damaged, or of an unknown layout."""


class Interrupted(TrainingError):
    """The user stopped the training; the message says where the checkpoint is and how to go on."""


def need(module: str, what: str) -> Any:
    """An optional module, imported. Raises `TrainingError` with the way to install it; `what` says what needs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise TrainingError(f"{what} needs {missing}: pip install 'sevenloops[train]'") from None
