"""A layer with constant weights, and the factors and shifts that passes put into them, multiplied up in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..ir import Node
from .rewrite import Array, Rewriter

__all__ = ["Layer", "per_channel"]

FUSED = ("activation", "residual")


def per_channel(array: Array, axis: int, rank: int, channels: int) -> Array | None:
    """An array that broadcasts to `rank` axes as one number a channel of `axis`; None where it is not that."""
    shape = (1,) * (rank - array.ndim) + array.shape
    others = [size for at, size in enumerate(shape) if at != axis % rank]
    if len(shape) > rank or any(size != 1 for size in others) or shape[axis % rank] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), channels)


class Layer:
    """A Conv, ConvTranspose, Gemm or MatMul: `scale_out * (W (scale_in * x + shift_in) + b) + shift_out`, as weights.

    The weights are seen as `(groups, a, b, taps)`, where `a` are the output channels of a group and `b` the input
    channels, or the other way round for ConvTranspose and products that store `(K, N)`.
    """

    OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

    def __init__(self, rewriter: Rewriter, node: Node) -> None:
        self.rewriter, self.node = rewriter, node
        self.changed = False
        weight = rewriter.constant(node.input(1))
        self.weight = weight if weight is not None and weight.dtype == np.float32 and weight.ndim >= 2 else None
        if node.op == "MatMul" and self.weight is not None and self.weight.ndim != 2:
            self.weight = None
        self.rank = len(rewriter.shape(node.outputs[0]) or ())
        if self.weight is None:
            return
        shape, groups = self.weight.shape, int(node.get("group", 1))
        first = shape[0] // groups if node.op in ("Conv", "ConvTranspose") else shape[0]
        self.view = (groups, first, shape[1], math.prod(shape[2:]))
        self.out_first = node.op == "Conv" or (node.op == "Gemm" and bool(node.get("transB", 0)))
        self.channels_out = groups * self.view[1 if self.out_first else 2]
        self.channels_in = groups * self.view[2 if self.out_first else 1]
        self.scale_out, self.scale_in = np.full(self.channels_out, float(node.get("alpha", 1.0))), np.ones(self.channels_in)
        self.bias = self._bias()

    @classmethod
    def is_one(cls, node: Node) -> bool:
        """Whether a node is such a layer, without an epilogue yet."""
        return node.op in cls.OPS and not node.domain and not any(name in node.attributes for name in FUSED)

    def _bias(self) -> Array | None:
        """The bias in float64, zeros where there is none; None where it is not one constant a channel."""
        name = self.node.input(2)
        if not name:
            return np.zeros(self.channels_out)
        array = self.rewriter.constant(name)
        if array is None:
            return None
        found = per_channel(array, -1, max(array.ndim, 1), self.channels_out)
        return None if found is None else found.astype(np.float64) * float(self.node.get("beta", 1.0))

    def _refuses(self) -> str | None:
        if self.weight is None:
            return "its weights are not constants"
        return "its bias is not a constant a channel" if self.bias is None else None

    def _out(self, array: Array) -> Array | None:
        return per_channel(array, 1 if self.node.op.startswith("Conv") else -1, self.rank, self.channels_out)

    def _in(self, array: Array, rank: int) -> Array | None:
        return per_channel(array, 1 if self.node.op.startswith("Conv") else -1, rank, self.channels_in)

    def refuses_after(self, scale: Array, shift: Array) -> str | None:
        """None, or why the layer cannot take `scale * y + shift` behind it."""
        reason = self._refuses()
        if reason is None and (not self.rank or self._out(scale) is None or self._out(shift) is None):
            return "the constants are not one a channel"
        return reason

    def take_after(self, scale: Array, shift: Array) -> None:
        """Take in what `refuses_after` did not refuse."""
        factor, addend = self._out(scale), self._out(shift)
        assert self.bias is not None and factor is not None and addend is not None
        self.changed = True
        self.scale_out = self.scale_out * factor
        self.bias = self.bias * factor + addend

    def refuses_before(self, scale: Array, shift: Array, rank: int) -> str | None:
        """None, or why the layer cannot read `x` in place of `scale * x + shift`; `rank` is that of `x`."""
        reason = self._refuses()
        if reason is not None or self.node.get("transA", 0):
            return reason or "it reads its input transposed"
        if rank < 2 or self._in(scale, rank) is None or self._in(shift, rank) is None:
            return "the constants are not one a channel"
        if shift.any() and self.node.op == "ConvTranspose":
            return "its pixels see different numbers of taps, so the shift is no bias"
        pads = any(self.node.get("pads", ())) or str(self.node.get("auto_pad", "")).startswith("SAME")
        if shift.any() and self.node.get("shift"):
            return "it moves channels, and zeros move in"
        if shift.any() and pads:
            return "it pads with zeros, which are not shifted"
        return None

    def take_before(self, scale: Array, shift: Array, rank: int) -> None:
        """Take in what `refuses_before` did not refuse."""
        factor, addend = self._in(scale, rank), self._in(shift, rank)
        assert self.weight is not None and self.bias is not None and factor is not None and addend is not None
        self.changed = True
        if addend.any():
            view = self.weight.reshape(self.view).astype(np.float64)
            moved = (self.scale_in * addend).reshape(self.view[0], -1)
            sums = np.einsum("goit,gi->go" if self.out_first else "giot,gi->go", view, moved).reshape(-1)
            self.bias = self.bias + self.scale_out * sums
        self.scale_in = self.scale_in * factor

    def write(self) -> None:
        """Put the new weights and the bias into the graph, rounded to float32 once."""
        if not self.changed:
            return
        assert self.weight is not None and self.bias is not None
        name, changes = self.node.label, dict[str, Any]()
        weight = self.node.inputs[1]
        if (self.scale_out != 1).any() or (self.scale_in != 1).any():
            weight = self.rewriter.add_constant(f"{name}_weight", self._scaled(self.weight))
        bias = self.node.input(2)
        if bias or self.bias.any():
            bias = self.rewriter.add_constant(f"{name}_bias", self.bias.astype(np.float32))
        inputs = (self.node.inputs[0], weight, *([bias] if bias else []))
        if self.node.op == "Gemm":
            changes = {"alpha": 1.0, "beta": 1.0}
        self.rewriter.replace(self.node, self.node.replace(inputs=inputs).with_attributes(**changes))

    def _scaled(self, weight: Array) -> Array:
        view = weight.reshape(self.view)
        by_group = [scale.reshape(self.view[0], -1) for scale in (self.scale_out, self.scale_in)]
        of_a, of_b = by_group if self.out_first else reversed(by_group)
        factor = of_a[:, :, None, None]
        if (of_b != 1).any():
            factor = factor * of_b[:, None, :, None]
        scaled = np.empty_like(view)
        np.multiply(view, factor, out=scaled, dtype=np.float64, casting="same_kind")
        return scaled.reshape(weight.shape)
