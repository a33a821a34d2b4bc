"""What `fft` executes and needs: operations, multiplications, scratch, and a cost in cycles. No Halide here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from ..machine import Machine
from ..schedule import Schedule
from .base import ceil_div
from .dft import operations
from .fft_plan import Axis, Plan
from .tiles import FMA_LATENCY, FORK_CYCLES, L3_BYTES_PER_CYCLE, TILE_OVERHEAD

__all__ = ["Work", "cost_cycles", "least_cycles", "macs", "touched_bytes", "workspace_bytes"]

#: cycles per vector operation of a transform, loads, stores and addresses included (measured: 1.4 to 2.4)
TRANSFORM_CYCLES = 1.8


def pass_operations(a: Axis, live_in: int) -> tuple[int, int]:
    """Additions and multiplications of one transform of complex values, of which those from `live_in` on are zero."""
    first, rest = a.radices
    dead = sum(n * rest >= live_in for n in range(first))
    adds, products = operations(first, first - dead)
    adds2, products2 = operations(rest)
    return rest * (adds + 2 * (first - 1)) + first * adds2, rest * (products + 4 * (first - 1)) + first * products2


@dataclass(frozen=True)
class Work:
    """Operations of the transforms of one tile and channel: additions and multiplications there and back."""

    forward: tuple[int, int]
    inverse: tuple[int, int]

    @classmethod
    @lru_cache(maxsize=1024)
    def of(cls, p: Plan) -> Work:
        """Row transforms of pairs of rows, and column transforms of the half spectrum."""
        pairs = p.y.radices[1] * ceil_div(p.y.live_in, 2 * p.y.radices[1])
        rows, columns = pass_operations(p.x, p.x.live_in), pass_operations(p.y, p.y.live_in)
        lines, back = pass_operations(p.x, p.x.size), pass_operations(p.y, p.y.size)
        taken_apart, put_together = 2 * p.columns * p.y.live_in, 2 * p.x.size
        out_pairs = ceil_div(p.y.live_out, 2)
        return cls(
            (pairs * rows[0] + p.columns * columns[0] + taken_apart, pairs * rows[1] + p.columns * columns[1]),
            (p.columns * back[0] + out_pairs * (lines[0] + put_together), p.columns * back[1] + out_pairs * lines[1]),
        )


def _lanes_of(channels: int, lanes: Any) -> Any:
    return ceil_div(channels, lanes) * lanes


def macs(p: Plan, s: Schedule) -> int:
    """Multiplications really done: four for each complex product, and those of the transforms. Additions are not counted."""
    work, lanes = Work.of(p), int(s.transform_channels)
    inputs, outputs = _lanes_of(p.channels, lanes), p.groups * _lanes_of(p.oc, lanes)
    transforms = p.tiles * (inputs * work.forward[1] + outputs * work.inverse[1])
    if p.depthwise:
        return int(transforms + 4 * p.tiles * p.frequencies * inputs)
    tiles = s.blocks * _lanes_of(p.tiles // s.blocks, s.tile_tiles)
    return int(transforms + 4 * p.frequencies * tiles * p.groups * _lanes_of(p.oc, s.tile_channels) * p.ic)


def spectrum_bytes(p: Plan, tiles: Any, channels: Any) -> Any:
    """Bytes of the half spectra of `tiles` tiles."""
    return 8 * channels * p.frequencies * tiles


def workspace_bytes(p: Plan, s: Schedule, threads: int) -> int:
    """Scratch in use at once: the spectra of a block of tiles before and behind the products, and what a task needs."""
    lanes, running = s.transform_channels, threads if s.parallel else 1
    rows = 2 * p.y.radices[1] * ceil_div(p.y.live_in, 2 * p.y.radices[1])
    staged = 2 * p.x.radices[1] * ceil_div(p.x.live_in, p.x.radices[1])
    one_line, one_column = 2 * p.x.size, 2 * p.y.size
    there = (2 * p.x.size + 1) * rows // 2 + staged + one_line + one_column
    back_rows, back_columns = (_lanes_of(a.live_out, a.radices[0]) for a in (p.y, p.x))
    result = back_columns * 2 * ceil_div(p.y.live_out, 2)
    back = (2 * back_rows + 1) * p.columns + result + one_line + one_column
    if p.depthwise:  # its columns are stored one value apart, like the scratch of `fft_passes`
        return int(running * 4 * lanes * (2 * (p.y.size + 1) * p.columns + there + back))
    tiles = p.tiles // s.blocks
    before = spectrum_bytes(p, tiles, _lanes_of(p.channels, lanes))
    behind = spectrum_bytes(p, tiles, p.groups * _lanes_of(p.oc, s.tile_channels))
    return int(before + behind + running * 4 * lanes * max(there, back))


def weight_bytes(p: Plan, s: Any) -> Any:
    """Bytes of the packed weights."""
    nr = s.transform_channels if p.depthwise else s.tile_channels
    return 8 * p.frequencies * p.groups * _lanes_of(p.oc, nr) * p.ic


def touched_bytes(p: Plan, s: Any) -> Any:
    """Bytes that a call goes through besides image, kernel and result: packed weights and all spectra."""
    if p.depthwise:
        return weight_bytes(p, s)
    channels = _lanes_of(p.channels, s.transform_channels) + p.groups * _lanes_of(p.oc, s.transform_channels)
    return weight_bytes(p, s) + spectrum_bytes(p, p.tiles // s.blocks, channels)


def transform_cycles(p: Plan, lanes: int) -> float:
    """Cycles of all transforms, there and back, on one core."""
    work, inputs, outputs = Work.of(p), ceil_div(p.channels, lanes), p.groups * ceil_div(p.oc, lanes)
    return p.tiles * TRANSFORM_CYCLES * (inputs * sum(work.forward) + outputs * sum(work.inverse))


def least_cycles(p: Plan, machine: Machine) -> float:
    """A lower bound of `cost_cycles` for every schedule of a plan: its transforms, and products without an overhead."""
    products = p.tiles * p.frequencies * ceil_div(p.channels, machine.lanes) * 4.0
    if not p.depthwise:
        products = 2.0 * p.tiles * p.frequencies * p.groups * ceil_div(p.oc, machine.lanes) * p.ic
    return (transform_cycles(p, machine.lanes) + products) / machine.cores


def cost_cycles(p: Plan, s: Any, machine: Machine) -> Any:
    """Predicted cycles on all cores: operations of the transforms, the products, and the traffic of the caches.

    `s` is a schedule, or has arrays for its parameters: then the result is an array.
    """
    lanes = s.transform_channels
    inputs, outputs = ceil_div(p.channels, lanes), p.groups * ceil_div(p.oc, lanes)
    transforms = transform_cycles(p, lanes)
    cores = machine.cores if s.parallel else 1
    if p.depthwise:
        tasks = p.tiles * inputs
        product = p.tiles * inputs * p.frequencies * 4.0
        return (transforms + product) / tasks * ceil_div(tasks, cores) + FORK_CYCLES
    vectors, tiles = s.tile_channels // lanes, ceil_div(p.tiles // s.blocks, s.tile_tiles)
    loads = (2 * vectors + 2 * s.tile_tiles) / 2
    tap = np.maximum(np.maximum(2.0 * s.tile_tiles * vectors, loads), 2 * FMA_LATENCY) + 0.2 * loads + 0.8
    calls = s.blocks * tiles * p.frequencies * p.groups * ceil_div(p.oc, s.tile_channels)
    spectra = spectrum_bytes(p, p.tiles // s.blocks, _lanes_of(p.channels, lanes) + outputs * lanes)
    traffic = weight_bytes(p, s) * s.blocks + 2 * s.blocks * spectra * (spectra > machine.l2_bytes * cores / 2)
    moved = traffic / L3_BYTES_PER_CYCLE / cores
    product = calls * (p.ic * tap + TILE_OVERHEAD) / cores
    overlapped = np.maximum(product, moved) + 0.3 * np.minimum(product, moved)
    return transforms / cores + overlapped + 3 * s.blocks * FORK_CYCLES
