"""Reading the one-line descriptors of problems; `sevenloops.problem` says what they look like."""

from __future__ import annotations

import re
from typing import Any

from .epilogue import Epilogue
from .errors import ProblemError
from .problem import AXES, DTYPES, PAD_LETTERS, ConvProblem, GemmProblem, Problem
from .shift import Shift

__all__ = ["parse_problem"]

_NUMBER_WORD = re.compile(r"([a-z]+)(\d+)")


def parse_problem(text: str) -> Problem:
    """Read a descriptor (see the module's text); the inverse of `str(problem)`.

    Raises `ProblemError` naming the word that could not be read.
    """
    numbers: dict[str, int] = {}
    flags: set[str] = set()
    epilogue: list[str] = []
    factors: dict[str, float] = {}
    dtype = "float32"
    shifts: dict[str, Shift] = {}
    for word in text.split():
        match = _NUMBER_WORD.fullmatch(word)
        if word in ("gemm", "ta", "tb", "transposed"):
            flags.add(word)
        elif word in DTYPES:
            dtype = word
        elif word.startswith(("alpha=", "beta=")):
            factors[word.split("=")[0]] = _as_float(word)
        elif word.startswith(("bias", "act=", "res=")):
            epilogue.append(word)
        elif word.startswith("shift=") and not shifts:
            shifts["shift"] = Shift.from_word(word)
        elif match and match[1] not in numbers:
            numbers[match[1]] = int(match[2])
        else:
            raise ProblemError(f"cannot read {word!r} in the descriptor {text!r}")
    strange = (flags | set(factors) | set(shifts)) & (
        {"transposed", "shift"} if "gemm" in flags else {"ta", "tb", "alpha", "beta"}
    )
    if strange:
        kind = "matrix product" if "gemm" in flags else "convolution"
        raise ProblemError(f"{', '.join(sorted(strange))} has no meaning for a {kind}, in the descriptor {text!r}")
    shared: dict[str, Any] = {"epilogue": Epilogue.from_words(epilogue), "dtype": dtype}
    build = _gemm_from_words if "gemm" in flags else _conv_from_words
    problem = build(text, numbers, flags, {**shared, **factors, **shifts})
    if numbers:
        raise ProblemError(f"unknown {', '.join(map(repr, numbers))} in the descriptor {text!r}")
    return problem


def _as_float(word: str) -> float:
    try:
        return float(word.split("=", 1)[1])
    except ValueError:
        raise ProblemError(f"cannot read the number in {word!r}") from None


def _need(text: str, numbers: dict[str, int], *names: str) -> list[int]:
    missing = [name for name in names if name not in numbers]
    if missing:
        raise ProblemError(f"the descriptor {text!r} lacks {', '.join(missing)}")
    return [numbers.pop(name) for name in names]


def _gemm_from_words(text: str, numbers: dict[str, int], flags: set[str], shared: dict[str, Any]) -> Problem:
    m, n, k = _need(text, numbers, "m", "n", "k")
    return GemmProblem(m, n, k, trans_a="ta" in flags, trans_b="tb" in flags, **shared)


def _conv_from_words(text: str, numbers: dict[str, int], flags: set[str], shared: dict[str, Any]) -> Problem:
    axes = next((AXES[i:] for i in range(3) if f"i{AXES[i]}" in numbers), "")
    if not axes:
        raise ProblemError(f"the descriptor {text!r} has no input size (iw, or ih iw, or id ih iw)")
    ic, oc = _need(text, numbers, "ic", "oc")
    in_size = _need(text, numbers, *(f"i{a}" for a in axes))
    kernel = _need(text, numbers, *(f"k{a}" for a in axes))
    padding = []
    for a in axes:
        both = numbers.pop(f"p{a}", 0)
        before, after = PAD_LETTERS[a]
        padding.append((numbers.pop(before, both), numbers.pop(after, both)))
    return ConvProblem(
        batch=numbers.pop("mb", 1),
        in_channels=ic,
        in_size=tuple(in_size),
        out_channels=oc,
        kernel=tuple(kernel),
        stride=tuple(numbers.pop(f"s{a}", 1) for a in axes),
        padding=tuple(padding),
        dilation=tuple(numbers.pop(f"d{a}", 1) for a in axes),
        groups=numbers.pop("g", 1),
        transposed="transposed" in flags,
        output_padding=tuple(numbers.pop(f"o{a}", 0) for a in axes),
        out_pitch=numbers.pop("yp", 0),
        **shared,
    )
