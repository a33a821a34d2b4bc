"""A plan: a network for exact sizes, compiled, its memory laid out, ready to run again and again.

Every step is a kernel call with fixed addresses, but for those in the caller's arrays, which are put in before a run. All
calls between two operators that are not compiled run in one native call (`compile.steps`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import address, aligned_empty, same_bytes
from ..compile import Kernel, compile, compile_kept
from ..compile.layer import compile_layer, layer_kept, layer_of
from ..compile.runtime import LoadedKernel, step_list
from ..errors import GraphError, KernelError, printable
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .limits import current
from .lower import Lowered
from .lowering import Constant, PythonStep, Step, Weights, aligned
from .memory import MemoryPlan, Span, plan_memory
from .place import Tensor

__all__ = ["Plan", "PlannedStep", "StepTime", "compile_plan"]

Array = np.ndarray[Any, Any]
OnDone = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PlannedStep:
    """What one step of a plan does. `kernel` is None for steps in Python."""

    step: Step | PythonStep
    kernel: Kernel | LoadedKernel | None

    @property
    def label(self) -> str:
        """The node's name."""
        return self.step.label

    @property
    def op(self) -> str:
        """The operator; "layout" for copies that only change the order of axes."""
        return self.step.op

    @property
    def problem(self) -> Any:
        """The problem of the kernel, or None."""
        return self.step.problem if isinstance(self.step, Step) else None

    @property
    def algorithm(self) -> str:
        """The algorithm or layer; "python" for what is not compiled."""
        if isinstance(self.kernel, Kernel):
            return self.kernel.algorithm
        return layer_of(self.problem).name if self.kernel is not None else "python"

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the kernel; None for steps in Python."""
        if isinstance(self.kernel, Kernel):
            return self.kernel.schedule
        return None if self.kernel is None else layer_of(self.problem).schedules(self.problem, Machine.host())[0]

    @property
    def params(self) -> int:
        """Numbers that the step keeps from run to run, as the passes left them: weights, biases, scales."""
        weights = any(isinstance(operand, Weights) for operand in self.step.operands)
        shape = self.problem.b_shape if isinstance(self.problem, GemmProblem) else getattr(self.problem, "w_shape", ())
        held = sum(operand.array.size for operand in self.step.operands if isinstance(operand, Constant))
        return held + (math.prod(shape) if weights else 0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the definition."""
        return self.problem.macs if isinstance(self.problem, (ConvProblem, GemmProblem)) else 0

    @property
    def macs_executed(self) -> int:
        """Multiply-accumulates that the code really does."""
        return self.kernel.macs_executed if isinstance(self.kernel, Kernel) else 0

    @property
    def bytes(self) -> int:
        """Bytes read and written, each operand counted once (a perfect cache)."""
        if isinstance(self.problem, (ConvProblem, GemmProblem)):
            return self.problem.unique_bytes
        constants = sum(o.array.nbytes for o in self.step.operands if isinstance(o, Constant))
        return constants + sum(tensor.n_bytes for tensor in (*self.step.reads, *self.step.writes))

    def __str__(self) -> str:
        what = self.problem if self.problem is not None else getattr(self.step, "reason", "")
        return printable(f"{self.label}: {self.op} by {self.algorithm} [{what}]")


class StepTime(NamedTuple):
    """The time of one step in one run."""

    step: PlannedStep
    seconds: float


@dataclass(frozen=True)
class _Patch:
    """An argument that lies in the caller's memory: its place among the arguments, the storage, bytes from its start."""

    argument: int
    storage: int
    offset: int


