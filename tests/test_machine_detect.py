"""Finding the machine below fake /proc and /sys trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sevenloops import machine as machine_module
from sevenloops import machine_detect
from sevenloops.machine import MachineError
from sevenloops.machine_detect import HostFacts

AVX2_FLAGS = {"sse4_1", "avx", "avx2", "f16c", "fma"}
AVX512_FLAGS = AVX2_FLAGS | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def facts(flags: set[str], arch: str = "x86-64", os: str = "linux") -> HostFacts:
    return HostFacts("Test CPU", arch, os, frozenset(flags), 3, {1: 1 << 15, 2: 1 << 20, 3: 1 << 24})


# ---- detection ------------------------------------------------------------------------------------------------------


def test_cpuinfo_of_x86(tmp_path: Path) -> None:
    text = "processor\t: 0\nmodel name\t: Some CPU @ 3: GHz\nflags\t\t: fpu sse4_1 avx\n\nprocessor\t: 1\nflags\t\t: no"
    write(tmp_path, {"proc/cpuinfo": text})
    assert machine_detect.read_cpuinfo(tmp_path) == ("Some CPU @ 3: GHz", frozenset({"fpu", "sse4_1", "avx"}))


def test_cpuinfo_of_arm_has_no_model_name(tmp_path: Path) -> None:
    write(tmp_path, {"proc/cpuinfo": "processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\nCPU part : 0xd0c"})
    assert machine_detect.read_cpuinfo(tmp_path) == ("Arm implementer 0x41 part 0xd0c", frozenset({"fp", "asimd"}))


def test_nothing_readable_is_no_error(tmp_path: Path) -> None:
    assert machine_detect.read_cpuinfo(tmp_path) == ("", frozenset())
    assert machine_detect.read_caches(tmp_path, 0) == {}
    assert machine_detect.cgroup_quota(tmp_path) is None
    assert machine_detect.allowed_cores(tmp_path) >= 1


def test_caches(tmp_path: Path) -> None:
    rows = [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1280K"), ("3", "Unified", "49152K")]
    for i, (level, kind, size) in enumerate(rows):
        base = f"sys/devices/system/cpu/cpu5/cache/index{i}"
        write(tmp_path, {f"{base}/level": level, f"{base}/type": kind, f"{base}/size": size})
    assert machine_detect.read_caches(tmp_path, 5) == {1: 48 << 10, 2: 1280 << 10, 3: 48 << 20}
    assert machine_detect.read_caches(tmp_path, 0) == {}


@pytest.mark.parametrize("size", ["0K", "", "many", "-4K"])
def test_odd_cache_sizes_are_left_out(tmp_path: Path, size: str) -> None:
    base = "sys/devices/system/cpu/cpu0/cache/index0"
    write(tmp_path, {f"{base}/level": "1", f"{base}/type": "Data", f"{base}/size": size})
    assert machine_detect.read_caches(tmp_path, 0) == {}


def test_missing_cache_levels_are_filled_in_ascending() -> None:
    complete = machine_detect._complete
    assert complete({}) == machine_detect.DEFAULT_CACHES
    assert complete({1: 65536, 2: 1 << 20}) == {1: 65536, 2: 1 << 20, 3: 1 << 20}  # no third level: the second
    assert complete({1: 1 << 19}) == {1: 1 << 19, 2: 1 << 19, 3: 8 << 20}


def test_macos_prefers_the_performance_cores() -> None:
    text = "hw.ncpu: 8\nhw.l1dcachesize: 65536\nhw.l2cachesize: 4194304\nhw.l3cachesize: 0\nodd line\n"
    apple = "hw.perflevel0.l1dcachesize: 131072\nhw.perflevel0.l2cachesize: 12582912\nmachdep.cpu.brand_string: Apple M1\n"
    assert machine_detect.parse_sysctl(text) == ("", {1: 65536, 2: 4194304})
    assert machine_detect.parse_sysctl(text + apple) == ("Apple M1", {1: 131072, 2: 12582912})
    assert machine_detect.parse_sysctl("") == ("", {})


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        (AVX512_FLAGS, "avx512"),
        *[(AVX512_FLAGS - {one}, "avx2") for one in sorted(AVX512_FLAGS - AVX2_FLAGS)],  # Knights Landing lacks three
        (AVX2_FLAGS - {"fma"}, "sse4"),
        ({"sse4_1", "avx"}, "sse4"),
        (set(), "sse4"),  # a system that tells nothing
    ],
)
def test_the_best_proven_isa_is_chosen(flags: set[str], isa: str) -> None:
    assert machine_module._from_facts(facts(flags)).isa == isa


def test_unknown_processors_are_refused_with_a_reason() -> None:
    with pytest.raises(MachineError, match=r"no SSE4\.1"):
        machine_module._from_facts(facts({"sse2"}))
    for arch, system in (("riscv64", "linux"), ("x86-64", "sunos5")):
        with pytest.raises(MachineError, match=f"no code for {arch} on {system}"):
            machine_module._from_facts(facts(AVX2_FLAGS, arch, system))


def test_detect_without_any_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_detect, "ROOT", tmp_path)
    found = machine_detect.detect()
    assert found.name and found.cores >= 1 and set(found.caches) == {1, 2, 3}


# ---- cores ----------------------------------------------------------------------------------------------------------


def affinity(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus, raising=False)


QUOTAS: list[tuple[str, dict[str, str], float | None]] = [
    ("v2", {"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "250000 100000"}, 2.5),
    ("v2 no limit", {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": "max 100000"}, None),
    (
        "v2 ancestor is tighter",
        {
            "proc/self/cgroup": "0::/a/b",
            "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            "sys/fs/cgroup/a/cpu.max": "50000 50000",
        },
        1.0,
    ),
    ("v2 container root", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
    ("v2 outside its namespace", {"proc/self/cgroup": "0::/../../x", "sys/fs/cgroup/cpu.max": "300000 100000"}, 3.0),
    ("v2 beside v1", {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/unified/a/cpu.max": "200000 100000"}, 2.0),
    (
        "v1",
        {
            "proc/self/cgroup": "9:memory:/m\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000",
        },
        1.5,
    ),
    (
        "v1, the path is the host's",
        {
            "proc/self/cgroup": "4:cpu:/docker/1",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        2.0,
    ),
    (
        "v1 no limit",
        {
            "proc/self/cgroup": "4:cpu:/",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    ("other controllers", {"proc/self/cgroup": "3:cpuset:/\nnonsense\n", "sys/fs/cgroup/cpuset/cpu.max": "1 1"}, None),
    ("damaged", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "a lot"}, None),
    ("zero period", {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100 0"}, None),
]


@pytest.mark.parametrize(("files", "quota"), [case[1:] for case in QUOTAS], ids=[case[0] for case in QUOTAS])
def test_cgroup_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], quota: float | None) -> None:
    root = write(tmp_path, files)
    affinity(monkeypatch, set(range(8)))
    assert machine_detect.cgroup_quota(root) == quota
    assert machine_detect.allowed_cpus(root) == (8 if quota is None else int(quota))


def test_less_than_one_cpu_is_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "20000 100000"})
    affinity(monkeypatch, {0, 1})
    assert machine_detect.allowed_cores(root) == machine_detect.allowed_cpus(root) == 1


def test_affinity_and_hyperthreads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(8):  # four cores of two threads: 0 and 4, 1 and 5, ...
        files = {f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}"}
        write(tmp_path, files)
    for cpus, first in ((set(range(8)), [0, 1, 2, 3]), ({0, 4}, [0]), ({0, 1, 5, 6}, [0, 1, 6]), ({7}, [7])):
        affinity(monkeypatch, cpus)
        assert machine_detect.core_cpus(tmp_path) == first
        assert machine_detect.allowed_cores(tmp_path) == len(first)
        assert machine_detect.allowed_cpus(tmp_path) == len(cpus)


def test_without_affinity_every_processor_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine_detect.allowed_cores(tmp_path) == 1


# ---- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/memory.max": "1048576"}, 1 << 20),
        ({"proc/self/cgroup": "4:memory:/m\n", "sys/fs/cgroup/memory/m/memory.limit_in_bytes": "1048576"}, 1 << 20),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"}, None),
        ({}, None),
    ],
)
def test_memory_that_may_be_used(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    write(tmp_path, files)
    found = machine_detect.memory_bytes(tmp_path)
    assert found == limit if limit else found >= 1 << 28
