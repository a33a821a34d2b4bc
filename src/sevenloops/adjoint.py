"""The backward problems of a convolution, as values.

A convolution is linear in its input and in its weights, so its gradients are two sums over the gradient `dy` of its
output (LeCun et al., Efficient BackProp, 1998; Goodfellow, Bengio, Courville, Deep Learning, 9.5, equations 9.11 to 9.13)::

    dx[n, ic, i] = sum over oc, k, o with o*stride + k*dilation - before = i of dy[n, oc, o] * w[oc, ic, k]
    dw[oc, ic, k] = sum over n, o of dy[n, oc, o] * x[n, ic, o*stride + k*dilation - before]

The first is the adjoint: a transposed convolution with the same weights as they are stored, and of a transposed
convolution a plain one. The second is a problem of its own, `WeightGradient`. With stride 1 a transposed convolution is
also a plain one, `turned`, of weights with their channels exchanged and each kernel turned by half a turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .epilogue import Epilogue
from .errors import ProblemError
from .problem import ConvProblem

__all__ = ["WeightGradient", "adjoint", "beyond", "turned", "why_not_turned"]


def beyond(problem: ConvProblem) -> tuple[int, ...]:
    """On each axis, the rows at the end of a transposed convolution's output that no input reaches (0 for a plain one).

    They come from an `output_padding` larger than what the padding cuts off, and their gradient goes nowhere.
    """
    if not problem.transposed:
        return (0,) * problem.rank
    return tuple(max(0, extra - after) for extra, (_, after) in zip(problem.output_padding, problem.padding))


def adjoint(problem: ConvProblem) -> ConvProblem:
    """The convolution that takes the output's gradient to the input's, with the same weights in the same order.

    Of a plain convolution it is transposed, and the other way round. Its input is the problem's output without the rows
    that `beyond` counts. The epilogue is left out: whoever has one multiplies `dy` by its derivative first. Raises
    `ProblemError` for a problem with a shift, whose channels move back after the adjoint of its 1x1 kernel.
    """
    if problem.shift is not None:
        raise ProblemError(f"{problem} has a shift: take the adjoint without it and shift the channels of the result back")
    swapped = replace(
        problem,
        in_channels=problem.out_channels,
        out_channels=problem.in_channels,
        in_size=tuple(size - cut for size, cut in zip(problem.out_size, beyond(problem))),
        transposed=not problem.transposed,
        output_padding=(0,) * problem.rank,
        epilogue=Epilogue(),
        out_pitch=0,
    )
    if problem.transposed:
        kept = [(before, max(0, after - extra)) for extra, (before, after) in zip(problem.output_padding, problem.padding)]
        return replace(swapped, padding=tuple(kept))
    unseen = tuple(size - made for size, made in zip(problem.in_size, swapped.out_size))
    return replace(swapped, output_padding=unseen)


def why_not_turned(problem: ConvProblem) -> str | None:
    """The reason why a problem is no transposed convolution that `turned` makes a plain one, or None."""
    if not problem.transposed:
        return "it computes transposed convolutions of stride 1, and this one is plain"
    if any(s != 1 for s in problem.stride):
        return f"it computes transposed convolutions of stride 1, and the stride is {problem.stride}"
    if any(min(pair) < 0 for pair in _turned_padding(problem)):
        return (
            f"the padding {problem.padding} cuts off more than a kernel of {problem.kernel} with dilation {problem.dilation}"
            " reaches over: the plain convolution would have to crop its input"
        )
    return None


def turned(problem: ConvProblem) -> ConvProblem:
    """The plain convolution that a transposed one of stride 1 is, with weights `v[oc, ic, k] = w[ic, oc, K - 1 - k]`.

    Where `x[i] * w[k]` is added at output `i + k*dilation - before`, output `o` sees input `o + before - k*dilation`: with k
    counted from the end that is a plain convolution padded by `(K - 1)*dilation - before`. Epilogue and pitch stay.
    Raises `ProblemError` with the reason of `why_not_turned`.
    """
    reason = why_not_turned(problem)
    if reason is not None:
        raise ProblemError(reason)
    return replace(problem, transposed=False, padding=_turned_padding(problem), output_padding=(0,) * problem.rank)


def _turned_padding(problem: ConvProblem) -> tuple[tuple[int, int], ...]:
    axes = zip(problem.kernel, problem.dilation, problem.padding, problem.output_padding)
    return tuple(((k - 1) * d - before, (k - 1) * d - after + extra) for k, d, (before, after), extra in axes)


@dataclass(frozen=True)
class WeightGradient:
    """The gradient of a plain convolution's weights, summed over all images and pixels of `forward`.

    The operands are `x` of `forward.x_shape` and `dy` of `forward.y_shape`, both channels last and dense; the result has
    `forward.w_shape`. With a shift the channels of `x` are read where the shift moves them from. The gradient of the weights
    of a transposed convolution is that of its `adjoint`, with the two operands exchanged.
    Raises `ProblemError` for a transposed problem.
    """

    forward: ConvProblem

    def __post_init__(self) -> None:
        if self.forward.transposed:
            raise ProblemError(
                "the gradient of a transposed convolution's weights is that of its adjoint; see WeightGradient"
            )
        object.__setattr__(self, "forward", replace(self.forward, epilogue=Epilogue(), out_pitch=0))

    @property
    def x_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The operands in memory: `x` and `dy`."""
        return (self.forward.x_shape, self.forward.y_shape)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The result in memory, in PyTorch's order of weights."""
        return self.forward.w_shape

    @property
    def dtype(self) -> str:
        """Of all operands."""
        return self.forward.dtype

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the definition: as many as forward."""
        return self.forward.macs

    @property
    def terms(self) -> int:
        """Length of one sum: images times output pixels."""
        return self.forward.batch * math.prod(self.forward.out_size)

    @property
    def unique_bytes(self) -> int:
        """Bytes of both operands and the result, each counted once (a perfect cache)."""
        return self.forward.unique_bytes

    def __str__(self) -> str:
        return f"weight_gradient {self.forward}"
