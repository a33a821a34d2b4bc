"""Lowering what only moves data: views where the memory allows, copies elsewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Union

import numpy as np

from ..layers.moves import Concat, Pad, Slice
from .ir import Node
from .lower_layers import require_float32, require_float32_first
from .lowering import Constant, Lowering, NotLowered
from .place import Tensor, identity

__all__ = [
    "concat",
    "depth_to_space",
    "identity_node",
    "pad",
    "reshape",
    "slice_node",
    "space_to_depth",
    "split",
    "transpose",
]


#: An operand of a concatenation and its shape in memory.
Part = tuple[Union[Tensor, Constant], tuple[int, ...]]
#: A kernel of more inputs takes long to compile: 64 a second, 128 three, 256 thirteen.
MAX_PARTS = 64


def identity_node(lo: Lowering, node: Node) -> None:
    """Identity: another name."""
    lo.bind(node.outputs[0], lo.tensor(node.inputs[0]))


def reshape(lo: Lowering, node: Node) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: a view, or a copy when it is read."""
    if 0 in lo.shape(node.outputs[0]):
        raise NotLowered(f"it is empty: {lo.shape(node.outputs[0])}")
    source = lo.pending(node.inputs[0]) or lo.tensor(node.inputs[0])
    if source.dtype != "float32" and not source.plain:
        raise NotLowered(f"{node.inputs[0]} is {source.dtype}; float32 is compiled")
    if source.pitch:
        source = lo.in_order(source, source.order)
    lo.bind_reshaped(node.outputs[0], source, lo.shape(node.outputs[0]))


def transpose(lo: Lowering, node: Node) -> None:
    """Transpose: the same memory, its axes renamed."""
    x = lo.tensor(node.inputs[0])
    axes = tuple(node.get("perm") or reversed(range(len(x.shape))))
    x = lo.in_order(x, x.order)
    lo.bind(node.outputs[0], renamed(x, axes))


