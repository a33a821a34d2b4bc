"""A plan: a network for exact sizes, compiled, its memory laid out, ready to run again and again.

Its kernel calls are a `Program`, run by an `Executable`; a plan knows beside that what each step is for, and runs the
operators that are not compiled. All calls between two of those run in one native call (`compile.steps`).
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import aligned_empty, same_bytes
from ..compile import Kernel, compile, compile_kept
from ..compile.layer import compile_layer, layer_kept, layer_of
from ..compile.runtime import LoadedKernel
from ..errors import GraphError, KernelError, printable
from ..machine import Machine
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule
from .limits import current
from .lower import Lowered
from .lowering import Constant, PythonStep, Step, Weights, aligned
from .memory import MemoryPlan, Span, plan_memory
from .place import Tensor
from .program import ARENA, CONSTANT, INPUT, OUTPUT, Argument, Call, Executable, Port, Program

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
        self._held: dict[int, tuple[int, Array]] = {}  # constants in order: by identity, their number and themselves
        self._regions = {tensor.storage.id: (INPUT, at) for at, tensor in enumerate(self.inputs.values())}
        self._regions |= {tensor.storage.id: (OUTPUT, at) for at, tensor in enumerate(self.outputs.values())}
        self.packed: dict[tuple[Any, ...], dict[Problem, Array]] = {}
        self._others, self._own = tuple(others), own
        calls: list[Call] = []
        self._ranges: list[tuple[int, int]] = []
        self.kernels: dict[str, LoadedKernel] = {}
        for planned in self.steps:
            begin = len(calls)
            if isinstance(planned.step, Step):
                calls += self._calls(planned.kernel, planned.step)
            self._ranges.append((begin, len(calls)))
        self._others = ()
        ports = [
            tuple(Port(name, tensor.shape, tensor.dtype) for name, tensor in of.items())
            for of in (self.inputs, self.outputs)
        ]
        held = [array for _, array in self._held.values()]
        sizes = tuple(array.nbytes for array in held)
        self.program = Program(ports[0], ports[1], memory.total_bytes, sizes, tuple(calls))
        self._executable = Executable(self.program, self.kernels, held, arena)
        self._segments = self._segmented()

    @property
    def arena(self) -> Array:
        """The memory of all values between inputs and outputs."""
        return self._executable.arena

    @property
    def held(self) -> list[Array]:
        """The constants of the program in order: packed weights and others."""
        return [array for _, array in self._held.values()]

    # --------------------------------------------------------------------------------------------- building

    def _calls(self, kernel: Any, step: Step) -> Iterator[Call]:
        loaded = kernel.loaded if isinstance(kernel, Kernel) else kernel
        name = loaded.image.name
        self.kernels[name] = loaded
        operands = list(step.operands)
        if isinstance(kernel, Kernel) and isinstance(operands[1], (Tensor, Constant)):
            packed = Constant(aligned_empty(kernel.image.pack_buffers[-1].shape, kernel.problem.dtype))
            yield Call(name, True, (self._argument(operands[1], kernel), self._argument(packed, kernel)))
            operands[1] = packed
        yield Call(name, False, tuple(self._argument(operand, kernel) for operand in (*operands, step.output)))

    def _argument(self, operand: Any, kernel: Any) -> Argument:
        if isinstance(operand, Tensor):
            offset, key = operand.offset * np.dtype(operand.dtype).itemsize, operand.storage.id
            if key in self._regions:
                return Argument(*self._regions[key], offset)
            return Argument(ARENA, 0, self.memory.offsets[key] + offset)
        array = self._pack(operand, kernel) if isinstance(operand, Weights) else operand.array
        return Argument(CONSTANT, self._held.setdefault(id(array), (len(self._held), array))[0], 0)

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
        return sum(np.may_share_memory(array, other) for other in (*held, *self.held, *self.constants.values())) == 1

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
        outputs = self._executable.outputs()
        self._executable.bind(feeds, outputs)
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
        failed = self._executable.call(begin, end, times)
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
        return sum(self.program.constants)

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
