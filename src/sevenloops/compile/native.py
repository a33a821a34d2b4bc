"""Machine code in this process: linked images placed in memory, or, where `link` does not, objects linked by LLVM."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..errors import CompileError
from .link import Linked

__all__ = ["Code", "Jitted", "Placed", "system_function"]

Resolve = Callable[[str], int]


class Code(Protocol):
    """Code that is ready to run, for as long as this object lives."""

    def address(self, name: str) -> int:
        """Where a function or variable is; 0 where there is none of that name."""


class Placed:
    """A linked image in memory of its own: its code can be run and not written to, its data the reverse.

    `resolve` gives the addresses of foreign functions. Raises `CompileError` where the system refuses.
    """

    def __init__(self, image: Linked, resolve: Resolve) -> None:
        self._symbols = image.symbols
        self._memory = mmap.mmap(-1, image.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._memory[: len(image.data)] = image.data
        words = np.frombuffer(self._memory, np.int64, image.size // 8)
        self._base = words.ctypes.data
        words[np.array(image.relative, np.intp) // 8] += self._base
        for name, word in image.foreign.items():
            words[word // 8] = resolve(name)
        if image.writable and _system().mprotect(self._base, image.writable, mmap.PROT_READ | mmap.PROT_EXEC):
            raise CompileError(f"the system does not let memory be code: {os.strerror(ctypes.get_errno())}")

    def address(self, name: str) -> int:
        """See `Code`."""
        return self._base + self._symbols[name] if name in self._symbols else 0


@functools.cache
def _system() -> Any:
    """The functions that this process has from the system."""
    library = ctypes.CDLL(None, use_errno=True)
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


@functools.cache
def system_function(name: str) -> int:
    """The address of a function of the C library or its mathematics. Raises `CompileError` where there is none."""
    for library in (_system, _mathematics):
        with contextlib.suppress(AttributeError, OSError):
            return ctypes.cast(getattr(library(), name), ctypes.c_void_p).value or 0
    raise CompileError(f"the compiled code calls {name!r}, which this system does not have")


@functools.cache
def _mathematics() -> Any:
    return ctypes.CDLL("libm.so.6")


class Jitted:
    """Objects linked by LLVM's MCJIT, in this process; nothing is compiled. `known` are addresses of foreign functions."""

    def __init__(self, objects: Sequence[bytes], known: dict[str, int]) -> None:
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        for name, address in known.items():
            llvm.add_symbol(name, address)
        # An engine deletes its target machine when it goes: one that engines shared would be gone for the next.
        target = llvm.Target.from_default_triple().create_target_machine(jit=True, codemodel="jitdefault")
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
        for data in objects:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """See `Code`."""
        return int(self._engine.get_function_address(name) or self._engine.get_global_value_address(name))
