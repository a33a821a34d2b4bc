"""Rules for ATen's operators that only move values. See `backend_aten`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .backend_translation import Names, Rule, Translation, need, shape_of

__all__ = ["MOVES"]

aten = torch.ops.aten


def _reshape(t: Translation, node: Any, x: Any, *rest: Any) -> str:
    """All that keeps the order of the elements; the shape is known."""
    return t.reshaped(x, shape_of(node), node.name)


def _as_strided(t: Translation, node: Any, x: Any, size: Any, stride: Any, offset: Any) -> str:
    """Where it says nothing new (as PyTorch's decomposition of a global pool has it), the value itself."""
    value = x.meta["val"]
    same = shape_of(x) == tuple(size) and not offset and not value.storage_offset()
    same = same and all(n == 1 or a == b for n, a, b in zip(size, stride, value.stride()))
    need(same, f"it sees {tuple(size)} with strides {tuple(stride)} in memory of {shape_of(x)}")
    return t.of(x)


def _permute(t: Translation, node: Any, x: Any, axes: Sequence[int]) -> str:
    rank = len(axes)
    return t.node("Transpose", [x], shape_of(node), node.name, perm=tuple(axis % rank for axis in axes))


def _transpose(t: Translation, node: Any, x: Any, first: int, second: int) -> str:
    axes = list(range(len(shape_of(x))))
    axes[first], axes[second] = axes[second], axes[first]
    return _permute(t, node, x, axes)


def _t(t: Translation, node: Any, x: Any) -> str:
    return _permute(t, node, x, list(reversed(range(len(shape_of(x))))))


def _slice(t: Translation, node: Any, x: Any, axis: int, start: Any, end: Any, step: int) -> str:
    shape = shape_of(x)
    axis %= len(shape)
    first, last, _ = slice(start, end).indices(shape[axis])
    return t.cut(x, shape_of(node), axis, first, last, step, node.name)


def _select(t: Translation, node: Any, x: Any, axis: int, index: int) -> str:
    shape = shape_of(x)
    axis, index = axis % len(shape), index % shape[axis]
    one = (*shape[:axis], 1, *shape[axis + 1 :])
    return t.reshaped(t.cut(x, one, axis, index, index + 1, 1, f"{node.name} cut"), shape_of(node), node.name)


def _pieces(t: Translation, node: Any, x: Any, sizes: Sequence[int], axis: int) -> Names:
    shape, start, names = shape_of(x), 0, []
    axis %= len(shape)
    for at, size in enumerate(sizes):
        piece = (*shape[:axis], size, *shape[axis + 1 :])
        names.append(t.cut(x, piece, axis, start, start + size, 1, f"{node.name} {at}"))
        start += size
    return tuple(names)


def _split(t: Translation, node: Any, x: Any, size: int, axis: int) -> Names:
    length = shape_of(x)[axis]
    return _pieces(t, node, x, [min(size, length - start) for start in range(0, length, size)], axis)


def _unbind(t: Translation, node: Any, x: Any, axis: int) -> Names:
    shape = list(shape_of(x))
    names = _pieces(t, node, x, [1] * shape.pop(axis), axis)
    return tuple(t.reshaped(name or "", tuple(shape), f"{name} alone") for name in names)


def _cat(t: Translation, node: Any, values: Sequence[Any], axis: int) -> str:
    return t.node("Concat", values, shape_of(node), node.name, axis=axis % len(shape_of(node)))


def _stack(t: Translation, node: Any, values: Sequence[Any], axis: int) -> str:
    shape = shape_of(node)
    one = list(shape)
    one[axis] = 1
    parts = [t.reshaped(t.of(value), tuple(one), f"{node.name} {at}") for at, value in enumerate(values)]
    return t.node("Concat", parts, shape, node.name, axis=axis % len(shape))


def _slice_scatter(t: Translation, node: Any, x: Any, part: Any, axis: int, start: Any, end: Any, step: int) -> str:
    """An assignment to a slice: what is before it, the new values, what is behind it."""
    need(step == 1, f"it assigns to every {step}th element")
    shape = shape_of(x)
    axis %= len(shape)
    first, last, _ = slice(start, end).indices(shape[axis])
    parts: list[Any] = []
    for low, high in ((0, first), (last, shape[axis])):
        if high > low:
            piece = (*shape[:axis], high - low, *shape[axis + 1 :])
            parts.append(t.cut(x, piece, axis, low, high, 1, f"{node.name} from {low}"))
        if low == 0:
            parts.append(part)
    return t.node("Concat", parts, shape, node.name, axis=axis)


def _pad(mode: str) -> Rule:
    def rule(t: Translation, node: Any, x: Any, pads: Sequence[int], value: float = 0.0) -> str:
        """PyTorch gives pairs from the last axis on."""
        need(min(pads, default=0) >= 0, f"it cuts off: {tuple(pads)}")
        rank, count = len(shape_of(x)), len(pads) // 2
        low, high = [0] * rank, [0] * rank
        for at in range(count):
            low[rank - 1 - at], high[rank - 1 - at] = pads[2 * at], pads[2 * at + 1]
        amounts = t.sizes(f"{node.name} amounts", [*low, *high])
        filling = [float(value)] if mode == "constant" else []
        return t.node("Pad", [x, amounts, *filling], shape_of(node), node.name, mode=mode)

    return rule


def _filled(t: Translation, node: Any, value: float) -> str:
    shape = shape_of(node)
    need(math.prod(shape) < 2**24, f"it fills {shape}")
    return t.build.constant(node.name, np.full(shape, value, np.float32))


def _copy(t: Translation, node: Any, x: Any, source: Any, waits: bool) -> str:
    need(shape_of(x) == shape_of(source), f"it copies {shape_of(source)} to {shape_of(x)}")
    return t.of(source)


def _expand(t: Translation, node: Any, x: Any, size: Any, implicit: bool) -> str:
    shape = shape_of(node)
    return t.of(x) if shape_of(x) == shape else t.node("Expand", [x, t.sizes(f"{node.name} shape", shape)], shape, node.name)


def _pixel_shuffle(t: Translation, node: Any, x: Any, factor: int) -> str:
    need(len(shape_of(x)) == 4, f"its input is {shape_of(x)}; batches of images are compiled")
    return t.node("DepthToSpace", [x], shape_of(node), node.name, blocksize=factor, mode="CRD")


#: What moves values or makes constants, without any arithmetic.
MOVES: dict[Any, Rule] = {
    **dict.fromkeys(
        (
            aten.view.default, aten._unsafe_view.default, aten.reshape.default, aten._reshape_alias.default,
            aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.unsqueeze.default, aten.alias.default,
            aten.detach.default, aten.clone.default, aten.lift_fresh_copy.default,
        ),
        _reshape,
    ),
    aten.as_strided.default: _as_strided,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _t,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _pieces,
    aten.unbind.int: _unbind,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.slice_scatter.default: _slice_scatter,
    aten.constant_pad_nd.default: _pad("constant"),
    **dict.fromkeys((aten.reflection_pad1d.default, aten.reflection_pad2d.default), _pad("reflect")),
    **dict.fromkeys((aten.replication_pad1d.default, aten.replication_pad2d.default), _pad("edge")),
    aten.zeros_like.default: lambda t, node, *rest: _filled(t, node, 0.0),
    aten.ones_like.default: lambda t, node, *rest: _filled(t, node, 1.0),
    aten.zeros.default: lambda t, node, *rest: _filled(t, node, 0.0),
    aten.ones.default: lambda t, node, *rest: _filled(t, node, 1.0),
    aten.full.default: lambda t, node, size, value, *rest: _filled(t, node, float(value)),
    aten.full_like.default: lambda t, node, x, value, *rest: _filled(t, node, float(value)),
    aten.copy.default: _copy,
    aten.expand.default: _expand,
    aten.pixel_shuffle.default: _pixel_shuffle,
}  # fmt: skip
