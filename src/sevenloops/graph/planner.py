"""The plans of a network: one for each set of sizes that it is run with, made when they first come.

Where sizes depend on values a run takes several plans: each ends before the operator that decides sizes, and what is behind
it is a graph of its own, planned when its sizes are known.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from os import PathLike
from typing import Any

import numpy as np

from .. import records
from ..errors import FallbackWarning, GraphError
from ..problem import Problem
from ..schedule import Schedule
from .dtypes import ELEMENTS
from .ir import Graph, Value
from .limits import limited
from .lower import LOWERINGS, lower
from .lowering import PythonStep
from .passes import PASSES, optimise
from .passes.float32 import costs
from .plan import Plan, compile_plan
from .shapes import check_asked, infer

__all__ = ["Model", "Planner", "Progress"]

Array = np.ndarray[Any, Any]
Progress = Callable[[str, int, int], None]
Model = str | PathLike[str] | bytes | Graph
#: All passes but those that write graphs in the form that kernels have.
OPTIONAL_PASSES = tuple(row.name for row in PASSES if row.name not in ("float32", "fuse_elementwise"))
#: Runs of different sizes that are kept the plans of; those unused longest go.
MAX_PLANS = 32
#: Sizes that come as values have few elements.
MOST_SIZES = 64


class Planner:
    """A network and its plans; the arguments are those of `InferenceSession`. Not thread-safe: sessions take turns.

    Raises as `InferenceSession` does.
    """

    def __init__(
        self,
        model: Model,
        *,
        threads: int,
        accuracy: str,
        schedules: Mapping[Problem, Schedule],
        passes: bool,
        progress: Progress,
        max_bytes: int,
        max_steps: int,
    ) -> None:
        self.threads, self.accuracy, self._progress, self._passes = threads, accuracy, progress, passes
        self._limits_of_run = (max_bytes, max_steps)
        with self.limits():
            self.graph = _graph(model)
        _check_inputs(self.graph)
        self._schedules = schedules
        self._plans: OrderedDict[Any, tuple[Graph, Plan]] = OrderedDict()
        self._tails: OrderedDict[Any, Graph | None] = OrderedDict()
        self._longest = 1  # plans that one run takes: more where sizes depend on values
        self._warned: set[str] = set()
        self._arena: Array | None = None
        self._outputs = frozenset(self.graph.outputs)
        fixed = all(value.known for value in self.graph.inputs)
        self._may_let_go, self._let_go = fixed and not isinstance(model, Graph), False
        #: What a user should know of this model, told once.
        self.costs = costs(self.graph)

    def limits(self) -> AbstractContextManager[Any]:
        """What holds while a graph is read, planned and run."""
        return limited(*self._limits_of_run)

    def plan(self, shapes: Mapping[str, Sequence[int]] | None) -> Plan:
        """The plan for sizes of inputs by name; compiled if it is new."""
        fixed = {value.name: value.sizes for value in self.graph.inputs if value.known}
        return self._plan(None, fixed | {name: tuple(shape) for name, shape in (shapes or {}).items()})

    def plan_for(self, feeds: Mapping[str, Array]) -> Plan:
        """The plan for the sizes of arrays."""
        return self._plan(self.graph, {name: array.shape for name, array in feeds.items()})

    def _plan(self, graph: Graph | None, sizes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan of a tail, or of the session's graph (None), for sizes; made if it is new. Graphs are told apart by
        identity, and kept with their plans, so that no other can take their place."""
        key = self._key(graph, sizes)
        if key in self._plans:
            self._plans.move_to_end(key)
            return self._plans[key][1]
        sized = infer(graph or self.graph, sizes, whole=graph is None)  # once, to find what is wrong anywhere
        lowered = lower(sized, lambda part: optimise(part, () if self._passes else OPTIONAL_PASSES))
        if graph is None and self._may_let_go and lowered.dynamic is None:
            self.graph, self._let_go = self.graph.without_weights(), True  # from now on each goes as it is packed
            key = self._key(graph, sizes)
        self._warn([step for step in lowered.steps if isinstance(step, PythonStep) and step.reason])
        plan = compile_plan(
            lowered,
            threads=self.threads,
            accuracy=self.accuracy,
            others=[other for _, other in self._plans.values()],
            own=self._let_go,
            arena=self._arena,
            schedules=self._schedules,
            on_done=self._progress,
        )
        self._arena = plan.arena
        self._plans[key] = (graph or self.graph, plan)
        self._forget(self._plans)
        return plan

    def _forget(self, kept: OrderedDict[Any, Any]) -> None:
        """Let go of what has been unused longest."""
        while len(kept) > MAX_PLANS * self._longest:
            kept.popitem(last=False)

    def _key(self, graph: Graph | None, sizes: Mapping[str, tuple[int, ...]]) -> Any:
        """New records of tuning make new plans, as long as there are weights to pack."""
        return id(graph or self.graph), tuple(sorted(sizes.items())), None if self._let_go else records.generation

    def check_used(self, plan: Plan) -> None:
        """No schedule of the caller's may go unnoticed."""
        unused = [problem for problem in self._schedules if problem not in {step.problem for step in plan.steps}]
        if unused:
            raise GraphError(f"a schedule is given for {str(unused[0])!r}, which no step computes; print plan() for what is")

    def _warn(self, steps: Sequence[PythonStep]) -> None:
        new: dict[str, list[PythonStep]] = {}
        for step in steps:
            if step.op not in self._warned:
                new.setdefault(step.op, []).append(step)
        self._warned.update(new)
        if new:
            named = "; ".join(f"{op} ({_left(found)})" for op, found in new.items())
            how = "by NumPy or onnx's reference evaluator, up to a thousand times slower than a kernel (see profile())"
            warnings.warn(f"not compiled, computed {how}: {named}", FallbackWarning, stacklevel=5)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs: by one plan, or where sizes depend on values by one after the other."""
        outputs: dict[str, Any] = {}
        graph: Graph | None = self.graph
        plans = 0
        while graph is not None:
            plans += 1
            self._longest = max(self._longest, plans)
            plan = self._plan(graph, {name: array.shape for name, array in feeds.items() if isinstance(array, np.ndarray)})
            results = plan.run(feeds)
            results.update((name, np.array(plan.constants[name])) for name in graph.outputs if name in plan.constants)
            results.update((name, feeds[name]) for name in graph.outputs if name in feeds and name not in results)
            written, graph, feeds = self._tail(graph, plan, {**plan.constants, **feeds, **results})
            outputs.update((name, a) for name, a in {**results, **written}.items() if name in self._outputs)
        return outputs

    def _tail(
        self, graph: Graph, plan: Plan, values: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Graph | None, dict[str, Array]]:
        """What the operator that decides sizes writes, the graph behind it (None where there is none), and its inputs.

        Where the operator only needs to be told the sizes, it is in that graph and writes nothing here.
        """
        from .fallback import evaluate

        node, tail = plan.dynamic, plan.tail
        if node is None or tail is None:
            return {}, None, {}
        fixed = self._with_sizes(graph, plan, values)
        if fixed is not None:
            return {}, fixed, {value.name: values[value.name] for value in fixed.inputs}
        arrays = [values[name] if name else None for name in node.inputs]
        check_asked(node, arrays)
        own = {name: _as_value(value) for name, value in zip(node.outputs, evaluate(node, arrays)) if name}
        if node.op not in self._warned:
            self._warn([PythonStep(node.label, node.op, "the sizes of its outputs depend on values", list, (), ())])
        known = {**values, **own}
        rest = self._with_types(plan, known)
        return own, rest if rest.nodes else None, {value.name: _dense(known[value.name]) for value in rest.inputs}

    def _with_types(self, plan: Plan, values: Mapping[str, Any]) -> Graph:
        """The rest of a graph, with the dtypes that values have: of some operators they are not known before they run."""
        assert plan.tail is not None
        inputs = tuple(Value(v.name, v.shape, _dtype(values[v.name])) for v in plan.tail.inputs)
        if inputs == plan.tail.inputs:
            return plan.tail
        key = (plan, inputs)
        tail = self._tails[key] = self._tails.get(key) or plan.tail.replace(inputs=inputs)
        self._tails.move_to_end(key)
        self._forget(self._tails)
        return tail

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
            self._forget(self._tails)
            behind = self._plan(rest, {value.name: value.sizes for value in inputs}).dynamic
            if behind is not None and behind.outputs == node.outputs:
                self._tails[key] = None
        self._tails.move_to_end(key)
        return self._tails[key]


def _left(steps: Sequence[PythonStep]) -> str:
    """Steps of one operator that are not compiled: the reason of the first, and how many bytes they read and write."""
    moved = sum(tensor.n_bytes for step in steps for tensor in (*step.reads, *step.writes))
    count = f"{len(steps)} nodes, first " if len(steps) > 1 else ""
    return f"{count}{steps[0].label}: {steps[0].reason}" + (f", {moved / 1e6:.3g} MB a run" if moved else "")


def _check_inputs(graph: Graph) -> None:
    for value in graph.inputs:
        if value.dtype not in ELEMENTS.values():
            kind = value.dtype.removesuffix("_type").replace("_", " ")
            raise GraphError(f"the input {value.name!r} is of the kind {kind}; sessions take tensors, one for each input")


def _dtype(value: Any) -> str:
    """The dtype of a value; "object" for strings, sequences and what else has no place in memory."""
    return value.dtype.name if isinstance(value, np.ndarray) and value.dtype.kind not in "OUS" else "object"


def _as_value(value: Any) -> Any:
    """What an operator wrote: an array, or a sequence or optional as it is."""
    return value if isinstance(value, (list, dict)) or value is None else np.asarray(value)


def _dense(value: Any) -> Any:
    return np.require(value, requirements=("C", "A")) if isinstance(value, np.ndarray) else value


def _graph(model: Model) -> Graph:
    if isinstance(model, Graph):
        return model
    from .onnx_import import load_onnx

    return load_onnx(model)
