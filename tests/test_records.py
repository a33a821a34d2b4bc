"""The database of tuned records: nothing is lost, nothing damaged is used, and no call fails for it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sevenloops import records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.descriptor import parse_problem
from sevenloops.errors import CacheWarning
from sevenloops.machine import Machine
from sevenloops.records import Record, RecordError, Result, machine_kind
from sevenloops.schedule import Schedule

MACHINE = Machine.described("avx512", name="test processor", cores=4, os="linux")
PROBLEM = parse_problem("mb1 ic16 ih14 iw14 oc32 kh3 kw3 ph1 pw1 bias act=relu")


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(records, "SHIPPED", tmp_path / "default.jsonl")
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    records._forget()
    yield records.path()
    records._damaged.clear()
    records._forget()


def make(problem: str = str(PROBLEM), median_s: float = 1e-3, cpu: str = "test processor", day: int = 1) -> Record:
    fast, slow = Schedule("direct", tile_pixels=6, parallel=True), Schedule("naive")
    results = (Result(fast, median_s, 9e-4, "m", 1e-7), Result(slow, 1.0, 2.0, "n", 0.0))
    versions = {"sevenloops": "0.1"}
    return Record(problem, machine_kind(MACHINE), cpu, results, ("direct", "naive"), f"2026-01-0{day}", "d", 3e-3, versions)


def medians() -> list[float]:
    return [entry.results[0].median_s for entry, _ in records.entries()]


def test_json_round_trip() -> None:
    record = make()
    line = record.to_json()
    assert "\n" not in line and Record.from_json(line) == record
    assert isinstance(json.loads(line)["results"][0]["schedule"], dict)
    assert hash(record) == hash(Record.from_json(line))


@pytest.mark.parametrize(
    "change",
    [
        {"results": []},
        {"results": [{"schedule": {"tile": 1}}]},
        {"results": 3},
        {"problem": ...},
        {"considered": 5},
        {"versions": "new"},
    ],
)
def test_what_is_no_record(change: dict[str, object]) -> None:
    values = {**json.loads(make().to_json()), **change}
    with pytest.raises(RecordError, match="not a tuned record"):
        Record.from_json(json.dumps({k: v for k, v in values.items() if v is not ...}))


@pytest.mark.parametrize("time", ["NaN", "0", "-1", '"x"', "null", "Infinity"])
def test_times_are_times(time: str) -> None:
    with pytest.raises(RecordError):
        Record.from_json(make().to_json().replace('"median_s": 0.001', f'"median_s": {time}'))


def test_find_prefers_the_closest(database: Path) -> None:
    assert records.find(PROBLEM, MACHINE) is None
    plain = str(PROBLEM).removesuffix(" bias act=relu")
    steps = [(plain, "sibling", 4e-3), (str(PROBLEM), "sibling", 3e-3), (plain, MACHINE.name, 2e-3)]
    for text, cpu, median_s in [*steps, (str(PROBLEM), MACHINE.name, 1e-3)]:
        records.add([make(text, median_s, cpu)])
        found = records.find(PROBLEM, MACHINE)
        assert found and found.results[0].median_s == median_s
    assert records.find(PROBLEM, dataclasses.replace(MACHINE, cores=5)) is None
    assert records.find(PROBLEM, dataclasses.replace(MACHINE, l3_bytes=1 << 30, peak_gflops=3.0)) is not None


def test_the_users_records_win_and_the_last_line_counts(database: Path) -> None:
    records.SHIPPED.write_text(make(median_s=5e-3).to_json() + "\n" + make("gemm m1 n1 k1").to_json() + "\n")
    records._forget()
    found = records.find(PROBLEM, MACHINE)
    assert found and found.results[0].median_s == 5e-3
    for median_s in (2e-3, 3e-3):
        records.add([make(median_s=median_s)])
    found = records.find(PROBLEM, MACHINE)
    assert found and found.results[0].median_s == 3e-3
    assert [own for _, own in records.entries()] == [False, True]
    assert records.clear() == 1
    assert medians() == [1e-3, 5e-3] and records.clear() == 0


@pytest.mark.parametrize("damage", ["garbage", '{"problem": "x"}', '{"problem": ', "\x00\xff", "[1]", "{}"])
def test_damage_warns_and_is_repaired(database: Path, damage: str) -> None:
    records.add([make()])
    text = make().to_json()
    with database.open("a", encoding="latin-1") as file:
        file.write(damage.replace('"x"', f'"x", "kind": "{machine_kind(MACHINE)}"') + "\n")
    records._forget()
    with pytest.warns(CacheWarning, match="damaged and ignored"):
        assert records.find(PROBLEM, MACHINE) == make()
    records.add([make("gemm m1 n1 k1")])
    assert records.find(PROBLEM, MACHINE) == make()
    assert database.read_text().splitlines()[0] == text and len(database.read_text().splitlines()) == 2


def test_a_line_that_a_killed_process_left_does_not_spoil_the_next(database: Path) -> None:
    records.add([make()])
    database.write_text(database.read_text() + make("gemm m1 n1 k1").to_json()[:50])
    records.add([make("gemm m2 n2 k2")])
    with pytest.warns(CacheWarning, match="1 line is damaged"):
        assert len(records.entries()) == 2


def test_a_folder_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "file" / "below"))
    with pytest.warns(CacheWarning, match="cannot be"):
        records.add([make()])
    with pytest.warns(CacheWarning, match="cannot be read"):
        assert records.find(PROBLEM, MACHINE) is None


def test_many_processes_may_add_at_once(database: Path) -> None:
    code = (
        "import sys; from sevenloops import records; from sevenloops.records import Record\n"
        "r = Record.from_json(sys.argv[1]); import dataclasses\n"
        "for i in range(50): records.add([dataclasses.replace(r, problem=f'gemm m{i} n{sys.argv[2]} k1')])"
    )
    command = [sys.executable, "-c", code, make().to_json()]
    started = [subprocess.Popen([*command, str(n)]) for n in (1, 2, 3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(records.entries()) == 150


def test_export_and_import(database: Path, tmp_path: Path) -> None:
    records.add([make(median_s=1e-3, day=1), make("gemm m1 n1 k1", day=2), make(median_s=2e-3, day=3)])
    file = tmp_path / "out.jsonl"
    assert records.export_file(file) == 2
    assert records.export_file(tmp_path / "none.jsonl", kind="another") == 0
    assert records.import_file(file) == 0  # nothing newer
    written = file.read_text()
    records.clear()
    records.add([make("gemm m2 n2 k2", day=4)])
    assert records.export_file(file) == 1 and len(file.read_text().splitlines()) == 3  # the two others stay
    file.write_text("notes\n")
    with pytest.raises(RecordError, match="notes"):
        records.export_file(file)
    assert file.read_text() == "notes\n"
    file.write_text(written)
    records.clear()
    records.add([make("gemm m1 n1 k1", median_s=7e-3, day=9)])
    assert records.import_file(file) == 1
    assert sorted(medians()) == [2e-3, 7e-3]
    file.write_text(file.read_text() + "garbage\n")
    with pytest.raises(RecordError, match="garbage"):
        records.import_file(file)


def test_changes_are_noticed_in_this_process(database: Path) -> None:
    before = records.generation
    records.add([make()])
    assert records.generation > before


def test_the_shipped_records_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for line in records.SHIPPED.read_text(encoding="utf-8").splitlines():
        record = Record.from_json(line)
        problem = parse_problem(record.problem)
        assert str(problem) == record.problem
        assert {result.schedule.algorithm for result in record.results} <= set(ALGORITHMS)
