"""What tuned records teach the cost model: by how much it is off for an algorithm on problems like this one."""

from __future__ import annotations

import functools
import hashlib
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import records
from .algorithms import ALGORITHMS, Algorithm
from .algorithms import cost as cost_module
from .algorithms import tiles as tiles_module
from .descriptor import parse_problem
from .errors import ProblemError
from .machine import Machine
from .problem import Problem
from .records import Record, Result
from .schedule import Schedule

__all__ = ["learned_factor", "model_digest"]

Floats = npt.NDArray[np.float64]
#: how many records of similar problems teach a factor, and the weight of a factor of one among them
SIMILAR, PRIOR = 24, 0.5
#: a factor beyond these says that the model does not know the algorithm at all
FACTORS = (0.25, 4.0)


@functools.cache
def model_digest(name: str) -> str:
    """Stands for the sources of an algorithm and of the cost model: with others, what was predicted is predicted again."""
    own = []
    for function in (ALGORITHMS[name].define, ALGORITHMS[name].schedules):  # schedules come from the module of the model
        inner: Any = getattr(function, "func", function)  # a `functools.partial` has the function inside
        own.append(sys.modules[inner.__module__].__file__)
    files = [cost_module.__file__, tiles_module.__file__, *dict.fromkeys(own)]
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()[:12]


def learned_factor(row: Algorithm, problem: Problem, machine: Machine, own_records: bool = True) -> float:
    """Measured over predicted time of an algorithm, from the records of this kind of machine; 1 where there are none.

    Without `own_records`, those of problems of the same sizes are left out.
    """
    total, weights = 0.0, PRIOR
    sizes = records.sizes_of(str(problem))
    for weight, record in _similar(str(problem), machine, records.generation, records.path()):
        if not own_records and records.sizes_of(record.problem) == sizes:
            continue
        for result in record.results:
            predicted_s = _present_s(record.problem, result, machine) if result.schedule.algorithm == row.name else None
            if predicted_s is not None:
                total += weight * math.log(result.median_s / predicted_s)
                weights += weight
    return min(max(math.exp(total / weights), FACTORS[0]), FACTORS[1])


def _present_s(problem: str, result: Result, machine: Machine) -> float | None:
    """What the model as it is now predicts for a result of a record; None if its schedule no longer fits."""
    if result.model == model_digest(result.schedule.algorithm):
        return result.predicted_s
    return _predicted_again_s(problem, result.schedule, machine)


@functools.lru_cache(maxsize=4096)
def _predicted_again_s(descriptor: str, schedule: Schedule, machine: Machine) -> float | None:
    row = ALGORITHMS[schedule.algorithm]
    try:
        problem = parse_problem(descriptor)
    except ProblemError:
        return None
    fits = isinstance(problem, row.kinds) and row.check(problem, schedule, machine) is None
    return row.predicted_s(problem, schedule, machine) if fits else None


@functools.lru_cache(maxsize=256)
def _similar(problem: str, machine: Machine, generation: int, path: Path) -> list[tuple[float, Record]]:
    """The records of the most similar problems, each with its weight."""
    keys, points = _known(machine, generation, path)
    if not keys:
        return []
    distance2 = ((points - np.array(_features(problem))) ** 2).sum(axis=1)
    nearest = np.argsort(distance2, kind="stable")[:SIMILAR].tolist()
    weighted = [(math.exp(-float(distance2[at]) / 2), records.get(machine, keys[at])) for at in nearest]
    return [(weight, record) for weight, record in weighted if record is not None and weight > 0.01]


@functools.lru_cache(maxsize=8)
def _known(machine: Machine, generation: int, path: Path) -> tuple[list[tuple[str, str]], Floats]:
    """Every problem with a record for this kind of machine, and where it lies among all problems."""
    keys = sorted(records.problems(machine))
    return keys, np.array([_features(problem) for problem, _ in keys])


_WORD = re.compile(r"([a-z]+)(\d+)")


def _features(descriptor: str) -> list[float]:
    """A problem as a point: halves of log2 of pixels, channels in and out, groups; log2 of taps and of strides."""
    sizes = dict(_WORD.findall(descriptor))
    get = lambda *names: math.log2(math.prod(int(sizes[name]) for name in names if name in sizes))  # noqa: E731
    pixels, ic, oc, groups = get("mb", "id", "ih", "iw", "m"), get("ic", "k"), get("oc", "n"), get("g")
    return [pixels / 2, ic / 2, oc / 2, groups / 2, get("kd", "kh", "kw"), get("sd", "sh", "sw")]
