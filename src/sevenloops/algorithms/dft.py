"""Discrete Fourier transforms as straight-line code: codelets over anything that adds and multiplies. No Halide here.

    X[k] = sum over n < R of x[n] * exp(sign * 2 pi i * n * k / R)

A complex value is a pair (re, im), and None in it stands for zero, so that real inputs and dead inputs cost nothing.
Composite sizes split by Cooley and Tukey (An Algorithm for the Machine Calculation of Complex Fourier Series, 1965), odd
primes pair their terms n and R - n (Singleton, An Algorithm for Computing the Mixed Radix Fast Fourier Transform, 1969).
Run over `Counter` values, a codelet counts its own operations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

__all__ = ["Complex", "Counter", "codelet", "operations", "root", "times", "times_root"]

Real = Any  # or None
Complex = tuple[Real, Real]
Constant = Callable[[float], Any]


def _add(a: Real, b: Real) -> Real:
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _sub(a: Real, b: Real) -> Real:
    if b is None:
        return a
    return -b if a is None else a - b


def _scale(a: Real, factor: float, constant: Constant) -> Real:
    if a is None or factor == 0:
        return None
    return a if factor == 1 else -a if factor == -1 else a * constant(factor)


def add(a: Complex, b: Complex) -> Complex:
    """The sum."""
    return _add(a[0], b[0]), _add(a[1], b[1])


def sub(a: Complex, b: Complex) -> Complex:
    """The difference."""
    return _sub(a[0], b[0]), _sub(a[1], b[1])


def times(a: Complex, b: Complex) -> Complex:
    """The product, by four multiplications."""
    cross = lambda x, y: None if x is None or y is None else x * y  # noqa: E731
    return _sub(cross(a[0], b[0]), cross(a[1], b[1])), _add(cross(a[0], b[1]), cross(a[1], b[0]))


def root(n: int, size: int) -> tuple[float, float]:
    """Cosine and sine of 2 pi n / size, exact at multiples of an eighth of a turn."""
    n %= size
    eighths, rest = divmod(8 * n, size)
    if rest == 0:
        half = math.sqrt(0.5)
        return [
            (1.0, 0.0),
            (half, half),
            (0.0, 1.0),
            (-half, half),
            (-1.0, 0.0),
            (-half, -half),
            (0.0, -1.0),
            (half, -half),
        ][eighths]
    return math.cos(2 * math.pi * n / size), math.sin(2 * math.pi * n / size)


def times_root(a: Complex, n: int, size: int, constant: Constant) -> Complex:
    """`a * exp(2 pi i * n / size)`: free at quarter turns, two multiplications at eighths."""
    c, s = root(n, size)
    if c and abs(c) == abs(s):  # (re + i im) * (c + i s) = c * ((re -+ im) + i (im +- re))
        turned = (_sub(a[0], a[1]), _add(a[1], a[0])) if c == s else (_add(a[0], a[1]), _sub(a[1], a[0]))
        return _scale(turned[0], c, constant), _scale(turned[1], c, constant)
    re = _sub(_scale(a[0], c, constant), _scale(a[1], s, constant))
    return re, _add(_scale(a[1], c, constant), _scale(a[0], s, constant))


def _prime(x: list[Complex], sign: int, constant: Constant) -> list[Complex]:
    """An odd prime: sums and differences of the terms n and R - n share their cosines and sines."""
    size, half = len(x), len(x) // 2
    sums = [add(x[n], x[size - n]) for n in range(1, half + 1)]
    differences = [sub(x[n], x[size - n]) for n in range(1, half + 1)]
    first = x[0]
    for value in sums:
        first = add(first, value)
    out: list[Complex] = [first] * size
    for k in range(1, half + 1):
        even, odd = x[0], (None, None)
        for n in range(1, half + 1):
            c, s = root(n * k, size)
            even = add(even, (_scale(sums[n - 1][0], c, constant), _scale(sums[n - 1][1], c, constant)))
            d = differences[n - 1]
            odd = add(odd, (_scale(d[0], sign * s, constant), _scale(d[1], sign * s, constant)))
        turned = (_sub(None, odd[1]) if odd[1] is not None else None, odd[0])  # i * odd
        out[k], out[size - k] = add(even, turned), sub(even, turned)
    return out


def codelet(x: list[Complex], sign: int, constant: Constant) -> list[Complex]:
    """The transform of `x`, in order; `sign` is -1 (forward) or +1 (inverse, not scaled)."""
    size = len(x)
    if size == 1:
        return x
    if size == 2:
        return [add(x[0], x[1]), sub(x[0], x[1])]
    first = next((f for f in (4, 2, 3, 5, 7) if size % f == 0 and f < size), size)
    if size == 4:
        first = 2
    if first == size:
        return _prime(x, sign, constant)
    rest = size // first
    # n = rest * i + j, k = q + first * p
    inner = [codelet([x[rest * i + j] for i in range(first)], sign, constant) for j in range(rest)]
    out: list[Complex] = [(None, None)] * size
    for q in range(first):
        column = [times_root(inner[j][q], sign * j * q, size, constant) for j in range(rest)]
        for p, value in enumerate(codelet(column, sign, constant)):
            out[q + first * p] = value
    return out


class Counter:
    """A number that counts: `log` collects "+" and "*" of every operation."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def _did(self, what: str) -> Counter:
        self.log.append(what)
        return self

    def __add__(self, other: Counter) -> Counter:
        return self._did("+")

    def __sub__(self, other: Counter) -> Counter:
        return self._did("+")

    def __mul__(self, other: Any) -> Counter:
        return self._did("*")

    def __neg__(self) -> Counter:
        return self


@functools.cache
def operations(size: int, live: int | None = None) -> tuple[int, int]:
    """Additions and multiplications of a codelet of complex values, of which those from `live` on are zero."""
    log: list[str] = []
    dead: Complex = (None, None)
    live = size if live is None else live
    codelet([(Counter(log), Counter(log)) if n < live else dead for n in range(size)], -1, lambda value: value)
    return log.count("+"), log.count("*")
