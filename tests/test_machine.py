"""The machine as a value: described, measured, stored, shown."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops import machine as machine_module
from sevenloops import machine_measure
from sevenloops.cli.machine import machine_command, machine_rows
from sevenloops.errors import CacheWarning, DtypeError, SevenLoopsError
from sevenloops.machine import ISAS, Machine, MachineError
from sevenloops.paths import cache_dir

SPEEDS: dict[str, Any] = {"peak_gflops_core": 100.0, "peak_gflops": 200.0, "bandwidth_gbs": 25.5}
NO_SPEEDS: dict[str, Any] = dict.fromkeys(SPEEDS)

x86_only = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86-64 machine code")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and a process that has not looked at its machine yet."""
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(machine_module, "_KNOWN", {})
    yield tmp_path / "cache"


@pytest.fixture
def fake_measure(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the measuring; lists the instruction sets that were measured."""
    calls: list[str] = []

    def measure(machine: Machine, figure_s: float = 0.0) -> Machine:
        calls.append(machine.isa)
        return dataclasses.replace(machine, **SPEEDS)

    monkeypatch.setattr(machine_measure, "measure", measure)
    return calls


# ---- described machines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "lanes", "registers", "target"),
    [
        ("avx512", 16, 32, "x86-64-linux-avx-avx2-avx512-avx512_skylake-f16c-fma-sse41"),
        ("avx2", 8, 16, "x86-64-linux-avx-avx2-f16c-fma-sse41"),
        ("sse4", 4, 16, "x86-64-linux-sse41"),
        ("neon", 4, 32, "arm-64-linux"),
    ],
)
def test_described(isa: str, lanes: int, registers: int, target: str) -> None:
    machine = Machine.described(isa, os="linux")
    assert (machine.isa, machine.lanes, machine.vector_registers) == (isa, lanes, registers)
    assert machine.halide_target() == target
    assert machine.key == f"linux-{ISAS[isa].arch}-{isa}-{lanes}"
    assert machine.peak_gflops is machine.peak_gflops_core is machine.bandwidth_gbs is None
    assert (machine.lanes_for("float32"), machine.lanes_for("float64")) == (lanes, lanes // 2)
    assert machine.lanes_for(np.float64) == machine.lanes_for(np.dtype("float64")) == lanes // 2


def test_another_architecture_is_generic_and_its_own_is_this_machine() -> None:
    host = Machine.host()
    other = Machine.described("neon" if host.arch == "x86-64" else "avx2")
    assert (other.os, other.cores) == ("linux", 4) and other.name.startswith("generic")
    same = Machine.described(host.isa)
    assert dataclasses.replace(host, **NO_SPEEDS) == same


def test_key_and_target_ignore_sizes_and_speeds() -> None:
    plain = Machine.described("avx2")
    other = Machine.described("avx2", name="x", cores=7, l1_bytes=1, l2_bytes=2, l3_bytes=3, **SPEEDS)
    assert (plain.key, plain.halide_target()) == (other.key, other.halide_target())
    assert Machine.described("avx512", lanes=8).key != Machine.described("avx512").key
    assert Machine.described("neon", os="osx").halide_target() == "arm-64-osx"


@pytest.mark.parametrize(
    ("isa", "overrides", "message"),
    [
        ("avx9", {}, "isa must be one of avx512, avx2, sse4, neon"),
        (None, {}, "isa must be one of"),
        ("avx2", {"registers": 3}, "cannot override registers; the fields are name"),
        ("avx2", {"arch": "arm-64"}, "avx2 belongs to arch 'x86-64'"),
        ("avx2", {"os": "beos"}, "os must be one of linux, osx, windows"),
        ("avx2", {"lanes": 16}, "power of two from 4 to 8"),
        ("avx2", {"lanes": 6}, "power of two from 4 to 8"),
        ("avx2", {"vector_registers": 32}, "avx2 has 16 vector registers"),
        ("avx2", {"cores": 0}, "cores must be an integer of at least 1, got 0"),
        ("avx2", {"cores": True}, "cores must be an integer"),
        ("avx2", {"l2_bytes": 1.5}, "l2_bytes must be an integer"),
        ("avx2", {"peak_gflops": 0.0}, "peak_gflops must be None or a number above 0"),
        ("avx2", {"bandwidth_gbs": float("nan")}, "bandwidth_gbs must be None or a number"),
    ],
)
def test_senseless_descriptions(isa: Any, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(MachineError, match=message) as caught:
        Machine.described(isa, **overrides)
    assert isinstance(caught.value, SevenLoopsError) and isinstance(caught.value, ValueError)


def test_lanes_of_an_unknown_dtype() -> None:
    with pytest.raises(DtypeError, match="float32, float64"):
        Machine.described("avx2").lanes_for("int8")


# ---- measuring ------------------------------------------------------------------------------------------------------


@x86_only
@pytest.mark.parametrize(
    ("isa", "step", "load"),
    [
        ("avx512", r"vfmadd\d+ps\s+%zmm", r"vaddps\s+\(?.*\), %zmm|vmovups\s+.*\), %zmm"),
        ("avx2", r"vfmadd\d+ps\s+%ymm", r"vaddps\s+.*\), %ymm|vmovups\s+.*\), %ymm"),
        ("sse4", r"\bmulps\s+%xmm", r"\bmovups\s+.*\), %xmm"),
    ],
)
def test_the_loops_are_the_vector_instructions_they_should_be(isa: str, step: str, load: str) -> None:
    machine = Machine.described(isa)
    chains = machine_measure.chains(machine)
    assert 10 <= chains <= machine.vector_registers - 2
    peak = machine_measure.emit_assembly(machine, machine_measure.peak_ir(machine))
    assert len(re.findall(step, peak)) == chains * machine_measure.UNROLL
    assert len(re.findall(r"\(%rsp\)|\(%rbp\)", peak)) == 0  # nothing spilled to the stack
    if machine.fma:
        assert "mulps" not in peak and "addps" not in peak
    reading = machine_measure.emit_assembly(machine, machine_measure.bandwidth_ir(machine))
    assert len(re.findall(load, reading)) >= machine_measure.STREAMS * machine_measure.STREAM_VECTORS


def test_the_loops_compute_what_they_claim() -> None:
    machine = Machine.host()
    n, lanes = machine_measure.chains(machine), machine.lanes
    peak = machine_measure._Loop(machine, machine_measure.peak_ir(machine), "peak", *_args("pi"))
    data = np.zeros((n + 2, lanes), np.float32)
    data[0], data[1], data[2:] = 2, 1, np.arange(n)[:, None]
    rounds = 2
    peak.run(data.ctypes.data, rounds)
    steps, x = rounds * machine_measure.UNROLL, np.arange(n)
    wanted = x + 2 * steps if machine.fma else (x + 1) * 2**steps - 1  # x + 2, or 2x + 1, each time
    assert np.array_equal(data[2:], np.repeat(wanted[:, None], lanes, axis=1))

    reading = machine_measure._Loop(machine, machine_measure.bandwidth_ir(machine), "bandwidth", *_args("pip"))
    rounds = 5
    data = np.ones((rounds * machine_measure.STREAMS * machine_measure.STREAM_VECTORS, lanes), np.float32)
    data[:, 0] = np.arange(len(data))
    out = np.zeros(lanes, np.float32)
    reading.run(data.ctypes.data, rounds, out.ctypes.data)
    assert np.array_equal(out, data.sum(axis=0))


def _args(letters: str) -> list[Any]:
    return [{"p": ctypes.c_void_p, "i": ctypes.c_int64}[letter] for letter in letters]


def test_measured_for_real(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = time.perf_counter()
    machine = Machine.measured()
    assert time.perf_counter() - begin < 2  # half a second where nothing else runs; each exact figure takes 0.9
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sevenloops: measuring this machine's peak and memory bandwidth, once, in half a second")
    Machine.measured()
    assert not capsys.readouterr().err
    assert machine.peak_gflops_core and machine.peak_gflops and machine.bandwidth_gbs
    assert 0.5 < machine.peak_gflops_core < 2000  # 64 lanes a cycle at 6 GHz would be 768
    assert machine.peak_gflops >= 0.5 * machine.peak_gflops_core
    assert machine.bandwidth_gbs > 0
    assert Machine.host() == machine
    assert len(list(own_cache.iterdir())) == 1  # and no temporary file


# ---- storing --------------------------------------------------------------------------------------------------------


def forget() -> None:
    """What a new process would know."""
    machine_module._KNOWN.clear()


def test_measured_once_and_reused(fake_measure: list[str], own_cache: Path) -> None:
    isa = Machine.host().isa
    assert Machine.host().cores == machine_module.allowed_cores()
    assert Machine.host().peak_gflops is None and not own_cache.exists()
    machine = Machine.measured()
    assert Machine.measured() is machine and Machine.host() is machine
    forget()
    assert Machine.host() == Machine.measured() == machine
    assert fake_measure == [isa]
    Machine.measured(again=True)
    assert fake_measure == [isa, isa]


@x86_only
def test_a_lesser_isa_is_measured_apart(fake_measure: list[str], own_cache: Path) -> None:
    Machine.measured()
    assert Machine.measured("sse4").isa == "sse4"
    assert fake_measure == [Machine.host().isa, "sse4"] and len(list(own_cache.iterdir())) == 2
    with pytest.raises(MachineError, match="cannot measure neon"):
        Machine.measured("neon")
    with pytest.raises(MachineError, match="isa must be one of"):
        Machine.measured("mmx")


def test_a_stored_file_of_another_machine_is_ignored(fake_measure: list[str], own_cache: Path) -> None:
    machine = Machine.measured()
    different: list[dict[str, Any]] = [{"cores": machine.cores + 1}, {"name": "another"}, {"os": "windows"}]
    for changes in different:
        other = dataclasses.replace(machine, **changes, **NO_SPEEDS)
        assert machine_measure.with_stored(other) is other
        os.replace(machine_measure.stored_path(machine), machine_measure.stored_path(other))  # a digest that collides
        assert machine_measure.with_stored(other) is other
        machine_measure.store(machine)


DAMAGED: list[Any] = [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000]
DAMAGED += [{"peak_gflops": -1.0}, {"peak_gflops": float("inf")}, {"peak_gflops": "fast"}, {"bandwidth_gbs": None}]
DAMAGED += [{"format": 99}, {"machine": {}}]


@pytest.mark.parametrize("damage", DAMAGED, ids=lambda damage: repr(damage)[:24])
def test_a_damaged_file_is_measured_again_and_replaced(damage: Any, fake_measure: list[str], own_cache: Path) -> None:
    machine = Machine.measured()
    path = machine_measure.stored_path(machine)
    if isinstance(damage, dict):
        damage = json.dumps({**json.loads(path.read_text()), **damage}).encode()
    path.write_bytes(damage)
    forget()
    assert Machine.host().peak_gflops is None
    assert Machine.measured() == machine and len(fake_measure) == 2
    forget()
    assert Machine.host() == machine  # the file is whole again


def test_an_unwritable_directory_warns_and_goes_on(
    fake_measure: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a directory")  # refused to every user, root included
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.warns(CacheWarning, match="SEVENLOOPS_CACHE_DIR names another directory"):
        machine = Machine.measured()
    assert machine.peak_gflops == SPEEDS["peak_gflops"]
    assert Machine.host() is machine  # kept for this process


def test_a_full_disk_leaves_no_half_file(fake_measure: list[str], own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", full)
    with pytest.warns(CacheWarning, match="No space left"):
        Machine.measured()
    assert list(own_cache.iterdir()) == []


def test_cache_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_dir() == tmp_path / "cache" and not cache_dir().exists()
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", "relative")
    assert cache_dir() == Path.cwd() / "relative"
    monkeypatch.delenv("SEVENLOOPS_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "sevenloops"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the specification
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_dir() == tmp_path / ".cache" / "sevenloops"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "sevenloops"

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_dir().is_absolute() and cache_dir().name.startswith("sevenloops-")


# ---- the command ----------------------------------------------------------------------------------------------------


def test_machine_command(fake_measure: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    machine_command(json=True)
    assert json.loads(capsys.readouterr().out) == Machine.host().to_dict()
    machine_command()
    text = capsys.readouterr().out
    assert "200.0 GFLOP/s" in text and "25.5 GB/s" in text
    assert len(fake_measure) == 1
    machine_command(remeasure=True)
    assert len(fake_measure) == 2


def test_a_machine_that_was_not_measured_has_dashes() -> None:
    rows = dict(machine_rows(Machine.described("neon")))
    assert rows["peak of all cores"] == rows["ridge of the roofline"] == "-"
    assert rows["caches L1, L2, L3"] == "32 KiB, 512 KiB, 4 MiB"
