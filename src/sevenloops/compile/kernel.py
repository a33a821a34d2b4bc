"""A compiled kernel: what `sevenloops.compile` gives."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..algorithms import ALGORITHMS
from ..arrays import address, aligned_empty, allocator, as_array, check_array, check_output
from ..errors import ArrayError, KernelError
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .build import KernelImage
from .runtime import LoadedKernel

__all__ = ["BoundCall", "Kernel", "Packed"]

Array = np.ndarray[Any, Any]
#: Larger buffers for packed weights are not kept from call to call (`Kernel.once`), so a thread keeps at most twice as much.
MAX_KEPT_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Packed:
    """Weights as one kernel's hot loop reads them; made by `Kernel.pack`. `layout` names the kernels that can use it."""

    array: Array
    layout: tuple[Any, ...]


class _Buffers(threading.local):
    """This thread's buffers for packed weights, by their sizes, which are powers of two."""

    def __init__(self) -> None:
        self.by_bytes: dict[int, Array] = {}


_buffers = _Buffers()


class BoundCall:
    """A call with every array fixed and checked: `run()` computes `out` again, with nothing left to look up."""

    __slots__ = ("_addresses", "_function", "_kernel", "keep", "out")

    def __init__(self, kernel: Kernel, arrays: list[Array]) -> None:
        self._kernel = kernel
        self._function = kernel.loaded.run
        self._addresses = [address(array) for array in arrays]
        self.keep = arrays
        self.out = arrays[-1]

    def run(self) -> Array:
        """Compute; raises `KernelError` if the native code reports a failure."""
        code = self._function(*self._addresses)
        if code:
            raise _failure(self._kernel, code)
        return self.out


def _failure(kernel: Kernel, code: int) -> KernelError:
    return KernelError(f"{kernel.algorithm} for {kernel.problem} failed with Halide's code {code} (out of memory?)")


