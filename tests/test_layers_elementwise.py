"""Expressions: broadcasting over odd shapes, and every operator on every kind of number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import layer_reference
from kernels import MACHINES
from layer_kernels import assert_close, check, row_of, run
from sevenloops.errors import ProblemError
from sevenloops.layers.elementwise import Elementwise
from sevenloops.layers.expression import OPERATORS, READS_ONCE

INF = math.inf
ADD_RELU = ("relu", ("add", 0, 1))
CASES = [
    Elementwise(((2, 5, 7, 11), (2, 5, 7, 11)), (2, 5, 7, 11), ADD_RELU),
    Elementwise(((1, 56, 31, 33), (1, 56, 31, 33)), (1, 56, 31, 33), ADD_RELU),
    Elementwise(((3, 7, 9, 13), (13,)), (3, 7, 9, 13), ("mul", 0, 1)),
    Elementwise(((3, 7, 9, 13), (3, 1, 1, 13)), (3, 7, 9, 13), ("sub", 0, 1)),
    Elementwise(((4, 1, 6), (5, 1), (1, 1, 1)), (4, 5, 6), ("add", ("mul", 0, 1), 2)),
    Elementwise(((1,), (2, 3)), (4, 2, 3), ("div", 0, 1)),
    Elementwise(((), (3,)), (3,), ("max", 0, ("min", 1, 0.25))),
    Elementwise(((), (1, 1)), (1, 1), ("sub", 0, 1)),
    Elementwise(((17, 1), (1, 19)), (17, 19), ("prelu", 0, 1)),
    Elementwise(((40, 33, 37), (33, 1)), (40, 33, 37), ("clip", ("add", 0, 1), -0.5, INF)),
    Elementwise(((100, 700),), (100, 700), ("clip", 0, -INF, 0.5)),
    Elementwise(((100_003,),), (100_003,), ("add", 2.5, ("mul", 0, 0.5))),
    Elementwise(((50_001,), (1,)), (50_001,), ("sigmoid", ("add", 0, 1))),
]


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_broadcasting(problem: Elementwise) -> None:
    check(problem, layer_reference.elementwise, tolerance=3e-7, special=True)


PARAMETERS = {
    "leaky_relu": (0.1,), "elu": (1.5,), "celu": (0.7,), "selu": (1.6732632, 1.050701), "hard_sigmoid": (0.2, 0.5),
    "clip": (-0.5, 2.5), "thresholded_relu": (0.75,),
}  # fmt: skip


#: Operators that add numbers of opposite sign, so that small results are right to a share of what was added.
CANCEL = ("gelu", "gelu_tanh", "hard_swish", "hard_sigmoid")


def edges() -> np.ndarray[Any, Any]:
    """Where functions of float32 go wrong: the ends of the range, both zeros, subnormal numbers, small arguments."""
    ends = np.array([0, 1e-45, 1e-40, 1.1754944e-38, 3.4028235e38, INF, np.nan, 87.3, 88.7, 88.73, 103.9, 104.1, 1e4])
    values = np.concatenate([ends, np.logspace(-30, 30, 121), np.linspace(0, 10, 400), np.arange(0, 6, 0.5)])
    return np.concatenate([values, -values]).astype(np.float32)


def unary(name: str) -> Elementwise:
    return Elementwise((edges().shape,), edges().shape, (name, 0, *PARAMETERS.get(name, ())))


@pytest.mark.parametrize("name", [name for name, o in OPERATORS.items() if o.operands == 1])
def test_unary_operators(name: str) -> None:
    """On ordinary numbers to a share of the largest value; on all, to a share of each value where nothing cancels."""
    values, problem = edges(), unary(name)
    for machine in MACHINES.values():
        result = run(problem, [values], machine)
        with np.errstate(all="ignore"):
            expected = layer_reference.elementwise(problem, values.astype(np.float64))
            if name == "mish":
                expected[values == INF] = INF
            rounded = expected.astype(np.float32)
        modest = np.abs(values) < 100
        assert_close(result[modest], expected[modest], 3e-7)
        if name in ("sin", "cos"):
            np.testing.assert_array_equal(np.isnan(result), np.isnan(rounded))
        else:
            np.testing.assert_allclose(result, rounded, rtol=1e-6, atol=3e-7 if name in CANCEL else 1e-42)


@pytest.mark.parametrize("name", [name for name, o in OPERATORS.items() if o.operands == 2])
def test_binary_operators(name: str) -> None:
    chosen = np.array([0, -0.0, 1e-42, 0.3, 1, 2, 3, 2.5, 7, 1e20, 3e38, INF, np.nan, -0.3, -1, -2, -3, -1e20, -INF])
    values = chosen.astype(np.float32)
    problem = Elementwise(((len(values), 1), (len(values),)), (len(values),) * 2, (name, 0, 1))
    for machine in MACHINES.values():
        result = run(problem, [values[:, None], values], machine)
        with np.errstate(all="ignore"):
            wide = values.astype(np.float64)
            expected = layer_reference.elementwise(problem, wide[:, None], wide).astype(np.float32)
        np.testing.assert_allclose(result, expected, rtol=2e-7, atol=1e-45)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, -1.0, -2.0, -0.5, 0.75, 10.0, INF])
def test_powers_with_a_literal_exponent(exponent: float) -> None:
    values = edges()
    problem = Elementwise((values.shape,), values.shape, ("pow", 0, exponent))
    result = run(problem, [values], next(iter(MACHINES.values())))
    with np.errstate(all="ignore"):
        expected = np.power(values.astype(np.float64), exponent).astype(np.float32)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-43)


def test_axes_are_collapsed() -> None:
    def loops(shapes: Any, out_shape: Any) -> list[int]:
        return [size for size, _ in Elementwise(shapes, out_shape, 0).loops]

    assert loops(((2, 3, 4, 5), (2, 3, 4, 5)), (2, 3, 4, 5)) == [120]
    assert loops(((2, 3, 4, 5), (5,)), (2, 3, 4, 5)) == [24, 5]
    assert loops(((2, 3, 4, 5), (2, 1, 1, 5)), (2, 3, 4, 5)) == [2, 12, 5]
    assert loops(((1, 3, 1, 5), (1,)), (1, 3, 1, 5)) == [15]
    machine = next(iter(MACHINES.values()))
    assert {row_of(problem).schedules(problem, machine)[0].parallel for problem in CASES} == {True, False}


def test_formulas_that_read_their_operand_once() -> None:
    """The others are never put into each other: what Halide is given would grow exponentially."""
    import halide as hl

    from sevenloops.layers.floats import FUNCTIONS

    func, i = hl.Func("operand"), hl.Var("i")
    func[i] = hl.f32(i)
    for name, operator in OPERATORS.items():
        formula = FUNCTIONS[name](*[hl.Expr(func[i])] * operator.operands, *PARAMETERS.get(name, ()))
        once = str(formula).count("operand") == operator.operands
        assert once >= (name in READS_ONCE), name


def test_operands_that_look_alike() -> None:
    """To Python the input 0 and the number 0.0 are equal, and 0.0 and -0.0."""
    shapes = ((3,), (3,))
    problems = {Elementwise(shapes, (3,), ("max", 1, leaf)) for leaf in (0, 0.0, -0.0)}
    assert len(problems) == 3
    assert Elementwise(shapes, (3,), ("max", 1, 0)) in problems


def nested(depth: int, twice: bool) -> Any:
    expression: Any = 0
    for _ in range(depth):
        expression = ("add", expression, expression) if twice else ("neg", expression)
    return expression


BAD: list[tuple[tuple[Any, ...], str]] = [
    (((), (3,), 0), "shape of one input at least"),
    ((((2, 3),), (2, 4), 0), "does not broadcast"),
    ((((2, 3, 4),), (3, 4), 0), "does not broadcast"),
    ((((0, 3),), (0, 3), 0), "must be at least 1"),
    ((((3,),), (3,), 1), "reads input 1, and there are 1"),
    ((((3,),), (3,), ("add", 0)), "add takes 2 operands and 0 parameters"),
    ((((3,),), (3,), ("clip", 0, 1.0, "x")), "a parameter of clip is a number"),
    ((((3,),), (3,), ("foo", 0)), "not an expression"),
    ((((3,),), (3,), True), "a leaf of an expression"),
    ((((3,),), (3,), nested(100_000, twice=False)), "at most 200 operators"),
    ((((3,),), (3,), nested(100, twice=True)), "at most 200 operators"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_expressions(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Elementwise(*arguments)
