"""From a problem and a schedule to a callable kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from ..algorithms import check_schedule
from ..choice import check_accuracy, check_weights, forced
from ..errors import ProblemError, ScheduleError
from ..machine import Machine, MachineError
from ..problem import Problem
from ..recent import Recent
from ..schedule import Schedule
from .build import TIME_LIMIT_S, KernelImage
from .choices import chosen, kept
from .kernel import BoundCall, Kernel, Packed

__all__ = ["BoundCall", "Kernel", "Packed", "compile", "compile_kept", "compile_many", "resolve_threads"]

ImageOf = Callable[[Problem, Schedule, Machine], KernelImage | None]


def resolve_threads(threads: int | None) -> int:
    """The thread count of a call: all cores this process may use, or fewer when asked; at least 1."""
    cores = Machine.host().cores
    if threads is None:
        return cores
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ProblemError(f"threads must be None or an integer of at least 1, got {threads!r}")
    return min(threads, cores)


def resolve_schedule(
    problem: Problem,
    algorithm: str | None,
    schedule: Schedule | None,
    machine: Machine,
    accuracy: str = "fast",
    in_network: bool = False,
    weights: str = "constant",
) -> tuple[Schedule, str]:
    """The schedule to compile and why: the one given, or the choice, among all algorithms or the one given."""
    check_accuracy(accuracy)
    check_weights(weights)
    if schedule is not None:
        if algorithm is not None and algorithm != schedule.algorithm:
            raise ScheduleError(f"algorithm={algorithm!r} was asked, but the schedule is for {schedule.algorithm!r}")
        forced(problem, schedule.algorithm, accuracy)
        reason = check_schedule(problem, schedule, machine)
        if reason is not None:
            raise ScheduleError(f"{schedule} does not fit {problem}: {reason}")
        return schedule, "the schedule was given"
    return chosen(problem, machine, accuracy, algorithm, in_network, weights)


def compile(
    problem: Problem,
    *,
    algorithm: str | None = None,
    schedule: Schedule | None = None,
    machine: Machine | None = None,
    threads: int | None = None,
    accuracy: str = "fast",
    in_network: bool = False,
    weights: str = "constant",
    time_limit_s: float = TIME_LIMIT_S,
) -> Kernel:
    """Compile a problem, or take the kernel from the cache; the process keeps the `recent.MAX_KEPT` kernels used last.

    `algorithm` forces one by name, `schedule` a schedule of your own, `machine` a lesser instruction set of this machine.
    `threads` caps the threads of each call; it never changes the result. The same schedule serves any count.
    `accuracy="strict"` keeps to algorithms that accumulate as the definition does; `"fast"` allows every algorithm inside
    the error bound of its row (`Algorithm.tolerance`). Without `algorithm` and `schedule`, a tuned record or the cost model
    decides (`sevenloops.choice`), for a layer `in_network` what was tuned inside one; `kernel.why` says how. With
    `weights="varying"` the time of packing counts in that, for weights that are packed in every call (`Kernel.once`).

    Raises `Unsupported`, `ScheduleError`, `CompileError`, `CompileTimeout`, and `MachineError` for a machine whose code
    cannot run here (`sevenloops.compile.build.build_image` compiles for those).
    """
    machine = Machine.host() if machine is None else machine
    _check_runs_here(machine)
    best, why = resolve_schedule(problem, algorithm, schedule, machine, accuracy, in_network, weights)
    kernel = _compiled(problem, best, machine, resolve_threads(threads), why, functools.partial(_image, time_limit_s))
    assert kernel is not None
    return kernel


def compile_kept(
    problem: Problem, *, threads: int | None = None, accuracy: str = "fast", in_network: bool = False
) -> Kernel | None:
    """As `compile` if its choice and code are in the cache, which takes a millisecond; else None."""
    from .store import kept_image

    check_accuracy(accuracy)
    machine = Machine.host()
    found = kept(problem, machine, accuracy, in_network)
    return found and _compiled(problem, found[0], machine, resolve_threads(threads), found[1], kept_image)


def compile_many(
    problems: Sequence[Problem],
    *,
    algorithm: str | None = None,
    machine: Machine | None = None,
    threads: int | None = None,
    accuracy: str = "fast",
    time_limit_s: float = TIME_LIMIT_S,
    on_done: Callable[[Problem, Kernel | Exception], None] = lambda problem, result: None,
) -> list[Kernel]:
    """Compile several problems side by side, one worker process a core; options as `compile`.

    `on_done(problem, kernel or exception)` is called as each one ends, for a progress bar. What is finished is in the
    cache, so an interrupted run goes on where it stopped. Returns the kernels in the order of `problems`.
    Raises the first error, after all have ended.
    """
    from .workers import compile_all

    options: dict[str, Any] = {"algorithm": algorithm, "machine": machine, "threads": threads, "accuracy": accuracy}
    tasks = [functools.partial(compile, problem, time_limit_s=time_limit_s, **options) for problem in problems]
    results: dict[int, Kernel | Exception] = {}
    for index, result in compile_all(tasks, Machine.host().cores):
        results[index] = result
        on_done(problems[index], result)
    kernels = []
    for index in range(len(problems)):
        result = results[index]
        if isinstance(result, Exception):
            raise result
        kernels.append(result)
    return kernels


@functools.cache
def _check_runs_here(machine: Machine) -> None:
    host = Machine.host()
    order = ("sse4", "avx2", "avx512")
    same = (machine.arch, machine.os) == (host.arch, host.os)
    if not same or (machine.isa != host.isa and order.index(machine.isa) > order.index(host.isa)):
        raise MachineError(f"kernels for {machine.key} cannot run here ({host.key})")


#: Kernels by all that they depend on and by why they were chosen; those that differ in that alone share their code.
_kernels: Recent[tuple[Problem, Schedule, str, int, str | None], Kernel] = Recent()


def _image(time_limit_s: float, problem: Problem, schedule: Schedule, machine: Machine) -> KernelImage:
    from .store import kernel_image

    return kernel_image(problem, schedule, machine, time_limit_s)


def _compiled(
    problem: Problem, schedule: Schedule, machine: Machine, threads: int, why: str, image_of: ImageOf
) -> Kernel | None:
    """The kernel, loaded once; None where `image_of` has no code for it."""
    from .runtime import load

    key = (problem, schedule, machine.build_key, threads)
    kernel = _kernels.find((*key, why))
    if kernel is None:
        same = _kernels.find((*key, None))
        image = same.image if same else image_of(problem, schedule, machine)
        if image is None:
            return None
        kernel = Kernel(problem, schedule, machine, threads, image, same.loaded if same else load(image, threads), why)
        _kernels.keep((*key, None), kernel)
        kernel = _kernels.keep((*key, why), kernel)
    return kernel
