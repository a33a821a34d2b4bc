"""Link kernels into this process and call them: one Halide runtime, one thread pool, any number of kernels.

llvmlite's MCJIT is used as a linker only. A kernel's `halide_do_par_for` is bound, when it is loaded, to a few lines of
LLVM IR that run at most `threads` tasks at once on the pool. So every loaded kernel has its own thread count, and one
object file serves them all.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

from ..machine import Machine
from .build import KernelImage
from .halide_pool import halide_par_for_ir
from .pool import POOL_IR, PoolThreads, par_for_ir, pool_ir_supported

__all__ = ["LoadedKernel", "load"]

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
        own_pool = pool_ir_supported()
        self.par_for_ir = par_for_ir if own_pool else halide_par_for_ir
        self.engine = self.link([runtime_object, self._assemble(_QUIET + (POOL_IR if own_pool else ""))])
        if own_pool:
            self.threads = PoolThreads(self.engine, pool_threads - 1)
        for name in (*_EXPORTS, *(["sevenloops_par_for"] if own_pool else [])):
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
            self.par_for[threads] = self._assemble(self.par_for_ir(threads))
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
