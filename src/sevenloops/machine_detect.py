"""What the operating system says about this machine: processor, instruction set flags, caches, cores we may use.

Every function reads below a `root`, so that tests can show it the files of another machine. A missing, empty or odd
file is never an error: the next source is asked, and at the end stands a modest default.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["HostFacts", "allowed_cores", "allowed_cpus", "core_cpus", "detect", "memory_bytes"]

ROOT = Path("/")
#: Where caches are not told: the smallest of current desktop and server cores (Skylake: 32 KB, 256 KB, 8 MB).
DEFAULT_CACHES = {1: 32 << 10, 2: 256 << 10, 3: 8 << 20}
ARCHITECTURES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm-64", "arm64": "arm-64"}
SYSTEMS = {"linux": "linux", "darwin": "osx", "win32": "windows"}


@dataclass(frozen=True)
class HostFacts:
    """What was found. `arch` and `os` are Halide's words where Halide knows them; `flags` are Linux's names."""

    name: str
    arch: str
    os: str
    flags: frozenset[str]
    cores: int
    caches: dict[int, int]  # level -> bytes, all three levels


def detect() -> HostFacts:
    """Look at this machine (some milliseconds; nothing is measured)."""
    system = SYSTEMS.get(sys.platform, sys.platform)
    machine = platform.machine()
    arch = ARCHITECTURES.get(machine.lower(), machine)
    name, flags, caches = "", frozenset[str](), {}
    if system == "linux":
        name, flags = read_cpuinfo(ROOT)
        caches = read_caches(ROOT, min(_affinity()))
    elif system == "osx":
        name, caches = parse_sysctl(_sysctl())
    flags = flags or _llvm_flags()
    name = name or platform.processor() or machine or "unknown processor"
    return HostFacts(name, arch, system, flags, allowed_cores(), _complete(caches))


def _complete(caches: dict[int, int]) -> dict[int, int]:
    """Fill in levels that were not told; without a third level the second is the last one."""
    l1 = caches.get(1) or DEFAULT_CACHES[1]
    l2 = caches.get(2) or max(DEFAULT_CACHES[2], l1)
    l3 = caches.get(3) or (l2 if 2 in caches else max(DEFAULT_CACHES[3], l2))
    return {1: l1, 2: l2, 3: l3}


# ---- cores ----------------------------------------------------------------------------------------------------------


def allowed_cpus(root: Path = ROOT) -> int:
    """Logical processors this process may keep busy: its affinity mask, cut by the cgroup's CPU quota; at least 1."""
    return _within_quota(len(_affinity()), root)


def allowed_cores(root: Path = ROOT) -> int:
    """Physical cores this process may keep busy, at least 1: the right number of threads for arithmetic.

    As `allowed_cpus`, but hyperthreads of one core count once: they share its vector units, so a second thread there
    adds no arithmetic and halves the cache of the first.
    """
    return _within_quota(len(core_cpus(root)), root)


def core_cpus(root: Path = ROOT) -> list[int]:
    """The first allowed logical processor of every physical core in the affinity mask."""
    first: dict[str, int] = {}
    for cpu in sorted(_affinity()):
        first.setdefault(_siblings(root, cpu), cpu)
    return sorted(first.values())


def _affinity() -> AbstractSet[int]:
    try:
        return os.sched_getaffinity(0) or {0}
    except (AttributeError, OSError):  # macOS and Windows have no such call
        return set(range(os.cpu_count() or 1))


