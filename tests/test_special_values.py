"""A NaN or an infinity reaches the outputs that each algorithm's row says (`spreads`, `edges`), and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import problems
import sevenloops
from operands import Operands
from sevenloops.algorithms import ALGORITHMS, Algorithm
from sevenloops.choice import choose
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import Epilogue
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem, GemmProblem, Problem
from sevenloops.reference import reference_conv

Array = np.ndarray[Any, Any]
#: A problem of each kind; every algorithm is tested on those that it computes. Every operand occurs.
PROBLEMS = [
    "mb2 ic5 ih9 iw11 oc7 kh3 kw3 ph1 pw1 yp20 bias act=relu",
    "mb1 ic16 ih13 iw14 oc16 kh3 kw3 ph1 pw1 res=before",
    "mb1 g2 ic6 ih8 iw7 oc14 kh3 kw2 sh2 dw2 pt1 pl3 pr1 act=leaky_relu:0.25",
    problems.DEPTHWISE[5],
    problems.POINTWISE[1],
    "mb1 ic3 id3 ih5 iw6 oc11 kd3 kh3 kw3 pd1 ph1 pw1 bias act=hard_swish",
    problems.TRANSPOSED[0],
    problems.TRANSPOSED[2],
    problems.TRANSPOSED[6],
    "mb1 ic6 ih7 iw8 oc9 kh3 kw3 ph1 pw1 transposed",
    "mb1 ic6 ih7 iw8 oc9 kh1 kw1 transposed",
    "mb1 g20 ic20 ih7 iw8 oc20 kh3 kw3 ph1 pw1 transposed",
    "mb1 g20 ic20 ih7 iw8 oc20 kh3 kw3 sh2 sw2 ph1 pw1 transposed",
    problems.DOUBLE[0],
    problems.SHIFTED[1],
    "gemm m29 n31 k27 tb alpha=0.5 beta=-2.0",
    "gemm m1 n77 k91 tb bias act=hard_swish res=after",
]
SPECIAL = (np.nan, np.inf, -np.inf)


def cases() -> list[tuple[str, str]]:
    return [
        (name, text) for name, row in ALGORITHMS.items() for text in PROBLEMS if row.supports(parse_problem(text)) is None
    ]


def same(y: Array, expected: Array) -> Array:
    """Where y is the expected number, within a rounding error, or the same NaN or infinity."""
    finite = np.isfinite(y) & np.isfinite(expected)
    close = np.abs(np.where(finite, y, 0) - np.where(finite, expected, 0)) <= 1e-3
    right: Array = (finite & close) | (y == expected) | (np.isnan(y) & np.isnan(expected))
    return right


def seen(problem: Problem, name: str, operands: Operands, at: tuple[int, ...]) -> Array:
    """The outputs that have a product with that element in their sum, or it beside their sum; zeros around the image count
    as a plain convolution's definition counts them."""
    plain = replace(problem, epilogue=Epilogue(problem.epilogue.bias, "none", (), problem.epilogue.residual))
    marked = Operands(plain, integers=True)
    for array in (marked.x, marked.w, *marked.extra.values()):
        array[...] = 1
    (marked.x if name == "x" else marked.w if name == "w" else marked.extra[name])[at] = np.nan
    return np.isnan(marked.expected())


def in_tiles(outputs: Array, extents: tuple[int, ...]) -> Array:
    """Those outputs and what may share a tile with one of them."""
    for axis, extent in zip(range(-2, -2 - len(extents), -1), reversed(extents)):
        near = outputs
        for by in range(1, extent):
            for shifted in (np.roll(outputs, by, axis), np.roll(outputs, -by, axis)):
                near = near | shifted
        outputs = near
    return outputs


