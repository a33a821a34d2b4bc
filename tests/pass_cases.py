"""Graphs of one line each for the passes, what each must come down to, and a word of its notes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sevenloops.graph.ir import OWN, Graph, Node, Value
from sevenloops.graph.shapes import infer
from sevenloops.shift import Shift, channel_offsets

RANDOM = np.random.default_rng(4)
INPUTS = {
    "x": (2, 4, 5, 6), "z": (2, 4, 5, 6), "gate": (2, 4, 1, 1), "one": (2, 4, 1, 1),
    "m": (3, 4), "t": (2, 3, 4), "big": (1, 18, 5, 7), "even": (2, 7, 6, 8),
}  # fmt: skip


def random(*shape: int) -> np.ndarray[Any, Any]:
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


def integers(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def one_hot(shift: Shift, channels: int) -> np.ndarray[Any, Any]:
    """Kernels of a depthwise convolution that shifts."""
    shift = shift.of_rank(2)
    weight = np.zeros((channels, 1, *shift.kernel), np.float32)
    for channel, offset in enumerate(channel_offsets(shift, channels)):
        place = [by // d + k // 2 for by, d, k in zip(offset, shift.dilation, shift.kernel)]
        weight[(channel, 0, *place)] = 1
    return weight


ODD = one_hot(Shift((3, 3)), 18)[RANDOM.permutation(18)]
TWO = one_hot(Shift((3, 3)), 18)
TWO[7, 0, 2] = 1
CONSTANTS: dict[str, Any] = {
    "w": random(4, 4, 3, 3), "w1": random(4, 4, 1, 1), "dw": random(4, 1, 3, 3), "b": random(4), "ct": random(4, 2, 2, 2),
    "g": random(4), "beta": random(4), "mu": random(4), "var": abs(random(4)) + 0.1, "c": random(4, 1, 1) + 2,
    "w22": random(2, 2, 3, 3), "v22": random(2, 2, 3, 3), "b2": random(2), "c2": random(2, 1, 1), "w18": random(5, 18, 1, 1),
    "image": random(5, 6), "row": random(4), "nk": random(5, 4), "wide": random(120, 3), "kn": random(4, 5), "n": random(5),
    "half": np.float32(0.5), "three": np.float32(3), "six": np.float32(6), "zero": np.float32(0),
    "root": np.float32(math.sqrt(2)), "1": np.float32(1),
    "sixth": np.float32(1 / 6), "lowest": np.float32(-math.inf), "alpha": np.float32(0.1), "cube": np.float32(3),
    "k1": np.float32(0.044715), "k2": np.float32(math.sqrt(2 / math.pi)),
    "pads": integers(0, 0, 1, 2, 0, 0, 0, 1), "axes": integers(2, 3), "axes_": integers(-1, -2),
    "pads2": integers(1, 1, 1, 1),
    "channels": integers(0, 1, 0, 0, 0, 0, 0, 0), "flat": integers(2, -1), "back": integers(2, 4, 5, 6), "ax1": integers(1),
    "ax0": integers(0), "s0": integers(0), "s2": integers(2), "s4": integers(4), "hot": one_hot(Shift((3, 3)), 18),
    "modulo": one_hot(Shift((3, 3), convention="modulo"), 18), "odd": ODD, "two": TWO,
    "hot5": one_hot(Shift((5, 3)), 18), "still": one_hot(Shift((3, 3)), 4), "bn18": abs(random(18)) + 0.1,
    "w7": random(18, 7, 1, 1), "w1818": random(18, 18, 1, 1), "b18": random(18),
}  # fmt: skip


def graph(text: str, outputs: str = "y") -> Graph:
    """`Conv x w b -> y pads=1,1,1,1; Relu y -> r`, sizes inferred. `_` is an input left out."""
    nodes = [_node(statement) for statement in text.split(";")]
    names = {name for node in nodes for name in node.inputs}
    inputs = tuple(Value(name, shape) for name, shape in INPUTS.items() if name in names)
    constants = {name: np.asarray(array) for name, array in CONSTANTS.items() if name in names}
    return infer(Graph(tuple(nodes), inputs, tuple(outputs.split()), constants))


def _node(statement: str) -> Node:
    left, right = statement.split("->")
    op, *inputs = left.split()
    attributes = dict(word.split("=") for word in right.split() if "=" in word)
    outputs = tuple(word for word in right.split() if "=" not in word)
    read = {name: _attribute(value) for name, value in attributes.items()}
    return Node(
        op, tuple("" if name == "_" else name for name in inputs), outputs, read, domain=OWN if op == "Shift" else ""
    )


def _attribute(text: str) -> Any:
    if "," in text:
        return tuple(map(int, text.split(",")))
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


CONV = "Conv x w b -> a pads=1,1,1,1; "
BN = "BatchNormalization a g beta mu var -> y"
GATE = "GlobalAveragePool x -> p; Conv p w1 -> q; "
#: id: (graph, operators after all passes, part of a note)
CASES: dict[str, tuple[str, str, str]] = {
    # fold_affine
    "bn": (CONV + BN, "Conv", "y into a"),
    "bn of transposed": (
        "ConvTranspose x ct -> a group=2 strides=2,2; BatchNormalization a g beta mu var -> y",
        "ConvTranspose", "into a",
    ),
    "bn of gemm": ("Gemm m kn n -> a; Mul a n -> e; Add e n -> y", "Gemm", "e into a"),
    "bn of product": ("MatMul t kn -> a; Add a n -> y", "MatMul", "y into a"),
    "chain": (CONV + "Mul a c -> d; Sub d half -> e; Div e c -> f; Sub half f -> f2; Neg f2 -> y", "Conv", "f into a"),
    "conv read twice": (
        CONV + BN.replace("-> y", "-> d") + "; MaxPool a -> p kernel_shape=3,3 pads=1,1,1,1; Add d p -> y",
        "Conv MaxPool Elementwise", "a is also read by p",
    ),
    "bn alone": (BN.replace(" a ", " x "), "Elementwise", ""),
    "two affines": ("Sub x half -> a; Div a c -> d; Mul d c -> y", "Elementwise", "one scale and shift"),
    "image constant": (CONV + "Add a image -> y", "Conv Elementwise", ""),
    "broadcast constant": ("MatMul t kn -> a; GlobalAveragePool x -> p; Add p row -> y", "ReduceMean Elementwise", ""),
    "scale forward": (
        "MaxPool x -> a kernel_shape=2,2; Mul a c -> d; Conv d w b -> y pads=1,1,1,1",
        "MaxPool Conv", "into y behind it",
    ),
    "line forward": ("Mul x c -> a; Add a half -> d; Conv d dw b -> y group=4", "Conv", "into y behind it"),
    "line before padding": (
        "Mul x c -> a; Add a half -> d; Conv d w -> y pads=1,1,1,1",
        "Elementwise Conv", "pads with zeros",
    ),
    "line before transposed": (
        "Add x half -> d; ConvTranspose d ct -> y group=2",
        "Elementwise ConvTranspose", "different numbers of taps",
    ),
    "line before gemm": ("Mul m row -> a; Add a half -> d; Gemm d nk n -> y transB=1", "Gemm", "into y behind it"),
    "both sides": ("Mul x c -> a; Add a half -> d; Conv d w -> e; Mul e c -> f; Add f c -> y", "Conv", "into e"),
    "nothing": ("Mul x 1 -> a; Conv a w -> y", "Conv", ""),
    # pad_into
    "pad conv": ("Pad x pads -> a; Conv a w -> y pads=0,1,0,1", "Conv", "a into y"),
    "pad average": ("Pad x pads -> a; AveragePool a -> y kernel_shape=3,3", "AveragePool", "a into y"),
    "pad uncounted": (
        "Pad x pads -> a; AveragePool a -> y kernel_shape=4,4 pads=1,1,1,1",
        "Pad AveragePool", "does not count",
    ),
    "pad max": ("Pad x pads lowest -> a; MaxPool a -> y kernel_shape=3,3", "MaxPool", "a into y"),
    "pad max with zero": ("Pad x pads -> a; MaxPool a -> y kernel_shape=3,3", "Pad MaxPool", "has -inf there"),
    "pad max of relu": ("Relu x -> r; Pad r pads -> a; MaxPool a -> y kernel_shape=3,3", "Elementwise MaxPool", "a into y"),
    "pad of no window": ("Pad x pads -> a; AveragePool a -> y kernel_shape=2,2", "Pad AveragePool", "padding alone"),
    "pad rounded up": ("Pad x pads -> a; AveragePool a -> y kernel_shape=3,3 ceil_mode=1", "Pad AveragePool", "rounded up"),
    "pad channels": ("Pad x channels -> a; Relu a -> y", "Pad Elementwise", ""),
    "pad by axes": ("Pad x pads2 _ axes -> a; Conv a w -> y", "Conv", "a into y"),
    "pad with three": ("Pad x pads three -> a; Conv a w -> y", "Pad Conv", "pads with 3.0"),
    "pad reflected": ("Pad x pads -> a mode=reflect; Conv a w -> y", "Pad Conv", "pads by reflect"),
    "pad read twice": (
        "Pad x pads -> a; Conv a w -> d; Conv a w -> e; Concat d e -> y axis=1",
        "Conv Conv Concat", "a into e",
    ),
    # shift
    "shift": ("Conv big hot -> y group=18 pads=1,1,1,1", "Shift", "is shift=3"),
    "shift modulo": ("Conv big modulo -> y group=18 pads=1,1,1,1", "Shift", "shift=3:modulo"),
    "shift dilated": ("Conv big hot -> y group=18 pads=2,1,2,1 dilations=2,1", "Shift", ":d2x1"),
    "shift 5x3": ("Conv big hot5 -> y group=18 pads=2,1,2,1", "Shift", "shift=5x3"),
    "shift of few": ("Conv x still -> a group=4 pads=1,1,1,1; Relu a -> y", "Elementwise", "no channel moves"),
    "not a shift": ("Conv big odd -> y group=18 pads=1,1,1,1", "Conv", "neither convention"),
    "two ones": ("Conv big two -> y group=18 pads=1,1,1,1", "Conv", "ones"),
    "shift that grows": ("Conv big hot -> y group=18 pads=2,2,2,2", "Conv", "changes the size"),
    "shift pointwise": (
        "Conv big hot -> a group=18 pads=1,1,1,1; Conv a w18 -> d strides=2,2; Relu d -> y",
        "Conv:relu:shift", "a into d",
    ),
    "strided shift": (
        "Conv big hot -> a group=18 pads=1,1,1,1 strides=2,2; Conv a w18 -> y",
        "Conv:shift", "with stride (2, 2), in y",
    ),
    "strided shift behind a layer": (
        "Conv even w7 b18 -> a; Relu a -> d; Shift d -> e kernel=3,3 dilation=1,1; Conv e w18 -> y strides=2,2",
        "Conv:relu Conv:relu Conv:relu Conv:relu Concat Conv:shift", "one in 4, phases: 4",
    ),
    "strided shift of one axis": (
        "Conv even w7 -> a; Shift a -> e kernel=5,3 dilation=2,1 convention=modulo; Conv e w18 -> y strides=1,2",
        "Conv Conv Concat Conv:shift", "one in 2, phases: 2",
    ),
    "strided shift of one phase": (
        "Conv even w7 -> a; Shift a -> e kernel=3,3 dilation=2,2; Conv e w18 -> y strides=2,2",
        "Conv Conv:shift", "one in 4, phases: 1",
    ),
    "strided shift of an odd image": (
        "Shift big -> a kernel=3,3 dilation=1,1; Conv a w1818 -> d; Shift d -> e kernel=3,3 dilation=1,1; "
        "Conv e w18 -> y strides=2,2",
        "Conv:shift Conv:shift", "all are made",
    ),
    "strided shift of a sum": (
        "Conv even w7 -> a; Conv even w7 -> d; Relu d -> c18; Add a c18 -> f; Shift f -> e kernel=3,3 dilation=1,1; "
        "Conv e w18 -> y strides=2,2",
        "Conv:relu Conv:before Conv:shift", "adds a residual",
    ),
    "strided shift alone": ("Conv big hot -> y group=18 pads=1,1,1,1 strides=2,2", "Conv", "no 1x1 convolution alone"),
    "own shift": (
        "Shift big -> a kernel=3,3 dilation=1,1 convention=modulo; "
        "BatchNormalization a bn18 bn18 bn18 bn18 -> d; Conv d w18 -> y",
        "Conv:shift", "d into y behind it",
    ),
    "shift read twice": (
        "Shift big -> a kernel=3,3 dilation=1,1; Conv a w18 -> d; Conv a w18 -> e; Add d e -> y",
        "Shift Conv Conv:before", "it is read by d, e",
    ),
    # towers
    "towers": (
        "Split x -> p q axis=1 num_outputs=2; Conv p w22 b2 -> d; Conv q v22 -> e; Concat d e -> y axis=1",
        "Conv", "in groups",
    ),
    "towers of slices": (
        "Slice x s0 s2 ax1 -> p; Slice x s2 s4 ax1 -> q; Conv p w22 b2 -> d; Conv q v22 -> e; Relu d -> f; "
        "Relu e -> h; Concat f h -> y axis=1",
        "Conv:relu", "in groups",
    ),
    "crossed towers": (
        "Split x -> p q axis=1 num_outputs=2; Conv q w22 -> d; Conv p v22 -> e; Concat d e -> y axis=1",
        "Split Conv Conv Concat", "not all channels of x in order",
    ),
    "unlike towers": (
        "Split x -> p q axis=1 num_outputs=2; Conv p w22 -> d pads=1,1,1,1; Conv q v22 -> e pads=1,1,1,1 ; "
        "Relu d -> f; Tanh e -> h; Concat f h -> y axis=1",
        "Split Conv Conv:relu Elementwise Concat", "not alike",
    ),
    # activations and epilogues
    "relu": (CONV + "Relu a -> y", "Conv:relu", "y into a as relu"),
    "relu6": (CONV + "Relu a -> d; Min d six -> y", "Conv:clip", "as clip"),
    "clip from zero": (CONV + "Clip a zero -> y", "Conv:relu", "as relu"),
    "clip reversed": (CONV + "Clip a six zero -> y", "Conv Elementwise", "not an activation"),
    "leaky": (CONV + "LeakyRelu a -> y alpha=0.2", "Conv:leaky_relu", ""),
    "prelu of one": (CONV + "PRelu a alpha -> y", "Conv:leaky_relu", ""),
    "prelu": (CONV + "PRelu a c -> y", "Conv Elementwise", ""),
    "sigmoid": (CONV + "Sigmoid a -> y", "Conv:sigmoid", ""),
    "silu": (CONV + "Sigmoid a -> s; Mul s a -> y", "Conv:silu", "silu of a"),
    "hard swish": (CONV + "HardSwish a -> y", "Conv:hard_swish", ""),
    "hard swish of parts": (CONV + "HardSigmoid a -> s alpha=0.16666667 beta=0.5; Mul a s -> y", "Conv:hard_swish", ""),
    "hard swish by clip": (
        CONV + "Add a three -> d; Clip d zero six -> e; Mul a e -> f; Div f six -> y",
        "Conv:hard_swish", "",
    ),
    "hard swish, divided first": (
        CONV + "Add a three -> d; Clip d zero six -> e; Mul e sixth -> f; Mul f a -> y",
        "Conv:hard_swish", "",
    ),
    "hard sigmoid": (GATE + "HardSigmoid q -> s; Mul x s -> y", "ReduceMean Conv:clip Elementwise", "a line and a clip"),
    "gelu": ("Div x root -> a; Erf a -> d; Add d 1 -> e; Mul x e -> f; Mul f half -> y", "Elementwise", "gelu of x"),
    "gelu_tanh": (
        "Pow x cube -> a; Mul a k1 -> d; Add x d -> e; Mul e k2 -> f; Tanh f -> h; Add h 1 -> i; "
        "Mul x half -> j; Mul j i -> y",
        "Elementwise", "gelu_tanh of x",
    ),
    "mish": (CONV + "Softplus a -> d; Tanh d -> e; Mul a e -> y", "Conv Elementwise", "mish of a"),
    "not silu": (CONV + "Sigmoid z -> s; Mul s a -> y", "Conv Elementwise", ""),
    "residual": (CONV + "Add a z -> d; Relu d -> y", "Conv:relu:before", "adds z before"),
    "residual after": (CONV + "Relu a -> d; Add z d -> y", "Conv:relu:after", "adds z after"),
    "nothing after": (
        CONV + "Relu a -> d; Add z d -> e; Relu e -> y",
        "Conv:relu:after Elementwise", "behind its activation",
    ),
    "residual of two": (
        CONV + "Conv z w -> d pads=1,1,1,1; Add a d -> e; Relu e -> y",
        "Conv Conv:relu:before", "into d, which adds a",
    ),
    "the one without activation": (
        CONV + "Conv z w -> d pads=1,1,1,1; Relu d -> e; Add a e -> f; Relu f -> y",
        "Conv:relu Conv:relu:before", "into a",
    ),
    "residual from behind": (CONV + "MaxPool z -> d kernel_shape=3,3 pads=1,1,1,1; Add a d -> y", "MaxPool Conv:before", ""),
    "residual broadcasts": (GATE + "Add q x -> y", "ReduceMean Conv Elementwise", "it broadcasts"),
    "residual doubles": (CONV + "Add a a -> y", "Conv Elementwise", "doubles"),
    "sum read twice": (CONV + "Relu a -> d; Add a d -> y", "Conv Elementwise", "a is also read by"),
    "gemm residual": (
        "Gemm m nk -> a transB=1; Gemm m kn a -> d; Relu d -> y",
        "Gemm Gemm:relu:before", "adds a as a residual",
    ),
    "matmul relu": ("MatMul t kn -> a; Relu a -> y", "MatMul:relu", ""),
    # element-wise
    "excite": (
        GATE + "Sigmoid q -> s; Mul x s -> d; Add d z -> e; Relu e -> y",
        "ReduceMean Conv:sigmoid Elementwise", "one expression of 3 inputs",
    ),
    "gate apart": ("Tanh gate -> s; Mul x s -> y", "Elementwise Elementwise", "computed again for every element"),
    "cheap repeated": ("Relu gate -> s; Mul x s -> y", "Elementwise", "one expression"),
    "diamond": ("Add x z -> a; Tanh a -> d; Exp a -> e; Mul d e -> y", "Elementwise", "one expression of 2 inputs"),
    "inner output": ("Add x z -> a; Tanh a -> y", "Elementwise", ""),
    "functions": (
        "Elu x -> a; Celu a -> d; Selu d -> e; ThresholdedRelu e -> f; Softsign f -> h; Gelu h -> i; "
        "Abs i -> j; Sqrt j -> y",
        "Elementwise", "",
    ),
    "variadic": ("Sum x z x -> a; Max a z half -> d; Mean d x -> e; Min e z -> y", "Elementwise", ""),
    # views, means, products
    "reshapes": ("Flatten x -> a; Reshape a back -> d; Flatten d -> e; Gemm e wide -> y", "Flatten Gemm", "one reshape"),
    "reshape to flatten": ("Reshape x flat -> a; Unsqueeze a ax1 -> d; Squeeze d ax1 -> y", "Flatten", ""),
    "reshapes cancel": ("Flatten x -> a; Reshape a back -> d; Conv d w -> y", "Conv", "changes no size"),
    "transposes cancel": (
        "Transpose x -> a perm=0,2,3,1; Transpose a -> d perm=0,3,1,2; Conv d w -> y",
        "Conv", "moves no axis",
    ),
    "transposes merge": ("Transpose x -> a perm=0,2,3,1; Transpose a -> y perm=0,2,1,3", "Transpose", "one transpose"),
    "transpose of ones": ("Transpose one -> a perm=0,2,3,1; Flatten a -> y", "Flatten", "size one"),
    "concats": ("Concat x z -> a axis=1; Concat a x -> d axis=1; Concat d z -> y axis=-3", "Concat", "into d"),
    "concats differ": ("Concat x z -> a axis=1; Concat a a -> y axis=0", "Concat Concat", ""),
    "global pool": ("GlobalAveragePool x -> y", "ReduceMean", "the mean of axes (2, 3)"),
    "whole pool": ("AveragePool x -> y kernel_shape=5,6", "ReduceMean", ""),
    "part pool": ("AveragePool x -> y kernel_shape=4,4 strides=9,9", "AveragePool", "not the whole image"),
    "mean axes": ("ReduceMean x axes_ -> y keepdims=0", "ReduceMean", "the mean of axes (2, 3)"),
    "matmul to gemm": ("MatMul m kn -> a; Add a n -> d; Relu d -> y", "Gemm:relu", "y into a as relu"),
    "gemm scaled": ("Gemm m kn half -> y alpha=0.5 beta=2.0", "Gemm", "times 0.5"),
}  # fmt: skip
