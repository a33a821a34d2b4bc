"""Problems as values: sizes, counts, descriptors, and every mistake that is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from problems import ALL, CONV, conv, gemm
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import ACTIVATIONS, Epilogue
from sevenloops.errors import DtypeError, ProblemError, SevenLoopsError
from sevenloops.problem import ConvProblem, GemmProblem
from sevenloops.shift import Shift
from strategies import conv_problems, gemm_problems

CONV_ARGS: dict[str, Any] = {"batch": 1, "in_channels": 6, "in_size": (9, 8), "out_channels": 4, "kernel": 3}
GEMM_ARGS: dict[str, Any] = {"m": 5, "n": 6, "k": 7}

#: What is changed in CONV_ARGS, and what the message must say about it.
BAD_CONV = [
    ({"batch": 0}, "batch must be at least 1, got 0"),
    ({"batch": -3}, "batch must be at least 1, got -3"),
    ({"batch": 1.0}, "batch must be an integer, got 1.0"),
    ({"batch": True}, "batch must be an integer, got True"),
    ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
    ({"out_channels": "4"}, "out_channels must be an integer, got '4'"),
    ({"in_size": ()}, "in_size needs one to three spatial sizes, got ()"),
    ({"in_size": (3, 3, 3, 3)}, "in_size needs one to three spatial sizes, got (3, 3, 3, 3)"),
    ({"in_size": (9, 0)}, "in_size must be at least 1, got 0"),
    ({"in_size": (9, 8.5)}, "in_size must be an integer, got 8.5"),
    ({"kernel": (3, 3, 3)}, "kernel needs 1 or 2 integers for 2 spatial sizes, got (3, 3, 3)"),
    ({"kernel": (3, 0)}, "kernel[1] must be at least 1, got 0"),
    ({"kernel": "3"}, "kernel[0] must be an integer, got '3'"),
    ({"kernel": None}, "kernel[0] must be an integer, got None"),
    ({"kernel": (10, 3)}, "the kernel does not fit: axis 0 has size 9 with padding (0, 0), 9 in all"),
    ({"kernel": 5, "padding": 1, "dilation": (1, 3)}, "with dilation 3 reaches over 13"),
    ({"stride": 0}, "stride[0] must be at least 1, got 0"),
    ({"stride": (1, -1)}, "stride[1] must be at least 1, got -1"),
    ({"dilation": (0, 1)}, "dilation[0] must be at least 1, got 0"),
    ({"padding": -1}, "padding must be at least 0, got -1"),
    ({"padding": 0.5}, "padding must be an integer, got 0.5"),
    ({"padding": (1, 1, 1)}, "padding needs one entry for each of 2 axes, got (1, 1, 1)"),
    ({"padding": ((1, 1), (1, 1, 1))}, "one integer or a (before, after) pair"),
    ({"padding": ((1, -2), 0)}, "padding must be at least 0, got -2"),
    ({"padding": "full"}, 'padding must be "same", "valid", or numbers, got \'full\''),
    ({"padding": "same", "transposed": True}, 'padding="same" has no meaning for a transposed convolution'),
    ({"groups": 0}, "groups must be at least 1, got 0"),
    ({"groups": 4}, "groups=4 does not divide in_channels=6"),
    ({"groups": 3}, "groups=3 does not divide out_channels=4"),
    ({"output_padding": 1}, "output_padding is for transposed convolutions only"),
    ({"transposed": True, "output_padding": -1}, "output_padding[0] must be at least 0, got -1"),
    ({"transposed": True, "output_padding": 2, "stride": 2}, "must be smaller than stride (2, 2) or dilation (1, 1)"),
    ({"transposed": True, "in_size": (1, 1), "padding": 2}, "the output would have size (-1, -1)"),
    ({"batch": 2**20, "in_size": (32, 32)}, "kernels index with 32 bits"),
    ({"batch": 2**62, "in_size": (2**40, 2**40)}, "kernels index with 32 bits"),
    ({"in_channels": 2**16, "out_channels": 2**16}, "weight of shape (65536, 65536, 3, 3) takes"),
    ({"out_channels": 2**20, "in_size": (50, 50)}, "output of shape (1, 48, 48, 1048576) takes"),
    ({"padding": 2**14, "stride": 2**14}, "padded input of shape"),
    ({"shift": 3}, "shift must be None or a Shift, got 3"),
    ({"shift": Shift()}, "a shift is followed by a 1x1 kernel without padding, groups or transposition"),
    ({"shift": Shift(), "kernel": 1, "padding": 1}, "a shift is followed by a 1x1 kernel"),
    ({"shift": Shift(), "kernel": 1, "groups": 2}, "a shift is followed by a 1x1 kernel"),
    ({"shift": Shift(), "kernel": 1, "transposed": True}, "a shift is followed by a 1x1 kernel"),
    ({"shift": Shift((3, 3, 3)), "kernel": 1}, "kernel of a shift needs 1 or 2 integers"),
]

BAD_GEMM = [
    ({"m": 0}, "m must be at least 1, got 0"),
    ({"n": -1}, "n must be at least 1, got -1"),
    ({"k": 2.0}, "k must be an integer, got 2.0"),
    ({"alpha": float("nan")}, "alpha must be finite, got nan"),
    ({"beta": float("inf")}, "beta must be finite, got inf"),
    ({"m": 2**28, "k": 1}, "Y of shape (268435456, 6) takes"),
    ({"m": 2**20, "k": 2**20}, "A of shape (1048576, 1048576) takes"),
    ({"k": 2**20, "n": 2**20}, "B of shape (1048576, 1048576) takes"),
]

BAD_DESCRIPTORS = [
    ("", "has no input size"),
    ("mb1 ic3 oc4 kh3 kw3", "has no input size"),
    ("ic3 ih8 iw8 kh3 kw3", "lacks oc"),
    ("ic3 ih8 oc4 kh3", "lacks iw"),
    ("ic3 ih8 iw8 oc4 kh3", "lacks kw"),
    ("ic3 iw8 oc4 kw3 kh3", "unknown 'kh'"),
    ("ic3 iw8 oc4 kw3 zz9", "unknown 'zz'"),
    ("ic3 ic4 iw8 oc4 kw3", "cannot read 'ic4'"),
    ("ic3 iw-8 oc4 kw3", "cannot read 'iw-8'"),
    ("ic3 iw8 oc4 kw3 float16", "unknown 'float'"),
    ("ic3 iw8 oc4 kw3 act=gelu", "activation must be one of"),
    ("ic3 iw8 oc4 kw3 act=clip:a:b", "cannot read the numbers in 'act=clip:a:b'"),
    ("ic3 iw8 oc4 kw3 biased", "cannot read 'biased'"),
    ("ic3 iw8 oc4 kw3 res=inside", "residual must be None"),
    ("ic0 iw8 oc4 kw3", "in_channels must be at least 1, got 0"),
    ("gemm m1 n2", "lacks k"),
    ("gemm m1 n2 k3 q4", "unknown 'q'"),
    ("gemm m1 n2 k3 alpha=x", "cannot read the number in 'alpha=x'"),
    # Words of the other kind of problem.
    ("ic3 iw8 oc4 kw3 alpha=2", "alpha"),
    ("ic3 iw8 oc4 kw3 ta", "ta"),
    ("gemm m1 n2 k3 transposed", "transposed"),
    ("gemm m1 n2 k3 shift=3", "shift has no meaning for a matrix product"),
    ("ic3 iw8 oc4 kw1 shift=3:dx", "convention must be one of contiguous, modulo, got 'dx'"),
    ("ic3 iw8 oc4 kw1 shift=3:", "cannot read 'shift=3:'"),
    ("ic3 iw8 oc4 kw1 shift=", "cannot read 'shift='"),
    ("ic3 iw8 oc4 kw1 shift=3:random", "convention must be one of contiguous, modulo, got 'random'"),
    ("ic3 iw8 oc4 kw1 shift=0", "kernel of a shift must be at least 1, got 0"),
    ("ic3 iw8 oc4 kw1 shift=3 shift=3", "cannot read 'shift=3'"),
    ("ic3 iw8 oc4 kw1 shift=3x3", "kernel of a shift needs 1 or 1 integers"),
]


@pytest.mark.parametrize(("change", "message"), BAD_CONV, ids=[str(change) for change, _ in BAD_CONV])
def test_bad_convolution(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        ConvProblem(**{**CONV_ARGS, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize(("change", "message"), BAD_GEMM, ids=[str(change) for change, _ in BAD_GEMM])
def test_bad_product(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        GemmProblem(**{**GEMM_ARGS, **change})
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", ["float16", "int8", "f32", "", None, np.float32])
def test_bad_dtype(dtype: Any) -> None:
    for build in (lambda: ConvProblem(**CONV_ARGS, dtype=dtype), lambda: GemmProblem(**GEMM_ARGS, dtype=dtype)):
        with pytest.raises(DtypeError, match="dtype must be one of float32, float64") as caught:
            build()
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, SevenLoopsError)


@pytest.mark.parametrize(("text", "message"), BAD_DESCRIPTORS)
def test_bad_descriptor(text: str, message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        parse_problem(text)
    assert message in str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("text", ALL)
def test_the_table_is_in_canonical_form(text: str) -> None:
    assert str(parse_problem(text)) == text


def test_the_table_covers_every_activation() -> None:
    assert {parse_problem(text).epilogue.activation for text in ALL} == set(ACTIVATIONS)


@given(st.one_of(conv_problems(st.booleans()), gemm_problems()))
def test_descriptor_round_trip(problem: ConvProblem | GemmProblem) -> None:
    again = parse_problem(str(problem))
    assert again == problem
    assert hash(again) == hash(problem)
    assert eval(repr(problem)) == problem


def test_descriptor_order_and_defaults() -> None:
    short = parse_problem("kw3 oc4 ic3 iw8")
    assert short == ConvProblem(1, 3, (8,), 4, (3,))
    assert str(short) == "mb1 ic3 iw8 oc4 kw3"
    assert parse_problem("ic3 iw8 oc4 kw3 pw1 pr0") == ConvProblem(1, 3, (8,), 4, (3,), padding=((1, 0),))
    assert parse_problem("iw8 ic3 oc4 kw3 act=relu6").epilogue == Epilogue(activation="clip", params=(0, 6))


def test_fields_are_full_tuples_of_plain_integers() -> None:
    problem = ConvProblem(np.int64(2), 6, np.array([9, 8]), 4, [3], stride=(2,), padding=[1, (0, 2)], groups=2)  # type: ignore[arg-type]
    assert problem.kernel == (3, 3)
    assert problem.stride == (2, 2)
    assert problem.padding == ((1, 1), (0, 2))
    assert problem.dilation == (1, 1)
    assert problem.output_padding == (0, 0)
    assert type(problem.batch) is int
    assert type(problem.in_size[0]) is int
    assert {problem, dataclasses.replace(problem)} == {problem}
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.batch = 3  # type: ignore[misc]


@pytest.mark.parametrize("size", [1, 2, 7, 13, 224])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_same_padding(size: int, kernel: int, stride: int, dilation: int) -> None:
    problem = ConvProblem(1, 1, size, 1, kernel, stride=stride, padding="same", dilation=dilation)  # type: ignore[arg-type]
    ((before, after),) = problem.padding
    assert problem.out_size == (-(-size // stride),)
    assert after - before in (0, 1)


def test_valid_padding() -> None:
    assert ConvProblem(1, 1, (5, 6), 1, 3, padding="VALID").padding == ((0, 0), (0, 0))  # type: ignore[arg-type]


def test_sizes_and_counts_of_alexnet_conv2() -> None:
    """The two-tower layer, as published: 256 kernels of 5x5 over half of 96 channels, 223.9 M MACs."""
    problem = conv("mb1 g2 ic96 ih27 iw27 oc256 kh5 kw5 ph2 pw2 bias act=relu")
    assert problem.x_shape == (1, 27, 27, 96)
    assert problem.w_shape == (256, 48, 5, 5)
    assert problem.y_shape == (1, 27, 27, 256)
    assert problem.macs == 223_948_800
    assert problem.params == 307_200 + 256
    assert problem.unique_bytes == 4 * (27 * 27 * 96 + 307_456 + 27 * 27 * 256)


def test_sizes_and_counts_of_a_transposed_convolution() -> None:
    problem = conv("mb2 ic8 ih4 iw5 oc6 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1")
    assert problem.y_shape == (2, 8, 10, 6)
    assert problem.w_shape == (8, 6, 3, 3)
    assert problem.macs == 2 * 4 * 5 * 9 * 8 * 6


def test_sizes_and_counts_of_a_product() -> None:
    problem = gemm("gemm m256 n192 k1152 tb beta=1.0 bias res=after")
    assert (problem.a_shape, problem.b_shape, problem.y_shape) == ((256, 1152), (192, 1152), (256, 192))
    assert problem.macs == 56_623_104
    assert problem.unique_bytes == 4 * (256 * 1152 + 192 * 1152 + 192 + 3 * 256 * 192)
    assert gemm("gemm m2 n3 k4 ta float64").a_shape == (4, 2)
    assert gemm("gemm m2 n3 k4 float64").unique_bytes == 8 * (8 + 12 + 6)


def test_kinds() -> None:
    depthwise = {text for text in CONV if conv(text).is_depthwise}
    pointwise = {text for text in CONV if conv(text).is_pointwise}
    assert {"mb2 g27 ic27 ih8 iw7 oc54 kh3 kw3 ph1 pw1 bias", "mb2 g5 ic5 iw37 oc10 kw3 dw4 pw4"} <= depthwise
    assert {"mb2 ic33 ih9 iw9 oc1 kh1 kw1 sh3 sw2", "mb1 g4 ic12 ih5 iw9 oc28 kh1 kw1"} <= pointwise
    assert "mb1 ic7 ih4 iw4 oc9 kh1 kw1 ph1 pw1 bias" not in pointwise
    assert "mb1 ic1 ih1 iw1 oc1 kh1 kw1" not in depthwise


def test_with_epilogue() -> None:
    problem = conv("ic3 iw8 oc4 kw3")
    assert str(problem.with_epilogue(Epilogue(bias=True))) == "mb1 ic3 iw8 oc4 kw3 bias"


def test_factors_must_be_numbers() -> None:
    with pytest.raises(ProblemError, match="alpha must be a number"):
        GemmProblem(1, 1, 1, alpha="x")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="must be a number"):
        Epilogue(activation="clip", params=(None, 1))  # type: ignore[arg-type]
