"""The definition: for each row i and column j, a sum over k.

Down a column of B every multiply-add needs another cache line, and uses 4 of its 64 bytes.
"""

from __future__ import annotations

from typing import Any

import halide as hl


def define(problem: Any, machine: Any) -> Any:
    """The product c = a * b, and its schedule."""
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")  # a[k, i], b[j, k]
    i, j, c = hl.Var("i"), hl.Var("j"), hl.Func("c")  # c[j, i]: Halide's first argument is the innermost axis
    k = hl.RDom([hl.Range(0, problem.k)], "k")[0]
    c[j, i] = 0.0
    c[j, i] += a[k, i] * b[j, k]

    c.update().reorder(k, j, i)  # innermost first: for i, for j, for k
    return c, [a, b]
