"""Lowering convolutions and matrix products: what becomes a `ConvProblem` or `GemmProblem`."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..epilogue import Epilogue
from ..layers.shift import ShiftLayer
from ..problem import ConvProblem, GemmProblem
from ..shift import Shift
from .ir import Node
from .lowering import Constant, Lowering, NotLowered, Operand, Weights, aligned
from .place import Tensor, identity, last

__all__ = ["conv", "conv_transpose", "gemm", "matmul", "shift", "window", "writes_slices"]

#: More products than this in one batched MatMul are not worth a step each.
MAX_PRODUCTS = 1024

Pairs = tuple[tuple[int, int], ...]


def window(node: Node) -> tuple[tuple[int, ...], Pairs, tuple[int, ...]]:
    """Strides, padding and dilations of a sliding window, which `infer` has made explicit."""
    pads = node.get("pads")
    rank = len(pads) // 2
    return node.get("strides"), tuple(zip(pads[:rank], pads[rank:])), node.get("dilations")


def _epilogue(node: Node, bias: bool) -> Epilogue:
    return Epilogue(bias, node.get("activation", "none"), tuple(node.get("activation_params", ())), node.get("residual"))


def _extras(lo: Lowering, node: Node, order: tuple[int, ...], channels: int) -> list[Operand]:
    """Bias and residual as operands."""
    extras: list[Operand] = []
    if node.input(2):
        extras.append(_bias(lo, node.input(2), channels))
    if node.get("residual"):
        extras.append(lo.operand(node.inputs[-1], order))
    return extras


def _bias(lo: Lowering, name: str, channels: int) -> Operand:
    array = lo.constant(name)
    if array is None:
        tensor = lo.plain(name)
        if tensor.size != channels:
            raise NotLowered(f"its bias has shape {tensor.shape}")
        return tensor
    return Constant(aligned(np.broadcast_to(array.reshape(-1), (channels,))))


def _weights(lo: Lowering, name: str) -> Operand:
    array = lo.constant(name)
    return lo.plain(name) if array is None else Weights((name,), [array])


def _needs_float32(lo: Lowering, *names: str) -> None:
    for name in names:
        if name and lo.dtype(name) != "float32":
            raise NotLowered(f"{name} is {lo.dtype(name)}; float32 is compiled")


def _checked_rank(lo: Lowering, node: Node) -> int:
    rank = len(lo.shape(node.inputs[0])) - 2
    if not 1 <= rank <= 3:
        raise NotLowered(f"it has {rank} spatial axes; 1 to 3 are compiled")
    return rank


def is_product(lo: Lowering, node: Node) -> bool:
    """Whether a convolution is a matrix product of the channels: one pixel, one tap."""
    out, kernel = lo.shape(node.outputs[0])[2:], lo.shape(node.inputs[1])[2:]
    size = lo.shape(node.inputs[0])[2:]
    return (
        math.prod(out) == math.prod(kernel) == math.prod(size) == 1
        and node.get("group", 1) == 1
        and not any(node.get("pads") or ())
        and not node.get("shift")
    )


def writes_slices(lo: Lowering, node: Node) -> bool:
    """Whether a node's kernel can write into a slice of a concatenation."""
    if node.op not in ("Conv", "ConvTranspose") or not 1 <= len(lo.shape(node.inputs[0])) - 2 <= 3:
        return False
    return node.op == "ConvTranspose" or not is_product(lo, node)


def conv(lo: Lowering, node: Node) -> None:
    """Conv, with the activation, residual and shift that passes gave it."""
    _needs_float32(lo, *node.inputs[:2])
    rank, x_name, w_name = _checked_rank(lo, node), node.inputs[0], node.inputs[1]
    if is_product(lo, node):
        return _conv_as_product(lo, node)
    x_shape, w_shape = lo.shape(x_name), lo.shape(w_name)
    stride, padding, dilation = window(node)
    if any(p < 0 for pair in padding for p in pair):
        raise NotLowered(f"its padding is negative: {padding}")
    batch, in_size, shift = x_shape[0], x_shape[2:], None
    if node.get("shift"):
        batch, in_size, shift = _clips(node, x_shape, Shift(*node.get("shift")))
    problem = ConvProblem(
        batch=batch, in_channels=x_shape[1], in_size=in_size, out_channels=w_shape[0], kernel=w_shape[2:],
        stride=stride, padding=padding, dilation=dilation, groups=node.get("group", 1),
        epilogue=_epilogue(node, bool(node.input(2))), shift=shift,
        out_pitch=lo.pitch(node.outputs[0]),
    )  # fmt: skip
    return _emit_conv(lo, node, problem, last(rank + 2))


def _clips(node: Node, shape: tuple[int, ...], shift: Shift) -> tuple[int, tuple[int, ...], Shift]:
    """Batch, size and shift of images; of frames of clips, each clip is an image with its frames one below the other.

    Channels last, that is the same memory, and a shift by a frame is one by its height.
    """
    frames = node.get("frames", 1)
    if frames == 1:
        return shape[0], shape[2:], shift
    *_, height, width = shape
    moves = [(n, (frame * height, pixel)) for n, (frame, pixel) in shift.moves]
    return shape[0] // frames, (frames * height, width), Shift.of_moves(moves)