def renamed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The view whose axis `i` is axis `axes[i]` of a tensor."""
    where = {axis: at for at, axis in enumerate(axes)}
    return x.seen(tuple(x.shape[axis] for axis in axes), tuple(where[axis] for axis in x.order))


def _blocks(lo: Lowering, node: Node, first: tuple[int, ...], axes: tuple[int, ...]) -> None:
    require_float32(lo, node)
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    lo.bind_reshaped(f"{node.outputs[0]} in blocks", x, first)
    blocks = lo.tensor(f"{node.outputs[0]} in blocks")
    lo.bind_reshaped(node.outputs[0], renamed(blocks, axes), lo.shape(node.outputs[0]))


def depth_to_space(lo: Lowering, node: Node) -> None:
    """DepthToSpace, both modes: blocks of channels become pixels."""
    n, c, h, w = lo.shape(node.inputs[0])
    b = node.get("blocksize")
    if node.get("mode", "DCR") == "DCR":
        _blocks(lo, node, (n, b, b, c // (b * b), h, w), (0, 3, 4, 1, 5, 2))
    else:
        _blocks(lo, node, (n, c // (b * b), b, b, h, w), (0, 1, 4, 2, 5, 3))


def space_to_depth(lo: Lowering, node: Node) -> None:
    """SpaceToDepth, both modes: blocks of pixels become channels."""
    n, c, h, w = lo.shape(node.inputs[0])
    b = node.get("blocksize")
    axes = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    _blocks(lo, node, (n, c, h // b, b, w // b, b), axes)


def concat(lo: Lowering, node: Node) -> None:
    """Concat: of slices that are in place already, or as one copy."""
    require_float32(lo, node)
    if lo.sliced(node):
        lo.concatenate_slices(node)
        return
    shape = lo.shape(node.outputs[0])
    axis = node.get("axis", 0) % len(shape)
    values = [lo.tensor(name) for name in node.inputs if lo.constant(name) is None]
    order = max(values, key=lambda t: t.size).order if values else identity(len(shape))
    where = order.index(axis)
    parts = [(lo.operand(name, order), tuple(lo.shape(name)[a] for a in order)) for name in node.inputs]
    while len(parts) > MAX_PARTS:
        parts = [_joined(lo, parts[first : first + MAX_PARTS], where) for first in range(0, len(parts), MAX_PARTS)]
    problem = Concat(tuple(memory for _, memory in parts), where)
    lo.emit(problem, tuple(operand for operand, _ in parts), lo.output(node.outputs[0], order))


def _joined(lo: Lowering, parts: list[Part], where: int) -> Part:
    """Some parts of a concatenation as one, in memory of its own."""
    problem = Concat(tuple(memory for _, memory in parts), where)
    target = lo.fresh(problem.y_shape, identity(len(problem.y_shape)))
    lo.emit(problem, tuple(operand for operand, _ in parts), target)
    return target, problem.y_shape


def split(lo: Lowering, node: Node) -> None:
    """Split: each part a slice."""
    require_float32_first(lo, node)
    rank = len(lo.shape(node.inputs[0]))
    axis = node.get("axis", 0) % rank
    start = 0
    for name in node.outputs:
        if name:
            size = lo.shape(name)[axis]
            starts = tuple(start if a == axis else 0 for a in range(rank))
            _slice(lo, node.inputs[0], name, starts, (1,) * rank)
            start += size
        else:
            raise NotLowered("one of its outputs is left out")


def slice_node(lo: Lowering, node: Node) -> None:
    """Slice with constant bounds."""
    require_float32_first(lo, node)
    shape = lo.shape(node.inputs[0])
    arrays = [lo.constant(name) if name else None for name in (*node.inputs[1:], "", "", "")[:4]]
    if any(name and array is None for name, array in zip(node.inputs[1:], arrays)):
        raise NotLowered("its bounds are computed at run time")
    starts, ends, axes, steps = (None if a is None else [int(v) for v in a.reshape(-1)] for a in arrays)
    assert starts is not None
    assert ends is not None
    axes = list(range(len(starts))) if axes is None else [axis % len(shape) for axis in axes]
    first, by = [0] * len(shape), [1] * len(shape)
    for at, axis in enumerate(axes):
        by[axis] = 1 if steps is None else steps[at]
        first[axis] = slice(starts[at], ends[at], by[axis]).indices(shape[axis])[0]
    _slice(lo, node.inputs[0], node.outputs[0], tuple(first), tuple(by))


def _slice(lo: Lowering, source: str, name: str, starts: tuple[int, ...], steps: tuple[int, ...]) -> None:
    shape = lo.shape(name)
    if 0 in shape:
        raise NotLowered(f"{name} is empty: {shape}")
    x = lo.tensor(source)
    x = lo.in_order(x, x.order)
    cut = [axis for axis in x.order if shape[axis] != x.shape[axis] or steps[axis] != 1]
    outer = x.order.index(cut[0]) if cut else 0
    if not cut:
        lo.bind(name, x)
    elif len(cut) == 1 and steps[cut[0]] == 1 and math.prod(x.memory[:outer]) == 1:
        inner = math.prod(x.memory[outer + 1 :])
        lo.bind(name, replace(x, shape=shape, offset=x.offset + starts[cut[0]] * inner))
    else:
        first, by, sizes = (tuple(values[axis] for axis in x.order) for values in (starts, steps, shape))
        problem = Slice(x.memory, first, by, sizes)
        lo.emit(problem, (x,), lo.output(name, x.order))


def pad(lo: Lowering, node: Node) -> None:
    """Pad with constant bounds."""
    require_float32_first(lo, node)
    arrays: list[Any] = [lo.constant(name) if name else None for name in (*node.inputs[1:], "", "", "")[:3]]
    if any(name and array is None for name, array in zip(node.inputs[1:], arrays)):
        raise NotLowered("its bounds are computed at run time")
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    rank = len(x.shape)
    amounts = [int(v) for v in arrays[0].reshape(-1)]
    axes = list(range(rank)) if arrays[2] is None else [int(v) % rank for v in arrays[2].reshape(-1)]
    pads = [(0, 0)] * rank
    for at, axis in enumerate(axes):
        pads[axis] = (amounts[at], amounts[at + len(axes)])
    value = 0.0 if arrays[1] is None or not np.size(arrays[1]) else float(arrays[1].reshape(-1)[0])
    problem = Pad(x.memory, tuple(pads[axis] for axis in x.order), node.get("mode") or "constant", value)
    lo.emit(problem, (x,), lo.output(node.outputs[0], x.order))
