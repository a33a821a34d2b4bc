"""The machine as a value: what a schedule may count on, and the speeds that its results are measured against.

    >>> Machine.described("neon").halide_target()
    'arm-64-linux'

`Machine.host()` is this machine as the system describes it, `Machine.measured()` adds the speeds (measured once and
stored), `Machine.described(isa)` is a machine to compile for that need not be this one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import machine_detect
from .errors import DtypeError, SevenLoopsError
from .locks import renewed_lock
from .machine_detect import allowed_cores, allowed_cpus
from .problem import DTYPES

__all__ = ["ISAS", "Machine", "MachineError", "allowed_cores", "allowed_cpus"]


class MachineError(SevenLoopsError, ValueError):
    """A description of a machine that makes no sense, or a machine that sevenloops has no code for."""


class Isa(NamedTuple):
    """One instruction set: what it offers, how Halide calls it, and the flags (Linux's names) that prove it."""

    arch: str
    lanes: int  # float32
    vector_registers: int
    fma: bool
    halide_features: tuple[str, ...]
    flags: frozenset[str]


_SSE4 = frozenset({"sse4_1"})
_AVX2 = _SSE4 | {"avx", "avx2", "f16c", "fma"}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}  # what Halide's avx512_skylake emits
_AVX2_FEATURES = ("avx", "avx2", "f16c", "fma", "sse41")

#: The instruction sets, the best of each architecture first.
ISAS: dict[str, Isa] = {
    "avx512": Isa("x86-64", 16, 32, True, (*_AVX2_FEATURES, "avx512", "avx512_skylake"), _AVX512),
    "avx2": Isa("x86-64", 8, 16, True, _AVX2_FEATURES, _AVX2),
    "sse4": Isa("x86-64", 4, 16, False, ("sse41",), _SSE4),
    "neon": Isa("arm-64", 4, 32, True, (), frozenset()),  # part of every 64-bit Arm
}
OSES = ("linux", "osx", "windows")
#: For a machine of another architecture than this one: a small four-core server or telephone of recent years.
GENERIC = {"os": "linux", "cores": 4, "l1_bytes": 32 << 10, "l2_bytes": 512 << 10, "l3_bytes": 4 << 20}


