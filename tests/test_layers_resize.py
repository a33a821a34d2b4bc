"""Resizing against the reference evaluator of the onnx package."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels import MACHINES
from layer_kernels import assert_close, random_inputs, run
from sevenloops.errors import ProblemError
from sevenloops.layers.resize import Resize

CASES = [
    Resize(2, 17, (5, 7), (10, 14), coordinates="asymmetric", nearest="floor"),
    Resize(1, 64, (20, 20), (40, 40), coordinates="asymmetric"),
    Resize(1, 5, (7, 9), (5, 13), nearest="round_prefer_ceil"),
    Resize(1, 3, (8,), (5,), coordinates="align_corners", nearest="ceil"),
    Resize(1, 33, (6, 7), (11, 5), "linear"),
    Resize(2, 4, (6, 7), (12, 14), "linear", coordinates="align_corners"),
    Resize(1, 16, (6, 7), (1, 3), "linear", coordinates="pytorch_half_pixel"),
    Resize(1, 8, (3, 4, 5), (5, 3, 10), "linear"),
    Resize(1, 2, (6, 10), (7, 13), "linear", (1.2, 1.37), "half_pixel_symmetric"),
    Resize(1, 6, (6, 7), (9, 15), "cubic"),
    Resize(1, 6, (9, 8), (4, 5), "cubic", cubic_a=-0.5, exclude_outside=True),
    Resize(1, 9, (13, 16), (5, 6), "linear", antialias=True),
    Resize(1, 9, (13, 16), (5, 6), "cubic", antialias=True),
    Resize(1, 40, (30, 31), (60, 62), "linear"),
]


def onnx_resize(p: Resize, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What the onnx package's own evaluator gives, in float64, for an array in NHWC."""
    op_resize = pytest.importorskip("onnx.reference.ops.op_resize")
    scales = [1.0, 1.0, *(p.scales or ())]
    sizes = None if p.scales != tuple(o / i for o, i in zip(p.out_size, p.in_size)) else [p.batch, p.channels, *p.out_size]
    functions = {
        "nearest": lambda ratio, scale: op_resize._nearest_coeffs(ratio, p.nearest),
        "linear": op_resize._linear_coeffs_antialias if p.antialias else op_resize._linear_coeffs,
        "cubic": lambda r, s: (op_resize._cubic_coeffs_antialias if p.antialias else op_resize._cubic_coeffs)(
            r, s, p.cubic_a
        ),
    }
    y = op_resize._interpolate_nd(
        np.moveaxis(x, -1, 1),
        functions[p.mode],
        output_size=sizes,
        scale_factors=None if sizes else scales,
        exclude_outside=p.exclude_outside,
        coordinate_transformation_mode=p.coordinates,
    )
    return np.asarray(np.moveaxis(y, 1, -1), np.float64)


@pytest.mark.parametrize("problem", CASES, ids=str)
def test_resize(problem: Resize) -> None:
    arrays = random_inputs(problem)
    expected = onnx_resize(problem, arrays[0].astype(np.float64))
    for machine in MACHINES.values():
        assert_close(run(problem, arrays, machine), expected, 1e-6)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"out_size": (0, 3)}, "must be at least 1"),
    ({"in_size": (2, 2, 2, 2)}, "one to three spatial axes"),
    ({"mode": "area"}, "mode of a resize must be one of"),
    ({"coordinates": "tf_crop_and_resize"}, "coordinates of a resize must be one of"),
    ({"nearest": "up"}, "nearest of a resize must be one of"),
    ({"scales": (0.0, 1.0)}, "scales needs a positive number"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_resizes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        Resize(**{"batch": 1, "channels": 2, "in_size": (3, 4), "out_size": (5, 6), **change})