def _siblings(root: Path, cpu: int) -> str:
    """A name for the core that a logical processor belongs to; the processor's own number where nothing is told."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    return _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list") or str(cpu)


def _within_quota(count: int, root: Path) -> int:
    # Rounded down: when a group has used up its quota all its threads stand still until the next period, and every
    # parallel loop waits for the last of them.
    quota = cgroup_quota(root)
    return max(1, count if quota is None else min(count, int(quota)))


def cgroup_quota(root: Path) -> float | None:
    """CPUs' worth of time that cgroup v1 or v2 grants to this process, the least of all its ancestors; None: none."""
    groups = _cgroups(root, "cpu", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
    return min((quota for group in groups for quota in _group_quota(group)), default=None)


def _cgroups(root: Path, controller: str, v1_mounts: list[str]) -> Iterator[Path]:
    """The folders of this process's cgroups with a controller, and of their ancestors."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            mounts = ["", "unified"]
        elif controller in controllers.split(","):
            mounts = v1_mounts
        else:
            continue
        for mount in mounts:
            for group in _with_ancestors(path):
                # In a container the path may be the host's: then only the ancestors that exist here have files.
                yield root / "sys/fs/cgroup" / mount / group


def _with_ancestors(path: str) -> list[PurePosixPath]:
    group = PurePosixPath(*(part for part in path.split("/") if part not in ("", ".", "..")))
    return [group, *group.parents]


def _group_quota(group: Path) -> list[float]:
    """The quota of one group (v2: `cpu.max` is "QUOTA PERIOD" in microseconds), or nothing where it has none."""
    words = _read(group / "cpu.max").split() or [
        _read(group / "cpu.cfs_quota_us"),
        _read(group / "cpu.cfs_period_us"),
    ]
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # "max", or files that do not exist
        return []
    return [quota / period] if quota > 0 and period > 0 else []  # v1 writes -1 for no limit


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory_bytes(root: Path = ROOT) -> int:
    """Bytes of memory that this process may use: the machine's, or the least that its cgroups grant."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for group in _cgroups(root, "memory", ["memory"]):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _read(group / name)
            if limit.isdecimal():  # not "max"
                found.append(int(limit))
    return min(found)


# ---- processor and caches -------------------------------------------------------------------------------------------


def read_cpuinfo(root: Path) -> tuple[str, frozenset[str]]:
    """Name and flags of the first processor in `/proc/cpuinfo` (x86 "flags", Arm "Features")."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name", "")
    if not name and "CPU implementer" in fields:
        name = f"Arm implementer {fields['CPU implementer']} part {fields.get('CPU part', '?')}"
    return name, frozenset(fields.get("flags", fields.get("Features", "")).split())


def read_caches(root: Path, cpu: int) -> dict[int, int]:
    """Bytes of the data caches of one logical processor, by level; levels that sysfs does not tell are absent."""
    caches: dict[int, int] = {}
    for index in (root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index*"):
        size = re.fullmatch(r"(\d+)([KMG]?)", _read(index / "size"))
        level = _read(index / "level")
        if size and level in ("1", "2", "3") and _read(index / "type") in ("Data", "Unified"):
            caches[int(level)] = int(size[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[size[2]]
    return {level: size for level, size in caches.items() if size}


def _sysctl() -> str:
    import subprocess

    try:
        done = subprocess.run(["/usr/sbin/sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def parse_sysctl(text: str) -> tuple[str, dict[int, int]]:
    """Name and caches from macOS's `sysctl hw machdep.cpu`; on Apple's own chips those of the performance cores."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    caches: dict[int, int] = {}
    for level, key in ((1, "l1dcachesize"), (2, "l2cachesize"), (3, "l3cachesize")):
        value = fields.get(f"hw.perflevel0.{key}") or fields.get(f"hw.{key}") or ""
        if value.isdigit() and int(value):
            caches[level] = int(value)
    return fields.get("machdep.cpu.brand_string", "").strip(), caches


def _llvm_flags() -> frozenset[str]:
    """LLVM's view of the processor, in Linux's names ("sse4.1" is "sse4_1"); empty where it has none."""
    try:
        from llvmlite import binding

        return frozenset(name.replace(".", "_") for name, on in binding.get_host_cpu_features().items() if on)
    except (ImportError, OSError, RuntimeError):
        return frozenset()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""
