"""The pieces of a plan: memory that is shared in time only, and reshapes as views of any memory order."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sevenloops.graph.memory import Span, plan_memory
from sevenloops.graph.place import Storage, Tensor, identity
from sevenloops.graph.views import reshape_order, reshaped

spans = st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=14)


@given(spans)
def test_what_lives_together_never_overlaps(rows: list[tuple[int, int, int]]) -> None:
    wanted = [Span(key, n_bytes, first, first + length) for key, (n_bytes, first, length) in enumerate(rows)]
    plan = plan_memory(wanted)
    assert set(plan.offsets) == set(range(len(rows)))
    for a in wanted:
        assert plan.offsets[a.key] % 64 == 0
        assert plan.offsets[a.key] + a.n_bytes <= plan.total_bytes
        for b in wanted:
            if a.key < b.key and a.overlaps(b):
                low, high = sorted((a, b), key=lambda span: plan.offsets[span.key])
                assert plan.offsets[low.key] + low.n_bytes <= plan.offsets[high.key]
    assert plan.live_bytes <= plan.total_bytes


def test_a_chain_needs_two_buffers() -> None:
    """A value and the next one live together, never three; equal sizes need no more than two places."""
    chain = [Span(key, 64_000, key, key + 1) for key in range(20)]
    plan = plan_memory(chain)
    assert plan.total_bytes == plan.live_bytes
    assert len(set(plan.offsets.values())) == 2


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """A shape, an order of its axes in memory, and another shape of as many elements."""
    factors = draw(st.lists(st.sampled_from([1, 1, 2, 3, 4, 5]), min_size=1, max_size=6))

    def grouped() -> tuple[int, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, len(factors)), max_size=4)) | {len(factors)})
        shape = tuple(math.prod(factors[a:b]) for a, b in zip([0, *cuts[:-1]], cuts))
        ones = draw(st.integers(0, 2))
        at = draw(st.integers(0, len(shape)))
        return (*shape[:at], *(1,) * ones, *shape[at:])

    old = grouped()
    return old, tuple(draw(st.permutations(range(len(old))))), grouped()


@given(reshapes())
def test_reshapes_are_views_where_they_say_so(case: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]) -> None:
    old, order, new = case
    values = np.arange(math.prod(old), dtype=np.float32).reshape(old)
    expected = values.reshape(new)
    tensor = Tensor(Storage(0, values.size), old, order)
    for candidate in (tensor, Tensor(Storage(0, values.size), old, reshape_order(tensor, new))):
        memory = np.ascontiguousarray(values.transpose(candidate.order)).view(np.uint8).reshape(-1)
        np.testing.assert_array_equal(candidate.array(memory), values)
        view = reshaped(candidate, new)
        if view is not None:
            np.testing.assert_array_equal(view.array(memory), expected)
    assert reshaped(Tensor(Storage(0, values.size), old, reshape_order(tensor, new)), new) is not None
    plain = reshaped(Tensor(Storage(0, values.size), old, identity(len(old))), new)
    assert plain is not None
    assert plain.same_memory(identity(len(new)))
