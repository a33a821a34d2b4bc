"""`InferenceSession`: a network from an ONNX file or a Graph, compiled for the sizes it is fed, run on arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import as_array
from .choice import check_accuracy
from .compile import resolve_threads
from .descriptor import parse_problem
from .errors import CacheWarning, DtypeError, FallbackWarning, GraphError
from .graph.ir import Graph, Value
from .graph.kept import Identity, digest_of_model, find, identify, keep, worth_a_look
from .graph.limits import MAX_STEPS, machine_bytes
from .locks import renewed_lock
from .problem import Problem
from .schedule import Schedule
from .sizes import as_int

if TYPE_CHECKING:
    from .graph.plan import Plan, StepTime
    from .graph.planner import Planner

__all__ = ["InferenceSession", "NodeArg"]

Array = np.ndarray[Any, Any]
Model = str | PathLike[str] | bytes | Graph
Progress = Callable[[str, int, int], None]
FLOAT32 = np.dtype(np.float32)


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
            are compiled when they first come (the plans of the last 32 sizes are kept).
        schedules: of your own, by problem (or its descriptor, as `plan` prints it); the others are chosen.
        passes: False leaves layers as the model has them: slower, to see what the passes do.
        progress: is told `(label, done, total)` as kernels are compiled.
        max_bytes: what a value may take, and what a run may take beside weights; by default the memory that this process
            may have. Checked before anything is allocated.
        max_steps: so many operators may run inside of one loop of the model.
        cache_weights: keep all that a run of these sizes needs in the cache, packed weights included (`kept_bytes` says how
            large it is), so that a later session of the same model, sizes and options starts without reading the model's
            graph, planning or packing. Such a program is used by later sessions whether or not they ask for it;
            `sevenloops compile MODEL` makes one, and `sevenloops cache clear` removes all.

    A file is read once, here; it may be changed or removed afterwards. Only a session that runs a kept program reads it
    again when it is asked for more (other sizes, `graph`, `plan`, `profile`), and refuses one that has changed. Where no
    other plan can be needed (every input has a fixed size), the weights are kept only as kernels read them, and `graph` has
    NaN in their place.

    Operators without a kernel are computed in Python, and float16 and quantised models in float32: a `FallbackWarning`
    names them, and what it costs.
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
        cache_weights: bool = False,
    ) -> None:
        check_accuracy(accuracy)
        self.max_bytes = machine_bytes() if max_bytes is None else as_int("max_bytes", max_bytes, 1)
        self.max_steps = as_int("max_steps", max_steps, 1)
        self.threads, self.accuracy = resolve_threads(threads), accuracy
        given = {parse_problem(p) if isinstance(p, str) else p: s for p, s in (schedules or {}).items()}
        self._options: dict[str, Any] = {"passes": passes, "schedules": given, "progress": progress}
        self._lock = renewed_lock(self, "_lock")
        self._model: Any = model
        self._planner: Planner | None = None
        #: Bytes of the kept program that this session runs or has written; 0 if there is none.
        self.kept_bytes = 0
        self._identity = self._identify(shapes, cache_weights)
        self._kept = None if self._identity is None else find(self._identity, self.threads, self.max_bytes)
        if self._kept is not None:
            self._inputs = {value.name: value for value in self._kept.inputs}
            self._outputs = tuple(value.name for value in self._kept.outputs)
            self.kept_bytes = self._kept.n_bytes
            return
        planner = self._planned()
        self._inputs = {value.name: value for value in planner.graph.inputs}
        self._outputs = planner.graph.outputs
        for cost in planner.costs:
            warnings.warn(cost, FallbackWarning, stacklevel=2)
        if shapes is not None or all(value.known for value in self._inputs.values()):
            with planner.limits():
                plan = planner.plan(shapes)
                planner.check_used(plan)
            if cache_weights:
                self._keep(plan)
        elif cache_weights:
            raise GraphError("cache_weights needs shapes: the model leaves sizes of its inputs open")

    def _identify(self, shapes: Mapping[str, Sequence[int]] | None, cache_weights: bool) -> Identity | None:
        """By what a program of this model would be kept; None where there cannot be one."""
        if isinstance(self._model, Graph):
            if cache_weights:
                raise GraphError("cache_weights needs a model file or its bytes, by which the program is found; got a Graph")
            return None
        if not isinstance(self._model, (str, bytes, PathLike)) or not (cache_weights or worth_a_look(self._model)):
            return None
        schedules = {str(problem): schedule for problem, schedule in self._options["schedules"].items()}
        try:
            return identify(self._model, shapes or {}, (self.accuracy, self._options["passes"], sorted(schedules.items())))
        except OSError:
            return None  # who reads the model says what is wrong

    def _keep(self, plan: Plan) -> None:
        """Keep the program of a plan, or warn why not."""
        graph = self._planned().graph
        reasons = [f"{step.label} is computed in Python" for step in plan.steps if step.kernel is None]
        reasons += ["sizes depend on values"] if plan.dynamic is not None else []
        reasons += [note.text for note in graph.notes if note.rule == "import"]
        reasons += list(self._planned().costs)
        if reasons or self._identity is None:
            warnings.warn(f"the program is not kept: {'; '.join(reasons)}", CacheWarning, stacklevel=3)
            return
        images = {name: kernel.image for name, kernel in plan.kernels.items()}
        outputs = [graph.type_of(name) for name in graph.outputs]
        self.kept_bytes = keep(self._identity, plan.program, images, plan.held, (graph.inputs, outputs), graph.name)

    def _planned(self) -> Planner:
        """The planner, which has the graph; made when it is needed first."""
        if self._planner is None:
            from .graph.planner import Planner  # a kept program runs without it, and without most of the package

            model = self._model
            if self._identity is not None and self._kept is not None and digest_of_model(model)[0] != self._identity.model:
                raise GraphError(f"{model} has changed since this session was made from it; make a new one")
            self._planner = Planner(
                model,
                threads=self.threads,
                accuracy=self.accuracy,
                max_bytes=self.max_bytes,
                max_steps=self.max_steps,
                **self._options,
            )
            self._model = b""  # whoever has the graph needs no file, and nobody shall hold bytes for nothing
        return self._planner

    @property
    def graph(self) -> Graph:
        """The network as it was read."""
        return self._planned().graph

    def get_inputs(self) -> list[NodeArg]:
        """The inputs that `run` is fed."""
        return [_arg(value) for value in self._inputs.values()]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs that `run` returns, as far as their types are known before the sizes are."""
        if self._kept is not None:
            return [_arg(value) for value in self._kept.outputs]
        return [_arg(self.graph.type_of(name)) for name in self._outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """Compute outputs (all for None) from inputs by name, as ONNX Runtime's `run` does.

        Arrays are NCHW where the model's are; float32 (or what the model says), of any strides; anything with
        `__array_interface__` or `__dlpack__` will do. The results are the caller's own.
        Raises `GraphError` (names, ranks, sizes), `DtypeError`, `KernelError`, and for a new size `CompileError`.
        """
        names = list(self._outputs) if output_names is None else list(output_names)
        unknown = [name for name in names if name not in self._outputs]
        if unknown:
            raise GraphError(f"there is no output {unknown[0]!r}; the outputs are {', '.join(self._outputs)}")
        arrays = self._checked(feeds)
        with self._lock:
            if self._kept is not None and self._kept.takes(arrays):
                results = self._kept.run(arrays)
            else:
                planner = self._planned()
                with planner.limits():
                    results = planner.run(arrays)
        return [results[name] for name in names]

    def plan(self, shapes: Mapping[str, Sequence[int]] | None = None) -> Plan:
        """The plan for sizes of inputs by name; compiled if it is new. Print it to see the steps.

        Where sizes depend on values it ends before the first such operator. Raises `GraphError`, `CompileError`.
        """
        with self._lock:
            planner = self._planned()
            with planner.limits():
                return planner.plan(shapes)

    def profile(self, feeds: Mapping[str, Any]) -> list[StepTime]:
        """One run with the time of every step of the plan (not of what lies behind sizes that depend on values)."""
        arrays = self._checked(feeds)
        with self._lock:
            planner = self._planned()
            with planner.limits():
                return planner.plan_for(arrays).profile(arrays)[0]

    # ----------------------------------------------------------------------------------------------- inside

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


def _strings(name: str, given: Any) -> Array:
    array = np.asarray(given)
    if array.dtype.kind not in "OUS":
        raise DtypeError(f"{name} must be strings, got {array.dtype}")
    return array.astype(object)


def _arg(value: Value) -> NodeArg:
    return NodeArg(value.name, value.shape, value.dtype)
