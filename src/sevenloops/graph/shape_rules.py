"""The size and dtype of what each operator writes: the table `RULES`, operator -> rule.

A rule gets the operator's `Operands` and returns a type for each output, at least as many as the node has. It raises
`NotKnown` where the size depends on data, and `GraphError` (through `Operands.fail`) where the operands do not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from . import moving, quantised, windows
from .dtypes import name_of
from .operands import Operands, Shape, Type

__all__ = ["OWN_RULES", "RULES", "Rule", "unknown"]

Rule = Callable[[Operands], list[Type]]


def same(o: Operands) -> list[Type]:
    """As the first input, whatever the others are."""
    return [Type(o.shape(), o.dtype())]


def broadcast(o: Operands) -> list[Type]:
    """All inputs broadcast; all but those of Pow have one dtype."""
    present = [at for at in range(len(o.types)) if o.has(at)]
    dtypes = sorted({o.dtype(at) for at in present})
    if len(dtypes) != 1 and o.node.op != "Pow":
        o.fail(f"inputs of {' and '.join(dtypes)}; one dtype is needed" if dtypes else "there are no inputs")
    return [Type(_broadcast(o, [o.shape(at) for at in present]), o.dtype())]


def comparison(o: Operands) -> list[Type]:
    """All inputs broadcast, as booleans."""
    return [Type(broadcast(o)[0].shape, "bool")]


def prelu(o: Operands) -> list[Type]:
    """The slope broadcasts to the input, not the other way round."""
    (found,) = broadcast(o)
    if found.shape != o.shape(0):
        o.fail(f"a slope of {o.shape(1)} does not fit the input {o.shape(0)}")
    return [found]


def where(o: Operands) -> list[Type]:
    """Condition, yes and no broadcast."""
    return [Type(_broadcast(o, [o.shape(at) for at in range(3)]), o.dtype(1))]


def batch_norm(o: Operands) -> list[Type]:
    """One scale, shift, mean and variance a channel."""
    x = o.rank(0, 2)
    for at in range(1, 5):
        if o.shape(at) != x[1:2]:
            o.fail(f"input {at} must have {x[1]} elements for {x}, got {o.shape(at)}")
    return [Type(x, o.dtype()), *[Type(x[1:2], o.dtype(3))] * 4]


def channel_norm(o: Operands) -> list[Type]:
    """InstanceNormalization, GroupNormalization: one scale and shift a channel."""
    x, groups = o.rank(0, 2), o.node.get("num_groups", 1)
    for at in (1, 2):
        if o.shape(at) != x[1:2]:
            o.fail(f"input {at} must have {x[1]} elements for {x}, got {o.shape(at)}")
    if groups < 1 or x[1] % groups:
        o.fail(f"{x[1]} channels are no multiple of {groups} groups")
    return [Type(x, o.dtype())]


def layer_norm(o: Operands) -> list[Type]:
    """Scale and shift broadcast over the axes from `axis` on; mean and inverse deviation keep ones there."""
    x = o.rank(0, 1)
    axis = o.axis(o.node.get("axis", -1), len(x))
    for at in (1, 2):
        if o.has(at) and _broadcast(o, [x[axis:], o.shape(at)]) != x[axis:]:
            o.fail(f"input {at} of {o.shape(at)} does not fit {x} from axis {axis} on")
    statistics = Type(x[:axis] + (1,) * (len(x) - axis), "float32")
    return [Type(x, o.dtype()), statistics, statistics]


def along_axis(o: Operands) -> list[Type]:
    """Same size; the axis must exist."""
    x = o.shape()
    o.axis(o.node.get("axis", -1), len(x))
    return [Type(x, o.dtype())]


def global_pool(o: Operands) -> list[Type]:
    """Every axis behind the channels becomes one."""
    x = o.rank(0, 2)
    return [Type(x[:2] + (1,) * (len(x) - 2), o.dtype())]


def max_roi_pool(o: Operands) -> list[Type]:
    """Of each region (n, 5) a grid of bins."""
    x, regions, bins = o.rank(0, 4, 4), o.rank(1, 2, 2), tuple(o.node.get("pooled_shape", ()))
    if regions[1] != 5 or len(bins) != 2 or min(bins) < 1:
        o.fail(f"needs regions of (n, 5) and two sizes in pooled_shape, got {regions} and {bins}")
    return [Type((regions[0], x[1], *bins), o.dtype())]


def gemm(o: Operands) -> list[Type]:
    """A (m, k) or transposed, B (k, n) or transposed, C broadcasts to (m, n); a fused residual has that size."""
    a, b = o.rank(0, 2, 2), o.rank(1, 2, 2)
    a = a[::-1] if o.node.get("transA", 0) else a
    b = b[::-1] if o.node.get("transB", 0) else b
    if a[1] != b[0]:
        o.fail(f"cannot multiply {a} by {b}")
    out = (a[0], b[1])
    for at in (2, 3):
        if o.has(at) and _broadcast(o, [out, o.shape(at)]) != out:
            o.fail(f"input {at} of {o.shape(at)} does not fit the product {out}")
    return [Type(out, o.dtype())]


def matmul(o: Operands) -> list[Type]:
    """NumPy's matmul; fused nodes may have a bias (n,) and a residual like the output."""
    a, b = o.rank(0, 1), o.rank(1, 1)
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    if a[-1] != b[max(len(b) - 2, 0)]:
        o.fail(f"cannot multiply {a} by {b}")
    out = _broadcast(o, [a[:-2], b[:-2]]) + rows + columns
    for at in (2, 3):
        if o.has(at) and _broadcast(o, [out, o.shape(at)]) != out:
            o.fail(f"input {at} of {o.shape(at)} does not fit the product {out}")
    return [Type(out, o.dtype())]


