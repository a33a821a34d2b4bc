"""Schedules as values: an algorithm's name and its named parameters, nothing of Halide inside.

`repr` is Python that builds the schedule again, so a schedule can be kept in a file, a database or a bug report::

    >>> Schedule("direct", tile_pixels=6, tile_channels=64)
    Schedule('direct', tile_channels=64, tile_pixels=6)
"""

from __future__ import annotations

import json
from typing import Any, Union

from .errors import ScheduleError

__all__ = ["Schedule"]

Value = Union[int, str, bool]


class Schedule:
    """An immutable, hashable set of typed parameters (int, bool or str) for one algorithm.

    Parameters are read as attributes (`schedule.tile_pixels`). What they mean is documented by the algorithm.
    Raises `ScheduleError` for a value of another type.
    """

    __slots__ = ("_params", "algorithm")
    algorithm: str
    _params: tuple[tuple[str, Value], ...]

    def __init__(self, algorithm: str, **params: Value) -> None:
        for name, value in params.items():
            if not isinstance(value, (int, str, bool)):
                raise ScheduleError(f"parameter {name} of schedule {algorithm!r} is an int, bool or str, got {value!r}")
        object.__setattr__(self, "algorithm", algorithm)
        object.__setattr__(self, "_params", tuple(sorted(params.items())))

    @property
    def params(self) -> dict[str, Value]:
        """The parameters by name."""
        return dict(self._params)

    def replace(self, **changes: Value) -> Schedule:
        """The same schedule with some parameters changed; an unknown name raises `ScheduleError`."""
        unknown = set(changes) - set(self.params)
        if unknown:
            raise ScheduleError(f"{self.algorithm} has no parameter {sorted(unknown)}; it has {sorted(self.params)}")
        return Schedule(self.algorithm, **{**self.params, **changes})

    def to_json(self) -> str:
        """One line of JSON, keys sorted."""
        return json.dumps({"algorithm": self.algorithm, **self.params}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read what `to_json` wrote; raises `ScheduleError` for anything else."""
        try:
            params = json.loads(text)
            return cls(params.pop("algorithm"), **params)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ScheduleError(f"not a schedule: {text!r} ({error})") from None

    def __getattr__(self, name: str) -> Any:
        for key, value in object.__getattribute__(self, "_params"):
            if key == name:
                return value
        raise AttributeError(f"schedule of {self.algorithm} has no parameter {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"schedules are immutable; use schedule.replace({name}=...)")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.algorithm, self.params))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and (self.algorithm, self._params) == (other.algorithm, other._params)

    def __hash__(self) -> int:
        return hash((self.algorithm, self._params))

    def __repr__(self) -> str:
        return f"Schedule({', '.join([repr(self.algorithm), *(f'{k}={v!r}' for k, v in self._params)])})"


def _rebuild(algorithm: str, params: dict[str, Value]) -> Schedule:
    return Schedule(algorithm, **params)