@dataclass(frozen=True)
class Machine:
    """A machine: what to compile for, how much of it may be used, and how fast it is.

    `arch` ("x86-64", "arm-64") and `os` ("linux", "osx", "windows") are Halide's words; `isa` is a key of `ISAS`;
    `lanes` are float32 elements of a vector; `cores` are the physical cores this process may use (affinity mask and
    cgroup quota respected). `l1_bytes` is the data cache of a core; `l3_bytes` equals `l2_bytes` where there is no
    third level. The speeds are None until measured: `peak_gflops_core` and `peak_gflops` (all cores) for float32
    multiply-adds of `isa`, in 1e9 FLOP/s with a multiply-add as 2 FLOP; `bandwidth_gbs` for reading memory in a
    stream with all cores, in 1e9 bytes/s.

    Raises `MachineError` for values that do not fit together.
    """

    name: str
    arch: str
    os: str
    isa: str
    lanes: int
    vector_registers: int
    cores: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    peak_gflops_core: float | None = None
    peak_gflops: float | None = None
    bandwidth_gbs: float | None = None

    def __post_init__(self) -> None:
        isa = _isa(self.isa)
        if self.arch != isa.arch:
            raise MachineError(f"{self.isa} belongs to arch {isa.arch!r}, got {self.arch!r}")
        if self.os not in OSES:
            raise MachineError(f"os must be one of {', '.join(OSES)}, got {self.os!r}")
        for name in ("lanes", "vector_registers", "cores", "l1_bytes", "l2_bytes", "l3_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MachineError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.lanes > isa.lanes or self.lanes < 4 or self.lanes & (self.lanes - 1):
            raise MachineError(f"lanes must be a power of two from 4 to {isa.lanes} ({self.isa}), got {self.lanes}")
        if self.vector_registers > isa.vector_registers:
            raise MachineError(
                f"{self.isa} has {isa.vector_registers} vector registers; {self.vector_registers} is more than that"
            )
        for name in ("peak_gflops_core", "peak_gflops", "bandwidth_gbs"):
            value = getattr(self, name)
            if value is not None and not _is_speed(value):
                raise MachineError(f"{name} must be None or a number above 0, got {value!r}")

    @property
    def key(self) -> str:
        """Names the system and the instructions that compiled code needs: `linux-x86-64-avx512-16`."""
        return f"{self.os}-{self.arch}-{self.isa}-{self.lanes}"

    @property
    def build_key(self) -> str:
        """Names all that compiled code depends on: every field but the name and the speeds.

        Definitions read them beside the schedule; many layers divide their work by the number of cores.
        """
        sizes = ("vector_registers", "cores", "l1_bytes", "l2_bytes", "l3_bytes")
        return " ".join([self.key, *(f"{name}={getattr(self, name)}" for name in sizes)])

    @property
    def fma(self) -> bool:
        """Whether a multiply-add is one instruction."""
        return ISAS[self.isa].fma

    def lanes_for(self, dtype: Any) -> int:
        """Elements of `dtype` ("float32", "float64", or such a NumPy dtype) in a vector; else `DtypeError`."""
        name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
        if name not in DTYPES:
            raise DtypeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        return self.lanes * DTYPES["float32"] // DTYPES[name]

    def halide_target(self) -> str:
        """Halide's target string, without features of the runtime: `x86-64-linux-avx-avx2-f16c-fma-sse41`."""
        return "-".join([self.arch, self.os, *sorted(ISAS[self.isa].halide_features)])

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, with `halide_target` and `key`; plain values for JSON."""
        return {**dataclasses.asdict(self), "halide_target": self.halide_target(), "key": self.key}

    @classmethod
    def host(cls) -> Machine:
        """This machine, found once per process, with its speeds if an earlier `measured` stored them.

        Raises `MachineError` on a processor that sevenloops has no code for.
        """
        return _known(_detected().isa)

    @classmethod
    def measured(cls, isa: str | None = None, *, again: bool = False) -> Machine:
        """This machine with its speeds, measured if they are not stored yet: in half a second, which one line on standard
        error says. `again` measures more exactly, in 3 to 4 s.

        `isa` restricts it to a lesser instruction set: `measured("avx2")` has the AVX2 peak of an AVX-512 machine.
        Raises `MachineError` if this machine cannot run `isa`; a cache that cannot be written is a `CacheWarning`.
        """
        from . import machine_measure

        host = _detected()
        isa = host.isa if isa is None else isa
        if not _isa(isa).flags <= ISAS[host.isa].flags or _isa(isa).arch != host.arch:
            raise MachineError(f"cannot measure {isa}: this machine ({host.name}) runs {host.isa}")
        with _LOCK:  # two measurements at a time would disturb each other
            machine = _known(isa)
            if again or machine.peak_gflops is None:
                if again:
                    machine = machine_measure.measure(machine)
                else:
                    print(FIRST_MEASURED, file=sys.stderr)
                    machine = machine_measure.measure(machine, machine_measure.QUICK_S)
                machine_measure.store(machine)
                _KNOWN[isa] = machine
        return machine

    @classmethod
    def described(cls, isa: str, **overrides: Any) -> Machine:
        """A machine with instruction set `isa`, to compile for; not measured.

        What `overrides` (fields of `Machine`) do not say is as on this machine if it has the same architecture, so
        `described("avx2")` is this machine without AVX-512; for another architecture it is a generic four-core Linux
        machine. Raises `MachineError` for an unknown isa or field and for values that do not fit together.
        """
        row = _isa(isa)
        unknown = set(overrides) - {field.name for field in dataclasses.fields(cls)} | {"isa"} & set(overrides)
        if unknown:
            fields = ", ".join(field.name for field in dataclasses.fields(cls) if field.name != "isa")
            raise MachineError(f"cannot override {', '.join(sorted(unknown))}; the fields are {fields}")
        base: dict[str, Any] = {**GENERIC, "name": f"generic {isa}"}
        try:
            host = _detected()
        except MachineError:
            host = None
        if host and host.arch == row.arch:
            base = {field: getattr(host, field) for field in base}
        base.update(arch=row.arch, isa=isa, lanes=row.lanes, vector_registers=row.vector_registers)
        return cls(**{**base, **overrides})


def _isa(name: Any) -> Isa:
    if not isinstance(name, str) or name not in ISAS:
        raise MachineError(f"isa must be one of {', '.join(ISAS)}, got {name!r}")
    return ISAS[name]


def _is_speed(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


FIRST_MEASURED = (
    "sevenloops: measuring this machine's peak and memory bandwidth, once, in half a second "
    "(`sevenloops machine --remeasure` is more exact and takes 4 s)"
)
_LOCK = renewed_lock(sys.modules[__name__], "_LOCK")
#: What is known of this machine in this process, by instruction set.
_KNOWN: dict[str, Machine] = {}


def _known(isa: str) -> Machine:
    from . import machine_measure

    if isa not in _KNOWN:
        _KNOWN[isa] = machine_measure.with_stored(Machine.described(isa))
    return _KNOWN[isa]


@functools.cache
def _detected() -> Machine:
    return _from_facts(machine_detect.detect())


def _from_facts(facts: machine_detect.HostFacts) -> Machine:
    """Choose the best instruction set that the flags prove."""
    if facts.os not in OSES or facts.arch not in {isa.arch for isa in ISAS.values()}:
        raise MachineError(f"no code for {facts.arch} on {facts.os}: sevenloops runs on x86-64 and arm-64, {OSES}")
    flags = facts.flags or _SSE4  # a system that tells nothing: SSE4.1 is in every x86-64 since 2008
    for name, isa in ISAS.items():
        if isa.arch == facts.arch and isa.flags <= flags:
            l1, l2, l3 = (facts.caches[level] for level in (1, 2, 3))
            cores = facts.cores
            return Machine(facts.name, facts.arch, facts.os, name, isa.lanes, isa.vector_registers, cores, l1, l2, l3)
    raise MachineError(f"{facts.name} has no SSE4.1, the least that sevenloops has code for on x86-64")
