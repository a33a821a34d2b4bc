"""No loops inside of the tile: its sums are in vector registers from the first k to the last.

Before, each multiply-add loaded its sum from memory and stored it again, for a register cannot be chosen by a loop variable.
"""

from __future__ import annotations

from typing import Any

import halide as hl

from sevenloops.ladder.tiles import own_tile


def define(problem: Any, machine: Any) -> Any:
    """The product c = a * b, and its schedule."""
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")
    i, j, sums, c = hl.Var("i"), hl.Var("j"), hl.Func("sums"), hl.Func("c")
    k = hl.RDom([hl.Range(0, problem.k)], "k")[0]
    sums[j, i] = 0.0
    sums[j, i] += a[k, i] * b[j, k]
    c[j, i] = sums[j, i]

    rows, columns = own_tile(machine)
    tile_i, tile_j, row, column = hl.Var("tile_i"), hl.Var("tile_j"), hl.Var("row"), hl.Var("column")
    c.tile(j, i, tile_j, tile_i, column, row, columns, rows)
    sums.compute_at(c, tile_j).bound_extent(j, columns).bound_extent(i, rows)
    sums.update().reorder(j, i, k).vectorize(j, machine.lanes).unroll(j).unroll(i)
    sums.vectorize(j, machine.lanes).unroll(j).unroll(i)
    c.vectorize(column, machine.lanes).unroll(column).unroll(row)
    c.parallel(tile_i)
    return c, [a, b]
