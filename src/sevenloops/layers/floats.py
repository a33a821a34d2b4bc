"""Functions of float32 values in Halide, right for every value: NaN, infinities, subnormal numbers.

Halide's `exp` and `log` are wrong at the edges and its `tanh` is a call for each element, so the transcendental functions
are written here: a reduction of the argument that is exact, then a polynomial (Taylor's, or Chebyshev interpolation done
when the code is made). Errors are a few units in the last place. Everything must be compiled strictly
(`halide.strict_float`): fast-math would undo the reductions and assume NaN away.

Rare functions (sin, cos, general powers) are the C library's, an element at a time.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import halide as hl

from .base import is_nan

__all__ = ["FUNCTIONS", "exp", "log", "maximum", "power"]

LOG2_E = 1.4426950408889634
#: ln 2 as a sum of a number of few bits, whose products with small integers are exact, and the rest
LN2_HIGH, LN2_LOW = 0.693359375, math.log(2) - 0.693359375
#: adding and taking away 1.5 * 2^23 rounds to an integer
ROUNDER = 12582912.0


def num(value: float) -> Any:
    """A literal."""
    return hl.f32(value)


def _polynomial(x: Any, coefficients: list[float]) -> Any:
    """By Horner's rule, the constant coefficient first."""
    value = num(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + num(coefficient)
    return value


def _below(x: Any, limit: float) -> Any:
    """The smaller of `x` and a limit; NaN stays."""
    return hl.select(x > num(limit), num(limit), x)


def _above(x: Any, limit: float) -> Any:
    """The larger of `x` and a limit; NaN stays."""
    return hl.select(x < num(limit), num(limit), x)


def maximum(a: Any, b: Any) -> Any:
    """The larger value, NaN if either is."""
    return hl.select(is_nan(a), a, hl.select(a > b, a, b))


def minimum(a: Any, b: Any) -> Any:
    """The smaller value, NaN if either is."""
    return hl.select(is_nan(a), a, hl.select(a < b, a, b))


# --------------------------------------------------------------------------------- exponentials and logarithms


def _two_to(n: Any) -> Any:
    """2^n for an integer from -126 to 127."""
    return hl.reinterpret(hl.Float(32), (n + 127) << 23)


def _split(x: Any) -> tuple[Any, Any]:
    """`(n, r)` with x = n ln 2 + r and |r| <= ln(2) / 2."""
    whole = (x * num(LOG2_E) + num(ROUNDER)) - num(ROUNDER)
    return hl.cast(hl.Int(32), whole), (x - whole * num(LN2_HIGH)) - whole * num(LN2_LOW)


def exp(x: Any) -> Any:
    """e^x; zero and infinity where float32 ends."""
    n, r = _split(_above(_below(x, 89.0), -104.0))
    value = _polynomial(r, [1 / math.factorial(k) for k in range(8)])
    return value * _two_to(n >> 1) * _two_to(n - (n >> 1))


def expm1(x: Any) -> Any:
    """e^x - 1 without cancellation."""
    n, r = _split(_above(_below(x, 88.8), -18.0))
    value = r * _polynomial(r, [1 / math.factorial(k) for k in range(1, 8)])
    half = _two_to(n - 1)
    return (half * value + (half - num(0.5))) * num(2)


def _log_of(s: Any, terms: int) -> Any:
    """log((1 + s) / (1 - s)) by its series 2 (s + s^3 / 3 + s^5 / 5 + ...)."""
    return num(2) * s * _polynomial(s * s, [1 / (2 * k + 1) for k in range(terms)])


def log(x: Any) -> Any:
    """The natural logarithm; NaN below zero."""
    small = x < num(2.0**-126)
    bits = hl.reinterpret(hl.Int(32), hl.select(small, x * num(2.0**23), x))
    e = (bits - 0x3F3504F3) >> 23  # x = m 2^e with m from sqrt(1/2) to sqrt(2)
    f = hl.reinterpret(hl.Float(32), bits - (e << 23)) - num(1)
    exponent = hl.cast(hl.Float(32), e - hl.select(small, 23, 0))
    value = exponent * num(LN2_HIGH) + (_log_of(f / (f + num(2)), 5) + exponent * num(LN2_LOW))
    value = hl.select(x == num(0), num(-math.inf), hl.select(x < num(0), num(math.nan), value))
    return hl.select(is_nan(x) | (x == num(math.inf)), x, value)


def sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x)."""
    t = exp(-hl.abs(x))
    return hl.select(x < num(0), t, num(1)) / (num(1) + t)


def softplus(x: Any) -> Any:
    """log(1 + e^x)."""
    t = exp(-hl.abs(x))
    return _above(x, 0.0) + _log_of(t / (t + num(2)), 9)


def tanh(x: Any) -> Any:
    """The hyperbolic tangent."""
    t = expm1(_below(hl.abs(x), 20.0) * num(2))
    value = t / (t + num(2))
    return hl.select(x < num(0), -value, value)


def mish(x: Any) -> Any:
    """x tanh(softplus(x))."""
    t = exp(_below(x, 20.0))
    u = t * (t + num(2))
    return x * (u / (u + num(2)))


@functools.cache
def _erf_coefficients() -> list[float]:
    """-log(erfc(a)) / a on [0, 4] as a polynomial in a / 2 - 1."""
    import numpy as np

    nodes = np.polynomial.chebyshev.chebpts1(15)
    at = 2 * (nodes + 1)
    values = [-math.log(math.erfc(a)) / a for a in at.tolist()]
    fitted = np.polynomial.Chebyshev.fit(nodes, values, 14, domain=[-1, 1])
    return [float(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef]


def erf(x: Any) -> Any:
    """The error function; 1 - erfc beyond 4 is below half a unit in the last place."""
    a = _below(hl.abs(x), 4.0)
    value = -expm1(-(a * _polynomial(a * num(0.5) - num(1), _erf_coefficients())))
    return hl.select(x < num(0), -value, value)


# ------------------------------------------------------------------------------------------ powers and the rest


def power(a: Any, b: Any) -> Any:
    """a^b by the C library, in float64; `b` may be a literal, and a small whole or half number is then multiplied out."""
    if isinstance(b, float):
        whole = math.floor(b) if math.isfinite(b) else 0
        if b - whole in (0.0, 0.5) and abs(b) <= 4 and b != 0.5 - 1:
            return _small_power(a if b >= 0 else num(1) / a, abs(b))
        b = num(b)
    a = num(a) if isinstance(a, float) else a
    wide = hl.Float(64)
    return hl.cast(hl.Float(32), hl.pow(hl.cast(wide, a), hl.cast(wide, b)))


def _small_power(a: Any, b: float) -> Any:
    value = None
    for _ in range(int(b)):
        value = a if value is None else value * a
    if b % 1:
        root = hl.sqrt(a)
        # (-inf)^1.5 is +inf; (-inf)^0.5 is NaN, as NumPy and PyTorch take it for a square root
        value = root if value is None else hl.abs(value) * hl.select(a == num(-math.inf), num(math.inf), root)
    return num(1) if value is None else value


def clip(x: Any, low: float, high: float) -> Any:
    """Into [low, high]; NaN stays."""
    x = x if low == -math.inf else _above(x, low)
    return x if high == math.inf else _below(x, high)


def gelu(x: Any) -> Any:
    """x times the normal distribution function."""
    return num(0.5) * x * (num(1) + erf(x * num(math.sqrt(0.5))))


def gelu_tanh(x: Any) -> Any:
    """GELU's approximation by a tangent."""
    return num(0.5) * x * (num(1) + tanh(num(math.sqrt(2 / math.pi)) * (x + num(0.044715) * x * x * x)))


