"""The register-tiled product that direct, im2col, pointwise and gemm share.

A tile of `tile_pixels` x `tile_channels` sums stays in vector registers while the taps run past it: per tap, a few
vectors of packed weights and one broadcast input value per pixel. Around it, from the inside out::

    for task (parallel): images, depths, groups, parts of the channels, runs of `task_pixels` pixels
      for panel: `tile_channels` channels; its packed weights are what the cache has to hold
        for block of taps (`k_blocks` of them; more than one keeps a block of weights in L2)
          for tile: `tile_pixels` pixels
            for taps: the hot loop, unrolled `unroll` times

Pixels are numbered through the rows (p = y * ow + x), so a tile may cross from one row into the next and only the end of
a task leaves a partial tile, which is shifted inwards and computes a few pixels again. No pixel belongs to two tasks.
Sums of more than `LONG_SUM` terms are added up in parts, tile by tile: one long sum after the other loses digits. Weights
are packed as `[tile_channels, taps, panel]`, innermost first: the hot loop reads them in order, one aligned vector after
the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import halide as hl

from ..problem import ConvProblem
from ..schedule import Schedule
from .base import ceil_div
from .funcs import apply_epilogue, split_tasks

__all__ = ["Extents", "Product", "channel_bias", "clamped_channel", "conv_epilogue", "tiled_product"]


@dataclass(frozen=True)
class Extents:
    """Sizes of a product: `oc` channels and `pixels` of each of `groups` x `depth` x `batch` slices, `taps` to sum."""

    oc: int
    pixels: int
    groups: int
    depth: int
    batch: int
    taps: tuple[int, ...]  # innermost first; the first one is what k_blocks divides
    blocks_apart: bool = False  # the term gets the block as one more index behind the taps, not added to the first


@dataclass(frozen=True)
class Product:
    """The output Func and the loop level (func, var) where a task's input may be staged."""

    output: Any
    task: Any


Term = Callable[..., Any]
#: terms that one sum has at most, where its taps can be divided: 6,400 in one sum were off by 4e-6 of the largest output
LONG_SUM = 2048
#: turns of the hot loop that a part keeps
LONG_LOOP = 256


