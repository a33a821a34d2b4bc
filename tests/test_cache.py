"""The cache of kernels: damaged, foreign, full, shared, and what its keys depend on."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from problems import conv
from sevenloops import machine_measure, records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.compile import cache, choices, store, workers
from sevenloops.compile.build import KernelImage
from sevenloops.errors import (
    CacheWarning,
)
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.schedule import Schedule

CONV = conv("mb2 ic16 ih23 iw19 oc40 kh3 kw3 ph1 pw1 bias act=relu")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def image(problem: ConvProblem = CONV) -> KernelImage:
    machine = Machine.host()
    return store.kernel_image(problem, ALGORITHMS["direct"].schedules(problem, machine)[0], machine, 60.0)


def test_second_build_comes_from_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image()
    monkeypatch.setattr(workers, "run_job", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert image() == first
    (entry,) = cache.entries()
    assert (entry.problem, entry.algorithm) == (str(CONV), "direct")
    assert entry.size_bytes == entry.path.stat().st_size > 1000
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "renamed"])
def test_damaged_file_is_built_again(own_cache: Path, damage: str) -> None:
    good = image()
    (path,) = own_cache.glob("*.7k")
    data = path.read_bytes()
    broken = {
        "truncated": data[: len(data) // 2],
        "flipped": data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
        "foreign": b"\x7fELF" + data,
        "empty": b"",
        "renamed": data,
    }[damage]
    path.write_bytes(broken)
    if damage == "renamed":  # another kernel's file under this key
        other = conv("mb1 ic16 ih9 iw9 oc16 kh3 kw3")
        image(other)
        (wrong,) = set(own_cache.glob("*.7k")) - {path}
        path.write_bytes(broken := wrong.read_bytes())
    again = image()
    assert (again.name, again.buffers) == (good.name, good.buffers)
    assert path.read_bytes() != broken
    assert str(CONV) in [entry.problem for entry in cache.entries()]


def test_a_folder_that_others_may_write_is_not_used(own_cache: Path) -> None:
    image()
    own_cache.chmod(0o777)
    with pytest.warns(CacheWarning, match="others may write"):
        assert image() is not None


def test_an_unwritable_cache_warns_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(blocked))
    with pytest.warns(CacheWarning, match="cannot be used"):
        assert image() is not None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root can make none")
def test_a_cache_that_cannot_be_created_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", "/proc/sevenloops")
    with pytest.warns(CacheWarning, match="/proc/sevenloops/kernels cannot be used.*compiled again in each process") as told:
        assert image() is not None
        assert image() is not None
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", ["kernel", "list", "records", "state", "speeds"])
def test_a_pipe_in_the_cache_folder_does_not_hang(own_cache: Path, what: str) -> None:
    machine = Machine.host()
    path, read = {
        "kernel": (own_cache / "k.7k", lambda: cache.read("k")),
        "list": (own_cache / "k.7k", cache.entries),
        "records": (records.path(), records.entries),
        "state": (records.path(), lambda: choices._state.__wrapped__(0, records.path())),
        "speeds": (machine_measure.stored_path(machine), lambda: machine_measure.with_stored(machine)),
    }[what]
    own_cache.mkdir(parents=True, mode=0o700)
    os.mkfifo(path)
    thread = threading.Thread(target=read, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        thread.start()
        thread.join(10)
    assert not thread.is_alive()


def test_a_full_disk_warns_and_leaves_nothing_behind(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(CacheWarning, match="No space left"):
        assert image() is not None
    assert list(own_cache.iterdir()) == []


def test_the_cache_is_bounded(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image()
    (entry,) = cache.entries()
    monkeypatch.setattr(cache, "MAX_BYTES", entry.size_bytes + 100)
    os.utime(entry.path, (1, 1))
    other = conv("mb1 ic16 ih9 iw9 oc16 kh3 kw3")
    image(other)
    assert [kept.problem for kept in cache.entries()] == [str(other)]  # the least recently used one went
    assert cache.clear() == 1
    assert cache.entries() == []


def test_the_key_depends_on_everything_that_the_code_does() -> None:
    host, s = Machine.host(), Schedule("naive")
    keys = {
        store.image_key(CONV, s, host),
        store.image_key(CONV, Schedule("naive", x=1), host),
        store.image_key(conv("mb1 ic16 ih9 iw9 oc16 kh3 kw3"), s, host),
        store.image_key(CONV, s, Machine.described("neon")),
        store.image_key(CONV, s, dataclasses.replace(host, cores=host.cores + 1)),  # layers divide their work by them
        store.image_key(CONV, s, dataclasses.replace(host, l2_bytes=2 * host.l2_bytes)),
    }
    assert len(keys) == 6
    assert store.image_key(CONV, s, dataclasses.replace(host, name="another", peak_gflops=1.0)) in keys


@pytest.mark.parametrize("name", ["__init__", "shift", "epilogue", "machine", "layers/floats", "layers/new/module"])
def test_the_digest_changes_with_every_source(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "sevenloops"
    shutil.copytree(store.PACKAGE, copy, ignore=lambda folder, names: [n for n in names if n == "__pycache__"])
    digest = store.digest_of(store.sources(copy))
    assert digest == store.digest_of(store.sources())
    path = copy / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    assert store.digest_of(store.sources(copy)) != digest


@pytest.mark.parametrize("what", ["versions of the compiler", "version of numpy", "sources"])
def test_the_digest_has_the_sources_and_the_versions(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    before = store.build_digest.__wrapped__()
    if what == "sources":
        monkeypatch.setattr(store, "sources", list)
    elif what == "version of numpy":
        monkeypatch.setattr(np, "__version__", "0")
    else:
        monkeypatch.setattr(store, "build_versions", lambda: {"halide": "0", "llvmlite": "0"})
    assert store.build_digest.__wrapped__() != before
