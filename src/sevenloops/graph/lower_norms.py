"""Lowering normalisations, and resizing."""

from __future__ import annotations

import math
from dataclasses import replace

from ..layers.elementwise import Elementwise
from ..layers.normalize import Normalize
from ..layers.resize import Resize
from .ir import Node
from .lower_layers import require_float32, require_float32_first
from .lowering import Constant, Lowering, NotLowered, Operand, aligned
from .place import Tensor, last

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "resize"]


def _broadcast(lo: Lowering, name: str, axes: tuple[int, ...], order: tuple[int, ...]) -> tuple[Operand, tuple[int, ...]]:
    """An operand that has a few axes of a larger array, in the order of the array's axes; with its shape there."""
    array, sizes = lo.constant(name), dict(zip(axes, lo.shape(name)))
    if math.prod(lo.shape(name)) != math.prod(sizes.values()):
        raise NotLowered(f"{name} has shape {lo.shape(name)}")
    shape = tuple(sizes.get(axis, 1) for axis in range(len(order)))
    memory = tuple(shape[axis] for axis in order)
    if array is not None:
        return Constant(aligned(array.reshape(shape).transpose(order))), memory
    plain = lo.plain(name)
    if len(axes) > 1 and [axis for axis in order if axis in axes] != list(axes):
        raise NotLowered(f"{name} is computed, and {lo.node.inputs[0] if lo.node else 'its input'} lies in another order")
    return replace(plain, shape=shape, order=order), memory


def _only_values(node: Node) -> None:
    if any(node.outputs[1:]):
        raise NotLowered("its means and deviations are asked for; values alone are compiled")


def batch_norm(lo: Lowering, node: Node) -> None:
    """BatchNormalization of inference, where its numbers are computed (constants become part of other layers)."""
    require_float32(lo, node)
    _only_values(node)
    if node.get("training_mode", 0):
        raise NotLowered("it is in training mode")
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    epsilon = float(node.get("epsilon", 1e-5))
    # (x - mean) / sqrt(variance + epsilon) * scale + bias, of x, scale, bias, mean, variance
    expression = ("add", ("mul", ("sub", 0, 3), ("mul", 1, ("reciprocal", ("sqrt", ("add", 4, epsilon))))), 2)
    operands: list[Operand] = [x]
    shapes = [x.memory]
    for name in node.inputs[1:5]:
        operand, shape = _broadcast(lo, name, (1,), x.order)
        operands.append(operand)
        shapes.append(shape)
    lo.emit(Elementwise(tuple(shapes), x.memory, expression), tuple(operands), lo.output(node.outputs[0], x.order))


def _normalize(lo: Lowering, node: Node, x: Tensor, axes: tuple[int, ...], scaled: tuple[int, ...]) -> None:
    """Over `axes` of the array, with scale and bias (inputs 1 and 2) along the axes `scaled`."""
    operands: list[Operand] = [x]
    shapes: list[tuple[int, ...] | None] = []
    for at in (1, 2):
        if node.input(at):
            operand, shape = _broadcast(lo, node.input(at), scaled, x.order)
            operands.append(operand)
            shapes.append(shape)
        else:
            shapes.append(None)
    where = tuple(at for at, axis in enumerate(x.order) if axis in axes)
    problem = Normalize(x.memory, where, shapes[0], shapes[1], float(node.get("epsilon", 1e-5)))
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], x.order))


def instance_norm(lo: Lowering, node: Node) -> None:
    """InstanceNormalization: over the pixels of each channel."""
    require_float32(lo, node)
    x = lo.channels_last(node.inputs[0])
    _normalize(lo, node, x, tuple(range(2, len(x.shape))), (1,))


def layer_norm(lo: Lowering, node: Node) -> None:
    """LayerNormalization: over the last axes."""
    require_float32(lo, node)
    _only_values(node)
    x = lo.tensor(node.inputs[0])
    x = lo.in_order(x, x.order)
    rank = len(x.shape)
    axes = tuple(range(node.get("axis", -1) % rank, rank))
    for name in node.inputs[1:3]:
        if name and lo.shape(name) != tuple(x.shape[axis] for axis in axes):
            raise NotLowered(f"{name} has shape {lo.shape(name)}")
    _normalize(lo, node, x, axes, axes)


def group_norm(lo: Lowering, node: Node) -> None:
    """GroupNormalization: channels-last memory is `(n, pixels, groups, channels of a group)`."""
    require_float32(lo, node)
    x = lo.channels_last(node.inputs[0])
    n, channels = x.shape[:2]
    groups = node.get("num_groups")
    grouped = (n, math.prod(x.shape[2:]), groups, channels // groups)
    operands: list[Operand] = [x]
    for name in node.inputs[1:3]:
        if lo.shape(name) != (channels,):
            raise NotLowered(f"{name} has shape {lo.shape(name)}")
        operands.append(lo.operand(name, (0,)))
    problem = Normalize(grouped, (1, 3), grouped[2:], grouped[2:], float(node.get("epsilon", 1e-5)))
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], last(len(x.shape))))


def resize(lo: Lowering, node: Node) -> None:
    """Resize of the spatial axes, by scales or sizes that are constant."""
    require_float32_first(lo, node)
    shape, out = lo.shape(node.inputs[0]), lo.shape(node.outputs[0])
    rank = len(shape) - 2
    if not 1 <= rank <= 3 or shape[:2] != out[:2]:
        raise NotLowered(f"it goes from {shape} to {out}; one to three spatial axes are compiled")
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise NotLowered("it keeps the proportions")
    coordinates = node.get("coordinate_transformation_mode") or "half_pixel"
    if coordinates == "tf_crop_and_resize":
        raise NotLowered("it crops (tf_crop_and_resize)")
    problem = Resize(
        batch=shape[0], channels=shape[1], in_size=shape[2:], out_size=out[2:], mode=node.get("mode") or "nearest",
        scales=_scales(lo, node, rank), coordinates=coordinates, nearest=node.get("nearest_mode") or "round_prefer_floor",
        cubic_a=float(node.get("cubic_coeff_a", -0.75)), exclude_outside=bool(node.get("exclude_outside", 0)),
        antialias=bool(node.get("antialias", 0)),
    )  # fmt: skip
    x = lo.channels_last(node.inputs[0])
    lo.emit(problem, (x,), lo.output(node.outputs[0], last(rank + 2)))


def _scales(lo: Lowering, node: Node, rank: int) -> tuple[float, ...] | None:
    """The scales of the spatial axes, None where sizes are given."""
    if not node.input(2) or 0 in lo.shape(node.input(2)):
        return None
    array = lo.constant(node.input(2))
    if array is None:
        raise NotLowered("its scales are computed at run time")
    axes = [axis % (rank + 2) for axis in (node.get("axes") or range(rank + 2))]
    by_axis = dict(zip(axes, (float(scale) for scale in array.reshape(-1))))
    return tuple(by_axis.get(axis, 1.0) for axis in range(2, rank + 2))
