"""The sizes behind operators that only move elements: Concat, Slice, Reshape, Pad, Resize and their like."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from .operands import Operands, Shape, Type

__all__ = ["broadcast", "broadcast_sizes", "concat", "slices_of", "target_shape"]


def concat(o: Operands) -> list[Type]:
    """Sizes add up along `axis` and agree elsewhere."""
    shapes = [o.shape(at) for at in range(max(1, len(o.types)))]
    axis = o.axis(o.node.get("axis", 0), len(shapes[0]))
    others = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    if len(others) != 1 or len({len(shape) for shape in shapes}) != 1:
        o.fail(f"{', '.join(map(str, shapes))} differ elsewhere than on axis {axis}")
    total = sum(shape[axis] for shape in shapes)
    return [Type((*shapes[0][:axis], total, *shapes[0][axis + 1 :]), o.dtype())]


def split(o: Operands) -> list[Type]:
    """Sizes of input 1, or as many equal parts as there are outputs (the last may be smaller)."""
    x, parts = o.shape(), o.node.get("num_outputs", len(o.node.outputs))
    axis = o.axis(o.node.get("axis", 0), len(x))
    if parts < 1:
        o.fail(f"num_outputs must be at least 1, got {parts}")
    if o.has(1):
        sizes = o.ints(1)
    else:
        each = -(-x[axis] // parts)
        sizes = (*(each,) * (parts - 1), x[axis] - each * (parts - 1))
    if sum(sizes) != x[axis] or min(sizes, default=0) < 0 or len(sizes) < len(o.node.outputs):
        o.fail(f"parts of {sizes} do not make up the {x[axis]} of {x} on axis {axis}")
    return [Type((*x[:axis], size, *x[axis + 1 :]), o.dtype()) for size in sizes]


def slices_of(o: Operands) -> list[tuple[int, int, int]]:
    """Slice on every axis of the input as (first index, number of elements, step); the step may be negative."""
    x = o.shape()
    starts, ends = o.ints(1), o.ints(2)
    axes = o.axes(o.ints(3) if o.has(3) else range(len(starts)), len(x))
    steps = o.ints(4) if o.has(4) else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        o.fail(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    found = [(0, size, 1) for size in x]
    for start, end, axis, step in zip(starts, ends, axes, steps):
        size = x[axis]
        if step == 0:
            o.fail("a step must not be zero")
        back = step < 0
        first = min(max(start + size if start < 0 else start, 0), size - back)
        last = min(max(end + size if end < 0 else end, -back), size - back)
        found[axis] = (max(first, 0), max(-((first - last) // step), 0) if size else 0, step)
    return found


def slice_(o: Operands) -> list[Type]:
    """Constant starts and ends, perhaps axes and steps."""
    return [Type(tuple(count for _, count, _ in slices_of(o)), o.dtype())]


def transpose(o: Operands) -> list[Type]:
    """Axes in the order `perm`, by default reversed."""
    x = o.shape()
    order = tuple(o.node.get("perm") or range(len(x) - 1, -1, -1))
    if sorted(order) != list(range(len(x))):
        o.fail(f"perm {order} is no order of the axes of {x}")
    return [Type(tuple(x[axis] for axis in order), o.dtype())]


def target_shape(o: Operands) -> Shape:
    """The shape that Reshape asks for: 0 copies a size (without `allowzero`), one -1 is what is left over."""
    x, wanted = o.shape(), list(o.ints(1))
    if not o.node.get("allowzero", 0):
        if any(size == 0 and at >= len(x) for at, size in enumerate(wanted)):
            o.fail(f"a 0 in {tuple(wanted)} has no size of {x} to copy")
        wanted = [x[at] if size == 0 else size for at, size in enumerate(wanted)]
    total, given = math.prod(x), math.prod(size for size in wanted if size != -1)
    if wanted.count(-1) == 1 and given and total % given == 0:
        wanted[wanted.index(-1)] = total // given
    if min(wanted, default=0) < 0 or math.prod(wanted) != total:
        o.fail(f"{x} cannot be reshaped to {o.ints(1)}")
    return tuple(wanted)


def reshape(o: Operands) -> list[Type]:
    """See `target_shape`."""
    return [Type(target_shape(o), o.dtype())]


def flatten(o: Operands) -> list[Type]:
    """Axes before `axis` become one, those from there on another."""
    x, axis = o.shape(), o.node.get("axis", 1)
    if not -len(x) <= axis <= len(x):
        o.fail(f"axis {axis} does not exist in {x}")
    axis = axis + len(x) if axis < 0 else axis
    return [Type((math.prod(x[:axis]), math.prod(x[axis:])), o.dtype())]


def squeeze(o: Operands) -> list[Type]:
    """Axes of size one vanish: those of input 1, or all."""
    x = o.shape()
    axes = o.axes(o.ints(1), len(x)) if o.has(1) else tuple(at for at, size in enumerate(x) if size == 1)
    if any(x[axis] != 1 for axis in axes):
        o.fail(f"axes {axes} of {x} are not all of size 1")
    return [Type(tuple(size for at, size in enumerate(x) if at not in axes), o.dtype())]


def unsqueeze(o: Operands) -> list[Type]:
    """Axes of size one appear; input 1 counts them in the output."""
    x, given = o.shape(), o.ints(1)
    axes = o.axes(given, len(x) + len(given))
    sizes = iter(x)
    return [Type(tuple(1 if at in axes else next(sizes) for at in range(len(x) + len(given))), o.dtype())]


def expand(o: Operands) -> list[Type]:
    """Broadcast with the sizes of input 1, in both directions."""
    return [Type(broadcast(o, [o.shape(), o.ints(1)]), o.dtype())]


def broadcast(o: Operands, shapes: Sequence[Shape]) -> Shape:
    """The size that values of all these sizes are spread to."""
    found = broadcast_sizes(*shapes)
    if found is None:
        o.fail(f"{', '.join(map(str, shapes))} cannot be broadcast")
    return found


def broadcast_sizes(*shapes: Shape) -> Shape | None:
    """As `numpy.broadcast_shapes`, which has at most 32 dimensions; None where they cannot be broadcast."""
    found: list[int] = []
    for sizes in itertools.zip_longest(*map(reversed, shapes), fillvalue=1):
        others = {size for size in sizes if size != 1}
        if len(others) > 1 or min(others, default=0) < 0:
            return None
        found.append(others.pop() if others else 1)
    return tuple(reversed(found))


def tile(o: Operands) -> list[Type]:
    """Every axis repeated."""
    x, repeats = o.shape(), o.ints(1)
    if len(repeats) != len(x) or min(repeats, default=0) < 0:
        o.fail(f"repeats {repeats} do not fit {x}; one number of at least 0 an axis is needed")
    return [Type(tuple(size * count for size, count in zip(x, repeats)), o.dtype())]


def gather(o: Operands) -> list[Type]:
    """The axis is replaced by the shape of the indices."""
    x, indices = o.rank(0, 1), o.shape(1)
    axis = o.axis(o.node.get("axis", 0), len(x))
    return [Type(x[:axis] + indices + x[axis + 1 :], o.dtype())]


def scatter_nd(o: Operands) -> list[Type]:
    """As the input; each of the last axis of the indices has one update, which fills the axes that it leaves open."""
    x, indices, updates = o.shape(), o.rank(1, 1), o.shape(2)
    wanted = (*indices[:-1], *x[indices[-1] :])
    if indices[-1] > len(x) or updates != wanted:
        o.fail(f"indices {indices} into {x} need updates of {wanted}, got {updates}")
    return [Type(x, o.dtype())]


def pad(o: Operands) -> list[Type]:
    """Begins, then ends, of all axes or those of input 3; a negative one cuts."""
    x, pads = o.shape(), o.ints(1)
    axes = o.axes(o.ints(3) if o.has(3) else range(len(x)), len(x))
    if len(pads) != 2 * len(axes):
        o.fail(f"{len(pads)} pads for {len(axes)} axes of {x}")
    out = list(x)
    for axis, low, high in zip(axes, pads, pads[len(axes) :]):
        out[axis] += low + high
        if out[axis] < 0:
            o.fail(f"pads {low} and {high} cut more than the {x[axis]} of {x}")
    return [Type(tuple(out), o.dtype())]


def resize(o: Operands) -> list[Type]:
    """`floor(size * scale)`, or given sizes, on all axes or those of `axes`."""
    x = o.shape()
    axes = o.axes(o.node.get("axes") or range(len(x)), len(x))
    scaled, sized = (o.has(at) and o.shape(at) != (0,) for at in (2, 3))
    if scaled == sized:
        o.fail("needs either scales or sizes")
    out = list(x)
    if scaled:
        scales = o.constant(2).ravel()
        if len(scales) != len(axes) or not all(0 < scale < math.inf for scale in scales):
            o.fail(f"scales {tuple(map(float, scales))} do not fit axes {axes} of {x}; one above 0 for each is needed")
        for axis, scale, share in zip(axes, scales, _cropped(o, axes)):
            out[axis] = math.floor(np.float32(x[axis]) * np.float32(share) * np.float32(scale))
        return [Type(tuple(out), o.dtype())]
    sizes = o.ints(3)
    if len(sizes) != len(axes) or min(sizes, default=1) < 1:
        o.fail(f"sizes {sizes} do not fit axes {axes} of {x}")
    for axis, size in zip(axes, _kept_ratio(o, [x[axis] for axis in axes], sizes)):
        out[axis] = size
    return [Type(tuple(out), o.dtype())]


def _cropped(o: Operands, axes: Sequence[int]) -> Sequence[float]:
    """The share of each axis that is read."""
    if o.node.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        return (1.0,) * len(axes)
    roi = o.constant(1).ravel()
    if len(roi) != 2 * len(axes):
        o.fail(f"roi of {len(roi)} numbers for {len(axes)} axes")
    if not np.isfinite(roi).all():
        o.fail(f"roi {tuple(map(float, roi))} must be finite")
    return tuple(float(end - start) for start, end in zip(roi, roi[len(axes) :]))


def _kept_ratio(o: Operands, old: Sequence[int], sizes: Sequence[int]) -> Sequence[int]:
    """Sizes under `keep_aspect_ratio_policy`."""
    policy = o.node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return sizes
    if policy not in ("not_larger", "not_smaller"):
        o.fail(f"keep_aspect_ratio_policy {policy!r} is none of stretch, not_larger, not_smaller")
    if 0 in old:
        o.fail(f"sizes {tuple(old)} have no ratio to keep")
    scale = (min if policy == "not_larger" else max)(new / size for new, size in zip(sizes, old))
    return [math.floor(scale * size + 0.5) for size in old]


def depth_to_space(o: Operands) -> list[Type]:
    """Channels become blocks of pixels."""
    n, c, h, w = o.rank(0, 4, 4)
    b = o.node.get("blocksize", 0)
    if b < 1 or c % (b * b):
        o.fail(f"{c} channels are no multiple of blocks of {b} x {b}")
    return [Type((n, c // (b * b), h * b, w * b), o.dtype())]


def space_to_depth(o: Operands) -> list[Type]:
    """Blocks of pixels become channels."""
    n, c, h, w = o.rank(0, 4, 4)
    b = o.node.get("blocksize", 0)
    if b < 1 or h % b or w % b:
        o.fail(f"{h} x {w} pixels are no multiple of blocks of {b} x {b}")
    return [Type((n, c * b * b, h // b, w // b), o.dtype())]
