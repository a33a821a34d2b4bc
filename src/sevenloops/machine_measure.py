"""Measures what a machine can do at best: multiply-adds per second, and bytes read from memory per second.

Two loops, written as LLVM IR and compiled in the process by llvmlite (no compiler needed, and no Halide: the yardstick
should not be made by what it measures). Python threads call them through ctypes, which releases the GIL.

Each figure is the *best* of many runs of some 2 ms, spread over about a second (`FIGURE_S`), or over `QUICK_S` when a
machine is first met and its user waits: that finds the peak to a few percent, the bandwidth to a tenth. A limit of the
hardware is a limit: other work on the machine, a clock that is still rising or a late thread can only make a run slower,
never faster, so the best run is the one nearest to the limit, while a mean would measure the neighbours too. Runs are
shorter than the time slice of a busy neighbour, and every thread stays on a core of its own where the system allows it: left
alone, it often puts two short-lived threads on one core.
"""

from __future__ import annotations

import ctypes
import dataclasses
import hashlib
import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import CacheWarning
from .machine_detect import core_cpus
from .paths import cache_dir, read_file

if TYPE_CHECKING:
    from .machine import Machine

__all__ = ["bandwidth_ir", "emit_assembly", "measure", "peak_ir", "peak_sampler", "store", "stored_path", "with_stored"]

FIGURE_S = 0.9  # time spent on one figure
QUICK_S = 0.08  # the same for the first figures of a machine; with loading LLVM, half a second in all
RUN_S = 0.002  # a run of the peak loop is at least this long; threads start within some 0.02 ms of each other
UNROLL = 4  # steps of every chain in one round of the peak loop
STREAMS = 8  # places that the bandwidth loop reads from at once
PARTS = 4  # runs that the bandwidth loop takes to read all of its memory
STREAM_VECTORS = 2  # vectors that it reads from each of them in one round
SPEEDS = ("peak_gflops_core", "peak_gflops", "bandwidth_gbs")
FORMAT = 1

#: LLVM's features for each instruction set, on top of its plain processor of the architecture.
LLVM_FEATURES = {
    "avx512": "+avx512f,+avx512cd,+avx512bw,+avx512dq,+avx512vl,+avx2,+fma,-prefer-256-bit",
    "avx2": "+avx2,+fma",
    "sse4": "+sse4.1",
    "neon": "+neon",
}


def measure(machine: Machine, figure_s: float = FIGURE_S) -> Machine:
    """The same machine with its three speeds, measured here and now on `machine.cores` threads (3 to 4 s)."""
    peak = _peak_gflops(machine, 1, figure_s)
    return dataclasses.replace(
        machine,
        peak_gflops_core=peak,
        peak_gflops=_peak_gflops(machine, machine.cores, figure_s) if machine.cores > 1 else peak,
        bandwidth_gbs=_bandwidth_gbs(machine, figure_s),
    )


# ---- the two loops --------------------------------------------------------------------------------------------------


def chains(machine: Machine) -> int:
    """Independent accumulators of the peak loop.

    An FMA takes 4 cycles and a core starts 2 to 4 of them in each, so 8 (x86) to 16 (Apple) must be under way; more
    do no harm while they stay in registers, beside the two operands.
    """
    return 24 if machine.vector_registers >= 32 else 12


def peak_ir(machine: Machine) -> str:
    """LLVM IR of `peak(data, rounds)`: `chains` vectors x, each `x = a * b + x`, UNROLL times a round.

    `data` holds the vectors a, b and the starting x; the final x are stored there. Without an FMA instruction the step
    is a multiplication and an addition, counted as the same 2 FLOP: `x = x * a + b`, since a * b would be done once.
    """
    n, vector = chains(machine), f"<{machine.lanes} x float>"
    fma = f"@llvm.fma.v{machine.lanes}f32"
    step = f"  {{0}} = call {vector} {fma}({vector} %v0, {vector} %v1, {vector} {{1}})"
    if not machine.fma:
        step = f"  {{0}}m = fmul {vector} {{1}}, %v0\n  {{0}} = fadd {vector} {{0}}m, %v1"
    loads = [
        f"  %p{i} = getelementptr {vector}, ptr %data, i64 {i}\n  %v{i} = load {vector}, ptr %p{i}, align 4"
        for i in range(n + 2)
    ]
    phis = [f"  %x{c}.0 = phi {vector} [ %v{c + 2}, %entry ], [ %x{c}.{UNROLL}, %loop ]" for c in range(n)]
    steps = [step.format(f"%x{c}.{u + 1}", f"%x{c}.{u}") for u in range(UNROLL) for c in range(n)]
    stores = [f"  store {vector} %x{c}.{UNROLL}, ptr %p{c + 2}, align 4" for c in range(n)]
    declare = f"declare {vector} {fma}({vector}, {vector}, {vector})" if machine.fma else ""
    return _loop_ir(declare, "peak", "ptr %data, i64 %rounds", loads, phis + steps, stores)


