"""Long sums are added up in parts: which axis is divided, and what that does to the error."""

from __future__ import annotations

import pytest

import sevenloops as sl
from problems import conv
from sevenloops.algorithms.tiled import LONG_SUM, parts_of_sum
from sevenloops.inputs import largest_error, make_inputs, reference_output


@pytest.mark.parametrize(
    ("taps", "parts"),
    [
        ((64, 3, 3, 1), (0, 1)),
        ((LONG_SUM,), (0, 1)),
        ((256, 5, 5, 1), (2, 5)),  # 6,400 terms: five kernel rows of 1,280
        ((512, 3, 3, 1), (2, 3)),
        ((64, 11, 11, 2), (2, 11)),  # two depths would still be 7,744 terms each
        ((4096, 1, 1, 1), (0, 2)),
        ((4608,), (0, 3)),
        ((9216, 1), (0, 6)),  # five does not divide it
        ((4099,), (0, 1)),  # a prime: nothing divides it
        ((64, 11, 11, 5), (2, 11)),  # 19 parts are wanted: the most there are
        ((4096, 3, 3, 1), (0, 16)),  # 18 are wanted; more would make the hot loop short
    ],
)
def test_which_axis_is_divided(taps: tuple[int, ...], parts: tuple[int, int]) -> None:
    assert parts_of_sum(taps) == parts


@pytest.mark.parametrize("name", ["direct", "im2col", "kn2row"])
@pytest.mark.parametrize(
    "text", ["mb1 ic256 ih14 iw14 oc40 kh5 kw5 ph2 pw2 bias", "mb1 ic4608 ih9 iw7 oc40 kh1 kw1 act=relu"]
)
def test_errors_of_long_sums(name: str, text: str) -> None:
    """6,400 and 4,608 terms; one sum of them was off by up to 4e-6 of the largest output."""
    problem = conv(text)
    kernel, inputs = sl.compile(problem, algorithm=name), make_inputs(problem, 0)
    y = kernel(inputs.x, kernel.pack(inputs.w), bias=inputs.bias)
    assert largest_error(y, reference_output(problem, inputs)) < 2e-6
