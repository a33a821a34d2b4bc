"""Sizes as users write them: an integer, or one integer an axis, checked and made plain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

from .errors import ProblemError

__all__ = ["IntOrTuple", "as_int", "as_tuple"]

IntOrTuple = Union[int, Iterable[int]]


def as_int(name: str, value: Any, minimum: int) -> int:
    """A plain integer of at least `minimum`, or a `ProblemError` that names what was not one."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ProblemError(f"{name} must be an integer, got {value!r}")
    value = value.__index__()
    if value < minimum:
        raise ProblemError(f"{name} must be at least {minimum}, got {value}")
    return value  # type: ignore[no-any-return]


def as_tuple(name: str, value: Any, rank: int, minimum: int) -> tuple[int, ...]:
    """One integer for every axis, or one for all of them."""
    items = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value] * rank
    if len(items) == 1:
        items *= rank
    if len(items) != rank:
        raise ProblemError(f"{name} needs 1 or {rank} integers for {rank} spatial sizes, got {tuple(items)}")
    return tuple(as_int(f"{name}[{axis}]", item, minimum) for axis, item in enumerate(items))