def matmul_integer(o: Operands) -> list[Type]:
    """NumPy's matmul; zero points behind the matrices."""
    return [Type(matmul(_without_zeros(o))[0].shape, "int32")]


def conv_integer(o: Operands) -> list[Type]:
    """As Conv; zero points behind input and weights."""
    return [Type(windows.conv(_without_zeros(o))[0].shape, "int32")]


def _without_zeros(o: Operands) -> Operands:
    return Operands(o.node, o.types[:2], o.constants[:2])


def reduce(o: Operands) -> list[Type]:
    """The axes of input 1, or all of them, become one or vanish."""
    x = o.shape()
    axes = o.ints(1) if o.has(1) else ()
    if not axes:
        if o.node.get("noop_with_empty_axes", 0):
            return [Type(x, o.dtype())]
        axes = tuple(range(len(x)))
    gone = o.axes(axes, len(x))
    if o.node.get("keepdims", 1):
        return [Type(tuple(1 if at in gone else size for at, size in enumerate(x)), o.dtype())]
    return [Type(tuple(size for at, size in enumerate(x) if at not in gone), o.dtype())]


def arg_extreme(o: Operands) -> list[Type]:
    """ArgMax, ArgMin."""
    x = o.shape()
    axis = o.axis(o.node.get("axis", 0), len(x))
    kept = (1,) if o.node.get("keepdims", 1) else ()
    return [Type(x[:axis] + kept + x[axis + 1 :], "int64")]


def dropout(o: Operands) -> list[Type]:
    """The value and its mask."""
    return [Type(o.shape(), o.dtype()), Type(o.shape(), "bool")]


def cast(o: Operands) -> list[Type]:
    """Same size, the dtype whose number is `to`."""
    return [Type(o.shape(), name_of(o.node.get("to")))]


def cast_like(o: Operands) -> list[Type]:
    """Same size, the dtype of the second input."""
    return [Type(o.shape(), o.dtype(1))]


def is_what(o: Operands) -> list[Type]:
    """IsNaN, IsInf."""
    return [Type(o.shape(), "bool")]


def shape_of(o: Operands) -> list[Type]:
    """A vector of the sizes from `start` to `end`."""
    rank = len(o.shape())
    return [Type((len(range(*slice(o.node.get("start", 0), o.node.get("end")).indices(rank))),), "int64")]


def size_of(o: Operands) -> list[Type]:
    """A scalar."""
    o.shape()
    return [Type((), "int64")]


def constant_of_shape(o: Operands) -> list[Type]:
    """The sizes are the value of the input."""
    value = o.node.get("value")
    return [Type(o.ints(0), "float32" if value is None else np.asarray(value).dtype.name)]


