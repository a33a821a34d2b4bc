"""Compiled layers that are neither convolutions nor products."""

from __future__ import annotations

from .transpose import TRANSPOSE

__all__ = ["LAYERS"]

#: Every layer by name.
LAYERS = {"transpose": TRANSPOSE}
