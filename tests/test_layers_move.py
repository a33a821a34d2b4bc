"""Permutations, slices, pads and concatenations: exact copies, over odd shapes."""

from __future__ import annotations

from typing import Any

import pytest

import layer_reference
from layer_kernels import check
from sevenloops.errors import ProblemError
from sevenloops.layers.moves import Concat, Pad, Slice
from sevenloops.layers.permute import Permute

CASES: list[Any] = [
    Permute((3, 19, 23), (1, 2, 0)),
    Permute((2, 37, 41, 3), (0, 3, 1, 2)),
    Permute((5, 6, 7, 8), (3, 2, 1, 0)),
    Permute((5, 6, 7, 33), (2, 0, 1, 3)),
    Permute((4, 5, 18, 3, 7), (0, 3, 4, 1, 2)),
    Permute((1, 6, 1, 7), (2, 3, 0, 1)),
    Permute((4, 9, 2, 2, 5), (0, 2, 1, 3, 4)),
    Permute((200, 301), (1, 0)),
    Permute((), ()),
    Slice((4, 9, 11), (1, 2, 3), (1, 1, 1), (2, 5, 7)),
    Slice((4, 9, 11), (3, 8, 10), (-1, -2, -3), (4, 5, 4)),
    Slice((2, 20, 30, 40), (0, 1, 0, 0), (1, 2, 1, 1), (2, 10, 30, 40)),
    Slice((3, 7), (0, 0), (1, 1), (3, 7)),
    Slice((6, 5), (0, 4), (1, 1), (6, 1)),
    Slice((), (), (), ()),
    Pad((2, 5, 7, 9), ((0, 0), (1, 2), (3, 0), (0, 0)), "constant", 1.5),
    Pad((6, 7), ((-1, 2), (3, -2)), "constant", float("-inf")),
    Pad((4, 50, 60, 8), ((0, 0), (1, 1), (1, 1), (0, 0))),
    Pad((19,), ((3, 4),)),
    Pad((5, 6), ((2, 3), (4, 1)), "edge"),
    Pad((5, 6, 20), ((2, 3), (9, 1), (0, 0)), "reflect"),
    Pad((1, 6), ((2, 0), (0, 1)), "reflect"),
    Pad((5, 6), ((7, 3), (-1, 9)), "wrap"),
    Pad((3, 4), ((0, 0), (0, 0))),
    Concat(((2, 5, 16), (2, 5, 33), (2, 5, 1)), 2),
    Concat(((3, 2, 7), (3, 4, 7)), 1),
    Concat(((40, 31, 24), (40, 31, 40)), -1),
    Concat(((5,), (6,)), 0),
]


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_copies_are_exact(problem: Any) -> None:
    check(problem, layer_reference.move, tolerance=0, special=True)


def test_axes_that_stay_neighbours_are_one() -> None:
    assert Permute((2, 3, 4, 5), (0, 2, 3, 1)).blocks == ([2, 3, 20], [0, 2, 1])
    assert Permute((1, 3, 224, 224), (0, 2, 3, 1)).blocks == ([3, 224 * 224], [1, 0])
    assert Permute((2, 3, 1, 5), (0, 2, 1, 3)).blocks == ([30], [0])
    assert Permute((1, 1), (1, 0)).blocks == ([1], [0])


BAD: list[tuple[Any, str]] = [
    (lambda: Permute((2, 3), (0, 0)), "axes must be each of"),
    (lambda: Permute((2, 3), (0,)), "axes needs 2 integers"),
    (lambda: Slice((5,), (0,), (1,), (6,)), "leave it"),
    (lambda: Slice((5,), (4,), (-2,), (4,)), "leave it"),
    (lambda: Slice((5,), (-1,), (1,), (1,)), "leave it"),
    (lambda: Slice((5,), (0,), (1,), (0,)), "must be at least 1"),
    (lambda: Pad((5,), ((0, 0), (0, 0))), "pads needs a"),
    (lambda: Pad((5,), ((-3, -2),)), "leave nothing"),
    (lambda: Pad((5,), ((0, 1),), "mirror"), "mode of a pad"),
    (lambda: Pad((5,), ((-6, 9),), "edge"), "leave no value"),
    (lambda: Concat((), 0), "shape of one input"),
    (lambda: Concat(((2, 3), (3, 3)), 1), "differ in other axes"),
    (lambda: Concat(((2, 3),), 2), "axis must be below 2"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_problems(make: Any, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        make()