def sign(x: Any) -> Any:
    """-1, 0 or 1; NaN stays."""
    return hl.select(x > num(0), num(1), hl.select(x < num(0), num(-1), x))


def _negative(x: Any, below: Any) -> Any:
    return hl.select(x < num(0), below, x)


#: Every operator of `expression` as a function of expressions, parameters as floats.
FUNCTIONS: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "pow": power,
    "min": minimum,
    "max": maximum,
    "prelu": lambda x, slope: _negative(x, x * slope),
    "neg": lambda x: num(-1) * x,
    "abs": hl.abs,
    "reciprocal": lambda x: num(1) / x,
    "sqrt": hl.sqrt,
    "exp": exp,
    "log": log,
    "relu": lambda x: _above(x, 0.0),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
    "floor": hl.floor,
    "ceil": hl.ceil,
    "round": hl.round,
    "sign": sign,
    "sin": hl.sin,
    "cos": hl.cos,
    "softplus": softplus,
    "softsign": lambda x: x / (num(1) + hl.abs(x)),
    "mish": mish,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "hard_swish": lambda x: x * clip(x * num(1 / 6) + num(0.5), 0.0, 1.0),
    "silu": lambda x: x * sigmoid(x),
    "leaky_relu": lambda x, a: _negative(x, x * num(a)),
    "elu": lambda x, a: _negative(x, num(a) * expm1(x)),
    "celu": lambda x, a: _negative(x, num(a) * expm1(x / num(a))),
    "selu": lambda x, a, g: num(g) * _negative(x, num(a) * expm1(x)),
    "hard_sigmoid": lambda x, a, b: clip(x * num(a) + num(b), 0.0, 1.0),
    "clip": clip,
    "thresholded_relu": lambda x, a: hl.select((x > num(a)) | is_nan(x), x, num(0)),
}
