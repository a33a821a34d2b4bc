"""Tables whose rows are imported when they are looked up, so that a process loads the modules that it needs."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import TypeVar

__all__ = ["Rows"]

V = TypeVar("V")


class Rows(MutableMapping[str, V]):
    """Rows by name, in order; `places` says for each where it is, as `"module:ATTRIBUTE"` of a package."""

    def __init__(self, package: str, places: dict[str, str]) -> None:
        self._package, self._places = package, places
        self._rows: dict[str, V] = {}

    def __getitem__(self, name: str) -> V:
        if name not in self._rows:
            module, _, attribute = self._places[name].partition(":")
            self._rows[name] = getattr(import_module(f"{self._package}.{module}"), attribute)
        return self._rows[name]

    def __setitem__(self, name: str, row: V) -> None:
        self._places.setdefault(name, "")
        self._rows[name] = row

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._rows.pop(name, None)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