def _emit_conv(lo: Lowering, node: Node, problem: ConvProblem, order: tuple[int, ...]) -> None:
    frames = node.get("frames", 1)
    made = (problem.batch * frames, problem.out_size[0] // frames, *problem.y_shape[2:])
    if made != tuple(lo.shape(node.outputs[0])[axis] for axis in order):
        raise NotLowered(f"its output should have shape {lo.shape(node.outputs[0])}, and {problem} gives {problem.y_shape}")
    operands = [_from_phase(lo.channels_last(node.inputs[0]), node), _weights(lo, node.inputs[1])]
    operands += _extras(lo, node, order, problem.out_channels)
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], order))


def _from_phase(x: Tensor, node: Node) -> Tensor:
    """The image from the first pixel of a phase on, where the strided 1x1 convolution reads no other.

    The view says nothing new of sizes, so its last pixels are not there; as the stride divides the sizes, none is read.
    """
    phase = node.get("phase")
    if not phase:
        return x
    *_, height, width, channels = x.memory
    if x.pitch or height % node.get("strides")[0] or width % node.get("strides")[1]:
        raise NotLowered(f"a view from {phase} on of {x.memory} would end outside of it")
    return replace(x, offset=x.offset + (phase[0] * width + phase[1]) * channels)


def _conv_as_product(lo: Lowering, node: Node) -> None:
    batch, channels = lo.shape(node.inputs[0])[:2]
    out_channels = lo.shape(node.inputs[1])[0]
    epilogue = _epilogue(node, bool(node.input(2)))
    problem = GemmProblem(m=batch, n=out_channels, k=channels, trans_b=True, epilogue=epilogue)
    x, order = lo.channels_last(node.inputs[0]), last(len(lo.shape(node.inputs[0])))
    weights = _weights(lo, node.inputs[1])
    if isinstance(weights, Weights):
        weights = weights.changed(weights.held[0].reshape(out_channels, channels), "matrix")
    operands = [x, weights, *_extras(lo, node, order, out_channels)]
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], order))


def conv_transpose(lo: Lowering, node: Node) -> None:
    """ConvTranspose."""
    _needs_float32(lo, *node.inputs[:2])
    rank, x_shape, w_shape = _checked_rank(lo, node), lo.shape(node.inputs[0]), lo.shape(node.inputs[1])
    stride, padding, dilation = window(node)
    extra = node.get("output_padding")
    if any(p < 0 for pair in padding for p in pair):
        raise NotLowered(f"its padding is negative: {padding}")
    if any(e >= max(s, d) for e, s, d in zip(extra, stride, dilation)):
        raise NotLowered(f"its output padding {extra} is not smaller than stride {stride} or dilation {dilation}")
    groups = node.get("group", 1)
    problem = ConvProblem(
        batch=x_shape[0], in_channels=x_shape[1], in_size=x_shape[2:], out_channels=w_shape[1] * groups,
        kernel=w_shape[2:], stride=stride, padding=tuple(padding), dilation=dilation, groups=groups, transposed=True,
        output_padding=extra, epilogue=_epilogue(node, bool(node.input(2))), out_pitch=lo.pitch(node.outputs[0]),
    )  # fmt: skip
    _emit_conv(lo, node, problem, last(rank + 2))


def gemm(lo: Lowering, node: Node) -> None:
    """Gemm: Y = alpha * A' @ B' + beta * C. A flattened image is read as it lies, and the rows of B are permuted instead."""
    _needs_float32(lo, *(name for name in node.inputs[:3]))
    trans_a, trans_b = bool(node.get("transA", 0)), bool(node.get("transB", 0))
    alpha, beta = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0))
    m, n = lo.shape(node.outputs[0])
    k = lo.shape(node.inputs[0])[0 if trans_a else 1]
    a, b = _matrix_and_weights(lo, node, trans_a, trans_b)
    c_name = node.input(2)
    bias, addend = _gemm_addend(lo, c_name, beta, m, n)
    problem = GemmProblem(
        m=m, n=n, k=k, trans_a=trans_a, trans_b=trans_b, alpha=alpha, beta=beta if addend else 0.0,
        epilogue=_epilogue(node, bias is not None),
    )  # fmt: skip
    operands = [a, b] + ([bias] if bias else [])
    if node.get("residual"):
        operands.append(lo.operand(node.inputs[-1], (0, 1)))
    operands += [addend] if addend else []
    lo.emit(problem, tuple(operands), lo.output(node.outputs[0], (0, 1)))


def _gemm_addend(lo: Lowering, name: str, beta: float, m: int, n: int) -> tuple[Operand | None, Operand | None]:
    """C as a bias where it is one row, else as a whole matrix."""
    if not name or beta == 0.0:
        return None, None
    array, shape = lo.constant(name), lo.shape(name)
    one_row = shape in ((n,), (1, n), (), (1,), (1, 1))
    if array is not None:
        if one_row:
            return Constant(aligned(np.broadcast_to(array.reshape(-1) * np.float32(beta), (n,)))), None
        return None, Constant(aligned(np.broadcast_to(array, (m, n))))
    if shape == (m, n):
        return None, lo.plain(name)
    if shape in ((n,), (1, n)) and beta == 1.0:
        return lo.plain(name), None
    raise NotLowered(f"its C has shape {shape} and beta is {beta}")


