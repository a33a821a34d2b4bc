"""Arithmetic on broadcast arrays as nested tuples: checked, counted, and made into one expression for each element.

A leaf is an integer (which input) or a float (a literal); anything else is `(operator, *operands, *parameters)`:

    ("relu", ("add", 0, ("mul", 1, 0.5)))      max(x0 + 0.5 * x1, 0)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Union

from ..errors import ProblemError

__all__ = ["OPERATORS", "READS_ONCE", "Expression", "as_expression", "cost", "evaluate"]

Expression = Union[int, float, tuple[Any, ...]]
#: Longer expressions are split by whoever writes them; all that walks through one here is recursive.
MOST_OPERATORS = 200


class Operator(NamedTuple):
    """How many operands and parameters an operator takes, what it costs (an addition is 1), and its ONNX name."""

    operands: int
    parameters: int = 0
    cost: int = 1
    onnx: str = ""


#: Every operator by name; the formulas are in `floats`.
OPERATORS: dict[str, Operator] = {
    "add": Operator(2, onnx="Add"),
    "sub": Operator(2, onnx="Sub"),
    "mul": Operator(2, onnx="Mul"),
    "div": Operator(2, cost=4, onnx="Div"),
    "pow": Operator(2, cost=100, onnx="Pow"),
    "min": Operator(2, cost=2, onnx="Min"),
    "max": Operator(2, cost=2, onnx="Max"),
    "prelu": Operator(2, cost=2, onnx="PRelu"),
    "neg": Operator(1, onnx="Neg"),
    "abs": Operator(1, onnx="Abs"),
    "reciprocal": Operator(1, cost=4, onnx="Reciprocal"),
    "sqrt": Operator(1, cost=4, onnx="Sqrt"),
    "exp": Operator(1, cost=15, onnx="Exp"),
    "log": Operator(1, cost=20, onnx="Log"),
    "relu": Operator(1, onnx="Relu"),
    "sigmoid": Operator(1, cost=20, onnx="Sigmoid"),
    "tanh": Operator(1, cost=20, onnx="Tanh"),
    "erf": Operator(1, cost=30, onnx="Erf"),
    "floor": Operator(1, onnx="Floor"),
    "ceil": Operator(1, onnx="Ceil"),
    "round": Operator(1, onnx="Round"),
    "sign": Operator(1, cost=2, onnx="Sign"),
    "sin": Operator(1, cost=60, onnx="Sin"),
    "cos": Operator(1, cost=60, onnx="Cos"),
    "softplus": Operator(1, cost=30, onnx="Softplus"),
    "softsign": Operator(1, cost=4, onnx="Softsign"),
    "mish": Operator(1, cost=25, onnx="Mish"),
    "gelu": Operator(1, cost=35, onnx="Gelu"),
    "gelu_tanh": Operator(1, cost=25, onnx="Gelu"),
    "hard_swish": Operator(1, cost=4, onnx="HardSwish"),
    "silu": Operator(1, cost=20, onnx="Swish"),
    "leaky_relu": Operator(1, 1, cost=2, onnx="LeakyRelu"),
    "elu": Operator(1, 1, cost=15, onnx="Elu"),
    "celu": Operator(1, 1, cost=15, onnx="Celu"),
    "selu": Operator(1, 2, cost=15, onnx="Selu"),
    "hard_sigmoid": Operator(1, 2, cost=4, onnx="HardSigmoid"),
    "clip": Operator(1, 2, cost=2, onnx="Clip"),
    "thresholded_relu": Operator(1, 1, cost=2, onnx="ThresholdedRelu"),
}

#: Operators whose formulas have each operand once. The others would grow exponentially when put into each other.
READS_ONCE = {"add", "sub", "mul", "div", "neg", "abs", "reciprocal", "sqrt", "floor", "ceil", "round", "sin", "cos"}


def as_expression(value: Any, inputs: int) -> Expression:
    """The expression with plain numbers and tuples. Raises `ProblemError` for what is none over `inputs` arrays."""
    return _checked(value, inputs, itertools.count(1))


def _checked(value: Any, inputs: int, operators: Iterator[int]) -> Expression:
    if isinstance(value, bool):
        raise ProblemError(f"a leaf of an expression is an input's number or a float, got {value!r}")
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "__index__"):
        leaf = int(value.__index__())
        if not 0 <= leaf < inputs:
            raise ProblemError(f"the expression reads input {leaf}, and there are {inputs}")
        return leaf
    if not isinstance(value, (tuple, list)) or not value or value[0] not in OPERATORS:
        raise ProblemError(f"not an expression: {value!r}; it is a leaf or (operator, *operands, *parameters)")
    name, *rest = value
    if next(operators) > MOST_OPERATORS:
        raise ProblemError(f"an expression has at most {MOST_OPERATORS} operators; split it")
    operator = OPERATORS[name]
    if len(rest) != operator.operands + operator.parameters:
        wanted = f"{operator.operands} operands and {operator.parameters} parameters"
        raise ProblemError(f"{name} takes {wanted}, got {tuple(rest)}")
    operands = [_checked(item, inputs, operators) for item in rest[: operator.operands]]
    return (str(name), *operands, *(_parameter(name, item) for item in rest[operator.operands :]))


def _parameter(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ProblemError(f"a parameter of {name} is a number, got {value!r}") from None


def cost(expression: Expression) -> int:
    """Additions that take about as long, for each element."""
    if not isinstance(expression, tuple):
        return 0
    operator = OPERATORS[expression[0]]
    return operator.cost + sum(map(cost, expression[1 : 1 + operator.operands]))


def evaluate(expression: Expression, inputs: Sequence[Any], apply: Callable[..., Any], literal: Any = float) -> Any:
    """The value on `inputs`, which may be of any kind; sub-expressions that occur several times are computed once.

    `apply(node, *operands)` computes an operator: `node` is the expression that begins with it. `literal` makes a float.
    """
    known: dict[str, Any] = {}  # by how they are written: 0, an input, and 0.0 are equal

    def value(part: Expression) -> Any:
        if not isinstance(part, tuple):
            return literal(part) if isinstance(part, float) else inputs[part]
        key = repr(part)
        if key not in known:
            known[key] = apply(part, *map(value, part[1 : 1 + OPERATORS[part[0]].operands]))
        return known[key]

    return value(expression)
