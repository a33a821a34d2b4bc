"""The layers of training: forward with weights that vary, the input's gradient and the weights' gradient, each on its own.

One row is a layer in one direction, timed as `runner` times layers: each engine in its own process, in turn. Packing of
weights, and the memory of the result, are part of every call on both sides, as they are in a training step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..adjoint import WeightGradient, adjoint
from ..epilogue import Epilogue
from ..inputs import largest_error, make_inputs
from ..problem import ConvProblem, GemmProblem, Problem
from ..reference import reference_conv, reference_weight_gradient
from ..shift import channel_offsets
from .networks import Layer
from .process import EngineProcess, WorkerError
from .results import BenchRun, Row, Timing
from .runner import BenchError, Options, Progress, run_rows

__all__ = ["DIRECTIONS", "GradientWork", "Operands", "cases", "make_operands", "run_gradients"]

Array = np.ndarray[Any, Any]
DIRECTIONS = ("forward", "data", "weights")
#: Up to so many multiply-adds everything is computed in float64; beyond, some images and channels.
WHOLE_MACS = 10**8
SAMPLED_CHANNELS = 4


@dataclass(frozen=True)
class GradientWork:
    """One layer, a convolution or `x @ w.T`, in one direction; without its epilogue. Each has the MACs of the layer.

    Raises `BenchError` for another direction, and for a matrix product that is no fully connected layer.
    """

    direction: str
    problem: Problem

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise BenchError(f"a direction is one of {', '.join(DIRECTIONS)}; got {self.direction!r}")
        problem = self.problem
        if isinstance(problem, GemmProblem):
            if problem.trans_a or not problem.trans_b or problem.alpha != 1 or problem.beta != 0:
                raise BenchError(f"a fully connected layer is 'gemm mBATCH nOUT kIN tb', not {str(problem)!r}")
            plain: Problem = dataclasses.replace(problem, epilogue=Epilogue())
        else:
            plain = dataclasses.replace(problem, epilogue=Epilogue(), out_pitch=0)
        object.__setattr__(self, "problem", plain)

    @property
    def macs(self) -> int:
        """Multiply-adds of the definition: the same in all directions."""
        return self.problem.macs

    @property
    def unique_bytes(self) -> int:
        """Input, weights and output, once each: two of the three are read and the third is written."""
        return self.problem.unique_bytes

    @property
    def conv(self) -> ConvProblem:
        """The layer as a convolution; a fully connected one is that of a single pixel."""
        if isinstance(self.problem, ConvProblem):
            return self.problem
        m, n, k, dtype = self.problem.m, self.problem.n, self.problem.k, self.problem.dtype
        return ConvProblem(batch=m, in_channels=k, in_size=(1,), out_channels=n, kernel=(1,), dtype=dtype)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The groups whose means are reported: the direction, and in it the 3x3 layers of stride 1 and all others."""
        p = self.conv
        simple = (p.kernel, p.stride, p.dilation, p.groups) == ((3, 3), (1, 1), (1, 1), 1) and not p.transposed
        return (self.direction, f"{self.direction}, {'3x3 of stride 1' if simple else 'all but 3x3 of stride 1'}")

    def __str__(self) -> str:
        return f"{self.direction}: {self.problem}"


def cases(layers: Sequence[Layer], directions: Sequence[str] = DIRECTIONS) -> list[tuple[str, GradientWork, int]]:
    """Name, work and number of the distinct layers in each direction.

    Layers that differ in their epilogue alone are one. Layers of three channels in read images, which need no gradient.
    """
    found: dict[GradientWork, tuple[str, int]] = {}
    for layer in layers:
        for direction in directions:
            work = GradientWork(direction, layer.problem)
            if direction == "data" and work.conv.in_channels <= 3:
                continue
            name = str(work) if layer.name == str(layer.problem) else layer.name
            name, repeats = found.get(work, (name, 0))
            found[work] = (name, repeats + layer.repeats)
    return [(name, work, repeats) for work, (name, repeats) in found.items()]


def run_gradients(
    layers: Sequence[Layer],
    options: Options,
    directions: Sequence[str] = DIRECTIONS,
    progress: Progress = lambda text: None,
) -> BenchRun:
    """Measure layers in the directions given; engines that cannot compute one have the reason in their timing.

    Raises `BenchError` if there is nothing to measure.
    """
    found = cases(layers, directions)
    if not found:
        raise BenchError("no layer was given, or none that has a gradient")

    def prepare(item: tuple[str, GradientWork, int], engines: dict[str, EngineProcess], threads: int, folder: Path) -> Row:
        name, work, repeats = item
        operands = make_operands(work.conv, options.seed) if options.check else None
        timings = {}
        for engine in engines.values():
            timing = _prepared(work, engine, threads, options, folder / f"{engine.name}.npy")
            if operands is not None and timing.reason is None:
                error = sampled_error(work, operands, np.load(folder / f"{engine.name}.npy"), options.seed)
                timing = dataclasses.replace(timing, error=error)
            timings[engine.name] = timing
        return Row(name, work, repeats, timings, kinds=work.kinds)

    return run_rows(found, [f"{name} {work.direction}" for name, work, _ in found], prepare, options, progress)