def parts_of_sum(taps: tuple[int, ...]) -> tuple[int, int]:
    """The axis of the taps that divides a sum, and into how many parts: of at most `LONG_SUM` terms if that is possible."""
    wanted = ceil_div(math.prod(taps), LONG_SUM)
    if wanted == 1:
        return 0, 1
    # An outer axis is divided wholly, which costs nothing; the first is the hot loop, so its parts stay long.
    able = [b for b in range(2, min(2 * wanted, taps[0] // LONG_LOOP + 1)) if taps[0] % b == 0]
    inner = next((b for b in able if b >= wanted), max(able, default=1))
    choices = [(axis, taps[axis]) for axis in range(len(taps) - 1, 0, -1)] + [(0, inner)]
    return next((choice for choice in choices if choice[1] >= wanted), max(choices, key=lambda choice: choice[1]))


def clamped_channel(c: Any, oc: int, tile_channels: int) -> Any:
    """A channel index that may be loaded: lanes past the last channel of a partial panel read the last one."""
    return c if oc % tile_channels == 0 else hl.min(c, oc - 1)


def channel_bias(bias: Any, e: Extents, tile_channels: int) -> Callable[[Any, Any], Any]:
    """Access to `bias[g * oc + c]`, staged with a margin when the last panel is partial."""
    if e.oc % tile_channels == 0:
        return lambda c, g: bias[g * e.oc + c]
    i = hl.Var("i")
    staged = hl.Func("staged_bias")
    staged[i] = bias[hl.min(i, e.oc * e.groups - 1)]
    staged.compute_root()
    return lambda c, g: staged[g * e.oc + c]


def conv_epilogue(problem: ConvProblem, e: Extents, tile_channels: int, named: dict[str, Any]) -> Term:
    """The `finish` of a convolution: its bias `[g * oc + c]`, residual `[oc, g, p, z, n]` and activation."""
    bias = channel_bias(named["bias"], e, tile_channels) if "bias" in named else None

    def finish(v: Any, c: Any, p: Any, g: Any, z: Any, n: Any) -> Any:
        residual = named["residual"][clamped_channel(c, e.oc, tile_channels), g, p, z, n] if "residual" in named else None
        return apply_epilogue(problem.epilogue, v, bias(c, g) if bias else None, residual)

    return finish


def tiled_product(schedule: Schedule, lanes: int, e: Extents, term: Term, finish: Term) -> Product:
    """Define and schedule the product.

    `term(r, c, p, g, z, n)` is one product under the sum, `r` the list of tap variables (innermost first, the first
    already counted through all blocks); `finish(v, c, p, g, z, n)` is the epilogue of a finished sum.
    The output is `out[oc, g, p, z, n]`, innermost first.
    """
    c, p, g, z, n, block, tile, px = (hl.Var(v) for v in ("c", "p", "g", "z", "n", "block", "tile", "px"))
    axis, blocks = (0, schedule.k_blocks) if schedule.k_blocks > 1 else parts_of_sum(e.taps)
    depths = [extent // blocks if at == axis else extent for at, extent in enumerate(e.taps)]
    r = hl.RDom([hl.Range(0, extent) for extent in depths], "tap")
    rvars = [r[at] for at in range(len(e.taps))]

    sums = hl.Func("sums")  # the register tile: sums[oc, p, g, z, n], of parts sums[oc, p, g, z, n, block]
    out = hl.Func("out")  # out[oc, g, p, z, n]
    at = [p]
    if blocks == 1:
        sums[c, p, g, z, n] += term([*rvars, hl.Expr(0)] if e.blocks_apart else rvars, c, p, g, z, n)
        total = sums
    else:
        whole = [block * depths[at] + rvar if at == axis else rvar for at, rvar in enumerate(rvars)]
        if e.blocks_apart:
            whole = [*rvars, block] if schedule.k_blocks > 1 else [*whole, hl.Expr(0)]
        total = hl.Func("total")  # the sum over the blocks, in L1 or L2
        rb = hl.RDom([hl.Range(0, blocks)], "block")
        pixel, stored = p, [p]
        if schedule.k_blocks > 1:
            # Stored by tile, [oc, px, tile, g, z, n]: a last tile that is shifted inwards has a place of its own.
            first = lambda tile: hl.min(tile * schedule.tile_pixels, e.pixels - schedule.tile_pixels)  # noqa: E731
            pixel, stored = first(tile) + px, [px, tile]
            of_pixel = p // schedule.tile_pixels
            at = [hl.unsafe_promise_clamped(p - first(of_pixel), 0, schedule.tile_pixels - 1), of_pixel]
        sums[(c, *stored, g, z, n, block)] += term(whole, c, pixel, g, z, n)
        total[(c, *stored, g, z, n)] = hl.f32(0)
        total[(c, *stored, g, z, n)] += sums[(c, *stored, g, z, n, rb[0])]
    out[c, g, p, z, n] = finish(hl.Expr(total[(c, *at, g, z, n)]), c, p, g, z, n)
    return _schedule(schedule, lanes, e, (c, p, g, z, n), sums, total, out, rvars)


def _schedule(
    s: Schedule, lanes: int, e: Extents, dims: tuple[Any, ...], sums: Any, total: Any, out: Any, rvars: list[Any]
) -> Product:
    c, p, g, z, n = dims
    panel, lane, part, task, tile, px = (hl.Var(v) for v in ("panel", "lane", "part", "task", "tile", "px"))
    tail = hl.TailStrategy
    for var, extent in zip((c, g, p, z, n), (e.oc, e.groups, e.pixels, e.depth, e.batch)):
        out.bound(var, 0, extent)
    split_tasks(out, p, (task, tile, px), e.pixels, s.tile_pixels, s.task_pixels)
    panels = ceil_div(e.oc, s.tile_channels)
    if e.oc % s.tile_channels:
        # Halide does not split what a predicated split made: a partial panel allows all panels in a task, or just one.
        out.split(c, panel, lane, s.tile_channels, tail.PredicateStores).vectorize(lane)
        inner, outer = ([panel], []) if s.channel_parts == 1 else ([], [panel])
    else:
        out.split(c, panel, lane, s.tile_channels).split(panel, part, panel, panels // s.channel_parts)
        inner, outer = [panel], [part]
    out.reorder(lane, px, tile, *inner, task, *outer, g, z, n)
    if e.oc % s.tile_channels == 0:
        out.vectorize(lane, lanes).unroll(lane)
    out.unroll(px)
    for var in (*outer, g, z, n):
        out.fuse(task, var, task)
    if s.parallel:
        out.parallel(task)

    at, pixel = (out, tile), p
    if total is not sums:
        rb = total.rvars(0)[0]
        stage = total.update(0)
        if s.k_blocks > 1:
            total.compute_at(out, panel if inner else task).bound(px, 0, s.tile_pixels).vectorize(c, lanes)
            stage.reorder(c, px, tile, g, z, n, rb).vectorize(c, lanes).unroll(c).unroll(px)
            at, pixel = (total, tile), px
        else:
            total.compute_at(out, tile).bound_extent(c, s.tile_channels).bound_extent(p, s.tile_pixels)
            total.vectorize(c, lanes).unroll(c).unroll(p)
            stage.reorder(c, p, g, z, n, rb).vectorize(c, lanes).unroll(c).unroll(p)
            at = (total, rb)
    sums.compute_at(*at).bound_extent(c, s.tile_channels).bound_extent(pixel, s.tile_pixels)
    sums.vectorize(c, lanes).unroll(c).unroll(pixel)
    hot = sums.update(0).reorder(c, pixel, *rvars).vectorize(c, lanes).unroll(c).unroll(pixel)
    if s.unroll > 1:
        hot.unroll(rvars[0], s.unroll)
    return Product(out, task)
