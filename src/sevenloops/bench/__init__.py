"""Measuring kernels against the established libraries: problems from networks, one process per engine, alternating."""

from __future__ import annotations

from .measure import time_kernel

__all__ = ["time_kernel"]
