"""The thread pool of this process: a parallel loop that starts in about a microsecond.

A convolution of ResNet-50 takes some hundred microseconds, and waking a sleeping thread takes tens of them, so after a
loop the workers keep looking for the next one for about a millisecond before they sleep (ONNX Runtime's and OpenMP's
do the same). One loop runs at a time; a caller that finds the pool taken, by another Python thread or by an outer loop
of its own, runs its tasks alone. Tasks do not depend on who runs them, so results are the same, bit by bit, for any number
of threads.

Each thread begins with its own range of tasks, the same share in every loop, and then helps with the others' ranges. So what
one kernel writes is mostly read by the same core in the next, whose cache has it, and each core reads its own part of the
weights where a schedule divides them. (With one counter for all, tasks alternated between the cores.)

A worker that finds itself on the caller's processor moves away: left to themselves, systems were seen to keep both
threads on one processor for many milliseconds while the other was idle, and every other round took twice as long.

The code is LLVM IR because it must run without Python and there is no C compiler on a user's machine. The protocol:

* `gate` counts the workers that have joined the present loop; the bit `CLOSED` says that nobody may join. A worker joins
  by adding one. The caller closes the gate when no task is left, and waits until `finished` says that all who joined
  have left; only then may the job's fields change.
* `generation` changes with every loop. Idle workers watch it, and sleep on it as a futex.

Only Linux has futexes; elsewhere Halide's own pool runs the loops (`runs_on`).
"""

from __future__ import annotations

import atexit
import ctypes
import os
import platform
import threading

from .native import Code

__all__ = ["POOL_IR", "PoolThreads", "par_for_ir", "runs_on"]

MASK_BYTES = 128  # a set of 1024 processors, as sched_setaffinity(2) takes it
SPINS = 20_000  # of one `pause` each, about 50 ns: one millisecond
CLOSED = 1 << 30
RANGES = 64  # of tasks, one for each thread; with more threads some share one
FUTEX_WAIT_PRIVATE, FUTEX_WAKE_PRIVATE = 128, 129
SYS_FUTEX = {"x86_64": 202, "aarch64": 98}


def runs_on(os_name: str) -> bool:
    """Whether a system ("linux", "osx", "windows") has what the pool needs."""
    return os_name == "linux"


