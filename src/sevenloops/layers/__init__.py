"""Compiled layers that are neither convolutions nor products."""

from __future__ import annotations

from .copy_slice import COPY_SLICE
from .elementwise import ELEMENTWISE
from .pool import POOL
from .shift import SHIFT_LAYER
from .transpose import TRANSPOSE

__all__ = ["LAYERS"]

#: Every layer by name.
LAYERS = {row.name: row for row in (TRANSPOSE, SHIFT_LAYER, COPY_SLICE, POOL, ELEMENTWISE)}
