"""Networks written by hand: `GraphBuilder` makes a `Graph`, with given weights or with seeded random ones.

    build = GraphBuilder("tiny", seed=7)
    x = build.input("image", ("N", 3, 32, 32))
    y = build.relu(build.conv(x, 16, 3, padding=1, name="conv1"))
    y = build.linear(build.flatten(build.global_average_pool(y)), 10, name="fc")
    graph = build.graph(scores=y)

Every method takes and returns names of values, and follows their shapes, so that only outputs have to be stated. Weights
are called as in PyTorch's state dicts (`conv1.weight`, `bn1.running_mean`), so a state dict whose layers have the same
names fits as `weights`. Random weights keep activations near one (He et al., arXiv 1502.01852); they depend on the seed
and their own name only.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Union

import numpy as np

from ..errors import GraphError, ProblemError
from ..shift import Shift
from ..sizes import as_tuple
from .ir import OWN, Graph, Node, Value

__all__ = ["GraphBuilder"]

Array = np.ndarray[Any, Any]
Shape = tuple[Union[int, str], ...]
#: One number, one for each axis, pairs (before, after) for each axis, or "same" (TensorFlow's: more behind than before).
Padding = Union[int, Sequence[int], Sequence[Sequence[int]], str]
#: Entries of state dicts that inference does not use.
UNUSED = ".num_batches_tracked"


class GraphBuilder:
    """Collects nodes and constants; `graph(NAME=value)` ends it.

    `weights` maps the name of every weight to its array; without it they are random. Methods raise `GraphError` for sizes
    that do not fit, for weights that are missing or have another shape, and for names that are used twice.
    """

    def __init__(self, name: str = "graph", *, seed: int = 0, weights: Mapping[str, Array] | None = None) -> None:
        self.name, self.seed = name, seed
        self._weights = None if weights is None else dict(weights)
        self._nodes: list[Node] = []
        self._inputs: list[Value] = []
        self._constants: dict[str, Array] = {}
        self._values: dict[str, Value] = {}
        self._scopes: list[str] = []

    # ---- names, shapes, weights -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names of layers inside the `with` block begin with `name` and a dot."""
        self._scopes.append(name)
        try:
            yield
        finally:
            self._scopes.pop()

    def shape(self, value: str) -> Shape:
        """The shape of a value; sizes that are not known are names."""
        shape = self._values[value].shape if value in self._values else None
        if shape is None:
            raise GraphError(f"there is no value {value!r} in {self.name}")
        return shape

    def channels(self, value: str) -> int:
        """The size of axis 1."""
        return self._known(value, 1)

    def _known(self, value: str, axis: int) -> int:
        size = self.shape(value)[axis]
        if not isinstance(size, int):
            raise GraphError(f"axis {axis} of {value!r} must be known, but it is {size!r}")
        return size

    def _full_name(self, name: str | None, kind: str) -> str:
        if name is not None:
            return ".".join([*self._scopes, name])
        number = 1
        while (full := ".".join([*self._scopes, f"{kind}{number}"])) in self._values:
            number += 1
        return full

    def weight(self, name: str, shape: tuple[int, ...], mean: float = 0.0, deviation: float = 1.0) -> str:
        """A constant: the given weight of that full name, else evenly distributed random numbers."""
        if name in self._constants:
            raise GraphError(f"the weight {name!r} is there already")
        if self._weights is not None:
            if name not in self._weights:
                raise GraphError(f"{self.name} needs the weight {name!r} {shape}, which was not given")
            array = np.ascontiguousarray(self._weights.pop(name), np.float32)
            if array.shape != shape:
                raise GraphError(f"the weight {name!r} of {self.name} must have the shape {shape}, got {array.shape}")
        else:
            rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
            array = np.asarray(rng.random(shape, np.float32))  # uniform: three times as quick as normal
            array -= np.float32(0.5)
            array *= np.float32(math.sqrt(12) * deviation)
            array += np.float32(mean)
        self._constants[name] = array
        return name

    def constant(self, name: str, value: Any) -> str:
        """A constant of one's own; the same value under the same name again is the same constant."""
        array = np.asarray(value)
        known = self._constants.setdefault(name, array)
        if known is not array and not np.array_equal(known, array):
            raise GraphError(f"the constant {name!r} is there already, with another value")
        return name

    def node(
        self, op: str, inputs: Iterable[str], shape: Shape, name: str | None = None, *, domain: str = "", **attributes: Any
    ) -> str:
        """Any operator with one output of the given shape; the output is called as the node."""
        full = self._full_name(name, op.lower())
        if full in self._values:
            raise GraphError(f"{self.name} has a layer {full!r} already")
        self._values[full] = Value(full, shape)
        self._nodes.append(Node(op, tuple(inputs), (full,), attributes, full, domain))
        return full

    def input(self, name: str, shape: Shape) -> str:
        """A float32 input; a size may be a name."""
        self._values[name] = Value(name, tuple(shape))
        self._inputs.append(self._values[name])
        return name

    def graph(self, **outputs: str) -> Graph:
        """The graph, its outputs called as the keywords. Raises `GraphError` for given weights that no layer took."""
        left = [name for name in self._weights or () if not name.endswith(UNUSED)]
        if left:
            raise GraphError(f"{self.name} has no layer for the weight {left[0]!r} ({len(left)} such weights)")
        new = {value: name for name, value in outputs.items()}
        foreign = [value for value in new if value not in {node.outputs[0] for node in self._nodes}]
        if foreign or len(new) < len(outputs) or any(n in self._values and n not in new for n in outputs):
            raise GraphError(f"the outputs of {self.name} must be results of layers, each under one new name: {outputs}")
        nodes = [
            node.replace(
                inputs=tuple(new.get(i, i) for i in node.inputs), outputs=tuple(new.get(o, o) for o in node.outputs)
            )
            for node in self._nodes
        ]
        written = {new.get(node.outputs[0], node.outputs[0]): self._values[node.outputs[0]].shape for node in self._nodes}
        values = {name: Value(name, shape) for name, shape in written.items()}
        return Graph(tuple(nodes), tuple(self._inputs), tuple(outputs), dict(self._constants), values, self.name)

    # ---- layers with weights ----------------------------------------------------------------------------------------

    def conv(
        self, x: str, out: int, kernel: int | Sequence[int], *, stride: int | Sequence[int] = 1, padding: Padding = 0,
        dilation: int | Sequence[int] = 1, groups: int = 1, bias: bool = True, gain: float = 2.0, name: str | None = None,
    ) -> str:  # fmt: skip
        """Convolution, ONNX `Conv`; `gain` is the variance of the output over that of the input (2: a ReLU follows)."""
        k, s, p, d = self._window(x, kernel, stride, padding, dilation)
        channels = self.channels(x)
        self._divides("groups", groups, channels, out)
        name = self._full_name(name, "conv")
        fan_in = channels // groups * math.prod(k)
        inputs = [x, self.weight(f"{name}.weight", (out, channels // groups, *k), deviation=math.sqrt(gain / fan_in))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", (out,), deviation=0.05))
        shape = (*self.shape(x)[:1], out, *self._sizes(x, k, s, p, d, name))
        return self._named("Conv", inputs, shape, name, kernel_shape=k, strides=s, pads=_flat(p), dilations=d, group=groups)

    def conv_transpose(
        self, x: str, out: int, kernel: int | Sequence[int], *, stride: int | Sequence[int] = 1, padding: Padding = 0,
        output_padding: int | Sequence[int] = 0, dilation: int | Sequence[int] = 1, groups: int = 1, bias: bool = True,
        gain: float = 2.0, name: str | None = None,
    ) -> str:  # fmt: skip
        """Transposed convolution, ONNX `ConvTranspose`; arguments as PyTorch's."""
        if padding == "same":
            raise GraphError("a transposed convolution needs its padding in numbers")
        k, s, p, d = self._window(x, kernel, stride, padding, dilation)
        extra = _tuple("output_padding", output_padding, len(k), 0)
        channels = self.channels(x)
        self._divides("groups", groups, channels, out)
        name = self._full_name(name, "conv_transpose")
        taps = channels // groups * math.prod(k) / math.prod(s)  # products in one output, on average
        inputs = [x, self.weight(f"{name}.weight", (channels, out // groups, *k), deviation=math.sqrt(gain / taps))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", (out,), deviation=0.05))
        sizes = tuple(
            (size - 1) * s[i] - sum(p[i]) + d[i] * (k[i] - 1) + extra[i] + 1 if isinstance(size, int) else f"{name}_{i}"
            for i, size in enumerate(self.shape(x)[2:])
        )
        window = {"kernel_shape": k, "strides": s, "pads": _flat(p), "dilations": d, "output_padding": extra}
        return self._named("ConvTranspose", inputs, (*self.shape(x)[:1], out, *sizes), name, **window, group=groups)

    def batch_norm(self, x: str, *, epsilon: float = 1e-5, name: str | None = None) -> str:
        """ONNX `BatchNormalization` with statistics: weight, bias, running_mean, running_var, as an exporter writes it."""
        name, size = self._full_name(name, "bn"), (self.channels(x),)
        parts = {"weight": (1.0, 0.1), "bias": (0.0, 0.1), "running_mean": (0.0, 0.1), "running_var": (1.0, 0.1)}
        inputs = [self.weight(f"{name}.{part}", size, *spread) for part, spread in parts.items()]
        return self._named("BatchNormalization", [x, *inputs], self.shape(x), name, epsilon=epsilon)

    def linear(self, x: str, out: int, *, bias: bool = True, gain: float = 2.0, name: str | None = None) -> str:
        """A fully connected layer, ONNX `Gemm` with the weight `(out, in)`; `x` has two axes."""
        if len(self.shape(x)) != 2:
            raise GraphError(f"a linear layer takes two axes, but {x!r} is {self.shape(x)}; flatten it first")
        name, width = self._full_name(name, "linear"), self._known(x, 1)
        inputs = [x, self.weight(f"{name}.weight", (out, width), deviation=math.sqrt(gain / width))]
        if bias:
            inputs.append(self.weight(f"{name}.bias", (out,), deviation=0.05))
        return self._named("Gemm", inputs, (self.shape(x)[0], out), name, transB=1)

    # ---- layers without weights -------------------------------------------------------------------------------------

    def activation(self, op: str, x: str, name: str | None = None, **attributes: Any) -> str:
        """An operator of ONNX that keeps the shape, such as `Sigmoid` or `HardSwish`."""
        return self.node(op, [x], self.shape(x), name, **attributes)

    def relu(self, x: str, name: str | None = None) -> str:
        """max(x, 0)."""
        return self.activation("Relu", x, name)

    def clip(self, x: str, low: float, high: float, name: str | None = None) -> str:
        """ONNX `Clip`; ReLU6 is `clip(x, 0, 6)`. The bounds are constants that all nodes share."""
        bounds = [self.constant(f"clip.{bound:g}", np.float32(bound)) for bound in (low, high)]
        return self.node("Clip", [x, *bounds], self.shape(x), name)

    def softmax(self, x: str, axis: int = -1, name: str | None = None) -> str:
        """ONNX `Softmax`."""
        return self.activation("Softmax", x, name, axis=axis)

    def dropout(self, x: str, name: str | None = None) -> str:
        """ONNX `Dropout`, which does nothing at inference."""
        return self.activation("Dropout", x, name)

    def lrn(self, x: str, size: int, alpha: float, beta: float, bias: float, name: str | None = None) -> str:
        """ONNX `LRN`: x / (bias + alpha / size * sum of squares)^beta. Note the division of alpha by size."""
        return self.activation("LRN", x, name, size=size, alpha=alpha, beta=beta, bias=bias)

    def add(self, a: str, b: str, name: str | None = None) -> str:
        """The sum of two values of one shape."""
        if self.shape(a) != self.shape(b):
            raise GraphError(f"cannot add {a!r} {self.shape(a)} and {b!r} {self.shape(b)}")
        return self.node("Add", [a, b], self.shape(a), name)

    def concat(self, values: Sequence[str], axis: int = 1, name: str | None = None) -> str:
        """Values side by side; they differ in size along `axis` only."""
        shapes = [self.shape(value) for value in values]
        if len({(*shape[:axis], *shape[axis + 1 :]) for shape in shapes}) != 1:
            raise GraphError(f"cannot join values of the shapes {shapes} along axis {axis}")
        total = sum(self._known(value, axis) for value in values)
        return self.node("Concat", values, (*shapes[0][:axis], total, *shapes[0][axis + 1 :]), name, axis=axis)

    def max_pool(
        self, x: str, kernel: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = 0,
        ceil: bool = False, name: str | None = None,
    ) -> str:  # fmt: skip
        """ONNX `MaxPool`; the stride is the kernel's size where it is not given."""
        return self._pool("MaxPool", x, kernel, stride, padding, ceil, name)

    def average_pool(
        self, x: str, kernel: int | Sequence[int], *, stride: int | Sequence[int] | None = None, padding: Padding = 0,
        ceil: bool = False, count_include_pad: bool = False, name: str | None = None,
    ) -> str:  # fmt: skip
        """ONNX `AveragePool`; padding is not part of the average unless `count_include_pad` is set."""
        extra = {"count_include_pad": int(count_include_pad)}
        return self._pool("AveragePool", x, kernel, stride, padding, ceil, name, **extra)

    def _pool(
        self, op: str, x: str, kernel: int | Sequence[int], stride: int | Sequence[int] | None, padding: Padding,
        ceil: bool, name: str | None, **extra: Any,
    ) -> str:  # fmt: skip
        k, s, p, d = self._window(x, kernel, kernel if stride is None else stride, padding, 1)
        name = self._full_name(name, op.lower())
        shape = (*self.shape(x)[:2], *self._sizes(x, k, s, p, d, name, ceil))
        window = {"kernel_shape": k, "strides": s, "pads": _flat(p), "ceil_mode": int(ceil)}
        return self._named(op, [x], shape, name, **window, **extra)

    def global_average_pool(self, x: str, name: str | None = None) -> str:
        """The average of every channel; sizes become 1."""
        shape = self.shape(x)
        return self.node("GlobalAveragePool", [x], (*shape[:2], *(1 for _ in shape[2:])), name)

    def flatten(self, x: str, name: str | None = None) -> str:
        """All axes but the first become one."""
        width = math.prod(self._known(x, axis) for axis in range(1, len(self.shape(x))))
        return self.node("Flatten", [x], (self.shape(x)[0], width), name, axis=1)

    def shift(self, x: str, shift: Shift | int = 3, name: str | None = None) -> str:
        """Every channel moved (see `sevenloops.shift`); a number is the size of the kernel."""
        try:
            full = (shift if isinstance(shift, Shift) else Shift((shift,))).of_rank(len(self.shape(x)) - 2)
        except ProblemError as error:
            raise GraphError(str(error)) from None
        attributes = {"kernel": full.kernel, "dilation": full.dilation, "convention": full.convention}
        return self.node("Shift", [x], self.shape(x), name, domain=OWN, **attributes)

    # ---- windows ----------------------------------------------------------------------------------------------------

    def _named(self, op: str, inputs: Sequence[str], shape: Shape, full: str, **attributes: Any) -> str:
        """`node`, for a name that has its scope already."""
        scopes, self._scopes = self._scopes, []
        try:
            return self.node(op, inputs, shape, full, **attributes)
        finally:
            self._scopes = scopes

    def _divides(self, what: str, parts: int, *wholes: int) -> None:
        if parts < 1 or any(whole % parts for whole in wholes):
            raise GraphError(f"{what} of {self.name} must divide {wholes}, got {parts}")

    def _window(
        self, x: str, kernel: int | Sequence[int], stride: int | Sequence[int], padding: Padding,
        dilation: int | Sequence[int],
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...]]:  # fmt: skip
        """Kernel, stride, pairs of padding and dilation in full."""
        rank = len(self.shape(x)) - 2
        k, s, d = (_tuple(*item, rank, 1) for item in (("kernel", kernel), ("stride", stride), ("dilation", dilation)))
        if isinstance(padding, str):
            if padding != "same":
                raise GraphError(f"padding must be numbers or 'same', got {padding!r}")
            return k, s, tuple(_same(self._known(x, 2 + i), k[i], s[i], d[i]) for i in range(rank)), d
        pairs: list[Any] = [padding] * rank if isinstance(padding, int) else list(padding)
        p = tuple((pair, pair) if isinstance(pair, int) else (int(pair[0]), int(pair[1])) for pair in pairs)
        if len(p) != rank or min(min(pair) for pair in p) < 0:
            raise GraphError(f"padding must be a number or {rank} pairs of numbers, not negative, got {padding!r}")
        return k, s, p, d

    def _sizes(
        self, x: str, k: Sequence[int], s: Sequence[int], p: Sequence[tuple[int, int]], d: Sequence[int], name: str,
        ceil: bool = False,
    ) -> Shape:  # fmt: skip
        """Sizes behind a window; rounded up, a last window must begin before the padding behind (as PyTorch has it)."""
        found: list[int | str] = []
        for i, size in enumerate(self.shape(x)[2:]):
            if isinstance(size, str):
                found.append(f"{name}_{i}")
                continue
            span = size + sum(p[i]) - d[i] * (k[i] - 1) - 1
            if span < 0:
                raise GraphError(f"{name}: a kernel of {k[i]} (dilation {d[i]}) does not fit into {size} + {p[i]} pixels")
            steps = -(-span // s[i]) if ceil else span // s[i]
            found.append(steps if ceil and steps * s[i] >= size + p[i][0] else steps + 1)
        return tuple(found)


def _tuple(what: str, value: int | Sequence[int], rank: int, least: int) -> tuple[int, ...]:
    try:
        return as_tuple(what, value, rank, least)
    except ProblemError as error:
        raise GraphError(str(error)) from None


def _same(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's: as many outputs as size / stride rounded up, and the odd pixel of padding behind."""
    total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def _flat(padding: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """ONNX's order: all before, then all behind."""
    return tuple(pair[side] for side in (0, 1) for pair in padding)