def arange(o: Operands) -> list[Type]:
    """Start, limit and step."""
    if any(o.constant(at).size != 1 for at in range(3)):
        o.fail("start, limit and step must be one number each")
    start, limit, step = (o.constant(at).item() for at in range(3))
    if step == 0 or not all(map(math.isfinite, (start, limit, step))):
        o.fail(f"start {start}, limit {limit} and step {step} must be finite, and the step not zero")
    return [Type((max(math.ceil((limit - start) / step), 0),), o.dtype())]


def shift(o: Operands) -> list[Type]:
    """Our Shift: channels of (n, c, h, w) move by pixels."""
    o.rank(0, 3)
    return [Type(o.shape(), o.dtype())]


def elementwise(o: Operands) -> list[Type]:
    """Our Elementwise: an expression over broadcast inputs."""
    return [Type(_broadcast(o, [o.shape(at) for at in range(len(o.types))]), o.dtype())]


def unknown(o: Operands) -> list[Type]:
    """The types of outputs whose size depends on data: of operators listed here at least the dtype is known."""
    op, dtype = o.node.op, o.types[0].dtype if o.types and o.types[0] else "float32"
    if op in COMPARISONS or op in ("Not", "IsNaN", "IsInf"):
        dtype = "bool"
    elif op in ("Shape", "Size", "ArgMax", "ArgMin"):
        dtype = "int64"
    elif op in ("Where", "CastLike"):
        dtype = o.dtype(1)
    elif op == "Cast":
        dtype = name_of(o.node.get("to"))
    elif op == "ConstantOfShape":
        dtype = np.asarray(o.node.get("value", np.float32(0))).dtype.name
    return [Type(None, dtype)] * len(o.node.outputs)


def _broadcast(o: Operands, shapes: Sequence[Shape]) -> Shape:
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0] if shapes else ()
    return moving.broadcast(o, shapes)


SAME = """
    Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Ceil Celu Clip Cos Cosh CumSum Elu Erf Exp Floor Gelu HardSigmoid
    HardSwish Identity LRN LeakyRelu Log MeanVarianceNormalization Mish Neg Not Reciprocal Relu Round Selu Shrink Sigmoid
    Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu
"""
BROADCAST = "Add BitwiseAnd BitwiseOr BitwiseXor Div Max Mean Min Mod Mul Pow Sub Sum"
COMPARISONS = ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor")
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME.split(), same),
    **dict.fromkeys(BROADCAST.split(), broadcast),
    **dict.fromkeys(COMPARISONS, comparison),
    **{f"Reduce{name}": reduce for name in REDUCTIONS},
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "LpNormalization"), along_axis),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), global_pool),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), windows.pool),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), channel_norm),
    **dict.fromkeys(("ArgMax", "ArgMin"), arg_extreme),
    **dict.fromkeys(("IsNaN", "IsInf"), is_what),
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "CastLike": cast_like,
    "Concat": moving.concat,
    "ConstantOfShape": constant_of_shape,
    "Conv": windows.conv,
    "ConvInteger": conv_integer,
    "ConvTranspose": windows.conv_transpose,
    "DepthToSpace": moving.depth_to_space,
    "DequantizeLinear": quantised.dequantized,
    "Dropout": dropout,
    "Expand": moving.expand,
    "Flatten": moving.flatten,
    "Gather": moving.gather,
    "Gemm": gemm,
    "LayerNormalization": layer_norm,
    "MatMul": matmul,
    "MatMulInteger": matmul_integer,
    "MaxRoiPool": max_roi_pool,
    "PRelu": prelu,
    "Pad": moving.pad,
    "QuantizeLinear": quantised.quantized,
    "Range": arange,
    "Reshape": moving.reshape,
    "Resize": moving.resize,
    "ScatterND": moving.scatter_nd,
    "Shape": shape_of,
    "Size": size_of,
    "Slice": moving.slice_,
    "SpaceToDepth": moving.space_to_depth,
    "Split": moving.split,
    "Squeeze": moving.squeeze,
    "Tile": moving.tile,
    "Transpose": moving.transpose,
    "Unsqueeze": moving.unsqueeze,
    "Where": where,
}
#: The operators of our own domain.
OWN_RULES: dict[str, Rule] = {"Elementwise": elementwise, "Shift": shift}
