"""What a network may take of the machine: bytes and steps, checked before anything is allocated or begun.

A model of a few bytes can ask for petabytes, or for a loop of 2^62 turns. A session says what is allowed (`limited`),
and everything that infers sizes, folds constants or evaluates operators asks here. The limits hold in the context of the
caller, as `numpy.errstate` does, so that no function in between has to hand them on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import GraphError, KernelError
from ..machine_detect import memory_bytes
from .ir import Node
from .operands import Type, complain

__all__ = ["MAX_STEPS", "Limits", "StepLimit", "check_types", "count_step", "current", "limited", "machine_bytes", "n_bytes"]

#: Operators that the evaluator may compute inside of one loop; some minutes.
MAX_STEPS = 10**7
#: NumPy's limit.
MAX_RANK = 64 if np.lib.NumpyVersion(np.__version__) >= "2.0.0b1" else 32


class StepLimit(GraphError):
    """An operator took more steps than it may."""


@dataclass
class Limits:
    """What is allowed, and what has been taken: steps so far, bytes that a loop holds on to."""

    max_bytes: int
    max_steps: int = MAX_STEPS
    steps: int = 0
    held: int = 0


_LIMITS: ContextVar[Limits | None] = ContextVar("limits", default=None)


@lru_cache(maxsize=1)
def machine_bytes() -> int:
    """The memory that this process may have: what its control groups grant, or less where RLIMIT_AS says so."""
    found = [memory_bytes()]
    with suppress(ImportError, AttributeError):
        import resource

        found.append(resource.getrlimit(resource.RLIMIT_AS)[0])  # -1 for none
    return min(size for size in found if size > 0)


def current() -> Limits:
    """The limits that hold here; without any, what the machine has."""
    return _LIMITS.get() or Limits(machine_bytes())


@contextmanager
def limited(max_bytes: int | None = None, max_steps: int | None = None) -> Iterator[Limits]:
    """Limits for all that is done inside, by default those outside, with steps and bytes counted anew.

    Running out of memory all the same is a `KernelError`.
    """
    outside = current()
    limits = Limits(max_bytes or outside.max_bytes, max_steps or outside.max_steps)
    token = _LIMITS.set(limits)
    try:
        yield limits
    except MemoryError as error:
        raise KernelError(f"there is not enough memory: {error}; smaller inputs would work") from error
    finally:
        _LIMITS.reset(token)


def count_step(node: Node) -> None:
    """One more step. Raises `StepLimit` naming the node where there are too many."""
    limits = current()
    limits.steps += 1
    if limits.steps > limits.max_steps:
        message = f"takes more than {limits.max_steps:,} steps; fewer, or a session with a larger max_steps, would work"
        raise StepLimit(f"{node.op} {node.label!r}: {message}")


def n_bytes(type_: Type) -> int:
    """The bytes of a value of known size."""
    try:
        each = np.dtype(type_.dtype).itemsize
    except TypeError:  # of a package that is not loaded
        each = 1
    return each * math.prod(type_.shape or ())


def check_types(node: Node, types: Sequence[Type], beside: int = 0) -> None:
    """Raise `GraphError` where outputs of these types, and `beside` bytes that are held already, are beyond the limits."""
    for shape, dtype in types:
        if shape is None:
            continue
        if len(shape) > MAX_RANK:
            complain(node, f"makes {len(shape)} dimensions; NumPy has at most {MAX_RANK}")
        if min(shape, default=0) < 0:
            complain(node, f"asks for the sizes {shape}; they must be at least 0")
        size, most = n_bytes(Type(shape, dtype)), current().max_bytes
        if size + beside > most:
            more = f" beside {beside:,} that are held" if beside > 2**20 else ""
            complain(
                node,
                f"{shape} of {dtype} take {size:,} bytes{more}, and max_bytes is {most:,}; "
                "smaller sizes, or a session with a larger max_bytes, would work",
            )
