"""The database of tuned records: what `sevenloops tune` measured, by problem and kind of machine.

A record names a problem, the machine it was measured on, and the best schedule of every algorithm that was compared, with
its median, its error against float64 and what the cost model had predicted. Nothing in it is code: a schedule is checked
against the problem before it is used.

Records are lines of JSON: the package ships `tune/default.jsonl`, and `sevenloops tune` appends to `tuned.jsonl` in the
cache directory, one write a record, so that any number of processes may tune at once and a killed one loses nothing. The
last line for a problem and machine counts, and the user's lines win over the shipped ones. A line that cannot be read is
left out with a `CacheWarning`, and the file is cleaned when the next record is added. Both files are read once per
process.

**What a record is valid for.** The sizes of the problem: an exact match is preferred, else one with another epilogue, whose
time differs little. The kind of machine: instruction set, cores, and the caches that a schedule is made for (L1, L2), a
record of the same processor preferred to another of its kind; the last cache and the speeds are not part of it.
**When it expires.** Not with each change of the sources, or an update would throw away hours of measuring: a schedule that
still passes its algorithm's `check` is still a good one. The digest of the sources is kept, and `sevenloops tune` measures
again what was measured with others. An algorithm that did not exist then competes by prediction (`sevenloops.choice`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import CacheWarning, SevenLoopsError
from .machine import Machine
from .paths import cache_dir, read_file
from .problem import Problem
from .schedule import Schedule

__all__ = [
    "Record", "RecordError", "Result", "Trial", "add", "clear", "find", "get", "import_file", "machine_kind", "problems",
]  # fmt: skip

SHIPPED = Path(__file__).parent / "tune" / "default.jsonl"


class RecordError(SevenLoopsError, ValueError):
    """A file or line that holds no tuned records."""


@dataclass(frozen=True)
class Result:
    """The best schedule of one algorithm: its median, what the model of digest `model` predicted, its largest error."""

    schedule: Schedule
    median_s: float
    predicted_s: float
    model: str
    error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Result:
        """The inverse of `to_dict`; raises `RecordError`, `ScheduleError`, `TypeError`, `KeyError` or `ValueError`."""
        times = _times(values, "median_s", "predicted_s")
        return cls(_schedule(values), *times, str(values["model"]), float(values["error"]))


@dataclass(frozen=True)
class Trial:
    """What was fastest inside a network, where a layer's weights come from memory and its input from other caches.

    `median_s` is its time there, `alone_s` that of the schedule which is fastest alone, measured in turn.
    """

    schedule: Schedule
    median_s: float
    alone_s: float
    network: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trial:
        """The inverse of `to_dict`; raises as `Result.from_dict` does."""
        return cls(_schedule(values), *_times(values, "median_s", "alone_s"), str(values["network"]))


def _plain(entry: Result | Trial) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "schedule": json.loads(entry.schedule.to_json())}


def _schedule(values: dict[str, Any]) -> Schedule:
    return Schedule.from_json(json.dumps(values["schedule"]))


def _times(values: dict[str, Any], first: str, second: str) -> tuple[float, float]:
    times = float(values[first]), float(values[second])
    if not all(math.isfinite(time) and time > 0 for time in times):
        raise RecordError(f"times must be above 0, got {times}")
    return times


@dataclass(frozen=True)
class Record:
    """What tuning found for one problem on one machine: `results` has the fastest first, one of each algorithm.

    `considered` names every algorithm that was looked at, also those that were predicted to be hopeless; `digest` stands
    for the sources that generated the kernels; `untuned_s` is the median of what the model alone would have chosen,
    measured beside the results, so that the model can be judged. `trial` is what a trial inside a network found, if there
    was one.
    """

    problem: str
    kind: str
    cpu: str
    results: tuple[Result, ...]
    considered: tuple[str, ...]
    date: str
    digest: str
    untuned_s: float
    versions: dict[str, str] = field(default_factory=dict, hash=False)
    trial: Trial | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Later records with the same key replace earlier ones."""
        return (self.problem, self.kind, self.cpu)

    def to_json(self) -> str:
        """One line."""
        values = {**vars(self), "results": [result.to_dict() for result in self.results]}
        return json.dumps({**values, "trial": self.trial.to_dict() if self.trial else None})

    @classmethod
    def from_json(cls, line: str) -> Record:
        """The inverse of `to_json`; raises `RecordError` for anything else."""
        try:
            values = json.loads(line)
            results = tuple(Result.from_dict(result) for result in values["results"])
            if not results:
                raise RecordError("it has no results")
            untuned_s = float(values["untuned_s"])
            ranked = tuple(sorted(results, key=lambda r: r.median_s))
            trial = Trial.from_dict(values["trial"]) if values.get("trial") else None
            considered, versions = tuple(map(str, values["considered"])), dict(values["versions"])
            problem, kind, cpu, date, digest = (str(values[n]) for n in ("problem", "kind", "cpu", "date", "digest"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, SevenLoopsError) as error:
            raise RecordError(f"not a tuned record: {line[:60]!r} ({error!r})") from None
        return cls(problem, kind, cpu, ranked, considered, date, digest, untuned_s, versions, trial)


def machine_kind(machine: Machine) -> str:
    """What a tuned schedule depends on: `linux-x86-64-avx512-16 cores=2 l1=49152 l2=1310720`."""
    return f"{machine.key} cores={machine.cores} l1={machine.l1_bytes} l2={machine.l2_bytes}"


def sizes_of(problem: str) -> str:
    """A descriptor without its epilogue."""
    return " ".join(w for w in problem.split() if w != "bias" and not w.startswith(("act=", "res=")))


def path() -> Path:
    """The user's records."""
    return cache_dir() / "tuned.jsonl"


# --------------------------------------------------------------------------------------------------- lookup


#: A line begins like this (see `Record`): enough to know what it is about, without reading all of it.
_HEAD = re.compile(r'\{"problem": "([^"\\]*)", "kind": "([^"\\]*)", "cpu": "([^"\\]*)", .*\}')
Key = tuple[str, str]


class _Index:
    """The records of one kind of machine by (problem, cpu): lines, parsed when they are asked for."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.lines: dict[Key, tuple[str, Path]] = {}
        self.parsed: dict[Key, Record | None] = {}
        self.found: dict[tuple[str | None, str], Key] = {}

    def read(self, file: Path) -> None:
        bad = 0
        for line in _lines(file):
            try:
                problem, kind, cpu = _head(line)
            except RecordError:
                bad += 1
                continue
            if kind == self.kind:
                self.lines[problem, cpu] = line, file
        _warn_of(file, bad)

    def finish(self) -> None:
        for key in self.lines:
            for name in (key[0], sizes_of(key[0])):
                self.found[key[1], name] = self.found[None, name] = key
        for key in self.lines:  # the very problem before another with the same sizes
            self.found[key[1], key[0]] = self.found[None, key[0]] = key

    def record(self, key: Key) -> Record | None:
        """The record, or None with a warning if its line is damaged after all."""
        if key not in self.parsed:
            line, file = self.lines[key]
            try:
                self.parsed[key] = Record.from_json(line)
            except RecordError:
                self.parsed[key] = None
                _warn_of(file, 1)
        return self.parsed[key]


_indexes: dict[tuple[Path, Path, str], _Index] = {}
_damaged: set[Path] = set()
#: Grows with every change that this process makes, so that what was chosen before can be forgotten.
generation = 0


def _forget() -> None:
    global generation
    generation += 1
    _indexes.clear()


def _lines(file: Path) -> list[str]:
    try:
        return [line for line in read_file(file).decode(errors="replace").split("\n") if line.strip()]
    except FileNotFoundError:
        return []
    except OSError as error:
        warnings.warn(f"the tuned records {file} cannot be read: {error}", CacheWarning, stacklevel=4)
        return []


def _head(line: str) -> tuple[str, str, str]:
    """Problem, kind and cpu of a line; raises `RecordError`."""
    match = _HEAD.fullmatch(line)
    if match:
        return match[1], match[2], match[3]
    record = Record.from_json(line)
    return record.problem, record.kind, record.cpu


def _warn_of(file: Path, bad: int) -> None:
    if bad:
        _damaged.add(file)
        what = "1 line is" if bad == 1 else f"{bad} lines are"
        warnings.warn(f"in the tuned records {file} {what} damaged and ignored", CacheWarning, stacklevel=4)


def _read(file: Path) -> list[Record]:
    """The records of a file, with a warning for lines that are none."""
    records, bad = [], 0
    for line in _lines(file):
        try:
            records.append(Record.from_json(line))
        except RecordError:
            bad += 1
    _warn_of(file, bad)
    return records


def _index(machine: Machine) -> _Index:
    kind = machine_kind(machine)
    key = (SHIPPED, path(), kind)
    index = _indexes.get(key)
    if index is None:
        index = _Index(kind)
        for file in (SHIPPED, path()):
            index.read(file)
        index.finish()
        _indexes[key] = index
    return index


def find(problem: Problem, machine: Machine) -> Record | None:
    """The record for a problem and machine, the closest match first (see above), or None."""
    index, text = _index(machine), str(problem)
    keys = [(cpu, name) for cpu in (machine.name, None) for name in (text, sizes_of(text))]
    found = (index.record(index.found[key]) for key in keys if key in index.found)
    return next((record for record in found if record), None)


def problems(machine: Machine) -> list[Key]:
    """Descriptor and processor of every record that counts for a kind of machine; `get` has the record."""
    return list(_index(machine).lines)


def get(machine: Machine, key: Key) -> Record | None:
    """The record of one of `problems`, or None if it is damaged."""
    return _index(machine).record(key)


def entries() -> list[tuple[Record, bool]]:
    """Every record that counts, of all machines, and whether it is the user's own (not shipped)."""
    latest = {record.key: (record, False) for record in _read(SHIPPED)}
    latest.update({record.key: (record, True) for record in _read(path())})
    return sorted(latest.values(), key=lambda entry: entry[0].key)


# -------------------------------------------------------------------------------------------------- changes


def add(records: Iterable[Record]) -> None:
    """Keep records for this and later processes; a file that cannot be written is a `CacheWarning`."""
    text = "".join(record.to_json() + "\n" for record in records)
    file = path()
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file in _damaged:
            _write(file, _latest(_read_quietly(file)))
            _damaged.discard(file)
        handle = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            size = os.lseek(handle, 0, os.SEEK_END)
            if size and os.lseek(handle, size - 1, os.SEEK_SET) >= 0 and os.read(handle, 1) != b"\n":
                text = "\n" + text  # a process was killed while it wrote the last line
            os.write(handle, text.encode())
        finally:
            os.close(handle)
    except OSError as error:
        warnings.warn(f"the tuned records {file} cannot be written: {error}", CacheWarning, stacklevel=2)
    _forget()


def _read_quietly(file: Path) -> list[Record]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        return _read(file)


def _latest(records: Iterable[Record]) -> list[Record]:
    return list({record.key: record for record in records}.values())


def _write(file: Path, records: Sequence[Record]) -> None:
    """Replace a file in one step; raises `OSError`."""
    import tempfile

    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.writelines(record.to_json() + "\n" for record in records)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def export_file(file: Path, kind: str | None = None) -> int:
    """Write the user's records (of one kind of machine) to a file, one each problem and machine; returns how many.

    Records that the file has for others stay in it. It can be imported elsewhere, or shipped as the default.
    Raises `RecordError` if the file is there and holds something else, and `OSError`.
    """
    own = {r.key: r for r in _latest(_read(path())) if kind is None or r.kind == kind}
    there = _parsed(file) if file.exists() else []
    merged = {r.key: r for r in there} | own
    _write(file.absolute(), [merged[key] for key in sorted(merged)])
    return len(own)


def _parsed(file: Path) -> list[Record]:
    """The records of a file; raises `RecordError` for a line that is none."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return _latest(Record.from_json(line) for line in lines if line.strip())


def import_file(file: Path) -> int:
    """Add the records of a file that are newer than those there are; returns how many.

    Raises `RecordError` for a line that is no record (then nothing is added), and `OSError`.
    """
    new = _parsed(file)
    dates = {record.key: record.date for record in _read(path())}
    wanted = [record for record in new if record.date > dates.get(record.key, "")]
    add(wanted)
    return len(wanted)


def clear() -> int:
    """Remove the user's records; the shipped ones stay. Returns how many there were. Raises `OSError`."""
    count = len(_latest(_read_quietly(path())))
    path().unlink(missing_ok=True)
    _damaged.discard(path())
    _forget()
    return count
