"""B is copied into panels as wide as the tile, and rows come in blocks: what is used next lies next, and stays in cache.

A panel of B is read from start to end, without jumps of a whole row and without lines that fall on the same place of a
cache; a block of rows of A stays in L2 while all panels pass (Goto and van de Geijn). The copy is part of the time.
"""

from __future__ import annotations

from typing import Any

import halide as hl

from sevenloops.ladder.tiles import own_tile


def define(problem: Any, machine: Any) -> Any:
    """The product c = a * b, and its schedule."""
    rows, columns = own_tile(machine)
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")
    i, j, sums, c = hl.Var("i"), hl.Var("j"), hl.Func("sums"), hl.Func("c")
    lane, kk, panel, panels = hl.Var("lane"), hl.Var("kk"), hl.Var("panel"), hl.Func("panels")
    k = hl.RDom([hl.Range(0, problem.k)], "k")[0]
    panels[lane, kk, panel] = b[hl.min(panel * columns + lane, problem.n - 1), kk]
    sums[j, i] = 0.0
    sums[j, i] += a[k, i] * panels[j % columns, k, j // columns]
    c[j, i] = sums[j, i]

    block, tile, row = hl.Var("block"), hl.Var("tile"), hl.Var("row")
    whole = problem.n % columns == 0  # else the last panel is not full, and what is beyond C is not stored
    c.split(j, panel, lane, columns, hl.TailStrategy.RoundUp if whole else hl.TailStrategy.PredicateStores)
    c.split(i, block, i, min(problem.m, rows * 12)).split(i, tile, row, rows)
    c.reorder(lane, row, tile, panel, block).parallel(block).unroll(row)
    c.vectorize(lane, machine.lanes).unroll(lane) if whole else c.vectorize(lane)
    sums.compute_at(c, tile).bound_extent(j, columns).bound_extent(i, rows)
    sums.vectorize(j, machine.lanes).unroll(j).unroll(i)
    sums.update().reorder(j, i, k).vectorize(j, machine.lanes).unroll(j).unroll(i)
    panels.compute_root().parallel(panel).vectorize(lane, machine.lanes).bound_extent(lane, columns)
    return c, [a, b]