class Plan:
    """See the module. Made by `compile_plan`; one run at a time.

    `packed` has the weights as kernels read them, by their names and then by problem.
    """

    def __init__(
        self,
        lowered: Lowered,
        kernels: Sequence[Any],
        memory: MemoryPlan,
        others: Iterable[Plan],
        own: bool,
        arena: Array | None = None,
    ) -> None:
        self.inputs, self.outputs, self.notes = lowered.inputs, lowered.outputs, lowered.notes
        self.dynamic, self.tail, self.constants = lowered.dynamic, lowered.tail, lowered.constants
        self.steps = tuple(PlannedStep(step, kernel) for step, kernel in zip(lowered.steps, kernels))
        self.memory = memory
        size = self.memory.total_bytes
        self.arena = arena if arena is not None and arena.size >= size else aligned_empty((size,), np.uint8)
        self._keep: list[Any] = []
        self._patches: list[_Patch] = []
        self._external = {tensor.storage.id for tensor in (*self.inputs.values(), *self.outputs.values())}
        self._base = {key: address(self.arena) + offset for key, offset in self.memory.offsets.items()}
        self.packed: dict[tuple[Any, ...], dict[Problem, Array]] = {}
        self._others, self._own = tuple(others), own
        calls: list[tuple[int, list[int]]] = []
        self._given = 0  # arguments of the calls so far
        self._ranges: list[tuple[int, int]] = []
        for planned in self.steps:
            begin = len(calls)
            if isinstance(planned.step, Step):
                self._add_calls(calls, planned, planned.step)
            self._ranges.append((begin, len(calls)))
        self._others = ()
        self._list = step_list(calls)
        self._segments = self._segmented()

    # --------------------------------------------------------------------------------------------- building

    def _add_calls(self, calls: list[tuple[int, list[int]]], planned: PlannedStep, step: Step) -> None:
        kernel, arguments = planned.kernel, list(step.operands)
        loaded = kernel.loaded if isinstance(kernel, Kernel) else kernel
        assert loaded is not None
        resolved: list[int] = []
        if isinstance(kernel, Kernel) and isinstance(arguments[1], (Tensor, Constant)):
            packed = aligned_empty(kernel.image.pack_buffers[-1].shape, kernel.problem.dtype)
            calls.append((loaded.pack_list, [self._address(arguments[1], self._given, kernel), address(packed)]))
            self._given += 2
            arguments[1] = Constant(packed)
        for operand in (*arguments, step.output):
            resolved.append(self._address(operand, self._given + len(resolved), kernel))
        calls.append((loaded.run_list, resolved))
        self._given += len(resolved)

    def _address(self, operand: Any, argument: int, kernel: Any) -> int:
        if isinstance(operand, Tensor):
            offset = operand.offset * np.dtype(operand.dtype).itemsize
            if operand.storage.id in self._external:
                self._patches.append(_Patch(argument, operand.storage.id, offset))
                return 0
            return self._base[operand.storage.id] + offset
        array = self._pack(operand, kernel) if isinstance(operand, Weights) else operand.array
        self._keep.append(array)
        return address(array)

    def _pack(self, weights: Weights, kernel: Kernel) -> Array:
        """The weights as a kernel reads them: packed once for all steps of one problem, and not kept as they were.

        Other plans of the session share them where every byte agrees. No name says that: weights may be computed from the
        sizes of the inputs, and the order in which they are packed may depend on anything in the problem.
        """
        own = self.packed.setdefault(weights.key, {})
        array = weights.take(overwrite=self._own and weights.gather is not None and self._read_once(weights.held[0]))
        if kernel.problem not in own:
            made = aligned(array) if kernel.algorithm in ("gemv", "naive") else kernel.pack(array).array
            found = (a for plan in (self, *self._others) for a in plan.packed.get(weights.key, {}).values())
            own[kernel.problem] = next((a for a in found if same_bytes(a, made)), made)
        return own[kernel.problem]

    def _read_once(self, array: Array) -> bool:
        """Whether no step but the one whose weights it is reads an array, and it is no output."""
        operands = [operand for planned in self.steps for operand in planned.step.operands]
        held = [a for operand in operands if isinstance(operand, Weights) for a in operand.held]
        held += [operand.array for operand in operands if isinstance(operand, Constant)]
        return sum(np.may_share_memory(array, other) for other in (*held, *self._keep, *self.constants.values())) == 1

    def _segmented(self) -> list[tuple[int, int]]:
        """Runs of steps (first, behind the last) for one native call each; a step in Python stands alone."""
        segments: list[tuple[int, int]] = []
        for at, planned in enumerate(self.steps):
            native = isinstance(planned.step, Step)
            if native and segments and isinstance(self.steps[segments[-1][0]].step, Step):
                segments[-1] = (segments[-1][0], at + 1)
            else:
                segments.append((at, at + 1))
        return segments

    # -------------------------------------------------------------------------------------------- running

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the outputs from inputs that are dense and of the exact dtypes and shapes (the session sees to that)."""
        return self._run(feeds, None)

    def profile(self, feeds: Mapping[str, Array]) -> tuple[list[StepTime], dict[str, Array]]:
        """One run with the time of every step, and its outputs."""
        seconds = [0.0] * len(self.steps)
        outputs = self._run(feeds, seconds)
        return list(map(StepTime, self.steps, seconds)), outputs

    def _run(self, feeds: Mapping[str, Array], seconds: list[float] | None) -> dict[str, Array]:
        outputs = {name: aligned_empty(t.shape, np.dtype(t.dtype)) for name, t in self.outputs.items()}
        where = {tensor.storage.id: address(feeds[name]) for name, tensor in self.inputs.items()}
        where |= {tensor.storage.id: address(outputs[name]) for name, tensor in self.outputs.items()}
        arguments = self._list.arguments
        for patch in self._patches:
            arguments[patch.argument] = where[patch.storage] + patch.offset
        array_of = None
        for first, last in self._segments:
            if isinstance(self.steps[first].step, Step):
                self._run_native(first, last, seconds)
                continue
            array_of = array_of or self._arrays(feeds, outputs)
            start = time.perf_counter()
            self._run_python(first, array_of)
            if seconds is not None:
                seconds[first] = time.perf_counter() - start
        return outputs

    def _run_native(self, first: int, last: int, seconds: list[float] | None) -> None:
        """Run the steps from `first` up to `last`, all of them kernels."""
        begin, end = self._ranges[first][0], self._ranges[last - 1][1]
        times = None if seconds is None else np.zeros(end - begin + 1, np.int64)
        failed = self._list.run(begin, end, times)
        if failed:
            call, code = failed
            at = next(at for at, (low, high) in enumerate(self._ranges) if low <= call < high)
            raise KernelError(f"{self.steps[at]} failed with Halide's code {code} (out of memory?)")
        if seconds is not None and times is not None:  # in few lines of Python: their code lies in no cache
            clock = times.tolist()
            seconds[first:last] = [1e-9 * (clock[end - begin] - clock[low - begin]) for low, end in self._ranges[first:last]]

    def _arrays(self, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Callable[[Tensor], Array]:
        external = {tensor.storage.id: feeds[name] for name, tensor in self.inputs.items()}
        external |= {tensor.storage.id: outputs[name] for name, tensor in self.outputs.items()}

        def array_of(tensor: Tensor) -> Array:
            key = tensor.storage.id
            if key in external:
                return tensor.array(external[key].reshape(-1).view(np.uint8))
            begin = self.memory.offsets[key]
            return tensor.array(self.arena[begin : begin + tensor.storage.n_bytes])

        return array_of

    def _run_python(self, at: int, array_of: Callable[[Tensor], Array]) -> None:
        step = self.steps[at].step
        assert isinstance(step, PythonStep)
        given: list[Any] = []
        for operand in step.operands:
            if isinstance(operand, Tensor):
                given.append(np.ascontiguousarray(array_of(operand)).reshape(operand.shape))
            else:
                given.append(None if operand is None else operand.array)
        for output, result in zip(step.outputs, step.function(given)):
            if output is not None:
                value = np.asarray(result)
                if value.shape != output.shape:
                    raise KernelError(f"{step.op} {step.label!r} gave shape {value.shape} where {output.shape} was expected")
                array_of(output)[...] = value

    @property
    def constant_bytes(self) -> int:
        """Bytes of packed weights and other constants; those that steps share count once."""
        return sum({id(array): array.nbytes for array in self._keep}.values())

    def poison(self) -> None:
        """Fill the arena with NaN, to see that every element that is read has been written."""
        self.arena[...] = 0xFF

    def __str__(self) -> str:
        lines = [f"{len(self.steps)} steps, arena {self.memory.total_bytes:,} bytes"]
        return "\n".join(lines + [f"  {planned}" for planned in self.steps])


def _memory(lowered: Lowered) -> MemoryPlan:
    """Offsets for all storages but the caller's."""
    external = {tensor.storage.id for tensor in (*lowered.inputs.values(), *lowered.outputs.values())}
    spans: dict[int, list[int]] = {}
    for at, step in enumerate(lowered.steps):
        for tensor in (*step.reads, *step.writes):
            if tensor.storage.id not in external:
                spans.setdefault(tensor.storage.id, [at, at])[1] = at
    sizes = {storage.id: storage.n_bytes for storage in lowered.storages}
    return plan_memory([Span(key, sizes[key], first, last) for key, (first, last) in spans.items()])


