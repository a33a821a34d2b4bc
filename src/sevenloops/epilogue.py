"""The epilogue: what is done to a sum before it is stored, inside the kernel that produced it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .errors import ProblemError

__all__ = ["ACTIVATIONS", "Epilogue"]

#: name -> (formula, names of its parameters, their defaults)
ACTIVATIONS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "none": ("v", (), ()),
    "relu": ("max(v, 0)", (), ()),
    "clip": ("min(max(v, low), high)", ("low", "high"), (0.0, 6.0)),
    "leaky_relu": ("v if v >= 0 else slope * v", ("slope",), (0.01,)),
    "hard_swish": ("v * min(max(v / 6 + 1/2, 0), 1)", (), ()),
    "sigmoid": ("1 / (1 + exp(-v))", (), ()),
    "silu": ("v / (1 + exp(-v))", (), ()),
}
#: other names that users know
ALIASES = {"relu6": ("clip", (0.0, 6.0)), "swish": ("silu", ()), "identity": ("none", ())}


def as_number(name: str, value: Any) -> float:
    """A float, or a `ProblemError` that names what was not one."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ProblemError(f"{name} must be a number, got {value!r}") from None


@dataclass(frozen=True)
class Epilogue:
    """Bias, activation and residual add, in that order; `residual="after"` adds behind the activation.

    With `v = sum + bias`: `"before"` (ResNet) stores `act(v + residual)`, `"after"` stores `act(v) + residual`.
    `activation` is a name of `ACTIVATIONS` or an alias (`"relu6"` is `clip` from 0 to 6); `params` are its numbers.
    NaN passes through every activation, as in PyTorch. Raises `ProblemError` for an unknown name or number of params.
    """

    bias: bool = False
    activation: str = "none"
    params: tuple[float, ...] = ()
    residual: str | None = None

    def __post_init__(self) -> None:
        name, params = self.activation, tuple(as_number("a parameter of an activation", p) for p in self.params)
        if name in ALIASES:
            name, params = ALIASES[name][0], params or ALIASES[name][1]
        if name not in ACTIVATIONS:
            known = ", ".join([*ACTIVATIONS, *ALIASES])
            raise ProblemError(f"activation must be one of {known}; got {self.activation!r}")
        names, defaults = ACTIVATIONS[name][1:]
        params = params or defaults
        if len(params) != len(names) or any(math.isnan(p) for p in params):
            raise ProblemError(f"{name} takes {len(names)} numbers {names}, got {self.params}")
        if name == "clip" and params[0] > params[1]:
            raise ProblemError(f"clip needs low <= high, got {params}")
        if self.residual not in (None, "before", "after"):
            raise ProblemError(f'residual must be None, "before" or "after" (the activation), got {self.residual!r}')
        for field, value in (("activation", name), ("params", params), ("bias", bool(self.bias))):
            object.__setattr__(self, field, value)

    def words(self) -> list[str]:
        """The words of a problem's descriptor: `bias act=clip:0.0:6.0 res=before`."""
        words = ["bias"] if self.bias else []
        if self.activation != "none":
            words.append("act=" + ":".join([self.activation, *map(repr, self.params)]))
        return words + ([f"res={self.residual}"] if self.residual else [])

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Epilogue:
        """Read what `words` wrote; raises `ProblemError` for a word that is none of them."""
        bias, activation, residual = False, "none", None
        params: tuple[float, ...] = ()
        for word in words:
            key, _, value = word.partition("=")
            if word == "bias":
                bias = True
            elif key == "act":
                activation, *numbers = value.split(":")
                try:
                    params = tuple(float(number) for number in numbers)
                except ValueError:
                    raise ProblemError(f"cannot read the numbers in {word!r}") from None
            elif key == "res":
                residual = value
            else:
                raise ProblemError(f"cannot read {word!r}: an epilogue is made of bias, act=NAME:NUMBERS, res=WHERE")
        return cls(bias, activation, params, residual)
