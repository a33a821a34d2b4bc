"""The roads on which libraries without a shift operator are measured compute the same as the definition."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from problems import conv
from sevenloops.bench.engines import ENGINES, Settings
from sevenloops.bench.results import Row, Timing
from sevenloops.bench.shift_roads import ROADS, depthwise_road, slices_road
from sevenloops.choice import untuned
from sevenloops.errors import Unsupported
from sevenloops.inputs import make_inputs, reference_output
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.reference import reference_conv

TEXTS = [
    "mb2 ic20 ih7 iw6 oc5 kh1 kw1 shift=3 bias act=relu",
    "mb1 ic37 ih9 iw8 oc5 kh1 kw1 sh2 sw2 shift=3:modulo bias",
    "mb1 ic31 ih6 iw7 oc4 kh1 kw1 sh2 shift=3x5:d2x1",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_depthwise_convolution_shifts(text: str) -> None:
    problem = conv(text)
    inputs, road = make_inputs(problem, 0), depthwise_road(problem)
    padding = tuple((p, p) for p in road.padding)
    channels = problem.in_channels
    move = ConvProblem(problem.batch, channels, problem.in_size, channels, road.weight.shape[2:], problem.stride, padding,
                       tuple(road.dilation), groups=channels)  # fmt: skip
    assert move.out_size == problem.out_size
    mix = replace(problem, shift=None, stride=(1, 1), in_size=move.out_size)
    y = reference_conv(mix, reference_conv(move, inputs.x, road.weight), inputs.w, inputs.bias)
    np.testing.assert_allclose(y, reference_output(problem, inputs), atol=1e-12)


@pytest.mark.parametrize("text", [*TEXTS, "mb1 ic17 ih8 iw9 oc4 kh1 kw1 sw2 shift=2x4:modulo"])
def test_slices_shift(text: str) -> None:
    problem = conv(text)
    inputs, road = make_inputs(problem, 0), slices_road(problem)
    padded = np.pad(inputs.x, [(0, 0), *road.padding, (0, 0)])
    parts = []
    for (first, end, step), start in road.slices:
        axes = [slice(a, a + n, s) for a, n, s in zip(start, problem.in_size, problem.stride)]
        parts.append(padded[(slice(None), *axes, slice(first, end, step))])
    mix = replace(problem, shift=None, stride=(1, 1), in_size=problem.out_size)
    y = reference_conv(mix, np.concatenate(parts, -1), inputs.w[:, road.order], inputs.bias)
    np.testing.assert_allclose(y, reference_output(problem, inputs), atol=1e-12)


def test_even_kernels_have_no_depthwise_road() -> None:
    with pytest.raises(Unsupported, match="even kernels"):
        depthwise_road(conv("mb1 ic17 ih8 iw9 oc4 kh1 kw1 shift=2x4"))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("text", TEXTS)
def test_onnx_models_of_both_roads(text: str, road: str) -> None:
    pytest.importorskip("onnx", reason="onnx is not installed")
    evaluator: Any = pytest.importorskip("onnx.reference", reason="onnx is not installed").ReferenceEvaluator
    from sevenloops.bench.onnx_peers import build_model

    problem = conv(text)
    inputs = make_inputs(problem, 0)
    import onnx

    model = evaluator(onnx.load_from_string(build_model(problem, inputs, road)))
    (y,) = model.run(None, {"x": np.moveaxis(inputs.x, -1, 1)})
    np.testing.assert_allclose(np.moveaxis(y, 1, -1), reference_output(problem, inputs), atol=1e-5)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_pytorch_on_both_roads(text: str, last: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from sevenloops.bench import torch_peer

    problem = conv(text)
    inputs = make_inputs(problem, 0)
    with torch.inference_mode():
        for road in (torch_peer._depthwise_road, torch_peer._slices_road):
            y = road(problem, inputs, last, torch_peer._functional_step)().numpy()
            np.testing.assert_allclose(np.moveaxis(y, 1, -1), reference_output(problem, inputs), atol=1e-5)


def test_the_untuned_choice_is_no_peer() -> None:
    problem = conv(TEXTS[0])
    timings = {name: Timing(name, ((time,),)) for name, time in (("sevenloops", 2.0), ("torch", 6.0), ("untuned", 3.0))}
    row = Row("a row", problem, 1, timings)
    assert (row.ratio, row.untuned_over_own) == (3.0, 1.5)
    inputs = make_inputs(problem, 0)
    prepared = ENGINES["untuned"].prepare(problem, inputs, Settings(threads=1))
    prepared.run()
    assert prepared.details["schedule"] == repr(untuned(problem, Machine.host()).schedule)
    np.testing.assert_allclose(prepared.output(), reference_output(problem, inputs), atol=1e-5)


def test_the_unshifted_convolution_is_no_peer() -> None:
    problem = conv(TEXTS[0])
    timings = {name: Timing(name, ((time,),)) for name, time in (("sevenloops", 2.0), ("torch", 6.0), ("unshifted", 1.6))}
    row = Row("a row", problem, 1, timings)
    assert (row.ratio, row.over_unshifted) == (3.0, 1.25)
    inputs = make_inputs(problem, 0)
    prepared = ENGINES["unshifted"].prepare(problem, inputs, Settings(threads=1))
    prepared.run()
    expected = reference_conv(replace(problem, shift=None), inputs.x, inputs.w, inputs.bias)
    np.testing.assert_allclose(prepared.output(), expected, atol=1e-5)