def compile_plan(
    lowered: Lowered,
    *,
    threads: int,
    accuracy: str,
    others: Iterable[Plan] = (),
    own: bool = False,
    arena: Array | None = None,
    schedules: Mapping[Problem, Schedule] | None = None,
    on_done: OnDone = lambda label, done, total: None,
) -> Plan:
    """Compile the kernels of all steps, side by side, and lay out the memory. `schedules` are given, others chosen.

    Packed weights are shared with `others`, plans of the same network for other sizes, where they are the same. `own` says
    that nobody else reads the weights, so that they may be overwritten.
    `on_done(label, done, total)` is told of each kernel. What is compiled is in the cache, so an interrupted load goes on
    where it stopped. Raises the first error, after all have ended.
    """
    memory = _memory(lowered)
    _check_memory(lowered, memory)
    wanted: dict[Any, str] = {step.problem: step.label for step in lowered.steps if isinstance(step, Step)}
    kernels = _kernels(wanted, threads, accuracy, schedules or {}, on_done)
    by_step = [kernels[step.problem] if isinstance(step, Step) else None for step in lowered.steps]
    return Plan(lowered, by_step, memory, others, own, arena)


def _check_memory(lowered: Lowered, memory: MemoryPlan) -> None:
    """Raise `GraphError` for a plan that needs more memory than there may be, naming its largest step."""
    needs, most = memory.total_bytes + sum(tensor.n_bytes for tensor in lowered.outputs.values()), current().max_bytes
    if needs > most:
        largest = max(lowered.steps, key=lambda step: sum(tensor.n_bytes for tensor in step.writes))
        raise GraphError(
            f"a run needs {needs:,} bytes beside weights, and max_bytes is {most:,}; the largest step is "
            f"{largest.op} {largest.label!r}; smaller inputs, or a session with a larger max_bytes, would work"
        )