def _prepared(work: GradientWork, engine: EngineProcess, threads: int, options: Options, output: Path) -> Timing:
    values: dict[str, Any] = {"seed": options.seed, "threads": threads, "algorithm": engine.name.partition(":")[2] or None}
    try:
        answer = engine.ask(
            "prepare_gradient", direction=work.direction, problem=str(work.problem), output=str(output), **values
        )
    except WorkerError as error:
        return Timing(engine.name, reason=str(error))
    return Timing(engine.name, note=answer["note"], details=answer["details"])


# -------------------------------------------------------------------------------------------- operands and errors


@dataclass(frozen=True)
class Operands:
    """`x` is the problem's `x_shape` (channels last), `w` its `w_shape`, `dy` its `y_shape`; two of them are used."""

    x: Array
    w: Array
    dy: Array


def make_operands(problem: ConvProblem, seed: int) -> Operands:
    """Normally distributed; the weights are divided by the square root of the fan-in. The same in every process."""
    inputs = make_inputs(problem, seed)
    dy = np.random.default_rng((seed, 1)).standard_normal(problem.y_shape, dtype=np.dtype(problem.dtype))
    return Operands(inputs.x, inputs.w, dy)


def sampled_error(work: GradientWork, operands: Operands, output: Array, seed: int) -> float:
    """The largest difference to float64 over the largest element, of the whole `output` or, of large ones, of a sample.

    Every sum of the sample is whole: it has some channels of one group, and one image unless images are summed.
    """
    problem = work.conv
    x, w, dy = operands.x, operands.w, operands.dy
    output = output.reshape(
        {"forward": problem.y_shape, "data": problem.x_shape, "weights": problem.w_shape}[work.direction]
    )
    if problem.macs > WHOLE_MACS and not problem.transposed and problem.shift is None:
        rng, groups = np.random.default_rng(seed), problem.groups
        group = int(rng.integers(groups))

        def chosen(channels: int, wanted: bool) -> Array:
            """Channels of the group: some, or all that are summed."""
            own = np.arange(channels // groups) + group * (channels // groups)
            return rng.choice(own, min(SAMPLED_CHANNELS, own.size), replace=False) if wanted else own

        ic = chosen(problem.in_channels, work.direction != "forward")
        oc = chosen(problem.out_channels, work.direction != "data")
        image = slice(None) if work.direction == "weights" else slice(at := int(rng.integers(problem.batch)), at + 1)
        local = ic % (problem.in_channels // groups)
        x, w, dy = x[image][..., ic], w[oc][:, local], dy[image][..., oc]
        output = (
            output[oc][:, local]
            if work.direction == "weights"
            else output[image][..., ic if work.direction == "data" else oc]
        )
        problem = dataclasses.replace(problem, batch=x.shape[0], in_channels=ic.size, out_channels=oc.size, groups=1)
    return largest_error(output, _REFERENCES[work.direction](problem, x, w, dy))


def _reference_weights(problem: ConvProblem, x: Array, w: Array, dy: Array) -> Array:
    if problem.transposed:
        return reference_weight_gradient(WeightGradient(adjoint(problem)), dy, x)
    return reference_weight_gradient(WeightGradient(problem), x, dy)


def _reference_data(problem: ConvProblem, x: Array, w: Array, dy: Array) -> Array:
    """A shift is undone after the adjoint of its 1x1 kernel: what pixel o of a channel read goes back to o + offset."""
    moved = reference_conv(adjoint(dataclasses.replace(problem, shift=None)), dy, w)
    if problem.shift is None:
        return moved
    dx = np.zeros_like(moved)
    for c, offset in enumerate(channel_offsets(problem.shift, problem.in_channels)):
        axes = list(zip(offset, problem.in_size))
        read: tuple[Any, ...] = tuple(slice(max(0, -by), max(0, size - by)) for by, size in axes)
        back: tuple[Any, ...] = tuple(slice(max(0, by), max(0, size + by)) for by, size in axes)
        dx[(slice(None), *back, c)] = moved[(slice(None), *read, c)]
    return dx


_REFERENCES: dict[str, Callable[[ConvProblem, Array, Array, Array], Array]] = {
    "forward": lambda problem, x, w, dy: reference_conv(problem, x, w),
    "data": _reference_data,
    "weights": _reference_weights,
}