class Kernel:
    """One problem compiled with one schedule for one machine. Thread-safe; calls release Python's global lock.

    `problem`, `algorithm` (a name), `schedule`, `machine` and `threads` say what it is; `why` says how it was chosen.
    """

    def __init__(
        self,
        problem: Problem,
        schedule: Schedule,
        machine: Machine,
        threads: int,
        image: KernelImage,
        loaded: LoadedKernel,
        why: str,
    ) -> None:
        self.problem, self.schedule, self.machine, self.threads = problem, schedule, machine, threads
        self.algorithm, self.image, self.loaded, self.why = schedule.algorithm, image, loaded, why
        self._row = ALGORITHMS[self.algorithm]
        is_gemm = isinstance(problem, GemmProblem)
        self._y_shape, self._dtype = problem.y_shape, np.dtype(problem.dtype)
        self._x_shape = problem.a_shape if isinstance(problem, GemmProblem) else problem.x_shape
        self._w_shape = problem.b_shape if isinstance(problem, GemmProblem) else problem.w_shape
        has = {"bias": problem.epilogue.bias, "residual": bool(problem.epilogue.residual)}
        has["c"] = isinstance(problem, GemmProblem) and problem.beta != 0
        self._optional = tuple(name for name, wanted in has.items() if wanted)
        self._new_output = allocator(self._y_shape, self._dtype)
        self._names = ("a", "b") if is_gemm else ("x", "weights")
        # Transformed weights depend on more than the shape of the buffer: F(4, 6) and F(6, 4) fill equal ones.
        transform = None if self._row.accumulates_as_defined else schedule
        # So does the order of taps and rows: that of phases, and of matrices that are read as they are stored.
        if isinstance(problem, GemmProblem):
            order: tuple[Any, ...] = (problem.trans_b,)
        elif problem.transposed:
            order = (problem.stride, problem.padding, problem.dilation, problem.output_padding, bool(problem.out_pitch))
        else:
            order = ()
        self._layout = (self.algorithm, self._w_shape, image.pack_buffers[-1].shape, problem.dtype, transform, *order)
        n_bytes = math.prod(image.pack_buffers[-1].shape) * self._dtype.itemsize
        self._buffer_bytes = 1 << max(12, (n_bytes - 1).bit_length())  # of `once`: kernels of similar sizes share one
        self._reads_as_stored = self._row.reads_as_stored
        self._pitch = problem.out_pitch if isinstance(problem, ConvProblem) else 0

    @property
    def macs_executed(self) -> int:
        """Multiply-accumulates that the code really does, partial tiles and idle lanes counted."""
        return self._row.macs_executed(self.problem, self.schedule)

    @property
    def workspace_bytes(self) -> int:
        """Scratch memory in use at once."""
        return self._row.workspace_bytes(self.problem, self.schedule, self.threads)

    def pack(self, weights: Any) -> Packed:
        """Bring weights into this kernel's order; do it once and keep the result.

        `weights` has the problem's `w_shape` (a matrix product: B in its `b_shape`). Raises `ArrayError`, `DtypeError`.
        """
        array = np.require(as_array(self._names[1], weights), requirements=("C", "A"))
        check_array(self._names[1], array, self._w_shape, self._dtype)
        packed = aligned_empty(self.image.pack_buffers[-1].shape, self.problem.dtype)
        code = self.loaded.pack(address(array), address(packed))
        if code:
            raise _failure(self, code)
        return Packed(packed, self._layout)

    def once(self, x: Any, weights: Array, *, bias: Any = None, residual: Any = None, out: Any = None) -> Array:
        """As a call with `pack(weights)`, for weights that may be others the next time.

        The packed weights go into a buffer that the thread keeps, or are the weights themselves where the algorithm reads
        them as they are stored (gemv, naive). Raises as `pack` and the call do.
        """
        weights = np.ascontiguousarray(weights)
        check_array(self._names[1], weights, self._w_shape, self._dtype)
        arrays = self._arrays(x, weights, bias, residual, None, out)
        self.once_at(*map(address, arrays))
        return arrays[-1]

    def once_at(self, x: int, weights: int, *others: int) -> None:
        """As `once`, for addresses of dense arrays that the caller has checked.

        Those are `x`, `weights`, then what the problem has of `bias`, `residual` and `c`, then `out`. Raises `KernelError`.
        """
        if self._reads_as_stored:
            return self._run(x, weights, *others)
        # Taken out while it is in use: what interrupts this call (a signal, a finalizer) may call kernels too.
        kept = _buffers.by_bytes
        buffer = kept.pop(self._buffer_bytes, None)
        if buffer is None:
            buffer = aligned_empty((self._buffer_bytes,), np.uint8)
        packed = address(buffer)
        code = self.loaded.pack(weights, packed)
        if code:
            raise _failure(self, code)
        self._run(x, packed, *others)
        if self._buffer_bytes <= MAX_KEPT_BYTES:
            kept[self._buffer_bytes] = buffer

    def call_at(self, x: int, packed: Packed, *others: int) -> None:
        """As a call, for addresses that the caller has checked, in the order of `once_at`. Raises as a call does."""
        self._run(x, address(self._unpacked(packed)), *others)

    def takes(self, packed: Packed) -> bool:
        """Whether this kernel reads weights as another has packed them, perhaps for another batch size."""
        return packed.layout == self._layout

    def _unpacked(self, packed: Packed) -> Array:
        if not isinstance(packed, Packed) or not self.takes(packed):
            raise ArrayError(f"{self._names[1]} must come from this kernel's pack(); got {_describe(packed)}")
        return packed.array

    def _arrays(self, x: Any, packed: Array, bias: Any, residual: Any, c: Any, out: Any) -> list[Array]:
        """All arguments in calling order, checked; `out` is made if it is None."""
        dtype, y_shape = self._dtype, self._y_shape
        check_array(self._names[0], x, self._x_shape, dtype)
        arrays = [x, packed]
        names = self._optional
        if names or bias is not None or residual is not None or c is not None:
            for name, value in (("bias", bias), ("residual", residual), ("c", c)):
                wanted = name in names
                if (value is not None) != wanted:
                    raise ArrayError(f"the problem has {'a' if wanted else 'no'} {name}, but {_describe(value)} was given")
                if value is not None:
                    check_array(name, value, y_shape[-1:] if name == "bias" else y_shape, dtype)
                    arrays.append(value)
        if out is None and not self._pitch:
            out = self._new_output()
        else:
            check_output(out, y_shape, dtype, dict(zip((*self._names, *names), arrays)), self._pitch)
        arrays.append(out)
        return arrays

    def __call__(
        self, x: Any, packed: Packed, *, bias: Any = None, residual: Any = None, c: Any = None, out: Any = None
    ) -> Array:
        """Compute the problem.

        `x` is `(batch, *in_size, in_channels)` (a matrix product: A), `bias` `(out_channels,)`, `residual`, `c` and `out`
        have the output's shape; all are dense arrays of the problem's dtype, but for the `out` of a problem with an
        `out_pitch`, which must be given: a slice of the channels of a tensor of so many. Returns `out`.
        Raises `ArrayError`, `DtypeError`, `KernelError`.
        """
        return self._call(self._arrays(x, self._unpacked(packed), bias, residual, c, out))

    def _call(self, arrays: list[Array]) -> Array:
        self._run(*[address(array) for array in arrays])
        return arrays[-1]

    def _run(self, *addresses: int) -> None:
        code = self.loaded.run(*addresses)
        if code:
            raise _failure(self, code)

    def bind(
        self, x: Any, packed: Packed, *, bias: Any = None, residual: Any = None, c: Any = None, out: Any = None
    ) -> BoundCall:
        """Check the arguments of a call once, to repeat it without overhead. The arrays are kept, not copied."""
        return BoundCall(self, self._arrays(x, self._unpacked(packed), bias, residual, c, out))

    def explain(self, *, disassembly: bool = False) -> str:
        """Equation, choice, loop nest, register tile, work and floor times as text; see `sevenloops explain`."""
        from .explain import explain

        return explain(self, disassembly=disassembly)

    def __repr__(self) -> str:
        kind = "conv" if isinstance(self.problem, ConvProblem) else "product"
        return f"<Kernel {kind} [{self.problem}] {self.schedule} for {self.machine.isa}, {self.threads} threads>"


def _describe(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