def bandwidth_ir(machine: Machine) -> str:
    """LLVM IR of `bandwidth(data, rounds, out)`: adds up STREAMS streams of `rounds` * STREAM_VECTORS vectors each.

    Several streams, because a prefetcher runs only so far ahead in one (it stops at the end of every page): with 8 an
    Ice Lake server reads a quarter faster than with one.
    """
    vector, lines, ends = f"<{machine.lanes} x float>", [], []
    phis = [
        f"  %s{i}.0 = phi {vector} [ zeroinitializer, %entry ], [ %s{i}.{STREAM_VECTORS}, %loop ]" for i in range(STREAMS)
    ]
    for i in range(STREAMS):
        lines += [f"  %first{i} = mul i64 %rounds, {i}", f"  %now{i} = add i64 %first{i}, %round"]
        lines += [f"  %at{i} = mul i64 %now{i}, {STREAM_VECTORS}"]
        lines += [f"  %here{i} = getelementptr {vector}, ptr %data, i64 %at{i}"]
        for j in range(STREAM_VECTORS):
            lines += [f"  %p{i}.{j} = getelementptr {vector}, ptr %here{i}, i64 {j}"]
            lines += [f"  %v{i}.{j} = load {vector}, ptr %p{i}.{j}, align 4"]
            lines += [f"  %s{i}.{j + 1} = fadd {vector} %s{i}.{j}, %v{i}.{j}"]
        ends += [f"  %t{i + 1} = fadd {vector} {f'%t{i}' if i else 'zeroinitializer'}, %s{i}.{STREAM_VECTORS}"]
    ends += [f"  store {vector} %t{STREAMS}, ptr %out, align 4"]
    return _loop_ir("", "bandwidth", "ptr %data, i64 %rounds, ptr %out", [], phis + lines, ends)


def _loop_ir(declare: str, name: str, args: str, entry: list[str], body: list[str], end: list[str]) -> str:
    """A function of one loop that runs its body `%rounds` times (at least once)."""
    lines = [declare, f"define void @{name}({args}) {{", "entry:", *entry, "  br label %loop", "loop:"]
    lines += ["  %round = phi i64 [ 0, %entry ], [ %next, %loop ]", *body, "  %next = add i64 %round, 1"]
    lines += ["  %more = icmp ult i64 %next, %rounds", "  br i1 %more, label %loop, label %end"]
    return "\n".join([*lines, "end:", *end, "  ret void", "}", ""])


def _compile(machine: Machine, ir: str) -> tuple[Any, Any]:
    """LLVM's module and target machine; llvmlite is loaded here, where it is needed."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    if binding.llvm_version_info[0] < 17:  # where `ptr` is not a type yet; all pointers here are to vectors
        ir = ir.replace("ptr %", f"<{machine.lanes} x float>* %")
    module = binding.parse_assembly(ir)
    module.triple = binding.get_process_triple()
    module.verify()
    target = binding.Target.from_triple(module.triple)
    return module, target.create_target_machine(features=LLVM_FEATURES[machine.isa], opt=3, jit=True)


def emit_assembly(machine: Machine, ir: str) -> str:
    """The machine code of a loop as text (for this architecture only)."""
    module, target_machine = _compile(machine, ir)
    return str(target_machine.emit_assembly(module))


class _Loop:
    """A loop, compiled and callable; the engine owns the machine code and must outlive every call."""

    def __init__(self, machine: Machine, ir: str, name: str, *argtypes: Any) -> None:
        from llvmlite import binding

        self._engine = binding.create_mcjit_compiler(*_compile(machine, ir))
        self._engine.finalize_object()
        self.run = ctypes.CFUNCTYPE(None, *argtypes)(self._engine.get_function_address(name))


# ---- measuring ------------------------------------------------------------------------------------------------------


def _peak_gflops(machine: Machine, threads: int, figure_s: float) -> float:
    return peak_sampler(machine, threads)(figure_s)


def peak_sampler(machine: Machine, threads: int) -> Callable[[float], float]:
    """A function that samples the peak of `threads` cores (1e9 FLOP/s) for some seconds: the best run of those."""
    loop = _Loop(machine, peak_ir(machine), "peak", ctypes.c_void_p, ctypes.c_int64)
    n = chains(machine)
    data = [_aligned((n + 2) * machine.lanes).reshape(n + 2, machine.lanes) for _ in range(threads)]
    for part in data:
        part[0], part[1:] = (
            0.5,
            1.0,
        )  # x grows slowly until it is too large to, or goes to 2: never infinite or denormal
    rounds, took_s = 512, 0.0
    while took_s < RUN_S:
        rounds *= 2
        begin = time.perf_counter()
        loop.run(data[0].ctypes.data, rounds)
        took_s = time.perf_counter() - begin

    def sample(figure_s: float) -> float:
        best_s = _best_seconds(threads, lambda thread, _: loop.run(data[thread].ctypes.data, rounds), figure_s)
        return 2.0 * machine.lanes * n * UNROLL * rounds * threads / best_s / 1e9

    return sample


def _bandwidth_gbs(machine: Machine, figure_s: float) -> float:
    from concurrent.futures import ThreadPoolExecutor

    loop = _Loop(machine, bandwidth_ir(machine), "bandwidth", ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    threads = machine.cores
    round_bytes = 4 * machine.lanes * STREAM_VECTORS * STREAMS
    # An odd number: streams a power of two apart would all want the same few lines of the first cache.
    rounds = _stream_bytes(machine) // threads // PARTS // round_bytes | 1
    data = [_aligned(PARTS * rounds * round_bytes // 4).reshape(PARTS, -1) for _ in range(threads)]
    # Written before they are read: pages never written are all the same page of zeros, and that stays in the cache.
    # By threads, since memory lies at the socket that wrote it first.
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda array: array.fill(1.0), data))
    out = [np.empty(machine.lanes, np.float32) for _ in range(threads)]

    def read(thread: int, turn: int) -> None:
        loop.run(data[thread][turn % PARTS].ctypes.data, rounds, out[thread].ctypes.data)

    best_s = _best_seconds(threads, read, figure_s)
    return rounds * round_bytes * threads / best_s / 1e9


def _stream_bytes(machine: Machine) -> int:
    """Four times the last cache, so that it keeps next to nothing from pass to pass; within a quarter of the memory."""
    wanted = min(max(4 * machine.l3_bytes, 128 << 20), 1 << 30)
    with suppress(AttributeError, ValueError, OSError):  # not told on every system
        wanted = min(wanted, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)
    return wanted


def _aligned(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An array of `size` float32, not written yet, that starts at a cache line."""
    raw = np.empty(size + 16, np.float32)
    first = -raw.ctypes.data % 64 // 4
    return raw[first : first + size]


