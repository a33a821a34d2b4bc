"""What a call costs beside its arithmetic: warm calls of one tiny problem, the first of a process, and cold compiles.

A warm call is timed in this process, in batches, because one takes about as long as reading a clock a hundred times. First
calls and cold compiles happen once in the life of a process, so each gets one, which prints its seconds. Cold processes have
a cache of their own, which is deleted.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..compile import child, compile
from ..descriptor import parse_problem
from ..functional import conv2d
from .process import WorkerError

__all__ = ["Calls", "measure_calls"]

#: 8 to 8 channels on 8 x 8 pixels, 3 x 3: 37 thousand multiply-adds, well under a microsecond
CHANNELS, SIZE, KERNEL = 8, 8, 3
#: calls between two readings of the clock, and how many before the first
BATCH, WARM = 50, 200
#: compiled one after the other by a cold process; the first one waits for the compiler's workers to start
COLD = (
    "mb1 ic16 ih9 iw9 oc16 kh3 kw3",
    "mb1 ic64 ih28 iw28 oc64 kh3 kw3 ph1 pw1",
    "mb1 ic64 ih28 iw28 oc128 kh1 kw1",
    "mb1 g64 ic64 ih28 iw28 oc64 kh3 kw3 ph1 pw1",
)
LIMIT_S = 300.0


@dataclass(frozen=True)
class Calls:
    """Seconds of every sample: `warm` by layout, `first` one a process, `start` and `cold` of compiles."""

    warm: dict[str, tuple[float, ...]]
    first: tuple[float, ...]
    start: tuple[float, ...]
    cold: tuple[float, ...]

    def rows(self) -> list[tuple[str, str, tuple[float, ...]]]:
        """What, its unit (us, ms or s), and the samples."""
        return [
            *((f"conv2d, warm, {layout}", "us", times) for layout, times in self.warm.items()),
            ("first conv2d of a process, warm cache, after the import", "ms", self.first),
            ("first compile of a process, which starts the compiler's workers", "s", self.start),
            ("any other compile", "s", self.cold),
        ]


def measure_calls(rounds: int = 7, say: Callable[[str], None] = lambda text: None) -> Calls:
    """Time `rounds` of everything. Raises `WorkerError` if a process fails."""
    say("warm calls")
    warm = {layout: _warm_s(layout, 20 * rounds) for layout in ("NCHW", "NHWC")}
    first, cold = [], []
    for at in range(rounds):
        say(f"first calls: {at + 1} of {rounds}")
        first += _process("first", {})
    for at in range(rounds):
        say(f"cold compiles: {at + 1} of {rounds}")
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_process("cold", {"SEVENLOOPS_CACHE_DIR": folder}))
    others = tuple(second for times in cold for second in times[1:])
    return Calls(warm, tuple(first), tuple(times[0] for times in cold), others)


def _call(layout: str) -> Callable[[], Any]:
    rng = np.random.default_rng(0)
    shape = (1, CHANNELS, SIZE, SIZE) if layout == "NCHW" else (1, SIZE, SIZE, CHANNELS)
    x, b = rng.standard_normal(shape, np.float32), rng.standard_normal(CHANNELS, np.float32)
    w = rng.standard_normal((CHANNELS, CHANNELS, KERNEL, KERNEL), np.float32)
    return lambda: conv2d(x, w, b, padding=1, layout=layout)


def _warm_s(layout: str, samples: int) -> tuple[float, ...]:
    call, times = _call(layout), []
    for _ in range(WARM):
        call()
    for _ in range(samples):
        begin = time.perf_counter()
        for _ in range(BATCH):
            call()
        times.append((time.perf_counter() - begin) / BATCH)
    return tuple(times)


def _process(what: str, environment: dict[str, str]) -> list[float]:
    pipe = subprocess.PIPE
    with child.start(__name__, [what], env=environment, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            output, errors = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise WorkerError(f"a process that measures {what} calls took over {LIMIT_S:.0f} s") from None
        finally:
            process.kill()
    if process.returncode:
        raise WorkerError(f"a process that measures {what} calls failed: {errors.strip()[-500:]}")
    return [float(second) for second in json.loads(output)]


def _first_s() -> list[float]:
    call = _call("NCHW")
    begin = time.perf_counter()
    call()
    return [time.perf_counter() - begin]


def _cold_s() -> list[float]:
    times = []
    for problem in map(parse_problem, COLD):
        begin = time.perf_counter()
        compile(problem)
        times.append(time.perf_counter() - begin)
    return times


def main(what: str) -> None:
    """Print the seconds of this process's first call, or of its cold compiles."""
    print(json.dumps({"first": _first_s, "cold": _cold_s}[what]()))
