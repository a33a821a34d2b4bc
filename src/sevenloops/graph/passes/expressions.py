"""Element-wise operators as expressions: nested tuples over inputs (integers) and literals (floats).

`expression_of` reads one node, `substitute` puts one expression into another, and `canonical` brings expressions that are
equal for every real number into one form, so that formulas can be recognised however an exporter wrote them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..ir import OWN, Node
from ..moving import broadcast_sizes
from .rewrite import Rewriter

__all__ = ["CHEAP", "MAX_INPUTS", "VARIADIC", "canonical", "expression_of", "same", "size_of", "substitute"]

BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "PRelu": "prelu"}
VARIADIC = {"Sum": "add", "Mean": "add", "Min": "min", "Max": "max"}
UNARY = {
    **{name: name.lower() for name in ("Neg", "Abs", "Reciprocal", "Sqrt", "Exp", "Log", "Relu", "Sigmoid", "Tanh", "Erf")},
    **{name: name.lower() for name in ("Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Softplus", "Softsign", "Mish")},
    "HardSwish": "hard_swish",
}
#: operator: name, then its attributes with their defaults in ONNX
PARAMETERS: dict[str, tuple[str, dict[str, float]]] = {
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Celu": ("celu", {"alpha": 1.0}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
}
#: Every operator of ONNX that is read here.
READ = {*BINARY, *VARIADIC, *UNARY, *PARAMETERS, "Clip", "Gelu", "Swish"}
#: A kernel of more streams than this gains nothing.
MAX_INPUTS = 8
#: Operators that cost about as much as a load.
CHEAP = {"add", "sub", "mul", "neg", "abs", "min", "max", "relu", "clip"}
#: How many floats follow the operand.
TRAILING = {"clip": 2, "selu": 2, "hard_sigmoid": 2, "leaky_relu": 1, "elu": 1, "celu": 1, "thresholded_relu": 1}
#: Constants of files are float32.
CLOSE = 1e-6


def expression_of(rewriter: Rewriter, node: Node) -> tuple[Any, list[str]] | None:
    """A node's expression and what its leaves stand for; None for anything but float32 element-wise operators.

    Also None for a Sum (Mean, Min, Max) of more than `MAX_INPUTS` values, which `fuse_elementwise` takes apart.
    """
    if (node.op, node.domain) == ("Elementwise", OWN):
        return node.get("expression"), list(node.inputs)
    if node.op not in READ or node.domain or rewriter.dtype(node.outputs[0]) != "float32":
        return None
    if len(node.inputs) > MAX_INPUTS:
        return None
    leaves = _Leaves(rewriter, node)
    expression = _read(node, leaves)
    known = all(rewriter.dtype(name) == "float32" for name in leaves.names)
    return (expression, leaves.names) if expression is not None and known and leaves.names else None


class _Leaves:
    """Inputs as leaves: constants of one element are literals where they do not decide the shape of the output."""

    def __init__(self, rewriter: Rewriter, node: Node) -> None:
        self.rewriter, self.names = rewriter, list[str]()
        shapes = [rewriter.shape(name) for name in node.inputs if name and rewriter.scalar(name) is None]
        known = [shape for shape in shapes if shape is not None]
        output = rewriter.shape(node.outputs[0])
        whole = known and len(known) == len(shapes)
        self.literals = bool(whole) and (known[0] == output or broadcast_sizes(*known) == output)

    def __call__(self, name: str) -> int | float:
        number = self.rewriter.scalar(name)
        if number is not None and self.literals:
            return number
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


def _read(node: Node, leaf: _Leaves) -> Any:
    if node.op in BINARY:
        first, second = leaf(node.inputs[0]), leaf(node.inputs[1])
        return _power(first, second) if node.op == "Pow" else (BINARY[node.op], first, second)
    if node.op in UNARY:
        return (UNARY[node.op], leaf(node.inputs[0]))
    if node.op in PARAMETERS:
        name, parameters = PARAMETERS[node.op]
        return (name, leaf(node.inputs[0]), *(float(node.get(key, default)) for key, default in parameters.items()))
    if node.op in VARIADIC:
        return _fold_left(node, [leaf(name) for name in node.inputs])
    if node.op == "Clip":
        return _clip(node, leaf)
    if node.op == "Gelu":
        return ("gelu_tanh" if node.get("approximate", "none") == "tanh" else "gelu", leaf(node.inputs[0]))
    if node.op == "Swish":
        alpha, x = float(node.get("alpha", 1.0)), leaf(node.inputs[0])
        return ("silu", x) if alpha == 1 else ("mul", x, ("sigmoid", ("mul", x, alpha)))
    return None


def _fold_left(node: Node, operands: Sequence[Any]) -> Any:
    expression = operands[0]
    for operand in operands[1:]:
        expression = (VARIADIC[node.op], expression, operand)
    if node.op == "Mean" and len(operands) > 1:
        return ("mul", expression, 1 / len(operands))
    return expression if len(operands) > 1 else None


def _power(base: Any, exponent: Any) -> Any:
    square = ("mul", base, base)
    simple = {2.0: square, 3.0: ("mul", square, base), 0.5: ("sqrt", base), -1.0: ("reciprocal", base)}
    return simple.get(exponent, ("pow", base, exponent)) if isinstance(exponent, float) else ("pow", base, exponent)


def _clip(node: Node, leaf: _Leaves) -> Any:
    x, low, high = leaf(node.inputs[0]), node.input(1), node.input(2)
    bounds = [leaf(low) if low else -math.inf, leaf(high) if high else math.inf]
    if all(isinstance(bound, float) for bound in bounds):
        return ("clip", x, *bounds)
    return ("min", ("max", x, bounds[0]), bounds[1])


# ------------------------------------------------------------------------------------------------ changing them


def substitute(expression: Any, leaves: Mapping[int, Any]) -> Any:
    """The expression with each input replaced."""
    if isinstance(expression, tuple):
        return (expression[0], *(substitute(operand, leaves) for operand in expression[1:]))
    return leaves[expression] if isinstance(expression, int) else expression


def size_of(expression: Any) -> int:
    """How many operators an expression has."""
    return 1 + sum(map(size_of, expression[1:])) if isinstance(expression, tuple) else 0


# ---------------------------------------------------------------------------------------------- comparing them

Form = tuple[float, tuple[Any, ...]]


def canonical(expression: Any) -> Form:
    """A number times sorted factors, in which sums and clips have given their own number away.

    A factor is `("leaf", i)`, `("+", constant, terms...)` with a first term of number one, `("clip", form, low, high)`,
    or an operator with the forms of its operands.
    """
    if isinstance(expression, float):
        return expression, ()
    if isinstance(expression, int):
        return 1.0, (("leaf", expression),)
    op, *rest = expression
    split = len(rest) - TRAILING.get(op, 0)
    operands, parameters = [canonical(operand) for operand in rest[:split]], rest[split:]
    if op in RULES:
        return RULES[op](*operands, *parameters)
    return 1.0, ((op, *operands, *parameters),)


def _product(a: Form, b: Form) -> Form:
    return a[0] * b[0], tuple(sorted((*a[1], *b[1]), key=repr))


def _inverse(a: Form) -> Form:
    if not a[0]:
        return 1.0, (("reciprocal", a),)
    return 1 / a[0], (("reciprocal", (1.0, a[1])),) if a[1] else ()


def _sum(a: Form, b: Form) -> Form:
    constant, terms = 0.0, list[Form]()
    for number, factors in (a, b):
        if not factors:
            constant += number
        elif len(factors) == 1 and factors[0][0] == "+":
            constant += number * factors[0][1]
            terms += [(number * inner, of) for inner, of in factors[0][2:]]
        else:
            terms.append((number, factors))
    terms.sort(key=lambda term: repr(term[1]))
    if not terms or not terms[0][0] or (len(terms) == 1 and not constant):
        return terms[0] if terms and not constant else (constant, ())
    lead = terms[0][0]
    return lead, (("+", constant / lead, *((number / lead, factors) for number, factors in terms)),)


def _clipped(a: Form, low: float, high: float) -> Form:
    number, factors = a
    if not factors or not number:
        return min(max(number, low), high), ()
    bounds = sorted((low / number, high / number))
    if len(factors) == 1 and factors[0][0] == "clip":
        _, inner, below, above = factors[0]
        bounds = [min(max(bound, bounds[0]), bounds[1]) for bound in (below, above)]
        return number, (("clip", inner, *bounds),)
    return number, (("clip", (1.0, factors), *bounds),)


def _minimum(a: Form, b: Form) -> Form:
    a, b = (b, a) if not a[1] else (a, b)
    return _clipped(a, -math.inf, b[0]) if not b[1] else (1.0, (("min", *sorted((a, b), key=repr)),))


def _maximum(a: Form, b: Form) -> Form:
    a, b = (b, a) if not a[1] else (a, b)
    return _clipped(a, b[0], math.inf) if not b[1] else (1.0, (("max", *sorted((a, b), key=repr)),))


def _hard_sigmoid(a: Form, alpha: float, beta: float) -> Form:
    return _clipped(_sum(_product((alpha, ()), a), (beta, ())), 0.0, 1.0)


RULES: dict[str, Callable[..., Form]] = {
    "mul": _product,
    "div": lambda a, b: _product(a, _inverse(b)),
    "reciprocal": _inverse,
    "neg": lambda a: (-a[0], a[1]),
    "add": _sum,
    "sub": lambda a, b: _sum(a, (-b[0], b[1])),
    "clip": _clipped,
    "min": _minimum,
    "max": _maximum,
    "relu": lambda a: _clipped(a, 0.0, math.inf),
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": lambda a: _product(a, _hard_sigmoid(a, 1 / 6, 0.5)),
}


def same(a: Any, b: Any) -> bool:
    """Whether two forms are equal up to the rounding of constants to float32."""
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= CLOSE * max(abs(a), abs(b))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
