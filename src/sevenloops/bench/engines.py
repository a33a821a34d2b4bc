"""The engines that are compared, each as its users get it at its best: weights constant and packed outside the timing.

One row a engine in `ENGINES`. Where an engine offers several ways to run the same operation (PyTorch plain or with
prepacked weights, ONNX Runtime with or without its blocked layout, OpenVINO with either layout of the image), all of
them are built, tried for a moment, and the fastest is kept and named in the note.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..inputs import Inputs
from ..problem import ConvProblem, GemmProblem, Problem
from ..schedule import Schedule

__all__ = ["ENGINES", "NETWORKS_ONLY", "Engine", "Prepared", "Settings"]

TRIAL_S = 0.03


@dataclass(frozen=True)
class Settings:
    """What the parent asks of an engine; `algorithm`, `isa` and `accuracy` concern `sevenloops` only."""

    threads: int
    algorithm: str | None = None
    isa: str | None = None
    accuracy: str = "fast"


@dataclass(frozen=True)
class Prepared:
    """An operation ready to run: `run()` computes it once, `output()` gives the last result as `problem.y_shape`.

    For a network `output()` is a list with an array for each of its outputs. A `run` of several parts appends the seconds
    of each to a list of `parts`.
    """

    run: Callable[[], object]
    output: Callable[[], Any]
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, list[float]] = field(default_factory=dict)


def median_time_s(run: Callable[[], object], min_time_s: float, min_iterations: int = 3) -> float:
    """Median seconds of one call, after one warm-up call."""
    run()
    times: list[float] = []
    end = time.perf_counter() + min_time_s
    while len(times) < min_iterations or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def fastest(ways: dict[str, Callable[[], Prepared]]) -> Prepared:
    """Build every way, keep the one that runs fastest; ways after the first may fail (an older version, a shape)."""
    built: list[tuple[float, str, Prepared]] = []
    for name, build in ways.items():
        try:
            prepared = build()
            built.append((median_time_s(prepared.run, TRIAL_S), name, prepared))
        except Unsupported:
            raise
        except Exception:
            if not built:
                raise
    _, name, best = min(built, key=lambda entry: entry[0])
    return replace(best, note=name)


def _prepare_sevenloops(problem: Problem, inputs: Inputs, settings: Settings, schedule: Schedule | None = None) -> Prepared:
    import sevenloops

    machine = sevenloops.Machine.described(settings.isa) if settings.isa else None
    kernel = sevenloops.compile(
        problem,
        algorithm=schedule.algorithm if schedule else settings.algorithm,
        schedule=schedule,
        machine=machine,
        threads=settings.threads,
        accuracy=settings.accuracy,
    )
    packed = kernel.pack(inputs.w)
    bound = kernel.bind(inputs.x, packed, bias=inputs.bias, residual=inputs.residual, c=inputs.c)
    details = {
        "algorithm": kernel.algorithm,
        "schedule": repr(kernel.schedule),
        "why": kernel.why,
        "macs_executed": kernel.macs_executed,
        "workspace_bytes": kernel.workspace_bytes,
    }
    return Prepared(bound.run, lambda: bound.out, kernel.algorithm, details)


def _prepare_unshifted(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    """The same convolution of channels that do not move: what a fused shift is held against."""
    plain = replace(problem, shift=None) if isinstance(problem, ConvProblem) else problem
    return _prepare_sevenloops(plain, inputs, replace(settings, algorithm=None))


def _prepare_untuned(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    """What the cost model would choose if nothing of these sizes had been tuned: what tuning is held against."""
    from ..choice import untuned
    from ..machine import Machine

    machine = Machine.described(settings.isa) if settings.isa else Machine.host()
    return _prepare_sevenloops(problem, inputs, settings, untuned(problem, machine, settings.accuracy).schedule)


def _prepare_numpy(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    """`np.matmul` into a given array, then the epilogue in place; the thread count comes from the environment."""
    if not isinstance(problem, GemmProblem):
        raise Unsupported("NumPy has no convolution")
    epilogue = problem.epilogue
    if epilogue.activation not in ("none", "relu", "clip") or epilogue.residual:
        raise Unsupported(f"NumPy is measured with bias, relu and clip only, not with {epilogue.words()}")
    a = inputs.x.T if problem.trans_a else inputs.x
    b = inputs.w.T if problem.trans_b else inputs.w
    out = np.empty(problem.y_shape, problem.dtype)

    def run() -> None:
        np.matmul(a, b, out=out)
        if problem.alpha != 1:
            np.multiply(out, out.dtype.type(problem.alpha), out=out)
        if inputs.c is not None:
            np.add(out, inputs.c * out.dtype.type(problem.beta), out=out)
        if inputs.bias is not None:
            np.add(out, inputs.bias, out=out)
        if epilogue.activation == "relu":
            np.maximum(out, 0, out=out)
        elif epilogue.activation == "clip":
            np.clip(out, *epilogue.params, out=out)

    return Prepared(run, lambda: out, "matmul")


def _prepare_torch(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    from .torch_peer import prepare

    return prepare(problem, inputs, settings.threads, channels_last=True)


def _prepare_torch_nchw(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    from .torch_peer import prepare

    return prepare(problem, inputs, settings.threads, channels_last=False)


def _prepare_onnxruntime(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    from .onnx_peers import prepare_onnxruntime

    return prepare_onnxruntime(problem, inputs, settings.threads)


def _prepare_mnn(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    raise Unsupported("MNN is compared on whole networks only: sevenloops bench MODEL")


def _prepare_torch_compile(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    raise Unsupported("torch-compile is compared on training steps only: sevenloops bench train")


def _prepare_openvino(problem: Problem, inputs: Inputs, settings: Settings) -> Prepared:
    from .onnx_peers import prepare_openvino

    return prepare_openvino(problem, inputs, settings.threads)


@dataclass(frozen=True)
class Engine:
    """How to prepare a problem with one engine, and the packages that it needs."""

    prepare: Callable[[Problem, Inputs, Settings], Prepared]
    packages: tuple[str, ...]

    def missing(self) -> str | None:
        """Why this engine cannot be used here, or None."""
        for package in self.packages:
            try:
                importlib.import_module(package)
            except Exception as error:
                return f"{package} is not installed" if isinstance(error, ImportError) else f"{package}: {error}"
        return None

    def version(self) -> str:
        """The version of the first package."""
        try:
            return importlib.metadata.version(self.packages[0])
        except importlib.metadata.PackageNotFoundError:
            return str(getattr(importlib.import_module(self.packages[0]), "__version__", "unknown"))


ENGINES: dict[str, Engine] = {
    "sevenloops": Engine(_prepare_sevenloops, ("sevenloops",)),
    "unshifted": Engine(_prepare_unshifted, ("sevenloops",)),
    "untuned": Engine(_prepare_untuned, ("sevenloops",)),
    "torch": Engine(_prepare_torch, ("torch",)),
    "torch-nchw": Engine(_prepare_torch_nchw, ("torch",)),
    "torch-compile": Engine(_prepare_torch_compile, ("torch",)),
    "onnxruntime": Engine(_prepare_onnxruntime, ("onnxruntime", "onnx")),
    "openvino": Engine(_prepare_openvino, ("openvino", "onnx")),
    "mnn": Engine(_prepare_mnn, ("MNN",)),
    "numpy": Engine(_prepare_numpy, ("numpy",)),
}
#: Engines that are compared on whole networks, not on single layers.
NETWORKS_ONLY = ("mnn", "torch-compile")
