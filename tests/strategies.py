"""Hypothesis strategies for random problems: every draw is a valid problem, mostly of odd sizes."""

from __future__ import annotations

from hypothesis import strategies as st

from sevenloops.epilogue import ACTIVATIONS, Epilogue
from sevenloops.problem import ConvProblem, GemmProblem

#: Around the vector and tile widths (4, 8, 16, 32, 64), and the channel counts that networks really have.
CHANNELS = st.one_of(st.integers(1, 9), st.sampled_from([15, 16, 17, 24, 27, 31, 32, 33, 58, 64, 65]))

NEVER = st.just(False)


@st.composite
def epilogues(draw: st.DrawFn) -> Epilogue:
    """Any epilogue, its parameters with short decimal expansions."""
    name = draw(st.sampled_from(sorted(ACTIVATIONS)))
    numbers = st.integers(-16, 16).map(lambda v: v / 4)
    params = tuple(sorted(draw(numbers) for _ in ACTIVATIONS[name][1]))
    return Epilogue(draw(st.booleans()), name, params, draw(st.sampled_from([None, "before", "after"])))


@st.composite
def conv_problems(draw: st.DrawFn, transposed: st.SearchStrategy[bool] = NEVER) -> ConvProblem:
    """Convolutions of one to three axes with groups, strides, dilation and one-sided padding; at most ~10 MMAC."""
    rank = draw(st.sampled_from([2, 2, 2, 1, 3]))
    per_axis = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * rank))  # noqa: E731
    kernel, stride, dilation = per_axis(1, 5 - rank + 1), per_axis(1, 4), per_axis(1, 3)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    # Depthwise with a multiplier, or groups of some channels each; either way the channels stay countable.
    wide = CHANNELS if groups == 1 else st.integers(1, 9)
    in_channels, out_channels = groups * draw(wide), groups * draw(wide)
    is_transposed = draw(transposed)
    # A transposed convolution may lose at most its reach less one to padding, or nothing would be left.
    padding = tuple(
        (draw(st.integers(0, (r - 1) // 2)), draw(st.integers(0, (r - 1) // 2)))
        if is_transposed
        else (draw(st.integers(0, r + 1)), draw(st.integers(0, r + 1)))
        for r in reach
    )
    smallest = [1 if is_transposed else max(1, r - sum(pair)) for r, pair in zip(reach, padding)]
    return ConvProblem(
        batch=draw(st.sampled_from([1, 1, 2, 3])),
        in_channels=in_channels,
        in_size=tuple(draw(st.integers(low, low + 24 // rank)) for low in smallest),
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        transposed=is_transposed,
        output_padding=tuple(draw(st.integers(0, s - 1)) for s in stride) if is_transposed else 0,  # type: ignore[arg-type]
        epilogue=draw(epilogues()),
    )


@st.composite
def gemm_problems(draw: st.DrawFn) -> GemmProblem:
    """Matrix products of up to 140 rows and columns, one row often."""
    sizes = st.one_of(st.integers(1, 20), st.integers(1, 140))
    quarters = st.integers(-8, 8).map(lambda v: v / 4)
    return GemmProblem(
        m=draw(st.one_of(st.just(1), sizes)),
        n=draw(sizes),
        k=draw(sizes),
        trans_a=draw(st.booleans()),
        trans_b=draw(st.booleans()),
        alpha=draw(st.one_of(st.just(1.0), quarters)),
        beta=draw(st.one_of(st.just(0.0), quarters)),
        epilogue=draw(epilogues()),
    )
