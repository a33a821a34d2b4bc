"""Running many kernels in one native call: the steps of a plan, one after the other, without Python in between.

A step is the address of a kernel's `name_run_list` (or `name_pack_list`) and of its list of arguments. Between two
kernels of ResNet-50 Python would need 5 us; the loop here needs a few nanoseconds, and can note the time after each step.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from ..arrays import address

__all__ = ["StepList", "steps_ir"]

CLOCK_MONOTONIC = {"linux": 1, "osx": 6}

#: `sevenloops_steps(steps, count, times)` returns 0, or the number of the step that failed (from 1) times 2^32 and its code.
_LOOP = """
%step = type {{ ptr, ptr }}
%timespec = type {{ i64, i64 }}
{clock}

define i64 @sevenloops_steps(ptr %steps, i64 %count, ptr %times) {{
entry:
  %timed = icmp ne ptr %times, null
  br i1 %timed, label %begin, label %head
begin:
  %t0 = call i64 @sevenloops_now()
  store i64 %t0, ptr %times
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ 0, %begin ], [ %i1, %next ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %run, label %done
run:
  %i1 = add i64 %i, 1
  %f.p = getelementptr %step, ptr %steps, i64 %i, i32 0
  %a.p = getelementptr %step, ptr %steps, i64 %i, i32 1
  %f = load ptr, ptr %f.p
  %a = load ptr, ptr %a.p
  %code = call i32 %f(ptr %a)
  %ok = icmp eq i32 %code, 0
  br i1 %ok, label %good, label %bad
good:
  br i1 %timed, label %note, label %next
note:
  %t = call i64 @sevenloops_now()
  %t.p = getelementptr i64, ptr %times, i64 %i1
  store i64 %t, ptr %t.p
  br label %next
next:
  br label %head
bad:
  %wide = zext i32 %code to i64
  %high = shl i64 %i1, 32
  %both = or i64 %high, %wide
  ret i64 %both
done:
  ret i64 0
}}
"""

_POSIX_CLOCK = """
declare i32 @clock_gettime(i32, ptr)
define internal i64 @sevenloops_now() {{
  %ts = alloca %timespec
  %r = call i32 @clock_gettime(i32 {clock_id}, ptr %ts)
  %s = load i64, ptr %ts
  %n.p = getelementptr %timespec, ptr %ts, i32 0, i32 1
  %n = load i64, ptr %n.p
  %s9 = mul i64 %s, 1000000000
  %ns = add i64 %s9, %n
  ret i64 %ns
}}
"""
#: Windows: 100 ns ticks of the system's clock.
_WINDOWS_CLOCK = """
declare void @GetSystemTimePreciseAsFileTime(ptr)
define internal i64 @sevenloops_now() {
  %t = alloca i64
  call void @GetSystemTimePreciseAsFileTime(ptr %t)
  %v = load i64, ptr %t
  %ns = mul i64 %v, 100
  ret i64 %ns
}
"""


def steps_ir(os_name: str) -> str:
    """The loop over the steps for a system ("linux", "osx", "windows")."""
    clock = _WINDOWS_CLOCK if os_name == "windows" else _POSIX_CLOCK.format(clock_id=CLOCK_MONOTONIC[os_name])
    return _LOOP.format(clock=clock)


class StepList:
    """Native functions and their arguments, to be run in order.

    `calls` are pairs of a function's address and the addresses of its arguments; `arguments` is the array of all
    arguments in order, which may be changed between runs (`first` says where each step's begin). One run at a time.
    """

    def __init__(self, run: Any, calls: list[tuple[int, list[int]]]) -> None:
        self._run = run
        self.first = np.cumsum([0, *(len(arguments) for _, arguments in calls)]).tolist()
        flat = [argument for _, arguments in calls for argument in arguments]
        self.arguments: npt.NDArray[np.int64] = np.array([*flat, 0], np.int64)
        base = address(self.arguments)
        rows = [(function, base + 8 * at) for (function, _), at in zip(calls, self.first)]
        self._steps: npt.NDArray[np.int64] = np.array([*rows, (0, 0)], np.int64)
        self._count = len(calls)
        self._address = address(self._steps)

    def run(
        self, begin: int = 0, end: int | None = None, times: npt.NDArray[np.int64] | None = None
    ) -> tuple[int, int] | None:
        """Run the steps from `begin` up to `end`; returns None, or the number of the step that failed and its code.

        `times`, of one more element than steps, receives the clock in nanoseconds before the first and after each.
        """
        end = self._count if end is None else end
        code = self._run(self._address + 16 * begin, end - begin, None if times is None else address(times))
        return None if code == 0 else (begin + (code >> 32) - 1, ctypes.c_int32(code & 0xFFFFFFFF).value)
