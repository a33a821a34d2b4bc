"""Kernels in this process, and how they are called: one Halide runtime, one thread pool, any number of kernels.

A kernel's `halide_do_par_for` is its own (see `pool`) and runs at most as many tasks at once as a variable beside it says.
So every loaded kernel has its own thread count, and one image serves them all.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from ..locks import renewed_lock
from ..machine import Machine
from .build import KernelImage
from .link import LINKED, Linked
from .native import Code, Jitted, Placed, system_function
from .pool import PoolThreads, runs_on
from .steps import StepList

__all__ = ["LoadedKernel", "load", "step_list"]

#: What kernels call of the runtime, where LLVM links them and has to be told.
_EXPORTS = ("halide_default_do_par_for", "halide_malloc", "halide_free", "halide_error", "halide_error_out_of_memory")
#: What code that was compiled with asserts (the ladder's) calls where one fails.
_ERRORS = (
    "access_out_of_bounds", "bad_dimensions", "bad_fold", "bad_type", "bounds_inference_call_failed",
    "buffer_allocation_too_large", "buffer_argument_is_null", "buffer_extents_negative", "buffer_extents_too_large",
    "buffer_is_null", "constraint_violated", "constraints_make_required_region_smaller",
    "device_dirty_with_no_device_support", "explicit_bounds_too_small", "fold_factor_too_small", "host_is_null",
    "requirement_failed", "specialize_fail", "storage_bound_too_small", "split_factor_not_positive",
)  # fmt: skip


@dataclass(frozen=True)
class LoadedKernel:
    """The two native functions of an image, taking addresses and returning 0 or an error code; `keep` holds the code alive.

    `run_list` and `pack_list` are the addresses of the same for the calls of a program (see `steps`).
    """

    image: KernelImage
    run: Any
    pack: Any
    run_list: int
    pack_list: int
    keep: Any


class _Runtime:
    """The Halide runtime of this process; `_runtime()` makes the only one."""

    def __init__(self, image: KernelImage, machine: Machine) -> None:
        self.code = _ready(image, machine, None)
        own_pool = runs_on(machine.os)
        errors = (f"halide_error_{what}" for what in _ERRORS)
        names = (*_EXPORTS, *errors, *(["sevenloops_par_for"] if own_pool else []))
        self.exports = {name: address for name in names if (address := self.code.address(name))}
        if own_pool:
            self.threads = PoolThreads(self.code, machine.cores - 1)
            for what in ("malloc", "free"):
                self._call(f"halide_set_custom_{what}", ctypes.c_void_p(self.code.address(f"sevenloops_{what}")))
        self._call("halide_set_num_threads", ctypes.c_int(machine.cores))
        self._call("halide_set_error_handler", ctypes.c_void_p(self.code.address("sevenloops_quiet")))

    def _call(self, name: str, argument: Any) -> None:
        ctypes.CFUNCTYPE(ctypes.c_void_p, type(argument))(self.code.address(name))(argument)

    def resolve(self, name: str) -> int:
        """The address of a function that a kernel calls: the runtime's, else the system's."""
        return self.exports.get(name) or system_function(name)


def _ready(image: KernelImage, machine: Machine, runtime: _Runtime | None) -> Code:
    objects = image.linked(machine).objects
    if objects[0].startswith(LINKED):
        return Placed(Linked.from_bytes(objects[0]), runtime.resolve if runtime else system_function)
    return Jitted(objects, runtime.exports if runtime else {})


_LOCK = renewed_lock(sys.modules[__name__], "_LOCK")
_the_runtime: _Runtime | None = None


def _runtime() -> _Runtime:
    global _the_runtime
    if _the_runtime is None:
        from . import store

        _the_runtime = _Runtime(store.runtime_image(Machine.host()), Machine.host())
    return _the_runtime


def load(image: KernelImage, threads: int) -> LoadedKernel:
    """Bring a kernel into this process, for at most `threads` threads."""
    with _LOCK:  # LLVM's linker is not safe for several threads, and two could start two runtimes
        code = _ready(image, Machine.host(), _runtime())
    return called(image, code, threads)


def called(image: KernelImage, code: Code, threads: int) -> LoadedKernel:
    """The functions of a kernel whose code is ready to run."""
    ctypes.c_int32.from_address(code.address(f"{image.name}_threads")).value = threads
    functions = []
    for name, count in ((f"{image.name}_run", len(image.buffers)), (f"{image.name}_pack", len(image.pack_buffers))):
        function = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_void_p] * count)(code.address(name))
        function.keep = code  # type: ignore[attr-defined]  # whoever holds the function alone may call it too
        functions.append(function)
    lists = [code.address(f"{image.name}_{what}_list") for what in ("run", "pack")]
    return LoadedKernel(image, functions[0], functions[1], lists[0], lists[1], code)


def step_list(calls: list[tuple[int, list[int]]]) -> StepList:
    """Functions of loaded kernels (`run_list`, `pack_list`) with the addresses of their arguments, to be run in order."""
    with _LOCK:
        function = _runtime().code.address("sevenloops_steps")
    run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)(function)
    return StepList(run, calls)
