"""The matrices of Winograd's minimal filtering, made from points with exact fractions (Toom-Cook).

`F(m, r)` gives m outputs of a filter of r taps from `alpha = m + r - 1` inputs with alpha multiplications::

    y = AT @ ((G @ g) * (BT @ d))        y[i] = sum over j of d[i + j] * g[j]

The inputs and the filter are polynomials; both are evaluated at alpha - 1 points and at infinity, multiplied there, and the
product is interpolated (Lavin and Gray, arXiv 1509.09308; Barabasz et al., arXiv 1803.10986). Any distinct points give exact
matrices; which ones give small *rounding errors* is another question, answered by measurement (docs/winograd.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from ..errors import ScheduleError

__all__ = ["POINTS", "Matrices", "matrices", "points_of"]

Matrix = tuple[tuple[Fraction, ...], ...]

_F = Fraction


def _set(*texts: str) -> dict[int, tuple[Fraction, ...]]:
    """Points by their number. `+-a` is short for the pair a, -a: pairs let rows share their even and odd parts."""
    table = {}
    for text in texts:
        points: list[Fraction] = []
        for word in text.split():
            points += [_F(word[2:]), -_F(word[2:])] if word.startswith("+-") else [_F(word)]
        table[len(points)] = tuple(points)
    return table


#: Sets of points by name and number. "balanced" has the smallest error that a search over pairs of eighths found: a fifth of
#: that of "integers", the textbooks' points.
POINTS: dict[str, dict[int, tuple[Fraction, ...]]] = {
    "balanced": _set(
        "0",
        "+-5/8",
        "0 +-1",
        "+-1/2 +-5/4",
        "0 +-5/8 +-3/2",
        "+-3/8 +-7/8 +-13/8",
        "0 +-1/2 +-1 +-2",
        "+-1/4 +-3/4 +-5/4 +-2",
        "0 +-3/8 +-7/8 +-5/4 +-2",
    ),
    "integers": _set("0", "0 1", "0 +-1", "0 +-1 2", "0 +-1 +-2", "0 +-1 +-2 1/2", "0 +-1 +-2 +-1/2", "0 +-1 +-2 +-1/2 4"),
}


@dataclass(frozen=True)
class Matrices:
    """`AT` (m x alpha), `G` (alpha x r) and `BT` (alpha x alpha) of F(m, r)."""

    at: Matrix
    g: Matrix
    bt: Matrix

    @property
    def m(self) -> int:
        """Outputs of one tile."""
        return len(self.at)

    @property
    def alpha(self) -> int:
        """Inputs, and multiplications, of one tile."""
        return len(self.bt)


def points_of(name: str, count: int) -> tuple[Fraction, ...]:
    """The points of a named set for F(m, r) with m + r - 2 = `count`; raises `ScheduleError` if it has none."""
    if count == 0:
        return ()
    if count not in POINTS.get(name, {}):
        known = "; ".join(f"{key} for {', '.join(map(str, sets))}" for key, sets in POINTS.items())
        raise ScheduleError(f"there are no {count} points named {name!r}; there are {known}")
    return POINTS[name][count]


def _product(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients of `prod (x - root)`, the constant first."""
    coefficients = [_F(1)]
    for root in roots:
        shifted = [_F(0), *coefficients]
        coefficients = [s - root * c for s, c in zip(shifted, [*coefficients, _F(0)])]
    return coefficients


@cache
def matrices(m: int, r: int, points: tuple[Fraction, ...]) -> Matrices:
    """The matrices of F(m, r) from m + r - 2 distinct points; the last point is infinity."""
    alpha = m + r - 1
    if len(points) != alpha - 1 or len(set(points)) != alpha - 1:
        raise ScheduleError(f"F({m}, {r}) needs {alpha - 1} distinct points, got {', '.join(map(str, points))}")
    at = tuple((*(p**i for p in points), _F(int(i == m - 1))) for i in range(m))
    g, bt = [], []
    for p in points:
        others = [q for q in points if q != p]
        scale = _F(1)
        for q in others:
            scale *= p - q
        g.append(tuple(p**j / scale for j in range(r)))
        bt.append((*_product(others), _F(0)))
    g.append(tuple(_F(int(j == r - 1)) for j in range(r)))
    bt.append(tuple(_product(list(points))))
    return Matrices(at, tuple(g), tuple(bt))
