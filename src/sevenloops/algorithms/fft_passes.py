"""The transforms of tiles as Halide Funcs. Channels are the vector axis, so every lane is a transform of its own.

A transform of R1 * R2 points is two passes over scratch: R2 butterflies of radix R1 with their twiddle factors, then R1
butterflies of radix R2. Each pass is one rolled loop; a butterfly loads, computes and stores all its values at once
(Halide's `gather` and `scatter`). Rows are real: two of them are one complex transform, and the columns' first pass takes
them apart again, X_a[k] = Z[k] + conj(Z[-k]) and X_b[k] = (Z[k] - conj(Z[-k])) / i, both doubled; the inverse puts two rows
together likewise. Index `e` counts reals: 2 * position + h, where h = 0 is the real part and 1 the imaginary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import halide as hl
import numpy as np

from .dft import Complex, codelet, root, times
from .fft_plan import Axis, Plan

__all__ = ["Forward", "Inverse", "table"]

Load = Callable[[int, Any], Complex]


def table(size: int, sign: int, dtype: Any, count: int) -> Any:
    """`table[n, h]`: cosine (h = 0) and sine (1) of sign * 2 pi n / size, for n below `count`, in the object code."""
    values = [root(sign * n, size) for n in range(count)]
    return hl.Buffer(np.array(values, dtype).T.copy()).copy()  # the copy owns its memory


def odd_extent(positions: int) -> int:
    """Reals that are stored for so many complex values: one more than there are.

    The next pass reads across; without the odd one its loads would be a power of two apart, in the same set of the cache.
    """
    return 2 * positions + 1


def _twiddles(axis: Axis, sign: int) -> Any:
    """`twiddles[j, q, h]`: exp(sign 2 pi i j q / size)."""
    first, rest = axis.radices
    values = [[root(sign * j * q, axis.size) for j in range(rest)] for q in range(first)]
    return hl.Buffer(np.ascontiguousarray(np.moveaxis(np.array(values, np.float32), -1, 0))).copy()


def _store(func: Any, c: Any, rest: list[Any], at: list[Any], values: list[Complex]) -> None:
    """An update that writes complex values to the positions `at`, all at once."""
    places = [2 * i + h for i in at for h in (0, 1)]
    parts = [hl.f32(0) if part is None else part for value in values for part in value]
    func[(c, hl.scatter(places), *rest)] = hl.gather(parts)


def _first_pass(name: str, axis: Axis, sign: int, rest: list[Any], load: Callable[..., Complex]) -> tuple[Any, Any]:
    """The butterflies of the first radix: `a[c, e, *rest]`, position (q * R2 + j); `load(i, j, c, *rest)` is the input."""
    radix, count = axis.radices
    c, e = hl.Var("c"), hl.Var("e")
    j = hl.RDom([hl.Range(0, count)], "j")
    twiddles = _twiddles(axis, sign)
    values = codelet([load(i, j[0], c, *rest) for i in range(radix)], sign, hl.f32)
    turned = [values[0]]
    turned += [times(value, (twiddles[j[0], q, 0], twiddles[j[0], q, 1])) for q, value in enumerate(values) if q]
    func = hl.Func(name)
    func[(c, e, *rest)] = hl.undef(hl.Float(32))
    _store(func, c, rest, [q * count + j[0] for q in range(radix)], turned)
    return func, j[0]


def _butterflies(axis: Axis, sign: int, first: Any, rest: list[Any], domain: Any = None) -> tuple[list[Complex], Any]:
    """The butterflies of the second radix, and the loop variable q: value n stands at position q + R1 * n."""
    radix, count = axis.radices
    q = (hl.RDom([hl.Range(0, radix)], "q") if domain is None else domain)[0]
    at = lambda j, h: first[(hl.Var("c"), (q * count + j) * 2 + h, *rest)]  # noqa: E731
    return codelet([(at(j, 0), at(j, 1)) for j in range(count)], sign, hl.f32), q


def _second_pass(name: str, axis: Axis, sign: int, rest: list[Any], first: Any, live: int) -> tuple[Any, Any]:
    """The second pass: `b[c, e, *rest]` in order, positions from `live` on left out in whole steps."""
    radix, count = axis.radices
    c, e = hl.Var("c"), hl.Var("e")
    values, q = _butterflies(axis, sign, first, rest)
    kept = [n for n in range(count) if radix * n < live]
    func = hl.Func(name)
    func[(c, e, *rest)] = hl.undef(hl.Float(32))
    func.align_storage(e, odd_extent(radix * len(kept)))
    _store(func, c, rest, [q + radix * n for n in kept], [values[n] for n in kept])
    return func, q


class Forward:
    """`spectrum[c, h, ky, kx, p]`: the half spectra, doubled, of the tiles p of `x[c, ix, iy, n]`."""

    def __init__(self, x: Any, plan: Plan, image: tuple[int, int], lanes: int) -> None:
        self.plan, self.lanes = plan, lanes
        ax, ay = plan.x, plan.y
        rest = ay.radices[1]
        c, ix, b, j, i, kx, p = (hl.Var(v) for v in ("c", "ix", "b", "j", "i", "kx", "p"))
        # tile[c, ix, b, j, i, p]: rows j + (2 i + b) R2 of the window, with zeros around the image
        self.tile = hl.Func("tile")
        row = j + (2 * i + b) * rest
        across = self._coordinate(ax, ix, p % ax.tiles, image[1])
        down = self._coordinate(ay, row, p // ax.tiles % ay.tiles, image[0])
        channel = c if plan.channels % lanes == 0 else hl.min(c, plan.channels - 1)
        value = x[channel, across[0], down[0], p // (ax.tiles * ay.tiles)]
        self.tile[c, ix, b, j, i, p] = hl.select(across[1] & down[1], value, hl.f32(0))

        def pair(n: int, jx: Any, c: Any, j: Any, i: Any, p: Any) -> Complex:
            dead = n * ax.radices[1] >= ax.live_in
            at = jx + n * ax.radices[1]
            return (None, None) if dead else (self.tile[c, at, 0, j, i, p], self.tile[c, at, 1, j, i, p])

        self.rows1, _ = _first_pass("rows1", ax, -1, [j, i, p], pair)
        self.rows, self.rows_q = _second_pass("rows", ax, -1, [j, i, p], self.rows1, ax.size)

        def column(n: int, jy: Any, c: Any, kx: Any, p: Any) -> Complex:
            if n * rest >= ay.live_in:
                return None, None
            mirror = (ax.size - kx) % ax.size
            z, m = ([self.rows[c, 2 * k + h, jy, n // 2, p] for h in (0, 1)] for k in (kx, mirror))
            return (z[0] + m[0], z[1] - m[1]) if n % 2 == 0 else (z[1] + m[1], m[0] - z[0])

        self.columns1, _ = _first_pass("columns1", ay, -1, [kx, p], column)
        values, q = _butterflies(ay, -1, self.columns1, [kx, p])
        h, ky = hl.Var("h"), hl.Var("ky")
        self.spectrum, self.spectrum_q = hl.Func("spectrum"), q
        self.spectrum[c, h, ky, kx, p] = hl.undef(hl.Float(32))
        at = [q + ay.radices[0] * n for n in range(rest) for _ in (0, 1)]
        parts = [part for value in values for part in value]
        self.spectrum[c, hl.scatter([hl.Expr(n % 2) for n in range(2 * rest)]), hl.scatter(at), kx, p] = hl.gather(parts)

    @staticmethod
    def _coordinate(axis: Axis, j: Any, tile: Any, image: int) -> tuple[Any, Any]:
        """Image coordinate of window index j, clamped, and whether it is one."""
        i = tile * (axis.outputs * axis.stride) + axis.origin + j
        return hl.clamp(i, 0, image - 1), (i >= 0) & (i < image) & (j < axis.live_in)

    def schedule(self, task: tuple[Any, Any], vector: Any) -> None:
        """Compute what is below the spectrum once per `task` (a loop level over one tile and one vector of channels)."""
        c, lanes = vector, self.lanes
        self.rows.compute_at(*task).update(0).reorder(c, self.rows_q, *self.rows.args()[2:]).vectorize(c, lanes)
        self.rows1.compute_at(self.rows, self.rows.args()[2]).update(0).vectorize(c, lanes)
        self.tile.compute_at(self.rows, self.rows.args()[2]).vectorize(c, lanes)
        self.columns1.compute_at(self.spectrum, hl.Var("kx")).update(0).vectorize(c, lanes)


class Inverse:
    """`result[c, ox, oy, g, p]`: the tiles again, from `product(c, ky, kx, g, p)`, a complex value of the half spectrum."""

    def __init__(self, product: Callable[..., Complex], plan: Plan, lanes: int) -> None:
        self.plan, self.lanes = plan, lanes
        ax, ay = plan.x, plan.y
        c, x, y, kx, r, g, p = (hl.Var(v) for v in ("c", "x", "y", "kx", "r", "g", "p"))

        def column(n: int, j: Any, c: Any, kx: Any, g: Any, p: Any) -> Complex:
            return product(c, j + n * ay.radices[1], kx, g, p)

        self.columns1, _ = _first_pass("back1", ay, 1, [kx, g, p], column)
        self.columns, self.columns_q = _second_pass("back", ay, 1, [kx, g, p], self.columns1, ay.live_out)

        def pair(n: int, j: Any, c: Any, r: Any, g: Any, p: Any) -> Complex:
            mirrored = n >= ax.radices[0] // 2
            k = ax.size - j - n * ax.radices[1] if mirrored else j + n * ax.radices[1]
            a, b = ([self.columns[c, 4 * r + 2 * row + h, k, g, p] for h in (0, 1)] for row in (0, 1))
            return (a[0] + b[1], b[0] - a[1]) if mirrored else (a[0] - b[1], a[1] + b[0])

        self.lines1, _ = _first_pass("lines1", ax, 1, [r, g, p], pair)
        radix, count = ax.radices
        domain = hl.RDom([hl.Range(0, radix), hl.Range(0, -(-ay.live_out // 2))], "q")
        self.q, self.r = domain[0], domain[1]
        values, _ = _butterflies(ax, 1, self.lines1, [self.r, g, p], domain)
        kept = [n for n in range(count) if radix * n < ax.live_out]
        self.result = hl.Func("result")
        self.result[c, x, y, g, p] = hl.undef(hl.Float(32))
        across = [self.q + radix * n for n in kept for _ in (0, 1)]
        down = [2 * self.r + h for _ in kept for h in (0, 1)]
        parts = [part for n in kept for part in values[n]]
        self.result[c, hl.scatter(across), hl.scatter(down), g, p] = hl.gather(parts)

    def schedule(self, task: tuple[Any, Any]) -> None:
        """Compute everything once per `task`, a loop level over one tile and one vector of channels."""
        c, lanes = hl.Var("c"), self.lanes
        self.result.compute_at(*task).bound_extent(c, lanes)
        self.result.update(0).reorder(c, self.q, self.r).vectorize(c, lanes)
        self.lines1.compute_at(self.result, self.r).update(0).vectorize(c, lanes)
        kx = hl.Var("kx")
        self.columns.compute_at(*task).update(0).reorder(c, self.columns_q, kx).vectorize(c, lanes)
        self.columns1.compute_at(self.columns, kx).update(0).vectorize(c, lanes)
