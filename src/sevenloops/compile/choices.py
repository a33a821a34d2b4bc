"""Choices kept on disk: the cost model looks at some thousand schedules for a problem, 2 to 60 ms in Python.

A choice is kept in the cache of the kernels, under a key of everything that it depends on: the problem, the machine with
its speeds, the accuracy, whether weights vary, the table of algorithms, the sources of the model, and the contents of the
tuned records. So any change of a record, by this process or another, is another key, and the choice is made again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from .. import records
from ..algorithms import ALGORITHMS, check_schedule
from ..choice import choose
from ..errors import SevenLoopsError
from ..machine import Machine
from ..paths import read_file
from ..problem import Problem
from ..recent import Recent
from ..schedule import Schedule
from . import cache
from .store import build_digest

__all__ = ["chosen", "kept", "state"]

Chosen = tuple[Schedule, str]
#: What this process has chosen or read, by key.
_known: Recent[str, Chosen] = Recent()


def chosen(
    problem: Problem,
    machine: Machine,
    accuracy: str,
    algorithm: str | None,
    in_network: bool = False,
    weights: str = "constant",
) -> Chosen:
    """The schedule that `choice.choose` gives, and its reason; from the disk if they are there. Raises what it raises."""
    key = _key(problem, machine, accuracy, algorithm, in_network, weights)
    found = _find(key, problem, machine)
    if found is None:
        asked: dict[str, Any] = {"accuracy": accuracy, "algorithm": algorithm, "in_network": in_network}
        choice = choose(problem, machine, weights=weights, **asked)
        found = _known.keep(key, (choice.schedule, choice.why))
        header = json.dumps({"schedule": choice.schedule.to_json(), "why": choice.why})
        cache.write(key, header, b"", problem=str(problem), algorithm=f"(choice of {choice.schedule.algorithm})")
    return found


def kept(problem: Problem, machine: Machine, accuracy: str, in_network: bool = False) -> Chosen | None:
    """What `chosen` finds on the disk or in this process, among all algorithms; nothing is chosen."""
    return _find(_key(problem, machine, accuracy, None, in_network, "constant"), problem, machine)


def _find(key: str, problem: Problem, machine: Machine) -> Chosen | None:
    found = _known.find(key)
    if found is None:
        read = _read(key, problem, machine)
        found = read and _known.keep(key, read)
    return found


def _read(key: str, problem: Problem, machine: Machine) -> Chosen | None:
    found = cache.read(key)
    if found is None:
        return None
    try:
        values = json.loads(found[0])
        schedule, why = Schedule.from_json(values["schedule"]), str(values["why"])
    except (ValueError, KeyError, TypeError, SevenLoopsError):
        return None  # a file of another version
    return (schedule, why) if check_schedule(problem, schedule, machine) is None else None


def _key(problem: Problem, machine: Machine, accuracy: str, algorithm: str | None, in_network: bool, weights: str) -> str:
    asked = [str(problem), repr(machine), accuracy, str(algorithm), str(in_network), weights]
    text = "\n".join(["choice", *asked, ",".join(ALGORITHMS), state()])
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def state() -> str:
    """Stands for the tuned records and for the sources of the model, which are those of the kernels."""
    return _state(records.generation, records.path())


@functools.lru_cache(maxsize=8)
def _state(generation: int, path: Path) -> str:
    digest = hashlib.sha256(build_digest().encode())
    for file in (records.SHIPPED, path):
        try:
            digest.update(read_file(file))
        except OSError:
            digest.update(b"none")
    return digest.hexdigest()
