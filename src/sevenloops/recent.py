"""Tables that let go of what has not been used for long, so a process that meets ever new shapes does not grow."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from .locks import renewed_lock

__all__ = ["MAX_KEPT", "Recent"]

#: How many kernels (layers, choices) each table of this process keeps. A kernel takes some 0.1 MB and two mappings; one that
#: comes back is loaded from the disk cache again, in about a millisecond.
MAX_KEPT = 1000

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values of a table that were used last: at most `limit`, at least half as many. Thread-safe.

    Values live in two generations. New ones enter the young one, and old ones return to it when they are used; when it
    holds half of the limit it becomes the old one, whose values go. A hit costs one look into a dict, as no order is kept.
    A value that is let go lives on for whoever holds it.
    """

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self.limit = limit
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}
        self._lock: Any = renewed_lock(self, "_lock")

    def find(self, key: K) -> V | None:
        """The value, or None."""
        value = self._young.get(key)
        if value is None:
            value = self._old.get(key)
            if value is not None:
                return self.keep(key, value)
        return value

    def keep(self, key: K, value: V) -> V:
        """Enter a value; returns it, or the one that another thread entered first."""
        with self._lock:
            if len(self._young) >= self.limit // 2:
                self._old, self._young = self._young, {}
            return self._young.setdefault(key, value)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