def _kernels(
    wanted: Mapping[Any, str], threads: int, accuracy: str, given: Mapping[Problem, Schedule], on_done: OnDone
) -> dict[Any, Any]:
    """The kernel of every problem: those in the cache one by one, which is quick in Python, the others side by side."""
    found: dict[Any, Any] = {}
    for problem, label in wanted.items():
        kernel = None if problem in given else _kept(problem, threads, accuracy)
        if kernel is not None:
            found[problem] = kernel
            on_done(label, len(found), len(wanted))
    missing = [problem for problem in wanted if problem not in found]
    if not missing:
        return found
    from ..compile.workers import compile_all  # a warm start does without

    tasks = [functools.partial(_kernel, problem, threads, accuracy, given.get(problem)) for problem in missing]
    errors: dict[int, Exception] = {}
    for index, result in compile_all(tasks, Machine.host().cores):
        if isinstance(result, Exception):
            errors[index] = result
        found[missing[index]] = result
        on_done(wanted[missing[index]], len(found), len(wanted))
    if errors:
        raise errors[min(errors)]
    return found


def _kept(problem: Any, threads: int, accuracy: str) -> Kernel | LoadedKernel | None:
    if isinstance(problem, (ConvProblem, GemmProblem)):
        return compile_kept(problem, threads=threads, accuracy=accuracy, in_network=True)
    return layer_kept(problem, threads)


def _kernel(problem: Any, threads: int, accuracy: str, schedule: Schedule | None) -> Kernel | LoadedKernel:
    if isinstance(problem, (ConvProblem, GemmProblem)):
        return compile(problem, schedule=schedule, threads=threads, accuracy=accuracy, in_network=True)
    return compile_layer(problem, threads)
