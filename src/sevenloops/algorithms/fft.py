"""fft: tiles of the image, their half spectra, one complex matrix product per frequency, and back.

    Y[oc, f, t] = sum over ic of conj(W[oc, ic, f]) * X[ic, f, t]      for every frequency f and tile t

A tile of N x N inputs gives (N - k + 1)^2 outputs, and neighbouring tiles overlap (overlap-save). Channels are the vector
axis of the transforms (`fft_passes`); real tiles have N (N / 2 + 1) frequencies. So an output costs about 2 (N / m)^2
multiply-accumulates for each input channel, whatever the kernel's size (Vasilache et al., Fast Convolutional Nets With
fbfft, arXiv 1412.7580; Zlateski et al., FFT Convolutions are Faster than Winograd on Modern CPUs, arXiv 1809.07851). Kernels
are transformed once, in float64. A depthwise problem has products of single values, and stays in cache from image to output.
Strides: every output of a tile is computed, and those between are dropped.

Wins for kernels of 5x5 and more. Cannot run: transposed problems, matrix products, float64, images of one or three
axes, 1x1 kernels, kernels that reach over more than 96 inputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ..machine import Machine
from ..problem import MAX_TENSOR_BYTES, ConvProblem, Problem
from ..schedule import Schedule
from .base import Algorithm, Definition, Geometry, ceil_div, only_conv
from .cost import FOURIER_BYTES_PER_CYCLE, with_memory_s
from .fft_cost import cost_cycles, least_cycles, macs, touched_bytes, workspace_bytes
from .fft_plan import SIZES, Plan, axis, plan

PARAMETERS = {
    "fft_x": "points of a transform along rows",
    "fft_y": "points of a transform along columns",
    "transform_channels": "channels transformed at once: the lanes of a vector",
    "tile_tiles": "image tiles of the register tile (not depthwise)",
    "tile_channels": "output channels of the register tile and of a packed weight panel (not depthwise)",
    "blocks": "blocks of image tiles, one after the other, that have their spectra in memory at once (not depthwise)",
    "task_frequencies": "frequencies of one task of the products (not depthwise)",
    "parallel": "whether tasks run on the thread pool",
}
#: how many candidates are offered
OFFERED = 12
DEPTHWISE_PARAMETERS = ("fft_x", "fft_y", "transform_channels", "parallel")

# ------------------------------------------------------------------------------------------------- supports


def supports(problem: Problem) -> str | None:
    """None, or the reason why not."""
    reason = only_conv(problem)
    if reason is not None or not isinstance(problem, ConvProblem):
        return reason
    if problem.rank != 2:
        return f"it transforms images of two axes, and this problem has {problem.rank}"
    if problem.kernel == (1, 1):
        return "a 1x1 kernel has no neighbours to transform for: pointwise computes it"
    if not plans(problem):
        reach = " x ".join(str((k - 1) * d + 1) for k, d in zip(problem.kernel, problem.dilation))
        return f"a kernel that reaches over {reach} inputs meets no pixel, or needs over {max(SIZES)} points or 2 GiB"
    return None


@lru_cache(maxsize=256)
def plans(problem: ConvProblem) -> list[Plan]:
    """Plans of every number of tiles, each with the smallest transforms that give it."""
    g = Geometry.of(problem)
    sizes: list[list[int]] = []
    for a in (2, 1):
        smallest: dict[int, int] = {}
        for size in SIZES:
            found = axis(size, g.out[a], g.size[a], g.kernel[a], g.stride[a], g.dilation[a], g.before[a])
            if found is not None:
                smallest.setdefault(found.tiles, size)
        sizes.append(list(smallest.values()))
    found_plans = [plan(problem, x, y) for x in sizes[0] for y in sizes[1]]
    return [p for p in found_plans if p is not None and _largest_bytes(p) <= MAX_TENSOR_BYTES]


def _largest_bytes(p: Plan) -> int:
    """A bound of the largest tensor, with all tiles in one block and the panels of any register tile."""
    padded = max(p.channels, p.groups * p.oc, 1) + p.groups * 64
    return 8 * p.frequencies * max(p.tiles * padded, p.ic * (p.oc + 64) * p.groups)


# --------------------------------------------------------------------------------------------------- define


def _plan(problem: ConvProblem, schedule: Schedule) -> Plan:
    found = plan(problem, schedule.fft_x, schedule.fft_y)
    assert found is not None, "check() refuses such a schedule"
    return found


def define(problem: ConvProblem, schedule: Schedule, machine: Machine) -> Definition:
    """Transforms, products, inverse transforms."""
    from . import fft_define

    return fft_define.define(problem, _plan(problem, schedule), schedule, machine)


# ------------------------------------------------------------------------------------------------ schedules


def schedules(problem: ConvProblem, machine: Machine) -> list[Schedule]:
    """Candidates, the best first by the cost model.

    Plans come in the order of a lower bound of their cost, and end where it is above the last of the best.
    """
    unique = problem.unique_bytes
    bounded = [(with_memory_s(machine, least_cycles(p, machine), unique), at, p) for at, p in enumerate(plans(problem))]
    found: list[tuple[float, int, int, tuple[Plan, _Tiling]]] = []
    for least, at, p in sorted(bounded, key=lambda entry: entry[:2]):
        if len(found) == OFFERED and least > found[-1][0]:
            break
        tilings = _tilings(p, machine)
        _, _, *columns = zip(*tilings)
        table = _Tiling(machine.lanes, machine.cores > 1, *map(np.array, columns))
        cycles = np.broadcast_to(cost_cycles(p, table, machine), len(tilings)).tolist()
        touched = np.broadcast_to(touched_bytes(p, table), len(tilings)).tolist()
        costs = [with_memory_s(machine, busy, unique + more) for busy, more in zip(cycles, touched)]
        found += [(cost, at, index, (p, tilings[index])) for index, cost in enumerate(costs)]
        found = sorted(found, key=lambda entry: entry[:3])[:OFFERED]
    return [_schedule(*entry[3], machine) for entry in found]


class _Tiling(NamedTuple):
    """What a schedule adds to its plan; the last three are columns while candidates are compared (1 of a depthwise plan)."""

    transform_channels: int
    parallel: bool
    tile_tiles: Any
    tile_channels: Any
    blocks: Any


def _tilings(p: Plan, machine: Machine) -> list[_Tiling]:
    fixed = machine.lanes, machine.cores > 1
    if p.depthwise:
        return [_Tiling(*fixed, 1, 1, 1)]
    found = []
    for blocks in sorted({1, *_divisions(p)}):
        for vectors in range(1, min(3, ceil_div(p.oc, machine.lanes)) + 1):
            most = min((machine.vector_registers - 4) // (2 * vectors) - 1, p.tiles // blocks)
            found += [_Tiling(*fixed, tiles, vectors * machine.lanes, blocks) for tiles in range(max(1, most - 6), most + 1)]
    return found


def _schedule(p: Plan, tiling: _Tiling, machine: Machine) -> Schedule:
    sizes = {"fft_x": p.x.size, "fft_y": p.y.size}
    if p.depthwise:
        return Schedule("fft", **sizes, transform_channels=tiling.transform_channels, parallel=tiling.parallel)
    task = ceil_div(p.frequencies * p.groups, 8 * machine.cores)
    return Schedule("fft", **sizes, **tiling._asdict(), task_frequencies=task)


def _divisions(p: Plan) -> list[int]:
    """Numbers of blocks that divide the images, or the rows of tiles of each image."""
    images = [n for n in range(1, p.batch + 1) if p.batch % n == 0]
    return images + [p.batch * n for n in range(2, p.y.tiles + 1) if p.y.tiles % n == 0]


def check(problem: ConvProblem, schedule: Schedule, machine: Machine) -> str | None:
    """None, or the reason why the schedule does not fit."""
    depthwise = problem.is_depthwise and problem.out_channels == problem.in_channels
    names = DEPTHWISE_PARAMETERS if depthwise else tuple(PARAMETERS)
    if set(schedule.params) != set(names):
        return f"the schedule needs exactly the parameters {', '.join(names)}; got {', '.join(schedule.params)}"
    if not isinstance(schedule.parallel, bool):
        return f"parallel must be True or False, got {schedule.parallel!r}"
    for name in names:
        value = schedule.params[name]
        if name != "parallel" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            return f"{name} must be an integer of at least 1, got {value!r}"
    if schedule.fft_x not in SIZES or schedule.fft_y not in SIZES:
        return f"fft_x and fft_y must be among {', '.join(map(str, SIZES))}; got {schedule.fft_x} and {schedule.fft_y}"
    if schedule.transform_channels != machine.lanes:
        return f"transform_channels={schedule.transform_channels} must be the {machine.lanes} lanes of {machine.isa}"
    p = plan(problem, schedule.fft_x, schedule.fft_y)
    if p is None:
        return f"the kernel reaches over more inputs than transforms of {schedule.fft_y} x {schedule.fft_x} points hold"
    if _largest_bytes(p) > MAX_TENSOR_BYTES:
        return f"its spectra would take more than {MAX_TENSOR_BYTES:,} bytes"
    return None if p.depthwise else _check_product(p, schedule, machine)


def _check_product(p: Plan, s: Schedule, machine: Machine) -> str | None:
    if s.tile_channels % machine.lanes or s.tile_channels > 4 * machine.lanes:
        return f"tile_channels={s.tile_channels} must be 1 to 4 times the {machine.lanes} lanes of {machine.isa}"
    if s.blocks not in _divisions(p):
        return f"blocks={s.blocks} must be among {', '.join(map(str, _divisions(p)))}, to divide images or rows of tiles"
    if s.tile_tiles > p.tiles // s.blocks:
        return f"tile_tiles={s.tile_tiles} is more than the {p.tiles // s.blocks} tiles of a block"
    if 2 * s.tile_tiles * s.tile_channels // machine.lanes > 4 * machine.vector_registers:
        return f"a complex tile of {s.tile_tiles} x {s.tile_channels} is over four times the vector registers"
    if s.task_frequencies > p.frequencies * p.groups:
        return f"task_frequencies={s.task_frequencies} is more than there are ({p.frequencies * p.groups})"
    return None


def predicted_s(problem: ConvProblem, schedule: Schedule, machine: Machine) -> float:
    """Seconds by the cost model."""
    p = _plan(problem, schedule)
    return with_memory_s(machine, cost_cycles(p, schedule, machine), problem.unique_bytes + touched_bytes(p, schedule))


# ------------------------------------------------------------------------------------------------- the row


def _macs(problem: ConvProblem, s: Schedule) -> int:
    return macs(_plan(problem, s), s)


def _workspace(problem: ConvProblem, s: Schedule, threads: int) -> int:
    return workspace_bytes(_plan(problem, s), s, threads)


def _packing(problem: ConvProblem, s: Schedule) -> tuple[int, float]:
    p = _plan(problem, s)
    width = s.transform_channels if p.depthwise else s.tile_channels
    panels = p.groups * ceil_div(p.oc, width)
    return 8 * p.frequencies * panels * p.ic * width, FOURIER_BYTES_PER_CYCLE


FFT = Algorithm(
    name="fft",
    equation="Y[oc, f, t] = sum over ic of conj(W[oc, ic, f]) * X[ic, f, t], X and W transformed, Y transformed back",
    supports=supports,
    schedules=schedules,
    check=check,
    define=define,
    macs_executed=_macs,
    workspace_bytes=_workspace,
    parameters=PARAMETERS,
    tolerance=5e-6,
    exact_on_integers=False,
    accumulates_as_defined=False,
    spreads=lambda problem, s: (_plan(problem, s).y.outputs, _plan(problem, s).x.outputs),
    cost=predicted_s,
    packing=_packing,
)
