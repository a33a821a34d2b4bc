"""Convolutions and pools: every attribute made explicit, and the size of what they write.

After `resolve` a node has `kernel_shape`, `strides`, `dilations` and `pads` (all begins, then all ends) in full and no
`auto_pad`; a transposed convolution has `output_padding` and no `output_shape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .ir import Node
from .operands import Operands, Shape, Type

__all__ = ["WINDOWED", "conv", "conv_transpose", "pool", "resolve"]

#: Operators that slide a window.
WINDOWED = ("Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")


def resolve(o: Operands) -> Node:
    """The node with its attributes in full. Raises `GraphError` for attributes that fit neither each other nor the input."""
    node = o.node
    size = o.rank(0, 3)[2:]
    rank = len(size)
    kernel = _kernel(o, rank)
    strides = _numbers(o, "strides", rank, 1)
    dilations = _numbers(o, "dilations", rank, 1)
    extents = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations))
    full: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "dilations": dilations}
    if node.op == "ConvTranspose":
        full |= _transposed_pads(o, size, strides, extents)
    else:
        full["pads"] = _pads(o, size, strides, extents)
    dropped = ("auto_pad", "output_shape")
    kept = {name: value for name, value in node.attributes.items() if name not in dropped}
    if full.items() <= kept.items() and len(kept) == len(node.attributes):
        return node
    return node.replace(attributes={**kept, **full})


def conv(o: Operands) -> list[Type]:
    """Conv: x (n, c, *size), w (m, c / group, *kernel), bias (m,), and in fused nodes a residual like the output."""
    x, w, groups = o.shape(0), o.shape(1), o.node.get("group", 1)
    if groups < 1 or w[0] % groups or x[1] != w[1] * groups:
        o.fail(f"weights {w} in {groups} groups do not fit {x[1]} channels of {x}")
    out = (x[0], w[0], *_slid(o, x[2:], ceil=False))
    _check_bias(o, w[0])
    if o.has(3) and o.shape(3) != out:
        o.fail(f"the residual {o.shape(3)} must have the size of the output {out}")
    return [Type(out, o.dtype())]


def conv_transpose(o: Operands) -> list[Type]:
    """ConvTranspose: x (n, c, *size), w (c, m / group, *kernel), bias (m,)."""
    x, w, get, groups = o.shape(0), o.shape(1), o.node.get, o.node.get("group", 1)
    if groups < 1 or x[1] % groups or x[1] != w[0]:
        o.fail(f"weights {w} in {groups} groups do not fit {x[1]} channels of {x}")
    rank, pads, channels = len(x) - 2, get("pads"), w[1] * groups
    parts = zip(x[2:], get("strides"), get("kernel_shape"), get("dilations"), get("output_padding"), pads, pads[rank:])
    size = tuple((i - 1) * s + (k - 1) * d + 1 + more - low - high for i, s, k, d, more, low, high in parts)
    _check_size(o, size, x)
    _check_bias(o, channels)
    out = (x[0], channels, *size)
    if o.has(3) and o.shape(3) != out:
        o.fail(f"the residual {o.shape(3)} must have the size of the output {out}")
    return [Type(out, o.dtype())]


def pool(o: Operands) -> list[Type]:
    """MaxPool (whose second output are indices), AveragePool, LpPool."""
    x = o.shape(0)
    out = (*x[:2], *_slid(o, x[2:], ceil=bool(o.node.get("ceil_mode", 0))))
    return [Type(out, o.dtype()), Type(out, "int64")]


def _slid(o: Operands, size: Shape, ceil: bool) -> Shape:
    """How many windows fit on each axis; with `ceil` also one that hangs over, unless it begins behind the input."""
    get, rank, found = o.node.get, len(size), []
    parts = zip(size, get("kernel_shape"), get("strides"), get("dilations"), get("pads"), get("pads")[rank:])
    for length, kernel, stride, dilation, low, high in parts:
        free = length + low + high - ((kernel - 1) * dilation + 1)
        count = free // stride + 1
        if ceil and free >= 0 and free % stride and count * stride < length + low:
            count += 1
        found.append(count if free >= 0 else 0)
    _check_size(o, tuple(found), o.shape(0))
    return tuple(found)


def _check_size(o: Operands, size: Shape, x: Shape) -> None:
    if min(size) < 1 and 0 not in x:
        windows = f"kernel {o.node.get('kernel_shape')}, dilations {o.node.get('dilations')}, pads {o.node.get('pads')}"
        o.fail(f"no output is left of {x} with {windows}")


def _check_bias(o: Operands, channels: int) -> None:
    if o.has(2) and o.shape(2) != (channels,):
        o.fail(f"the bias must have {channels} elements, got {o.shape(2)}")


def _kernel(o: Operands, rank: int) -> Shape:
    given = o.node.get("kernel_shape")
    if o.node.op in ("Conv", "ConvInteger", "ConvTranspose"):
        weights = o.rank(1, rank + 2, rank + 2)[2:]
        if given is not None and tuple(given) != weights:
            o.fail(f"kernel_shape {tuple(given)} does not fit weights {o.shape(1)}")
        given = weights
    if given is None:
        o.fail("kernel_shape is missing")
    if len(given) != rank or min(given) < 1:
        o.fail(f"kernel_shape {tuple(given)} does not fit the input {o.shape(0)}")
    return tuple(given)


def _numbers(o: Operands, name: str, rank: int, least: int) -> tuple[int, ...]:
    """An attribute of one number an axis, by default the least allowed."""
    values = tuple(o.node.get(name) or (least,) * rank)
    if len(values) != rank or min(values) < least or max(values) >= 2**31:
        o.fail(f"{name} must be {rank} numbers of at least {least} and below 2**31, got {values}")
    return values


def _pads(o: Operands, size: Shape, strides: Sequence[int], extents: Sequence[int]) -> tuple[int, ...]:
    """Begins, then ends; SAME adds what `ceil(size / stride)` outputs need."""
    auto, rank = o.node.get("auto_pad", "NOTSET"), len(size)
    if auto == "NOTSET":
        pads = tuple(o.node.get("pads") or (0,) * (2 * rank))
        if len(pads) != 2 * rank:
            o.fail(f"pads must be {2 * rank} numbers, got {pads}")
        return pads
    if auto == "VALID":
        return (0,) * (2 * rank)
    totals = [max((-(-n // s) - 1) * s + extent - n, 0) for n, s, extent in zip(size, strides, extents)]
    return _shared(o, totals, auto, upper="SAME_UPPER")


def _transposed_pads(o: Operands, size: Shape, strides: Sequence[int], extents: Sequence[int]) -> dict[str, Any]:
    """Pads and output padding; where the output's size is given, pads are what makes it so."""
    auto, rank = o.node.get("auto_pad", "NOTSET"), len(size)
    more, wanted = _numbers(o, "output_padding", rank, 0), o.node.get("output_shape")
    if not wanted and auto in ("NOTSET", "VALID"):
        return {"pads": _pads(o, size, strides, extents), "output_padding": more}
    sizes = tuple(wanted or (n * s for n, s in zip(size, strides)))[-rank:]
    if len(sizes) != rank:
        o.fail(f"output_shape {tuple(wanted)} does not fit the input {o.shape(0)}")
    totals = [(n - 1) * s + p + e - out for n, s, p, e, out in zip(size, strides, more, extents, sizes)]
    more = tuple(p + max(-total, 0) for p, total in zip(more, totals))
    return {"pads": _shared(o, [max(total, 0) for total in totals], auto, "SAME_UPPER"), "output_padding": more}


def _shared(o: Operands, totals: Sequence[int], auto: str, upper: str) -> tuple[int, ...]:
    """Padding on both sides of each axis; an odd one goes to the end if `auto` is `upper`, else to the begin."""
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        o.fail(f"auto_pad must be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {auto!r}")
    ends = [-(-total // 2) if auto == upper else total // 2 for total in totals]
    return (*(total - end for total, end in zip(totals, ends)), *ends)