def _best_seconds(threads: int, call: Callable[[int, int], None], figure_s: float) -> float:
    """Shortest time in which `threads` threads, started together, all finish `call(thread, turn)`."""
    from concurrent.futures import ThreadPoolExecutor

    barrier = threading.Barrier(threads, timeout=10)  # an error, not a standstill, if a thread cannot be started
    cpus = core_cpus()
    # Where there are more cores than threads (a quota), the system knows better than we do which of them are free.
    pin = len(cpus) == threads and hasattr(os, "sched_setaffinity")

    def one(thread: int, turn: int) -> tuple[float, float]:
        if pin:
            with suppress(OSError):
                os.sched_setaffinity(0, {cpus[thread]})  # of this thread only, and it ends with its pool
        barrier.wait()
        start = time.perf_counter()
        call(thread, turn)
        return start, time.perf_counter()

    best_s, turn, until = float("inf"), 0, time.perf_counter() + figure_s
    with ThreadPoolExecutor(threads) as pool:
        while turn == 0 or time.perf_counter() < until:
            spans = list(pool.map(one, range(threads), [turn] * threads))
            best_s = min(best_s, max(end for _, end in spans) - min(start for start, _ in spans))
            turn += 1
    return best_s


# ---- storing --------------------------------------------------------------------------------------------------------


def _identity(machine: Machine) -> dict[str, Any]:
    """What must be the same for a stored measurement to be of this machine."""
    return {name: getattr(machine, name) for name in ("name", "os", "arch", "isa", "lanes", "cores")}


def stored_path(machine: Machine) -> Path:
    """The file of this machine's speeds in the cache directory."""
    digest = hashlib.sha256(json.dumps(_identity(machine), sort_keys=True).encode()).hexdigest()[:16]
    return cache_dir() / f"machine-{digest}.json"


def with_stored(machine: Machine) -> Machine:
    """The machine with its stored speeds, or unchanged if there are none (a damaged or foreign file counts as none)."""
    try:
        record = json.loads(read_file(stored_path(machine)))
        if record["format"] != FORMAT or record["machine"] != _identity(machine):
            return machine
        speeds: dict[str, Any] = {name: float(record[name]) for name in SPEEDS}
        return dataclasses.replace(machine, **speeds)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):  # MachineError is a ValueError
        return machine


def store(machine: Machine) -> None:
    """Write the speeds to the cache directory, whole or not at all; `CacheWarning` if that cannot be done."""
    import tempfile

    path = stored_path(machine)
    record = {"format": FORMAT, "machine": _identity(machine), **{name: getattr(machine, name) for name in SPEEDS}}
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        warnings.warn(
            f"the measured speeds could not be stored in {path.parent} ({error}); they will be measured again next "
            "time. SEVENLOOPS_CACHE_DIR names another directory.",
            CacheWarning,
            stacklevel=3,
        )
