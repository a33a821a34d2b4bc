"""The same loops in another order: k before j.

Now the inner loop runs along rows of B and C, and uses every byte of a line that it fetches.
"""

from __future__ import annotations

from typing import Any

import halide as hl


def define(problem: Any, machine: Any) -> Any:
    """The product c = a * b, and its schedule."""
    a, b = hl.ImageParam(hl.Float(32), 2, "a"), hl.ImageParam(hl.Float(32), 2, "b")
    i, j, c = hl.Var("i"), hl.Var("j"), hl.Func("c")
    k = hl.RDom([hl.Range(0, problem.k)], "k")[0]
    c[j, i] = 0.0
    c[j, i] += a[k, i] * b[j, k]

    c.update().reorder(j, k, i)
    return c, [a, b]