def _pool_ir() -> str:
    machine = platform.machine()
    futex = SYS_FUTEX.get(machine, 0)
    relax, declare_relax = {
        "x86_64": ("call void @llvm.x86.sse2.pause()", "declare void @llvm.x86.sse2.pause()"),
        "aarch64": ("call void @llvm.aarch64.hint(i32 1)", "declare void @llvm.aarch64.hint(i32)"),  # yield
    }.get(machine, ("", ""))
    return f"""
@generation = global [16 x i32] zeroinitializer, align 64
@gate = global [16 x i32] [i32 {CLOSED}, {", ".join(["i32 0"] * 15)}], align 64
@next = global [{16 * RANGES} x i32] zeroinitializer, align 64
@ends = global [{16 * RANGES} x i32] zeroinitializer, align 64
@ids = global i32 0
@finished = global [16 x i32] zeroinitializer, align 64
@sleepers = global [16 x i32] zeroinitializer, align 64
@busy = global [16 x i32] zeroinitializer, align 64
@workers = global i32 0
@stop = global i32 0
@job.context = global ptr null
@job.body = global ptr null
@job.closure = global ptr null
@job.ranges = global i32 0
@job.limit = global i32 0
@job.code = global i32 0
@job.cpu = global i32 -1
@allowed = global [{MASK_BYTES} x i8] zeroinitializer, align 8

declare i64 @syscall(i64, ...)
declare i32 @sched_getcpu()
declare i32 @sched_setaffinity(i32, i64, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

define private void @part(i32 %cpu) {{
entry:
  %mine = call i32 @sched_getcpu()
  %same = icmp eq i32 %mine, %cpu
  %known = icmp sge i32 %cpu, 0
  %small = icmp slt i32 %cpu, {8 * MASK_BYTES}
  %ok.a = and i1 %same, %known
  %ok = and i1 %ok.a, %small
  br i1 %ok, label %move, label %stay
move:
  %mask = alloca [{MASK_BYTES} x i8], align 8
  call void @llvm.memcpy.p0.p0.i64(ptr %mask, ptr @allowed, i64 {MASK_BYTES}, i1 false)
  %at = lshr i32 %cpu, 3
  %bit = and i32 %cpu, 7
  %one = shl i32 1, %bit
  %out = xor i32 %one, 255
  %keep = trunc i32 %out to i8
  %p = getelementptr i8, ptr %mask, i32 %at
  %old = load i8, ptr %p
  %new = and i8 %old, %keep
  store i8 %new, ptr %p
  %r = call i32 @sched_setaffinity(i32 0, i64 {MASK_BYTES}, ptr %mask)
  br label %stay
stay:
  ret void
}}

define private i32 @draw(ptr %counter, ptr %context, ptr %body, ptr %closure, i32 %end) {{
entry:
  br label %take
take:
  %i = atomicrmw add ptr %counter, i32 1 monotonic
  %more = icmp slt i32 %i, %end
  br i1 %more, label %run, label %done
run:
  %code = call i32 %body(ptr %context, i32 %i, ptr %closure)
  %ok = icmp eq i32 %code, 0
  br i1 %ok, label %take, label %failed
failed:
  ret i32 %code
done:
  ret i32 0
}}

define private i32 @draw_ranges(i32 %first, i32 %ranges, ptr %context, ptr %body, ptr %closure) {{
entry:
  br label %range
range:
  %k = phi i32 [ 0, %entry ], [ %k1, %drawn ]
  %r.a = add i32 %first, %k
  %r = urem i32 %r.a, %ranges
  %at = mul i32 %r, 16
  %counter = getelementptr i32, ptr @next, i32 %at
  %end.p = getelementptr i32, ptr @ends, i32 %at
  %end = load i32, ptr %end.p
  %code = call i32 @draw(ptr %counter, ptr %context, ptr %body, ptr %closure, i32 %end)
  %ok = icmp eq i32 %code, 0
  br i1 %ok, label %drawn, label %out
drawn:
  %k1 = add i32 %k, 1
  %more = icmp slt i32 %k1, %ranges
  br i1 %more, label %range, label %out
out:
  ret i32 %code
}}

define i32 @sevenloops_par_for(ptr %context, ptr %body, i32 %min, i32 %size, ptr %closure, i32 %threads) {{
entry:
  %own = alloca i32
  %end = add i32 %min, %size
  %workers = load atomic i32, ptr @workers monotonic, align 4
  %helpers.a = call i32 @llvm.smin.i32(i32 %threads, i32 %size)
  %helpers.b = sub i32 %helpers.a, 1
  %limit = call i32 @llvm.smin.i32(i32 %helpers.b, i32 %workers)
  %parallel = icmp sgt i32 %limit, 0
  br i1 %parallel, label %try, label %alone
try:
  %pair = cmpxchg ptr @busy, i32 0, i32 1 acquire monotonic
  %mine = extractvalue {{ i32, i1 }} %pair, 1
  br i1 %mine, label %open, label %alone
alone:
  store i32 %min, ptr %own
  %lone = call i32 @draw(ptr %own, ptr %context, ptr %body, ptr %closure, i32 %end)
  ret i32 %lone
open:
  store ptr %context, ptr @job.context
  store ptr %body, ptr @job.body
  store ptr %closure, ptr @job.closure
  %wanted = add i32 %limit, 1
  %ranges = call i32 @llvm.smin.i32(i32 %wanted, i32 {RANGES})
  store i32 %ranges, ptr @job.ranges
  br label %range
range:
  %r = phi i32 [ 0, %open ], [ %r1, %range ]
  %r1 = add i32 %r, 1
  %from = call i32 @cut(i32 %min, i32 %size, i32 %r, i32 %ranges)
  %to = call i32 @cut(i32 %min, i32 %size, i32 %r1, i32 %ranges)
  %slot = mul i32 %r, 16
  %next.p = getelementptr i32, ptr @next, i32 %slot
  %ends.p = getelementptr i32, ptr @ends, i32 %slot
  store atomic i32 %from, ptr %next.p monotonic, align 4
  store i32 %to, ptr %ends.p
  %more = icmp slt i32 %r1, %ranges
  br i1 %more, label %range, label %start
start:
  store i32 %limit, ptr @job.limit
  %cpu = call i32 @sched_getcpu()
  store i32 %cpu, ptr @job.cpu
  store atomic i32 0, ptr @job.code monotonic, align 4
  store atomic i32 0, ptr @finished monotonic, align 4
  store atomic i32 0, ptr @gate release, align 4
  %g = atomicrmw add ptr @generation, i32 1 seq_cst
  %asleep = load atomic i32, ptr @sleepers seq_cst, align 4
  %wake = icmp sgt i32 %asleep, 0
  br i1 %wake, label %rouse, label %work
rouse:
  %count = sext i32 %limit to i64
  %w = call i64 (i64, ...) @syscall(i64 {futex}, ptr @generation, i64 {FUTEX_WAKE_PRIVATE}, i64 %count)
  br label %work
work:
  %mycode = call i32 @draw_ranges(i32 0, i32 %ranges, ptr %context, ptr %body, ptr %closure)
  %joined = atomicrmw or ptr @gate, i32 {CLOSED} acq_rel
  %inside = call i32 @llvm.smin.i32(i32 %joined, i32 %limit)
  br label %wait
wait:
  %out = load atomic i32, ptr @finished acquire, align 4
  %all = icmp eq i32 %out, %inside
  br i1 %all, label %close, label %relax
relax:
  {relax}
  br label %wait
close:
  %theirs = load atomic i32, ptr @job.code monotonic, align 4
  store atomic i32 0, ptr @busy release, align 4
  %failed = icmp ne i32 %mycode, 0
  %result = select i1 %failed, i32 %mycode, i32 %theirs
  ret i32 %result
}}

define private i32 @cut(i32 %min, i32 %size, i32 %r, i32 %ranges) {{
  %size.w = sext i32 %size to i64
  %r.w = sext i32 %r to i64
  %ranges.w = sext i32 %ranges to i64
  %whole = mul i64 %size.w, %r.w
  %part = sdiv i64 %whole, %ranges.w
  %part.n = trunc i64 %part to i32
  %at = add i32 %min, %part.n
  ret i32 %at
}}

define void @sevenloops_worker() {{
entry:
  %before = atomicrmw add ptr @ids, i32 1 monotonic
  %id = add i32 %before, 1
  br label %idle
idle:
  %seen = phi i32 [ 0, %entry ], [ %seen.next, %again ]
  br label %watch
watch:
  %spins = phi i32 [ 0, %idle ], [ %spins.more, %quiet ]
  %now = load atomic i32, ptr @generation acquire, align 4
  %new = icmp ne i32 %now, %seen
  br i1 %new, label %join, label %still
still:
  %stop = load atomic i32, ptr @stop monotonic, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %quiet
quiet:
  {relax}
  %spins.more = add i32 %spins, 1
  %tired = icmp sgt i32 %spins.more, {SPINS}
  br i1 %tired, label %sleep, label %watch
sleep:
  %s1 = atomicrmw add ptr @sleepers, i32 1 seq_cst
  %expected = zext i32 %seen to i64
  %f = call i64 (i64, ...) @syscall(i64 {futex}, ptr @generation, i64 {FUTEX_WAIT_PRIVATE}, i64 %expected, ptr null)
  %s2 = atomicrmw sub ptr @sleepers, i32 1 seq_cst
  br label %again
join:
  %place = atomicrmw add ptr @gate, i32 1 acquire
  %limit = load i32, ptr @job.limit
  %admitted = icmp slt i32 %place, %limit
  br i1 %admitted, label %work, label %again
work:
  %context = load ptr, ptr @job.context
  %body = load ptr, ptr @job.body
  %closure = load ptr, ptr @job.closure
  %ranges = load i32, ptr @job.ranges
  %cpu = load i32, ptr @job.cpu
  call void @part(i32 %cpu)
  %code = call i32 @draw_ranges(i32 %id, i32 %ranges, ptr %context, ptr %body, ptr %closure)
  %failed = icmp ne i32 %code, 0
  br i1 %failed, label %report, label %finish
report:
  store atomic i32 %code, ptr @job.code monotonic, align 4
  br label %finish
finish:
  %done = atomicrmw add ptr @finished, i32 1 release
  br label %again
again:
  %seen.next = phi i32 [ %seen, %sleep ], [ %now, %join ], [ %now, %finish ]
  br label %idle
leave:
  ret void
}}

declare i32 @llvm.smin.i32(i32, i32)
{declare_relax}
"""


