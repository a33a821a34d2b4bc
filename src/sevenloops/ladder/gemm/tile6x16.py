"""A tile of 6 x 16 sums stays where it is while k runs.

Each value of A that is fetched serves 16 sums, each value of B serves 6. C is written once.
"""

from __future__ import annotations

from typing import Any

import halide as hl


def define(problem: Any, machine: Any) -> Any:
    """The product c = a * b, and its schedule."""
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")
    i, j, sums, c = hl.Var("i"), hl.Var("j"), hl.Func("sums"), hl.Func("c")
    k = hl.RDom([hl.Range(0, problem.k)], "k")[0]
    sums[j, i] = 0.0
    sums[j, i] += a[k, i] * b[j, k]
    c[j, i] = sums[j, i]

    rows, columns = 6, 16
    tile_i, tile_j, row, column = hl.Var("tile_i"), hl.Var("tile_j"), hl.Var("row"), hl.Var("column")
    c.tile(j, i, tile_j, tile_i, column, row, columns, rows)
    sums.compute_at(c, tile_j).bound_extent(j, columns).bound_extent(i, rows)
    sums.update().reorder(j, i, k)  # for k: the whole tile
    return c, [a, b]