def beyond(problem: ConvProblem, at: tuple[int, ...]) -> Array:
    """The outputs whose tap, a weight, lies outside the image, as if the image went on on all sides."""
    one_hot = np.zeros(problem.w_shape)
    one_hot[at] = 1
    bare = replace(problem, epilogue=Epilogue(), shift=None)
    meets = reference_conv(bare, np.ones(problem.x_shape), one_hot) > 0
    if problem.shift is not None:  # what the shift moves out of the image
        return meets & ~(reference_conv(replace(bare, shift=problem.shift), np.ones(problem.x_shape), one_hot) > 0)
    channels = np.zeros(problem.y_shape, bool)
    per = problem.out_channels // problem.groups
    oc = at[1] + per * (at[0] // (problem.in_channels // problem.groups)) if problem.transposed else at[0]
    channels[..., oc] = True
    if problem.transposed:
        for axis, (k, s, d, (before, _)) in enumerate(zip(at[2:], problem.stride, problem.dilation, problem.padding), 1):
            o = np.arange(problem.y_shape[axis])
            phase = ((o + before - k * d) % s == 0).reshape([-1 if a == axis else 1 for a in range(channels.ndim)])
            channels = channels & phase
    return channels & ~meets


def check(row: Algorithm, problem: Problem, kernel: Any, operands: Operands, name: str, at: tuple[int, ...]) -> None:
    array = {"x": operands.x, "w": operands.w, **operands.extra}[name]
    kept = array[at]
    clean = operands.expected()
    touched = seen(problem, name, operands, at)
    anything = np.zeros(touched.shape, bool)
    edge = np.zeros(touched.shape, bool)
    if row.spreads is not None and name == "w":
        anything = np.broadcast_to(touched.any(axis=tuple(range(touched.ndim - 1))), touched.shape)
    elif row.spreads is not None and name == "x":
        rank = touched.ndim - 2
        anything = in_tiles(touched, row.spreads(problem, kernel.schedule)[-rank:])
    elif name == "w" and isinstance(problem, ConvProblem):
        edge = beyond(problem, at)
    for value in SPECIAL:
        array[at] = value
        with np.errstate(invalid="ignore"):
            expected = operands.expected()
        y = np.array(kernel(operands.x, kernel.pack(operands.w), out=operands.out, **operands.extra))
        array[at] = kept
        right = same(y, expected)
        what = f"{value} in {name}{list(at)}"
        if np.isnan(value):
            assert np.isnan(y[touched & ~edge]).all(), f"{what} is lost"
        assert right[~anything & ~edge].all(), f"{what}: {(~right & ~anything & ~edge).sum()} outputs are wrong"
        none = same(y, clean)[edge]
        zeros = np.isnan(y)[edge]
        edges = "none" if row.edges == "either" and getattr(problem, "transposed", False) else row.edges
        allowed = {"none": none, "zeros": zeros, "either": none | zeros}[edges]
        assert allowed.all(), f"{what}: edges are not {row.edges!r} ({none.sum()} none, {zeros.sum()} zeros of {edge.sum()})"


@pytest.mark.parametrize(("name", "text"), cases())
def test_special_values_reach_what_the_row_says(name: str, text: str) -> None:
    row, problem = ALGORITHMS[name], parse_problem(text)
    kernel = sevenloops.compile(problem, schedule=row.schedules(problem, Machine.host())[0])
    operands = Operands(problem, integers=False, seed=2)
    for operand, array in {"x": operands.x, "w": operands.w, **operands.extra}.items():
        for at in (tuple(0 for _ in array.shape), tuple(n // 2 for n in array.shape), tuple(n - 1 for n in array.shape)):
            check(row, problem, kernel, operands, operand, at)


@pytest.mark.parametrize(
    "text",
    [
        "mb1 ic8 ih7 iw9 oc8 kh3 kw3 ph1 pw1 transposed",
        "mb1 ic16 ih6 iw5 oc40 kh4 kw4 sh2 sw2 ph1 pw1 transposed",
        "mb1 ic8 ih6 iw5 oc8 kh3 kw3 sh2 sw2 ph1 pw1 oh1 ow1 transposed",
        "mb1 ic8 ih7 iw6 oc8 kh3 kw3 sh2 sw2 ph1 pw1 transposed",
        "mb1 ic8 iw9 oc8 kw3 dw2 sw3 transposed",
    ],
)
def test_strict_transposed_convolutions_have_no_products_beside_those_of_the_definition(text: str) -> None:
    problem = parse_problem(text)
    operands = Operands(problem, integers=True)
    operands.w[0, 0, ..., -1] = np.inf
    kernel = sevenloops.compile(problem, accuracy="strict")
    y = kernel(operands.x, kernel.pack(operands.w), out=operands.out)
    np.testing.assert_array_equal(y, operands.expected().astype(np.float32), strict=True)


@pytest.mark.parametrize(
    ("text", "strict"),
    [
        ("mb4 ic16 ih32 iw32 oc16 kh5 kw5 sh2 sw2 ph2 pw2 transposed", "kn2row"),
        ("mb1 ic128 ih28 iw28 oc64 kh2 kw2 sh2 sw2 transposed", "transposed"),  # every tap meets the image
        ("mb1 ic16 ih28 iw28 oc64 kh3 kw3 sh2 sw2 ph1 pw1 transposed", "transposed"),
        ("mb4 ic16 ih512 iw512 oc32 kh5 kw5 sh2 sw2 ph2 pw2 transposed", "transposed"),  # kn2row's products take 3 GB
    ],
)
def test_strict_chooses_what_leaves_them_out(text: str, strict: str) -> None:
    problem, machine = parse_problem(text), Machine.described("avx2", cores=4)
    assert choose(problem, machine, accuracy="strict").schedule.algorithm == strict
    assert choose(problem, machine, accuracy="strict", algorithm="transposed").schedule.algorithm == "transposed"


def test_every_algorithm_and_operand_occurs() -> None:
    assert {name for name, _ in cases()} == set(ALGORITHMS)
    found = [parse_problem(text) for _, text in cases()]
    assert any(isinstance(problem, GemmProblem) and problem.beta for problem in found)
    assert {problem.epilogue.residual for problem in found} == {None, "before", "after"}


def test_the_documentation_has_the_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "design.md").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.split("## NaN and infinities")[1].split("##")[0].splitlines() if "|" in line]
    said = {name.strip(): (reach, edge) for _, names, reach, edge, _ in lines[2:] for name in names.split(",")}
    assert set(said) == set(ALGORITHMS)
    words = {"zeros": "times zero", "either": "or left out", "none": " left out"}
    for name, row in ALGORITHMS.items():
        reach, edge = said[name]
        assert ("its tiles" in reach) == (row.spreads is not None) == (not row.accumulates_as_defined), name
        if row.spreads is None and "cannot be" not in edge:
            assert words[row.edges] in edge, name