def _matrix_and_weights(lo: Lowering, node: Node, trans_a: bool, trans_b: bool) -> tuple[Operand, Operand]:
    a_name, b_name = node.inputs[:2]
    b = lo.constant(b_name)
    source = lo.pending(a_name)
    if source is not None and b is not None and not trans_a and _flattened(source, lo.shape(a_name)):
        return _read_as_it_lies(source, b_name, b, trans_b)
    a = lo.operand(a_name, (0, 1))
    return a, lo.plain(b_name) if b is None else Weights((b_name,), [b])


def _flattened(source: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a matrix is an image of more than one pixel with all axes but the first made one."""
    return len(source.shape) > 2 and source.shape[0] == shape[0] and source.order[0] == 0 and not source.pitch


def _read_as_it_lies(source: Tensor, b_name: str, b: Any, trans_b: bool) -> tuple[Operand, Operand]:
    """The flattened image without a copy, and the rows of B in the order in which its elements lie."""
    rows = np.arange(math.prod(source.shape[1:])).reshape(source.shape[1:])
    order = rows.transpose([axis - 1 for axis in source.order[1:]]).reshape(-1)
    flat = source.seen((source.shape[0], rows.size), (0, 1))
    weights = Weights((b_name, "flat", source.order, source.shape[1:]), [b], (1 if trans_b else 0, order))
    return flat, weights


def matmul(lo: Lowering, node: Node) -> None:
    """MatMul: one product where the second operand is one matrix, else one for each pair of matrices."""
    _needs_float32(lo, *node.inputs[:2])
    a_shape, b_shape = lo.shape(node.inputs[0]), lo.shape(node.inputs[1])
    if len(a_shape) < 2 or len(b_shape) < 2:
        raise NotLowered(f"its operands have shapes {a_shape} and {b_shape}; two axes or more are compiled")
    y_shape = lo.shape(node.outputs[0])
    (m, k), n = a_shape[-2:], b_shape[-1]
    epilogue = _epilogue(node, bool(node.input(2)))
    b_const = lo.constant(node.inputs[1])
    b: Operand = lo.plain(node.inputs[1]) if b_const is None else Weights((node.inputs[1],), [b_const])
    a = lo.operand(node.inputs[0], identity(len(a_shape)))
    extras = _extras(lo, node, identity(len(y_shape)), n)
    y = lo.output(node.outputs[0], identity(len(y_shape)))
    if math.prod(b_shape[:-2]) == 1:
        rows = math.prod(a_shape[:-1])
        if isinstance(b, Weights):
            b = b.changed(b.held[0].reshape(k, n))
        lo.emit(GemmProblem(rows, n, k, epilogue=epilogue), (a, b, *extras), y)
        return
    pairs = list(np.ndindex(*y_shape[:-2]))
    if len(pairs) > MAX_PRODUCTS or epilogue.residual:
        raise NotLowered(f"it is {len(pairs)} products; up to {MAX_PRODUCTS} are compiled")
    for at, index in enumerate(pairs):
        parts = [_matrix(a, a_shape, index), _matrix(b, b_shape, index), *extras]
        out = replace(y, shape=(m, n), order=(0, 1), offset=y.offset + at * m * n)
        lo.emit(GemmProblem(m, n, k, epilogue=epilogue), tuple(parts), out)


def _matrix(operand: Operand, shape: tuple[int, ...], index: tuple[int, ...]) -> Operand:
    """The matrix of a batch of matrices that belongs to an index of the (broadcast) batch."""
    batch = shape[:-2]
    own = tuple(0 if size == 1 else i for size, i in zip(batch, index[len(index) - len(batch) :]))
    at = int(np.ravel_multi_index(own, batch)) if batch else 0
    if isinstance(operand, Tensor):
        return replace(operand, shape=shape[-2:], order=(0, 1), offset=operand.offset + at * math.prod(shape[-2:]))
    whole = operand.held[0] if isinstance(operand, Weights) else operand.array
    part = whole.reshape(-1, *shape[-2:])[at]
    return operand.changed(part, at) if isinstance(operand, Weights) else Constant(aligned(part))


def shift(lo: Lowering, node: Node) -> None:
    """Shift: channels moved, as a layer of its own."""
    _needs_float32(lo, node.inputs[0])
    channels = lo.shape(node.inputs[0])[1]
    moved = Shift(tuple(node.get("kernel")), tuple(node.get("dilation") or (1, 1)), node.get("convention", "contiguous"))
    n, (h, w), moved = _clips(node, lo.shape(node.inputs[0]), moved)
    x = lo.channels_last(node.inputs[0])
    lo.emit(ShiftLayer(n, h, w, channels, moved, True), (x,), lo.output(node.outputs[0], last(4)))
