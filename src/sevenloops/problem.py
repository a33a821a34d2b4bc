"""Problems as values: a convolution or a matrix product with every size, validated, hashable, printable.

The one-line descriptor (`str(problem)`, read back by `parse_problem`) is what tests, benchmarks, the kernel cache and
the command line exchange::

    mb1 ic64 ih56 iw56 oc64 kh3 kw3 ph1 pw1 bias act=relu
    gemm m512 n512 k512

Letters: `mb` batch, `g` groups, `ic oc` channels, `id ih iw` input sizes, `kd kh kw` kernel, `sd sh sw` stride,
`dd dh dw` dilation (1 is dense), `pd ph pw` padding on both sides or `pf/pk pt/pb pl/pr` for each side (front/back,
top/bottom, left/right). What equals its default is left out. `shift=3` moves the channels of the input before a 1x1
kernel, `shift=3x5:d2:modulo` with a kernel of 3 x 5, dilation 2 and the other convention, `shift=8@1x0+8@-1x0` the
first 8 channels by a row, the next 8 by a row back (`sevenloops.shift`).
`yp256` stores output pixels 256 channels apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Union

from .epilogue import Epilogue, as_number
from .errors import DtypeError, ProblemError
from .shift import Shift, as_shift
from .sizes import as_int, as_tuple

__all__ = ["ConvProblem", "GemmProblem", "Problem"]

DTYPES = {"float32": 4, "float64": 8}
#: Compiled kernels index with signed 32-bit integers, and Halide counts a buffer's bytes in them too.
MAX_TENSOR_BYTES = 2**31 - 1
AXES = "dhw"
#: Suffixes of the padding before and after each axis: front/back, top/bottom, left/right.
PAD_LETTERS = {"d": ("pf", "pk"), "h": ("pt", "pb"), "w": ("pl", "pr")}

Padding = Union[int, str, Iterable[Any]]


def _check_bytes(name: str, shape: tuple[int, ...], dtype: str) -> None:
    n_bytes = math.prod(shape) * DTYPES[dtype]
    if n_bytes > MAX_TENSOR_BYTES:
        raise ProblemError(
            f"{name} of shape {shape} takes {n_bytes:,} bytes; kernels index with 32 bits, so one tensor may have at "
            f"most {MAX_TENSOR_BYTES:,}. Split the batch or the image."
        )


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise DtypeError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")


@dataclass(frozen=True)
class ConvProblem:
    """A convolution of `batch` images over one, two or three spatial axes.

    Sizes are given outermost axis first (`(d, h, w)`, `(h, w)` or `(w,)`); one integer stands for every axis.
    Padding is an integer, one integer per axis, one `(before, after)` pair per axis, `"valid"` (none) or `"same"`:
    `out = ceil(in / stride)` with the odd element of padding at the end (SAME_UPPER in ONNX; PyTorch's "same" at
    stride 1, which refuses larger strides). After construction every field is a full tuple.

    The definition (Goodfellow, Bengio, Courville, Deep Learning, 9.5), zero outside the input, all axes alike::

        y[n, oc, o] = epilogue(sum over ic in group, k of x[n, ic, o*stride + k*dilation - before] * w[oc, ic, k])

    A transposed convolution is its adjoint: `x[n, ic, i] * w[ic, oc, k]` is added at `o = i*stride + k*dilation -
    before`, and `output_padding` rows are added at the end.

    With `shift` the channels of the input are moved before a 1x1 kernel is applied (see `sevenloops.shift`)::

        y[n, oc, o] = epilogue(sum over ic of x[n, ic, o*stride + offset(ic)] * w[oc, ic])

    `out_pitch` is the distance of two output pixels in memory, in elements, where the output is a slice of the channels
    of a larger tensor (a concatenation that nobody copies); 0 is dense.

    Raises `ProblemError` for a problem without meaning and `DtypeError` for a dtype other than float32 or float64.
    """

    batch: int
    in_channels: int
    in_size: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = (1,)
    padding: tuple[tuple[int, int], ...] = ((0, 0),)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = (0,)
    epilogue: Epilogue = field(default_factory=Epilogue)
    dtype: str = "float32"
    shift: Shift | None = None
    out_pitch: int = 0

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for name in ("batch", "in_channels", "out_channels", "groups"):
            put(name, as_int(name, getattr(self, name), 1))
        sizes = self.in_size if isinstance(self.in_size, Iterable) else (self.in_size,)
        put("in_size", tuple(as_int("in_size", size, 1) for size in sizes))
        if not 1 <= self.rank <= 3:
            raise ProblemError(f"in_size needs one to three spatial sizes, got {self.in_size}")
        for name, minimum in (("kernel", 1), ("stride", 1), ("dilation", 1), ("output_padding", 0)):
            put(name, as_tuple(name, getattr(self, name), self.rank, minimum))
        put("padding", self._resolve_padding(self.padding))
        put("shift", None if self.shift is None else as_shift(self.shift, self.rank))
        pitch = as_int("out_pitch", self.out_pitch, 0)
        if 0 < pitch < self.out_channels:
            raise ProblemError(f"out_pitch is 0 or at least out_channels={self.out_channels}, got {pitch}")
        put("out_pitch", 0 if pitch == self.out_channels else pitch)
        _check_dtype(self.dtype)
        self._validate()

    def _resolve_padding(self, padding: Padding) -> tuple[tuple[int, int], ...]:
        if isinstance(padding, str):
            return self._named_padding(padding)
        items = list(padding) if isinstance(padding, Iterable) else [padding] * self.rank
        if len(items) == 1:
            items *= self.rank
        if len(items) != self.rank:
            raise ProblemError(f"padding needs one entry for each of {self.rank} axes, got {tuple(items)}")
        pairs = [tuple(item) if isinstance(item, Iterable) else (item, item) for item in items]
        if any(len(pair) != 2 for pair in pairs):
            raise ProblemError(f"padding of an axis is one integer or a (before, after) pair, got {tuple(items)}")
        return tuple((as_int("padding", before, 0), as_int("padding", after, 0)) for before, after in pairs)

    def _named_padding(self, name: str) -> tuple[tuple[int, int], ...]:
        if name.lower() == "valid":
            return ((0, 0),) * self.rank
        if name.lower() != "same":
            raise ProblemError(f'padding must be "same", "valid", or numbers, got {name!r}')
        if self.transposed:
            raise ProblemError('padding="same" has no meaning for a transposed convolution; give numbers')
        pairs = []
        for size, k, s, d in zip(self.in_size, self.kernel, self.stride, self.dilation):
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pairs.append((total // 2, total - total // 2))
        return tuple(pairs)

    def _validate(self) -> None:
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ProblemError(f"groups={self.groups} does not divide {name}={getattr(self, name)}")
        for axis in range(self.rank):
            reach = (self.kernel[axis] - 1) * self.dilation[axis] + 1
            padded = self.in_size[axis] + sum(self.padding[axis])
            if not self.transposed and reach > padded:
                raise ProblemError(
                    f"the kernel does not fit: axis {axis} has size {self.in_size[axis]} with padding "
                    f"{self.padding[axis]}, {padded} in all, and a kernel of {self.kernel[axis]} with dilation "
                    f"{self.dilation[axis]} reaches over {reach}"
                )
            if self.output_padding[axis] and not self.transposed:
                raise ProblemError("output_padding is for transposed convolutions only")
            if self.output_padding[axis] >= max(self.stride[axis], self.dilation[axis]):
                raise ProblemError(
                    f"output_padding {self.output_padding} must be smaller than stride {self.stride} or dilation "
                    f"{self.dilation} on each axis"
                )
        if self.shift is not None and (not self._is_plain_pointwise or self.groups > 1):
            raise ProblemError("a shift is followed by a 1x1 kernel without padding, groups or transposition")
        if self.shift is not None and sum(n for n, _ in self.shift.moves) > self.in_channels:
            raise ProblemError(f"{self.shift.word()} moves more channels than {self.in_channels}")
        if min(self.out_size) < 1:
            raise ProblemError(f"the output would have size {self.out_size}: the padding cuts everything away")
        for name, shape in (("input", self.x_shape), ("weight", self.w_shape), ("output", self.y_shape)):
            _check_bytes(name, shape, self.dtype)
        _check_bytes("the tensor of the output", (*self.y_shape[:-1], max(self.out_pitch, self.out_channels)), self.dtype)
        whole = tuple(size + sum(pair) for size, pair in zip(self.in_size, self.padding))
        _check_bytes("padded input", (self.batch, *whole, self.in_channels), self.dtype)

    @property
    def rank(self) -> int:
        """Number of spatial axes, 1 to 3."""
        return len(self.in_size)

    @property
    def out_size(self) -> tuple[int, ...]:
        """Output sizes, outermost axis first."""
        out = []
        axes = zip(self.in_size, self.kernel, self.stride, self.dilation, self.padding, self.output_padding)
        for size, k, s, d, (before, after), extra in axes:
            if self.transposed:
                out.append((size - 1) * s - before - after + (k - 1) * d + 1 + extra)
            else:
                out.append((size + before + after - (k - 1) * d - 1) // s + 1)
        return tuple(out)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Input in memory, channels last: `(batch, *in_size, in_channels)`."""
        return (self.batch, *self.in_size, self.in_channels)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Output in memory, channels last: `(batch, *out_size, out_channels)`."""
        return (self.batch, *self.out_size, self.out_channels)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """Weights in PyTorch's order: `(oc, ic / groups, *kernel)`; transposed `(ic, oc / groups, *kernel)`."""
        if self.transposed:
            return (self.in_channels, self.out_channels // self.groups, *self.kernel)
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates in the definition, padding counted; a transposed one counts with its *input* size."""
        size = self.in_size if self.transposed else self.out_size
        channels = self.in_channels * self.out_channels // self.groups
        return self.batch * math.prod(size) * math.prod(self.kernel) * channels

    @property
    def params(self) -> int:
        """Weights and biases."""
        return math.prod(self.w_shape) + (self.out_channels if self.epilogue.bias else 0)

    @property
    def unique_bytes(self) -> int:
        """Bytes of input, weights, bias, residual and output, each counted once (a perfect cache)."""
        outputs = math.prod(self.y_shape) * (2 if self.epilogue.residual else 1)
        return (math.prod(self.x_shape) + self.params + outputs) * DTYPES[self.dtype]

    @property
    def is_depthwise(self) -> bool:
        """Every output channel sees one input channel, and there is more than one of them."""
        return self.groups == self.in_channels > 1

    @property
    def _is_plain_pointwise(self) -> bool:
        return math.prod(self.kernel) == 1 and not any(map(any, self.padding)) and not self.transposed

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 kernel without padding or shift, at any stride."""
        return self._is_plain_pointwise and self.shift is None

    def with_epilogue(self, epilogue: Epilogue) -> ConvProblem:
        """The same sizes with another epilogue."""
        return replace(self, epilogue=epilogue)

    @property
    def dense(self) -> ConvProblem:
        """The same problem with a dense output."""
        return replace(self, out_pitch=0) if self.out_pitch else self

    def __str__(self) -> str:
        axes = AXES[3 - self.rank :]
        parts = [f"mb{self.batch}"] + ([f"g{self.groups}"] if self.groups > 1 else [])
        parts += [f"ic{self.in_channels}"] + [f"i{a}{v}" for a, v in zip(axes, self.in_size)]
        parts += [f"oc{self.out_channels}"] + [f"k{a}{v}" for a, v in zip(axes, self.kernel)]
        parts += [f"s{a}{v}" for a, v in zip(axes, self.stride) if v != 1]
        parts += [f"d{a}{v}" for a, v in zip(axes, self.dilation) if v != 1]
        for a, (before, after) in zip(axes, self.padding):
            if before == after:
                parts += [f"p{a}{before}"] if before else []
            else:
                parts += [f"{letter}{v}" for letter, v in zip(PAD_LETTERS[a], (before, after)) if v]
        parts += ["transposed"] if self.transposed else []
        parts += [f"o{a}{v}" for a, v in zip(axes, self.output_padding) if v]
        parts += [self.shift.word()] if self.shift else []
        parts += [f"yp{self.out_pitch}"] if self.out_pitch else []
        return " ".join(parts + self.epilogue.words() + ([] if self.dtype == "float32" else [self.dtype]))


@dataclass(frozen=True)
class GemmProblem:
    """A matrix product `Y[M, N] = epilogue(alpha * op(A)[M, K] @ op(B)[K, N] + beta * C[M, N])`, row-major.

    `trans_a` says that A is stored `(K, M)`, `trans_b` that B is stored `(N, K)` (as `linear` stores its weight).
    The bias of the epilogue has N elements. C is read only when `beta` is not zero.

    Raises `ProblemError` and `DtypeError` as `ConvProblem` does.
    """

    m: int
    n: int
    k: int
    trans_a: bool = False
    trans_b: bool = False
    alpha: float = 1.0
    beta: float = 0.0
    epilogue: Epilogue = field(default_factory=Epilogue)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            object.__setattr__(self, name, as_int(name, getattr(self, name), 1))
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, as_number(name, getattr(self, name)))
            if not math.isfinite(getattr(self, name)):
                raise ProblemError(f"{name} must be finite, got {getattr(self, name)}")
        _check_dtype(self.dtype)
        for name, shape in (("A", self.a_shape), ("B", self.b_shape), ("Y", self.y_shape)):
            _check_bytes(name, shape, self.dtype)

    @property
    def a_shape(self) -> tuple[int, int]:
        """A in memory."""
        return (self.k, self.m) if self.trans_a else (self.m, self.k)

    @property
    def b_shape(self) -> tuple[int, int]:
        """B in memory."""
        return (self.n, self.k) if self.trans_b else (self.k, self.n)

    @property
    def y_shape(self) -> tuple[int, int]:
        """Y (and C) in memory."""
        return (self.m, self.n)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the product."""
        return self.m * self.n * self.k

    @property
    def params(self) -> int:
        """Elements of B and of the bias."""
        return self.n * self.k + (self.n if self.epilogue.bias else 0)

    @property
    def unique_bytes(self) -> int:
        """Bytes of A, B, bias, C, residual and Y, each counted once (a perfect cache)."""
        outputs = self.m * self.n * (1 + bool(self.epilogue.residual) + (self.beta != 0))
        return (self.m * self.k + self.params + outputs) * DTYPES[self.dtype]

    def __str__(self) -> str:
        parts = ["gemm", f"m{self.m}", f"n{self.n}", f"k{self.k}"]
        parts += [word for word, on in (("ta", self.trans_a), ("tb", self.trans_b)) if on]
        parts += [f"alpha={self.alpha!r}"] if self.alpha != 1 else []
        parts += [f"beta={self.beta!r}"] if self.beta != 0 else []
        return " ".join(parts + self.epilogue.words() + ([] if self.dtype == "float32" else [self.dtype]))


Problem = Union[ConvProblem, GemmProblem]
