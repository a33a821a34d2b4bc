"""What a kernel is, in words and numbers: `Kernel.explain`."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..algorithms import ALGORITHMS
from ..choice import Candidate, candidates
from ..machine import Machine
from .build import lowered_text
from .layer import layer_of
from .picture import gemm_picture
from .workers import run_job

if TYPE_CHECKING:
    from .kernel import Kernel

__all__ = ["explain", "explain_layer", "hot_loop"]


def explain(kernel: Kernel, *, disassembly: bool = False) -> str:
    """Equation, choice, schedule, work, floors and loop nest; with `disassembly` the machine code of the hot loop too."""
    problem, row = kernel.problem, ALGORITHMS[kernel.algorithm]
    machine = kernel.machine
    speeds = Machine.host() if machine.key == Machine.host().key else machine
    lines = [
        f"{problem}",
        f"  {kernel.algorithm}: {row.equation}",
        f"  chosen: {kernel.why}",
        f"  machine: {machine.isa}, {machine.lanes} lanes, {machine.vector_registers} vector registers, "
        f"{kernel.threads} threads",
        "schedule",
        *_schedule_lines(kernel),
        "work",
        *_work_lines(kernel),
        "floors",
        *_floor_lines(kernel, speeds),
        "as matrices",
        *("  " + line for line in gemm_picture(problem)),
        *_others(kernel),
    ]
    text = run_job(lowered_text, problem, kernel.schedule, machine)
    lines += ["loop nest", *("  " + line for line in loop_nest(text["loops"]))]
    if disassembly:
        lines += ["hot loop", *("  " + line for line in hot_loop(text["assembly"]))]
    return "\n".join(lines)


def explain_layer(problem: Any) -> str:
    """The same for a layer without weights (a pool, an expression, a copy): its schedule and loop nest on this machine."""
    row, machine = layer_of(problem), Machine.host()
    schedule = row.schedules(problem, machine)[0]
    text = run_job(lowered_text, problem, schedule, machine)
    lines = [str(problem), f"  {row.name}: {row.equation}", "schedule", f"  {schedule!r}", "loop nest"]
    return "\n".join([*lines, *("  " + line for line in loop_nest(text["loops"]))])


def _schedule_lines(kernel: Kernel) -> list[str]:
    row = ALGORITHMS[kernel.algorithm]
    lines = [f"  {kernel.schedule!r}"]
    lines += [f"  {name} = {value}: {row.parameters.get(name, '')}" for name, value in kernel.schedule.params.items()]
    params = kernel.schedule.params
    if {"tile_pixels", "tile_channels"} <= set(params):
        vectors = int(params["tile_channels"]) // kernel.machine.lanes
        sums = int(params["tile_pixels"]) * int(params.get("tile_rows", 1)) * vectors
        lines.append(
            f"  register tile: {params['tile_pixels']} x {params['tile_channels']} = {sums} vectors of sums, of "
            f"{kernel.machine.vector_registers} registers"
        )
    return lines


def _work_lines(kernel: Kernel) -> list[str]:
    macs, executed = kernel.problem.macs, kernel.macs_executed
    return [
        f"  MACs in the definition: {macs:,} ({2 * macs / 1e6:,.1f} MFLOP)",
        f"  MACs executed: {executed:,} ({executed / macs:.3f} x: partial tiles and idle lanes)",
        f"  unique bytes: {kernel.problem.unique_bytes:,} "
        f"({2 * macs / kernel.problem.unique_bytes:.1f} FLOP per byte with a perfect cache)",
        f"  packed weights: {4 * math.prod(kernel.image.pack_buffers[-1].shape):,} bytes",
        f"  workspace: {kernel.workspace_bytes:,} bytes",
    ]


def _floor_lines(kernel: Kernel, machine: Machine) -> list[str]:
    if machine.peak_gflops is None or machine.bandwidth_gbs is None or machine.peak_gflops_core is None:
        return ["  not known: run `sevenloops machine` to measure this machine's peak and bandwidth"]
    peak = min(machine.peak_gflops, kernel.threads * machine.peak_gflops_core)
    compute_s = 2 * kernel.problem.macs / peak / 1e9
    bytes_s = kernel.problem.unique_bytes / machine.bandwidth_gbs / 1e9
    return [
        f"  arithmetic: {compute_s * 1e3:.4f} ms at {peak:.0f} GFLOP/s",
        f"  memory: {bytes_s * 1e3:.4f} ms at {machine.bandwidth_gbs:.1f} GB/s, if everything comes from memory once",
    ]


def _others(kernel: Kernel) -> list[str]:
    """Every algorithm for this kind of problem: its times and schedule, or the reason why it cannot compute it."""
    lines = ["algorithms"]
    offers = candidates(kernel.problem, kernel.machine)
    for offer in offers:
        row = ALGORITHMS[offer.schedule.algorithm]
        mark = "> " if offer.schedule.algorithm == kernel.algorithm else "  "
        measured = "" if offer.measured_s is None else f", {1e3 * offer.predicted_s:.4g} ms predicted"
        learned = f" (model times {offer.factor:.2f}, from tuned records)" if offer.factor != 1 else ""
        order = "" if row.accumulates_as_defined else f", not in the order of the definition: error to {row.tolerance:.0e}"
        lines.append(f"{mark}{offer}{measured}{learned}{order}: {offer.schedule!r}")
    lines.append(_verdict(kernel, offers))
    for row in ALGORITHMS.values():
        reason = row.supports(kernel.problem) if isinstance(kernel.problem, row.kinds) else None
        if reason is not None:
            lines.append(f"  {row.name}: {reason}")
    return lines


def _verdict(kernel: Kernel, offers: Sequence[Candidate]) -> str:
    """Why the one that runs won, or how much faster the one that was not taken should be."""
    expected = {offer.schedule.algorithm: offer.expected_s for offer in offers}
    own = expected.pop(kernel.algorithm)
    if not expected:
        return "  nothing else computes it"
    best = min(expected, key=lambda name: expected[name])
    if own <= expected[best]:
        saved = f"{kernel.problem.macs / max(1, kernel.macs_executed):.2f} times fewer multiply-adds than the definition"
        how = f": it executes {saved}" if kernel.macs_executed < 0.9 * kernel.problem.macs else ""
        return f"  {kernel.algorithm} won: {expected[best] / own:.2f} times as fast as {best}, the next{how}"
    return (
        f"  {best} would be {own / expected[best]:.2f} times as fast; {kernel.algorithm} runs as it was asked for or allowed"
    )


def loop_nest(text: str) -> list[str]:
    """The loops, allocations and stores of Halide's lowered code, without its bookkeeping.

    A worker that has met a name before calls it `sums$1`; the number is left out where it tells nothing apart.
    """
    kept = []
    for line in text.splitlines():
        stripped = line.strip()
        if re.match(r"(produce|consume|for|parallel|unrolled|vectorized|allocate|realize)\b", stripped):
            kept.append(line.rstrip(" {"))
    names = set(re.findall(r"(?:produce|allocate|realize) ([\w$]+)", "\n".join(kept)))
    bases = Counter(name.split("$")[0] for name in names)
    plain = {name: name.split("$")[0] for name in names if bases[name.split("$")[0]] == 1}
    return [re.sub(r"[\w$]+", lambda found: plain.get(found[0], found[0]), line) for line in kept]


#: A product that is added up: fused, or (SSE) the multiplication in front of an addition.
_MULTIPLY_ADD = re.compile(r"vfn?m(add|sub)|v?mul[ps][sd]\b|(fml[as]|fmul)\b")
_STORE, _STACK = re.compile(r"v?mov\w+ %[xyz]mm\d+,.*\(|st[rp1]\b"), re.compile(r"\(%[re]sp|\[sp\b")


def hot_loop(assembly: str) -> list[str]:
    """The basic block in which most multiply-adds run, and what is in it.

    How often a block runs does not stand in the code. A loop that sums up products does little else and stores nothing,
    while a transform of Winograd may have more multiply-adds, among hundreds of additions, moves and stores.
    """
    best = max(_blocks(assembly), key=_weight)
    code = [op for op in best if not op.endswith(":")]
    registers = {int(number) for op in code for number in re.findall(r"(?:[xyz]mm|\b[vq])(\d+)\b", op)}
    loads = sum(bool(re.search(r"\(|\[(x|sp)", op)) and not op.startswith("lea") for op in code)
    stack = sum(bool(_STACK.search(op)) for op in code)
    return [
        *best,
        f"= {len(code)} instructions: multiply-adds {_multiply_adds(best)}, with a memory operand {loads}, of which on the "
        f"stack (spills) {stack}; vector registers {len(registers)}",
    ]


def _blocks(assembly: str) -> list[list[str]]:
    """Runs of instructions without a label or a jump inside; a label is the first line of its block."""
    blocks: list[list[str]] = [[]]
    for line in assembly.splitlines():
        code = line.split("#")[0].rstrip()
        if re.match(r"^\.?[\w$.\"]+:", code):
            blocks.append([code])
        elif code.startswith("\t") and not code.startswith("\t."):
            blocks[-1].append(code.replace("\t", " ").strip())
            if re.match(r"\t(j\w+|b\.\w+|cbn?z)\s", code):
                blocks.append([])
    return blocks


def _multiply_adds(block: Sequence[str]) -> int:
    return sum(bool(_MULTIPLY_ADD.match(op)) for op in block)


def _weight(block: Sequence[str]) -> float:
    """Multiply-adds times their share of the instructions, for each vector that is stored (and one)."""
    stores = sum(bool(_STORE.match(op)) and not _STACK.search(op) for op in block)
    return _multiply_adds(block) ** 2 / max(1, len(block)) / (1 + stores)
