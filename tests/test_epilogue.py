"""Epilogues as values, and what each activation computes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from sevenloops.epilogue import ACTIVATIONS, Epilogue
from sevenloops.errors import ProblemError
from sevenloops.reference import apply_epilogue
from strategies import epilogues

BAD = [
    ({"activation": "gelu"}, "activation must be one of none, relu, clip"),
    ({"activation": ""}, "got ''"),
    ({"activation": "relu", "params": (1,)}, "relu takes 0 numbers (), got (1,)"),
    ({"activation": "clip", "params": (1,)}, "clip takes 2 numbers ('low', 'high'), got (1,)"),
    ({"activation": "clip", "params": (2, 1)}, "clip needs low <= high, got (2.0, 1.0)"),
    ({"activation": "clip", "params": (math.nan, 1)}, "clip takes 2 numbers"),
    ({"activation": "leaky_relu", "params": (0.1, 0.2)}, "leaky_relu takes 1 numbers"),
    ({"residual": "inside"}, 'residual must be None, "before" or "after" (the activation), got \'inside\''),
    ({"residual": True}, "residual must be None"),
]

#: activation, params, what it makes of (-8, -1, 0, 1, 8), by hand.
VALUES = [
    ("none", (), (-8, -1, 0, 1, 8)),
    ("relu", (), (0, 0, 0, 1, 8)),
    ("relu6", (), (0, 0, 0, 1, 6)),
    ("clip", (-2, 0.5), (-2, -1, 0, 0.5, 0.5)),
    ("leaky_relu", (0.25,), (-2, -0.25, 0, 1, 8)),
    ("leaky_relu", (), (-0.08, -0.01, 0, 1, 8)),
    ("hard_swish", (), (0, -1 / 3, 0, 2 / 3, 8)),
    ("sigmoid", (), tuple(1 / (1 + math.exp(-v)) for v in (-8, -1, 0, 1, 8))),
    ("silu", (), tuple(v / (1 + math.exp(-v)) for v in (-8, -1, 0, 1, 8))),
]


@pytest.mark.parametrize(("fields", "message"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_bad_epilogue(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ProblemError) as caught:
        Epilogue(**fields)
    assert message in str(caught.value)


@pytest.mark.parametrize("word", ["act", "relu", "bias=1", "res"])
def test_bad_words(word: str) -> None:
    with pytest.raises(ProblemError):
        Epilogue.from_words([word])


@given(epilogues())
def test_words_round_trip(epilogue: Epilogue) -> None:
    assert Epilogue.from_words(epilogue.words()) == epilogue


def test_aliases_are_other_spellings_of_the_same_value() -> None:
    assert Epilogue(activation="relu6") == Epilogue(activation="clip") == Epilogue(activation="clip", params=(0, 6))
    assert Epilogue(activation="swish") == Epilogue(activation="silu")
    assert Epilogue(activation="identity") == Epilogue()
    assert Epilogue(activation="relu6").words() == ["act=clip:0.0:6.0"]


@pytest.mark.parametrize(("name", "params", "expected"), VALUES)
def test_values(name: str, params: tuple[float, ...], expected: tuple[float, ...]) -> None:
    result = apply_epilogue(Epilogue(activation=name, params=params), np.array([-8.0, -1, 0, 1, 8]))
    np.testing.assert_allclose(result, expected, rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_passes_through(name: str) -> None:
    assert np.isnan(apply_epilogue(Epilogue(activation=name), np.array([np.nan]))).all()


def test_infinities() -> None:
    ends = np.array([-np.inf, np.inf])
    apply = lambda name: apply_epilogue(Epilogue(activation=name), ends).tolist()  # noqa: E731
    assert apply("relu") == [0, np.inf]
    assert apply("relu6") == [0, 6]
    assert apply("leaky_relu") == [-np.inf, np.inf]
    assert apply("sigmoid") == [0, 1]


def test_order_of_bias_activation_and_residual() -> None:
    v, bias, residual = np.array([[1.0, -4.0]]), np.array([1.0, 2.0]), np.array([[-3.0, 5.0]])
    before = Epilogue(bias=True, activation="relu", residual="before")
    after = Epilogue(bias=True, activation="relu", residual="after")
    assert apply_epilogue(before, v, bias, residual).tolist() == [[0, 3]]
    assert apply_epilogue(after, v, bias, residual).tolist() == [[-1, 5]]
    assert v.tolist() == [[1, -4]], "the sums were changed"
