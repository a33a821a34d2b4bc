"""What a value is that Slice, Split and Pad cut out of another: for each axis the places that its elements come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

import numpy as np

from ..ir import Node
from .rewrite import Array, Rewriter

__all__ = ["ZERO", "Cut", "cuts", "step"]

#: A value and those that it is cut from, nearest first, each with the node that reads it there.
Chain = list[tuple[str, Union[Node, None]]]
#: The place of an element that is padding.
ZERO = -1
#: Nodes between a value and what it is cut from.
MAX_STEPS = 8


@dataclass(frozen=True)
class Cut:
    """Element `(i, j, ...)` of the value is element `(axes[0][i], axes[1][j], ...)` of `source`; zero where one is -1."""

    source: str
    axes: tuple[Array, ...]


def cuts(rewriter: Rewriter, names: tuple[str, ...]) -> Iterator[list[Cut]]:
    """The values as cuts of one value, for each that all of them come from, nearest first."""
    chains = [_chain(rewriter, name) for name in names]
    if any(len(chain) < 2 for chain in chains):
        return
    common = set.intersection(*({name for name, _ in chain} for chain in chains))
    for source in (name for name, _ in chains[0] if name in common):
        shape = rewriter.shape(source)
        found = [_cut(rewriter, chain, source, shape) for chain in chains] if shape is not None else []
        whole = [cut for cut in found if cut is not None]
        if whole and len(whole) == len(found):
            yield whole


def _cut(rewriter: Rewriter, chain: Chain, source: str, shape: tuple[int, ...]) -> Cut | None:
    """What the first value of a chain is of a later one."""
    axes: list[Array] | None = [np.arange(size) for size in shape]
    at = next(index for index, (name, _) in enumerate(chain) if name == source)
    for (name, _), (_, node) in zip(reversed(chain[:at]), reversed(chain[1 : at + 1])):
        axes = None if axes is None or node is None else step(rewriter, node, name, axes)
    return None if axes is None else Cut(source, tuple(axes))


def _chain(rewriter: Rewriter, name: str) -> Chain:
    """The value and those that it is cut from, nearest first, each with the node that reads it there."""
    chain: Chain = [(name, None)]
    while len(chain) <= MAX_STEPS:
        node = rewriter.producer(chain[-1][0])
        if node is None or node.domain or node.op not in ("Slice", "Split", "Pad"):
            break
        chain.append((node.inputs[0], node))
    return chain


def step(rewriter: Rewriter, node: Node, output: str, axes: list[Array]) -> list[Array] | None:
    """The places of an output of Slice, Split or Pad, from those of its input; None where they are not known."""
    if node.op == "Slice":
        return _slice(rewriter, node, axes)
    return _split(rewriter, node, output, axes) if node.op == "Split" else _pad(rewriter, node, axes)


def _integers(rewriter: Rewriter, name: str, default: list[int]) -> list[int] | None:
    if not name:
        return default
    array = rewriter.constant(name)
    return None if array is None else [int(value) for value in array.reshape(-1)]


def _slice(rewriter: Rewriter, node: Node, axes: list[Array]) -> list[Array] | None:
    starts, ends = (_integers(rewriter, node.input(at), []) for at in (1, 2))
    if starts is None or ends is None:
        return None
    along = _integers(rewriter, node.input(3), list(range(len(starts))))
    steps = _integers(rewriter, node.input(4), [1] * len(starts))
    if along is None or steps is None:
        return None
    result = list(axes)
    for axis, start, end, step in zip(along, starts, ends, steps):
        result[axis] = result[axis][start:end:step]
    return result


def _split(rewriter: Rewriter, node: Node, output: str, axes: list[Array]) -> list[Array] | None:
    shapes = [rewriter.shape(name) for name in node.outputs]
    axis, first = int(node.get("axis", 0)) % len(axes), 0
    for name, shape in zip(node.outputs, shapes):
        if shape is None:
            return None
        if name == output:
            return [part[first : first + shape[axis]] if at == axis else part for at, part in enumerate(axes)]
        first += shape[axis]
    return None


def _pad(rewriter: Rewriter, node: Node, axes: list[Array]) -> list[Array] | None:
    amounts = _integers(rewriter, node.input(1), [])
    along = _integers(rewriter, node.input(3), list(range(len(axes))))
    zero = not node.input(2) or rewriter.scalar(node.inputs[2]) == 0
    if amounts is None or along is None or not zero or node.get("mode", "constant") != "constant" or min(amounts) < 0:
        return None
    result = list(axes)
    for at, axis in enumerate(along):
        result[axis] = np.pad(result[axis], (amounts[at], amounts[at + len(along)]), constant_values=ZERO)
    return result
