"""Parallel loops on Halide's own pool, for systems where `pool` cannot run.

A kernel's `halide_do_par_for` starts at most `NAME_threads` loops on the pool, which draw task numbers from one counter.
"""

from __future__ import annotations

__all__ = ["halide_par_for_ir"]

#: Calls of the loop body are `int f(void *context, int index, uint8_t *closure)`; see HalideRuntime.h, halide_do_par_for.
_PAR_FOR = """
@{name}_threads = global i32 1
%state = type {{ ptr, ptr, i32, i32 }}
declare i32 @halide_default_do_par_for(ptr, ptr, i32, i32, ptr)

define private i32 @worker(ptr %context, i32 %ignored, ptr %state) {{
entry:
  %body.p = getelementptr %state, ptr %state, i32 0, i32 0
  %closure.p = getelementptr %state, ptr %state, i32 0, i32 1
  %end.p = getelementptr %state, ptr %state, i32 0, i32 2
  %next.p = getelementptr %state, ptr %state, i32 0, i32 3
  %body = load ptr, ptr %body.p
  %closure = load ptr, ptr %closure.p
  %end = load i32, ptr %end.p
  br label %draw
draw:
  %i = atomicrmw add ptr %next.p, i32 1 monotonic
  %more = icmp slt i32 %i, %end
  br i1 %more, label %call, label %done
call:
  %code = call i32 %body(ptr %context, i32 %i, ptr %closure)
  %ok = icmp eq i32 %code, 0
  br i1 %ok, label %draw, label %failed
failed:
  ret i32 %code
done:
  ret i32 0
}}

define i32 @halide_do_par_for(ptr %context, ptr %body, i32 %min, i32 %size, ptr %closure) {{
entry:
  %state = alloca %state
  %body.p = getelementptr %state, ptr %state, i32 0, i32 0
  %closure.p = getelementptr %state, ptr %state, i32 0, i32 1
  %end.p = getelementptr %state, ptr %state, i32 0, i32 2
  %next.p = getelementptr %state, ptr %state, i32 0, i32 3
  %end = add i32 %min, %size
  store ptr %body, ptr %body.p
  store ptr %closure, ptr %closure.p
  store i32 %end, ptr %end.p
  store i32 %min, ptr %next.p
  %threads = load i32, ptr @{name}_threads
  %few = icmp slt i32 %size, %threads
  %loops = select i1 %few, i32 %size, i32 %threads
  %one = icmp slt i32 %loops, 2
  br i1 %one, label %serial, label %pool
serial:
  %r1 = call i32 @worker(ptr %context, i32 0, ptr %state)
  ret i32 %r1
pool:
  %r2 = call i32 @halide_default_do_par_for(ptr %context, ptr @worker, i32 0, i32 %loops, ptr %state)
  ret i32 %r2
}}
"""


def halide_par_for_ir(name: str) -> str:
    """A kernel's own `halide_do_par_for`, with at most `{name}_threads` threads."""
    return _PAR_FOR.format(name=name)
