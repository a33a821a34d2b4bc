"""`sevenloops explain --measure`: every algorithm for a problem, timed beside what was predicted for it."""

from __future__ import annotations

from .. import compile
from ..bench import time_kernel
from ..choice import candidates
from ..compile import Kernel
from ..errors import CompileError

__all__ = ["SLOWEST_S", "measured_lines"]

#: Algorithms that are expected to take longer for one call are left out, with a line that says so.
SLOWEST_S = 1.0


def measured_lines(kernel: Kernel) -> list[str]:
    """A line for each candidate: expected and measured time, and the distance of the two; the fastest is named last."""
    lines, found = ["measured now"], dict[str, float]()
    for offer in candidates(kernel.problem, kernel.machine):
        name, expected = offer.schedule.algorithm, f"{1e3 * offer.expected_s:9.4f} ms expected"
        if offer.expected_s > SLOWEST_S:
            lines.append(f"  {name:20} {expected}: not timed, as it takes too long")
            continue
        try:
            one = compile(kernel.problem, schedule=offer.schedule, machine=kernel.machine, threads=kernel.threads)
        except CompileError as error:
            lines.append(f"  {name:20} {expected}: {error}")
            continue
        found[name] = time_kernel(one).median_s
        ratio = found[name] / offer.expected_s
        lines.append(f"  {name:20} {expected}, {1e3 * found[name]:9.4f} ms measured, {ratio:.2f} times that")
    if not found:
        return [*lines, "  nothing was timed"]
    fastest = min(found, key=lambda name: found[name])
    return [*lines, f"  the fastest here and now: {fastest}; {kernel.algorithm} was chosen"]
