"""What networks cost, counted without running them."""

from __future__ import annotations

from .costs import Cost, count

__all__ = ["Cost", "count"]
