"""What a shape rule sees of one node: the types of its inputs, the constants among them, and how to complain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ..errors import GraphError, KernelError, SevenLoopsError
from .ir import Node

__all__ = ["NotKnown", "Operands", "Shape", "Type", "complain", "naming"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class NotKnown(Exception):
    """A size that depends on data: nothing is wrong, but nothing can be said before the network runs."""


class Type(NamedTuple):
    """Size and dtype of a value; the shape is None where the size depends on data."""

    shape: Shape | None
    dtype: str = "float32"


def complain(node: Node, message: str) -> NoReturn:
    """Raise `GraphError` naming the node."""
    raise GraphError(f"{node.op} {node.label!r}: {message}")


@contextmanager
def naming(node: Node, what: str = "cannot be computed") -> Iterator[None]:
    """Whatever goes wrong inside is a `GraphError` that names the node: nobody can foresee all that a model may say."""
    try:
        yield
    except GraphError as error:
        if str(error).startswith(f"{node.op} "):
            raise
        raise type(error)(f"{node.op} {node.label!r}: {error}") from error
    except (NotKnown, SevenLoopsError):
        raise
    except MemoryError as error:
        raise KernelError(f"{node.op} {node.label!r}: there is not enough memory: {error}") from error
    except Exception as error:
        raise GraphError(f"{node.op} {node.label!r}: {what}: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Operands:
    """The inputs of `node`: one type and one constant (or None) each; inputs left out have both None."""

    node: Node
    types: Sequence[Type | None]
    constants: Sequence[Array | None]

    def has(self, at: int) -> bool:
        """Whether the input is there."""
        return at < len(self.types) and self.types[at] is not None

    def type(self, at: int) -> Type:
        """The type of an input; raises `GraphError` where the operator lacks it."""
        found = self.types[at] if at < len(self.types) else None
        if found is None:
            self.fail(f"input {at} is missing")
        return found

    def shape(self, at: int = 0) -> Shape:
        """The sizes of an input; raises `NotKnown` where they depend on data."""
        shape = self.type(at).shape
        if shape is None:
            raise NotKnown
        return shape

    def dtype(self, at: int = 0) -> str:
        """The dtype of an input."""
        return self.type(at).dtype

    def constant(self, at: int) -> Array:
        """The value of an input; raises `NotKnown` where it is no constant."""
        self.type(at)
        found = self.constants[at]
        if found is None:
            raise NotKnown
        return found

    def ints(self, at: int) -> tuple[int, ...]:
        """A constant input as integers; raises `NotKnown` where it is no constant."""
        values = self.constant(at)
        if values.dtype.kind not in "iu":
            self.fail(f"input {at} must be integers, got {values.dtype}")
        return tuple(int(v) for v in values.ravel())

    def rank(self, at: int, least: int, most: int | None = None) -> Shape:
        """The shape of an input whose rank must lie in a range."""
        shape = self.shape(at)
        if len(shape) < least or (most is not None and len(shape) > most):
            wanted = f"{least}" if most == least else f"{least} to {most}" if most else f"at least {least}"
            self.fail(f"input {at} needs {wanted} dimensions, got {shape}")
        return shape

    def axis(self, axis: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= axis < max(rank, 1):
            self.fail(f"axis {axis} does not exist in {rank} dimensions")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front; each at most once."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            self.fail(f"axes {tuple(axes)} name one twice")
        return found

    def fail(self, message: str) -> NoReturn:
        """Raise `GraphError` naming the node."""
        complain(self.node, message)