POOL_IR = _pool_ir()


def par_for_ir(name: str) -> str:
    """A kernel's own `halide_do_par_for` (HalideRuntime.h): the pool, with at most `{name}_threads` threads."""
    return f"""
@{name}_threads = global i32 1
declare i32 @sevenloops_par_for(ptr, ptr, i32, i32, ptr, i32)
define i32 @halide_do_par_for(ptr %context, ptr %body, i32 %min, i32 %size, ptr %closure) {{
  %threads = load i32, ptr @{name}_threads
  %r = call i32 @sevenloops_par_for(ptr %context, ptr %body, i32 %min, i32 %size, ptr %closure, i32 %threads)
  ret i32 %r
}}
"""


class PoolThreads:
    """The workers: Python threads that stay inside `sevenloops_worker`, and start anew in a forked child."""

    def __init__(self, code: Code, count: int) -> None:
        self.code, self.count, self.threads = code, count, list[threading.Thread]()
        allowed = sum(1 << cpu for cpu in os.sched_getaffinity(0) if cpu < 8 * MASK_BYTES)
        mask = (ctypes.c_char * MASK_BYTES).from_address(code.address("allowed"))
        mask.raw = allowed.to_bytes(MASK_BYTES, "little")
        self._worker = ctypes.CFUNCTYPE(None)(code.address("sevenloops_worker"))
        self.start()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._after_fork)

    def _word(self, name: str) -> ctypes.c_int32:
        return ctypes.c_int32.from_address(self.code.address(name))

    def start(self) -> None:
        """Start the workers; the calling thread is always one more."""
        self.threads = [
            threading.Thread(target=self._worker, name=f"sevenloops-{i}", daemon=True) for i in range(self.count)
        ]
        for thread in self.threads:
            thread.start()
        self._word("workers").value = self.count

    def stop(self) -> None:
        """End the workers before the code that they run is freed."""
        self._word("workers").value = 0
        self._word("stop").value = 1
        generation = self._word("generation")
        generation.value += 1
        syscall = ctypes.CDLL(None).syscall
        syscall(SYS_FUTEX[platform.machine()], ctypes.byref(generation), FUTEX_WAKE_PRIVATE, self.count)
        for thread in self.threads:
            thread.join(1.0)

    def _after_fork(self) -> None:
        left = {"workers": 0, "sleepers": 0, "busy": 0, "gate": CLOSED, "ids": 0, "scratch.lock": 0}
        for name, value in left.items():  # as the parent's threads, which are not here, had them
            self._word(name).value = value
        self.start()
