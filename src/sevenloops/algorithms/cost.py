"""The common cost model: from work and bytes to seconds. Nothing is measured here, and no Halide is needed.

A time is a sum of phases (a loop over all cores, a fork and a join), and a phase takes the longest of its arithmetic, the
traffic of its caches and the traffic of memory (the roofline; Williams, Waterman, Patterson, CACM 52(4), 2009)::

    phase = max(MACs / (2 FMA ports * lanes * clock * cores * efficiency), bytes / bandwidth of the level) + fork

The speeds are the machine's measured ones where it has them (`sevenloops machine`), else the defaults below. What a model
like this gets wrong for an algorithm is learned from the records of tuning, as a factor (`sevenloops.choice`).

An algorithm's row gives its own `cost` as a sum of `phase_s`, or none: then its executed MACs and its workspace are one
phase at `EFFICIENCY`.
"""

from __future__ import annotations

from ..machine import Machine

__all__ = ["EFFICIENCY", "FORK_CYCLES", "clock_hz", "macs_per_cycle", "memory_s", "pack_s", "phase_s", "with_memory_s"]

#: 1e9 cycles a second under vector load where no peak has been measured: server cores of recent years
DEFAULT_CLOCK_GHZ = {"avx512": 2.6, "avx2": 3.0, "sse4": 3.0, "neon": 2.8}
#: 1e9 bytes a second from memory for all cores where it has not been measured, for each core and at most in all
DEFAULT_BANDWIDTH_GBS_CORE, DEFAULT_BANDWIDTH_GBS = 12.0, 40.0
#: bytes a core gets per cycle from L2 and from L3
L2_BYTES_PER_CYCLE, L3_BYTES_PER_CYCLE = 24.0, 8.0
#: cycles of a fork and join
FORK_CYCLES = 6_000
#: bytes that a core reads and writes per cycle while it packs weights: permuted (Zen 3, weights in L3), by Winograd's
#: transform in float64, and by the Fourier transform as it is defined
PERMUTED_BYTES_PER_CYCLE, TRANSFORMED_BYTES_PER_CYCLE, FOURIER_BYTES_PER_CYCLE = 6.0, 2.5, 0.15
#: share of the memory's bandwidth that transformed weights reach which no cache holds: their points lie far apart (Zen 3,
#: F(4, 3) of 512 to 512 channels: 47 MB in 7 to 8 ms)
SCATTERED = 0.27
#: share of the peak that a loop of which nothing is known is taken to reach
EFFICIENCY = 0.6
#: share of the last cache that one call can count on: it is shared, with other processes too
L3_SHARE = 0.7
#: share of the shorter of arithmetic and memory that the longer does not hide
EXPOSED = 0.2


def macs_per_cycle(machine: Machine) -> float:
    """Multiply-adds in float32 that a core starts in a cycle: two vectors, or one where they are two instructions."""
    return machine.lanes * (2.0 if machine.fma else 1.0)


def clock_hz(machine: Machine) -> float:
    """Cycles a second with all cores at work, from the measured peak (2 FLOP a MAC), else the default of the ISA."""
    if machine.peak_gflops is None:
        return DEFAULT_CLOCK_GHZ[machine.isa] * 1e9
    return machine.peak_gflops * 1e9 / (2 * macs_per_cycle(machine) * machine.cores)


def bandwidth(machine: Machine) -> float:
    """Bytes a second from memory to all cores."""
    default = min(DEFAULT_BANDWIDTH_GBS_CORE * machine.cores, DEFAULT_BANDWIDTH_GBS)
    return 1e9 * (machine.bandwidth_gbs or default)


def memory_s(machine: Machine, touched_bytes: float) -> float:
    """Seconds of memory for a call that touches so many bytes: none while the last cache keeps them between calls."""
    if touched_bytes <= L3_SHARE * machine.l3_bytes:
        return 0.0
    return touched_bytes / bandwidth(machine)


def with_memory_s(machine: Machine, busy_cycles: float, touched_bytes: float) -> float:
    """Seconds of a call that is busy for some cycles while memory brings what no cache holds; they overlap, not fully."""
    busy, waiting = busy_cycles / clock_hz(machine), memory_s(machine, touched_bytes)
    return max(busy, waiting) + EXPOSED * min(busy, waiting)


def pack_s(machine: Machine, read_bytes: float, written_bytes: float, bytes_per_cycle: float) -> float:
    """Seconds to pack weights on all cores. What no cache holds is read from memory before it is written."""
    moved = read_bytes + written_bytes
    share = 1.0 if bytes_per_cycle >= PERMUTED_BYTES_PER_CYCLE else SCATTERED
    busy = FORK_CYCLES + moved / (bytes_per_cycle * machine.cores)
    return max(busy / clock_hz(machine), memory_s(machine, moved + written_bytes) / share)


def phase_s(
    machine: Machine,
    *,
    macs: float = 0.0,
    moved_bytes: float = 0.0,
    resident_bytes: float | None = None,
    efficiency: float = EFFICIENCY,
    parallel: bool = True,
) -> float:
    """Seconds of one phase on all cores (on one, if not `parallel`).

    `macs` are the multiply-adds really executed, idle lanes counted, and `efficiency` the share of the peak that their
    loop reaches with its data in L1. `moved_bytes` are loaded or stored from the level of the caches that holds the
    `resident_bytes` that the phase goes through (default: `moved_bytes`): L2 of each core, L3, or memory.
    """
    cores = machine.cores if parallel else 1
    resident = moved_bytes if resident_bytes is None else resident_bytes
    if resident > L3_SHARE * machine.l3_bytes:
        traffic = moved_bytes / bandwidth(machine)
    else:
        level = L2_BYTES_PER_CYCLE if resident <= 0.6 * machine.l2_bytes * cores else L3_BYTES_PER_CYCLE
        traffic = moved_bytes / (level * cores * clock_hz(machine))
    arithmetic = macs / (macs_per_cycle(machine) * efficiency * cores * clock_hz(machine))
    fork = FORK_CYCLES / clock_hz(machine) if parallel and machine.cores > 1 else 0.0
    return max(arithmetic, traffic) + fork
