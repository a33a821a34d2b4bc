"""`InferenceSession`: a network from an ONNX file or a Graph, compiled for the sizes it is fed, run on arrays."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from . import records
from .arrays import as_array
from .choice import check_accuracy
from .compile import Packed, resolve_threads
from .descriptor import parse_problem
from .errors import DtypeError, FallbackWarning, GraphError
from .graph.dtypes import ELEMENTS
from .graph.ir import Graph, Value
from .graph.limits import MAX_STEPS, limited, machine_bytes
from .graph.lower import LOWERINGS, lower
from .graph.lowering import PythonStep
from .graph.onnx_weights import release
from .graph.passes import PASSES, optimise
from .graph.plan import Plan, StepTime, compile_plan
from .graph.shapes import check_asked, infer
from .problem import Problem
from .schedule import Schedule
from .sizes import as_int

__all__ = ["InferenceSession", "NodeArg"]

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]
Model = str | PathLike[str] | bytes | Graph
#: All passes but the one that writes element-wise operators in the form that kernels have.
OPTIONAL_PASSES = tuple(row.name for row in PASSES if row.name != "fuse_elementwise")
FLOAT32 = np.dtype(np.float32)
#: Plans for different sizes that a session keeps; the one unused longest goes.
MAX_PLANS = 32
#: Sizes that come as values have few elements.
MOST_SIZES = 64


@dataclass(frozen=True)
class NodeArg:
    """An input or output of a network; a dimension may be a name (any size). `shape` is None where the rank is unknown."""

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str


class InferenceSession:
    """A network ready to run. Thread-safe: runs of one session take turns, each on all of its threads.

    Args:
        model: path or bytes of an ONNX model, or a `Graph`.
        threads: at most this many; by default every core this process may use. Results do not depend on it.
        accuracy: `"fast"` or `"strict"`, as in `sevenloops.compile`.
        shapes: sizes of inputs by name, to compile for them at once; inputs whose size is fixed need none. Other sizes
            are compiled when they first come (a plan per size, the last 32 kept).
        schedules: of your own, by problem (or its descriptor, as `plan` prints it); the others are chosen.
        passes: False leaves layers as the model has them: slower, to see what the passes do.
        progress: is told `(label, done, total)` as kernels are compiled.
        max_bytes: what a value may take, and what a run may take beside weights; by default the memory that this process
            may have. Checked before anything is allocated.
        max_steps: so many operators may run inside of one loop of the model.

    Operators without a kernel are computed by the `onnx` package's reference evaluator: a `FallbackWarning` names them.
    Raises `GraphError` for a model that cannot be read or has no meaning; `CompileError`.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int | None = None,
        accuracy: str = "fast",
        shapes: Mapping[str, Sequence[int]] | None = None,
        schedules: Mapping[Problem | str, Schedule] | None = None,
        passes: bool = True,
        progress: Progress = lambda label, done, total: None,
        max_bytes: int | None = None,
        max_steps: int = MAX_STEPS,
    ) -> None:
        check_accuracy(accuracy)
        self.max_bytes = machine_bytes() if max_bytes is None else as_int("max_bytes", max_bytes, 1)
        self.max_steps = as_int("max_steps", max_steps, 1)
        self.threads, self.accuracy, self._progress, self._passes = resolve_threads(threads), accuracy, progress, passes
        with self._limits():
            self.graph = _graph(model)
        _check_inputs(self.graph)
        self._schedules = {parse_problem(p) if isinstance(p, str) else p: s for p, s in (schedules or {}).items()}
        self._packed: dict[tuple[Any, ...], Packed] = {}
        self._plans: OrderedDict[Any, tuple[Graph, Plan]] = OrderedDict()
        self._tails: OrderedDict[Any, Graph | None] = OrderedDict()
        self._lock = threading.RLock()
        self._warned: set[str] = set()
        self._arena: Array | None = None
        self._inputs = {value.name: value for value in self.graph.inputs}
        if shapes is not None or all(value.known for value in self.graph.inputs):
            self._check_used(self.plan(shapes))

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that `run` is fed."""
        return [_arg(value) for value in self.graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs that `run` returns, as far as their types are known before the sizes are."""
        return [_arg(self.graph.type_of(name)) for name in self.graph.outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """Compute outputs (all for None) from inputs by name, as ONNX Runtime's `run` does.

        Arrays are NCHW where the model's are; float32 (or what the model says), of any strides; anything with
        `__array_interface__` or `__dlpack__` will do. The results are the caller's own.
        Raises `GraphError` (names, ranks, sizes), `DtypeError`, `KernelError`, and for a new size `CompileError`.
        """
        names = list(self.graph.outputs) if output_names is None else list(output_names)
        unknown = [name for name in names if name not in self.graph.outputs]
        if unknown:
            raise GraphError(f"there is no output {unknown[0]!r}; the outputs are {', '.join(self.graph.outputs)}")
        arrays = self._checked(feeds)
        with self._lock, self._limits():
            results = self._run(self.graph, arrays)
        return [results[name] for name in names]

    def plan(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Plan:
        """The plan for sizes of inputs by name; compiled if it is new. Print it to see the steps.

        Where sizes depend on values it ends before the first such operator. Raises `GraphError`, `CompileError`.
        """
        with self._lock, self._limits():
            fixed = {value.name: value.sizes for value in self.graph.inputs if value.known}
            return self._plan(self.graph, fixed | {name: tuple(shape) for name, shape in (shapes or {}).items()})

    def profile(self, feeds: Mapping[str, Any]) -> list[StepTime]:
        """One run with the time of every step of the plan (not of what lies behind sizes that depend on values)."""
        arrays = self._checked(feeds)
        with self._lock, self._limits():
            return self._plan(self.graph, {name: array.shape for name, array in arrays.items()}).profile(arrays)[0]

    # ----------------------------------------------------------------------------------------------- inside

    def _limits(self) -> AbstractContextManager[Any]:
        return limited(self.max_bytes, self.max_steps)

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        unknown = [name for name in feeds if name not in self._inputs]
        missing = [name for name in self._inputs if name not in feeds]
        if unknown or missing:
            what = f"there is no input {unknown[0]!r}" if unknown else f"the input {missing[0]!r} is missing"
            raise GraphError(f"{what}; the inputs are {', '.join(self._inputs)}")
        arrays = {}
        for name, value in self._inputs.items():
            if value.dtype == "object":
                arrays[name] = _strings(name, feeds[name])
                continue
            array = as_array(name, feeds[name])
            as_usual = array.dtype == FLOAT32 and value.dtype == "float32"
            if not as_usual and array.dtype.name != value.dtype:
                raise DtypeError(
                    f"{name} must be {value.dtype}, got {array.dtype}; convert it with .astype({value.dtype!r})"
                )
            flags = array.flags  # np.require and dtype.name take 100 us when their code is in no cache, as it is here
            dense = flags.c_contiguous and flags.aligned
            arrays[name] = array if dense else np.require(array, requirements=("C", "A"))
        return arrays

    def _plan(self, graph: Graph, sizes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan of a graph (the session's, or a tail) for sizes; made if it is new. Graphs are told apart by identity,
        and kept with their plans, so that no other can take their place."""
        key = (id(graph), tuple(sorted(sizes.items())), records.generation)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key][1]
        sized = infer(graph, sizes)
        lowered = lower(optimise(sized, () if self._passes else OPTIONAL_PASSES))
        del sized
        for array in self.graph.constants.values():  # passes have made others of most of them
            release(array)
        self._warn([step for step in lowered.steps if isinstance(step, PythonStep) and step.reason])
        plan = compile_plan(
            lowered,
            threads=self.threads,
            accuracy=self.accuracy,
            store=self._packed,
            arena=self._arena,
            schedules=self._schedules,
            on_done=self._progress,
        )
        self._arena = plan.arena
        self._plans[key] = (graph, plan)
        while len(self._plans) > MAX_PLANS:
            self._plans.popitem(last=False)
        return plan

    def _check_used(self, plan: Plan) -> None:
        """No schedule of the caller's may go unnoticed."""
        unused = [problem for problem in self._schedules if problem not in {step.problem for step in plan.steps}]
        if unused:
            raise GraphError(f"a schedule is given for {str(unused[0])!r}, which no step computes; print plan() for what is")

    def _warn(self, steps: Sequence[PythonStep]) -> None:
        new = {step.op: step for step in steps if step.op not in self._warned}
        self._warned.update(new)
        if new:
            reasons = "; ".join(f"{op} ({step.label}: {step.reason})" for op, step in new.items())
            warnings.warn(f"not compiled, computed by onnx's reference evaluator: {reasons}", FallbackWarning, stacklevel=5)

    def _run(self, graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
        plan = self._plan(graph, {name: array.shape for name, array in feeds.items() if isinstance(array, np.ndarray)})
        results = plan.run(feeds)
        results.update((name, np.array(plan.constants[name])) for name in graph.outputs if name in plan.constants)
        results.update((name, feeds[name]) for name in graph.outputs if name in feeds and name not in results)
        return results if plan.dynamic is None else {**results, **self._run_tail(graph, plan, {**feeds, **results})}

    def _run_tail(self, graph: Graph, plan: Plan, known: Mapping[str, Array]) -> dict[str, Array]:
        """The operator that decides sizes, and the graph behind it."""
        from .graph.fallback import evaluate

        node, tail = plan.dynamic, plan.tail
        assert node is not None
        assert tail is not None
        values = {**plan.constants, **known}
        fixed = self._with_sizes(graph, plan, values)
        if fixed is not None:
            return self._run(fixed, {value.name: values[value.name] for value in fixed.inputs})
        arrays = [values[name] if name else None for name in node.inputs]
        check_asked(node, arrays)
        found = evaluate(node, arrays)
        own = {name: _as_value(value) for name, value in zip(node.outputs, found) if name}
        values.update(own)
        if node.op not in self._warned:
            self._warn([PythonStep(node.label, node.op, "the sizes of its outputs depend on values", list, (), ())])
        tail = self._with_types(plan, values)
        feeds = {value.name: _dense(values[value.name]) for value in tail.inputs}
        return {**own, **(self._run(tail, feeds) if tail.nodes else {})}

    def _with_types(self, plan: Plan, values: Mapping[str, Any]) -> Graph:
        """The rest of a graph, with the dtypes that values have: of some operators they are not known before they run."""
        assert plan.tail is not None
        inputs = tuple(Value(v.name, v.shape, _dtype(values[v.name])) for v in plan.tail.inputs)
        if inputs == plan.tail.inputs:
            return plan.tail
        key = (plan, inputs)
        self._tails[key] = self._tails.get(key) or plan.tail.replace(inputs=inputs)
        self._trim()
        return self._tails[key] or plan.tail

    def _trim(self) -> None:
        while len(self._tails) > MAX_PLANS:
            self._tails.popitem(last=False)

    def _with_sizes(self, graph: Graph, plan: Plan, values: Mapping[str, Array]) -> Graph | None:
        """The rest of a graph, with the sizes that its first operator is given (a Resize, a Reshape) as constants.

        None where the sizes are the operator's own result.
        """
        node, tail = plan.dynamic, plan.tail
        assert node is not None
        assert tail is not None
        sizes = {name: values[name] for name in node.inputs[1:] if name}
        if node.op not in LOWERINGS or node.proto is not None or "object" in map(_dtype, values.values()):
            return None
        if any(array.size > MOST_SIZES for array in sizes.values()):
            return None
        key = (plan, *((name, array.dtype.str, array.tobytes()) for name, array in sizes.items()))
        if key not in self._tails:
            constants = {**tail.constants, **sizes}
            names = {*node.inputs, *(value.name for value in tail.inputs)} - {*constants, *node.outputs, ""}
            inputs = tuple(Value(name, values[name].shape, values[name].dtype.name) for name in sorted(names))
            outputs = tuple(name for name in graph.outputs if name not in values)
            rest = Graph((node, *tail.nodes), inputs, outputs, constants, name=graph.name)
            self._tails[key] = rest
            self._trim()
            behind = self._plan(rest, {value.name: value.sizes for value in inputs}).dynamic
            if behind is not None and behind.outputs == node.outputs:
                self._tails[key] = None
        return self._tails[key]


def _check_inputs(graph: Graph) -> None:
    for value in graph.inputs:
        if value.dtype not in ELEMENTS.values():
            kind = value.dtype.removesuffix("_type").replace("_", " ")
            raise GraphError(f"the input {value.name!r} is of the kind {kind}; sessions take tensors, one for each input")


def _strings(name: str, given: Any) -> Array:
    array = np.asarray(given)
    if array.dtype.kind not in "OUS":
        raise DtypeError(f"{name} must be strings, got {array.dtype}")
    return array.astype(object)


def _dtype(value: Any) -> str:
    """The dtype of a value; "object" for strings, sequences and what else has no place in memory."""
    return value.dtype.name if isinstance(value, np.ndarray) and value.dtype.kind not in "OUS" else "object"


def _as_value(value: Any) -> Any:
    """What an operator wrote: an array, or a sequence or optional as it is."""
    return value if isinstance(value, (list, dict)) or value is None else np.asarray(value)


def _dense(value: Any) -> Any:
    return np.require(value, requirements=("C", "A")) if isinstance(value, np.ndarray) else value


def _arg(value: Value) -> NodeArg:
    return NodeArg(value.name, value.shape, value.dtype)


def _graph(model: Model) -> Graph:
    if isinstance(model, Graph):
        return model
    from .graph.onnx_import import load_onnx

    return load_onnx(model)
