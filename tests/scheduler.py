"""Parallel loops for tests: the tasks of a kernel in any order, on any number of threads, late on purpose, or one by one.

A kernel asks the runtime for `sevenloops_par_for`; here its code is placed in memory once more, with a loop of the test's
own under that name. What a race hides in thousands of runs, an order of tasks shows in one.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from operands import Array
from sevenloops.compile import Kernel, runtime
from sevenloops.compile.build import KernelImage
from sevenloops.compile.link import Linked, links
from sevenloops.compile.native import Placed
from sevenloops.compile.runtime import LoadedKernel
from sevenloops.machine import Machine

__all__ = ["Loop", "OneByOne", "ParFor", "Task", "can_schedule", "kernel_with_loop", "late", "with_loop"]

#: Runs a task, given by its number; returns Halide's error code.
Task = Callable[[int], int]
#: Runs so many tasks.
Loop = Callable[[Task, int], None]

_BODY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_PAR_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int
)
#: A NaN that no kernel makes.
POISON: dict[str, Any] = {"float32": np.uint32(0x7FE12211), "float64": np.uint64(0x7FFE122133445566)}


def can_schedule(machine: Machine) -> bool:
    """Whether kernels are linked by this package here, so that a test can give them a loop."""
    return links(machine)


class ParFor:
    """A loop as the function that kernels call, `sevenloops_par_for`; it must outlive the kernels that call it."""

    def __init__(self, loop: Loop) -> None:
        def par_for(context: int, body: int, first: int, count: int, closure: int, threads: int) -> int:
            call, codes = _BODY(body), list[int]()

            def task(number: int) -> int:
                codes.append(call(context, first + number, closure))
                return codes[-1]

            loop(task, count)
            return max(codes, key=abs, default=0)

        self._callback = _PAR_FOR(par_for)
        self.address = ctypes.cast(self._callback, ctypes.c_void_p).value or 0


def with_loop(image: KernelImage, machine: Machine, loop: Loop) -> LoadedKernel:
    """The functions of a compiled kernel, with its parallel loops run by `loop`."""
    par_for, the_runtime = ParFor(loop), runtime._runtime()
    linked = Linked.from_bytes(image.linked(machine).objects[0])
    code = Placed(linked, lambda name: par_for.address if name == "sevenloops_par_for" else the_runtime.resolve(name))
    return replace(runtime.called(image, code, threads=2), keep=(code, par_for))


def kernel_with_loop(kernel: Kernel, loop: Loop) -> Kernel:
    """A copy of a kernel, with its parallel loops run by `loop`."""
    loaded = with_loop(kernel.image, kernel.machine, loop)
    return Kernel(kernel.problem, kernel.schedule, kernel.machine, kernel.threads, kernel.image, loaded, kernel.why)


def late(threads: int, seed: int) -> Loop:
    """Tasks in a random order, dealt to `threads` threads that wait a random time before some of them."""
    rng = np.random.default_rng(seed)

    def loop(task: Task, count: int) -> None:
        order, waits = rng.permutation(count).tolist(), (rng.exponential(5e-5, count) * (rng.random(count) < 0.3)).tolist()

        def work(numbers: list[int]) -> None:
            for number in numbers:
                if waits[number]:
                    time.sleep(waits[number])
                task(number)

        helpers = [threading.Thread(target=work, args=(order[at::threads],)) for at in range(1, threads)]
        for helper in helpers:
            helper.start()
        work(order[::threads])
        for helper in helpers:
            helper.join()

    return loop


class OneByOne:
    """A loop that watches what each task writes into `out`; `most` is how many tasks wrote one element at most.

    The order is that of the numbers, or with `backwards` the reverse.
    """

    def __init__(self, out: Array, *, backwards: bool = False) -> None:
        self.out, self.backwards, self.most = out, backwards, 0

    def __call__(self, task: Task, count: int) -> None:
        """Run the tasks into a poisoned output each, and put together what they wrote."""
        poison = POISON[self.out.dtype.name]
        written, kept = np.zeros(self.out.shape, np.int64), self.out.copy()
        for number in range(count)[:: -1 if self.backwards else 1]:
            self.out[...] = poison.view(self.out.dtype)
            task(number)
            new = np.ascontiguousarray(self.out).view(poison.dtype) != poison
            written += new
            kept[new] = self.out[new]
        self.out[...] = kept
        self.most = max(self.most, int(written.max(initial=0)))
