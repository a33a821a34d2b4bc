"""Link kernels into this process and call them: one Halide runtime, one thread pool, any number of kernels.

llvmlite's MCJIT is used as a linker only. A kernel's `halide_do_par_for` is bound to a few lines of LLVM IR (`_PAR_FOR`)
that run at most `threads` tasks at once, by starting that many loops on Halide's pool which draw task numbers from one
counter. So every loaded kernel has its own thread count, nested calls are safe, and as tasks are the same ones whatever
the count, so are the results, bit by bit.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

from ..machine import Machine
from .build import KernelImage

__all__ = ["LoadedKernel", "load"]

#: Calls of the loop body are `int f(void *context, int index, uint8_t *closure)`; see HalideRuntime.h, halide_do_par_for.
_PAR_FOR = """
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
  %few = icmp slt i32 %size, {threads}
  %loops = select i1 %few, i32 %size, i32 {threads}
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

#: Halide's own handler prints and aborts the process; errors come back as codes instead.
_QUIET = """
define void @sevenloops_quiet(ptr %context, ptr %message) {
  ret void
}
"""

#: Symbols of the runtime that kernels may need.
_EXPORTS = ("halide_default_do_par_for", "halide_malloc", "halide_free", "halide_error", "halide_error_out_of_memory")


@dataclass(frozen=True)
class LoadedKernel:
    """Two native functions, taking addresses and returning 0 or an error code; `keep` holds the code alive."""

    run: Any
    pack: Any
    keep: Any


class _Runtime:
    """The linked Halide runtime of this process; `_runtime()` makes the only one."""

    def __init__(self, runtime_object: bytes, pool_threads: int) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.llvm = llvm
        self.target = llvm.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")
        self.par_for: dict[int, bytes] = {}
        self.engine = self.link([runtime_object, self._assemble(_QUIET)])
        for name in _EXPORTS:
            llvm.add_symbol(name, self.engine.get_function_address(name))
        set_threads = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(
            self.engine.get_function_address("halide_set_num_threads")
        )
        set_threads(pool_threads)
        set_handler = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(
            self.engine.get_function_address("halide_set_error_handler")
        )
        set_handler(self.engine.get_function_address("sevenloops_quiet"))

    def _assemble(self, ir: str) -> bytes:
        return bytes(self.target.emit_object(self.llvm.parse_assembly(ir)))

    def link(self, objects: list[bytes]) -> Any:
        engine = self.llvm.create_mcjit_compiler(self.llvm.parse_assembly(""), self.target)
        for data in objects:
            engine.add_object_file(self.llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
        return engine

    def par_for_object(self, threads: int) -> bytes:
        if threads not in self.par_for:
            self.par_for[threads] = self._assemble(_PAR_FOR.format(threads=threads))
        return self.par_for[threads]


_LOCK = threading.Lock()
_the_runtime: _Runtime | None = None


def _runtime(machine: Machine) -> _Runtime:
    global _the_runtime
    if _the_runtime is None:
        from . import store

        _the_runtime = _Runtime(store.runtime_object(machine), Machine.host().cores)
    return _the_runtime


def load(image: KernelImage, machine: Machine, threads: int) -> LoadedKernel:
    """Link a kernel into this process, for at most `threads` threads."""
    with _LOCK:  # LLVM's linker is not safe for several threads, and two could start two runtimes
        runtime = _runtime(machine)
        engine = runtime.link([*image.objects, runtime.par_for_object(threads)])
        functions = []
        for name, count in ((f"{image.name}_run", len(image.buffers)), (f"{image.name}_pack", len(image.pack_buffers))):
            prototype = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * count)
            functions.append(prototype(engine.get_function_address(name)))
    return LoadedKernel(functions[0], functions[1], engine)
