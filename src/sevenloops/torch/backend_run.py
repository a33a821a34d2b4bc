"""A part of a PyTorch graph at run time: compiled for its sizes, with the weights packed as long as they stay the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..graph.ir import Graph
from ..graph.plan import Plan
from ..locks import renewed_lock
from ..session import InferenceSession
from .backend_translation import Order

__all__ = ["Part", "order_of"]

Array = np.ndarray[Any, Any]
#: Elements of each weight that are compared before each run.
SAMPLES = 16


def order_of(tensor: Any) -> Order:
    """The axes of a tensor in the order in which they lie in memory, the outermost first."""
    strides = tensor.stride()
    return tuple(sorted(range(tensor.dim()), key=lambda axis: (-strides[axis], axis)))


class Part:
    """Tensors in, a tuple of tensors out, by a plan; one run at a time.

    Args:
        make: the graph for the arrays of the weights. Its inputs are `in{i}`, `i` counting all tensors that come in.
        inputs: a tensor (without memory) like each that comes in, None for weights.
        outputs: one like each that goes out.
        options: of the `InferenceSession`.

    Inputs that lie in memory as `inputs` do are not copied. Outputs have exactly the strides of `outputs`.
    """

    def __init__(
        self,
        make: Callable[[Sequence[Array]], Graph],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        options: Mapping[str, Any],
    ) -> None:
        self._make, self._options = make, options
        self._weights = [at for at, like in enumerate(inputs) if like is None]
        self._inputs = [(at, f"in{at}", order_of(like)) for at, like in enumerate(inputs) if like is not None]
        self._outputs = [(f"out{at}", tuple(like.shape), like.stride(), _is_dense(like)) for at, like in enumerate(outputs)]
        self._lock = renewed_lock(self, "_lock")
        self._packed: _Packed | None = None
        self.packings = 0  #: how often the weights have been packed: once, and whenever they have changed

    @property
    def plan(self) -> Plan | None:
        """The plan of the last run, None before the first; print it to see the steps."""
        return self._packed.plan if self._packed else None

    def __call__(self, *tensors: Any) -> tuple[Any, ...]:
        """Compute the outputs, after packing the weights where they are new or have changed."""
        arrays = {name: _memory(tensors[at], order) for at, name, order in self._inputs}
        weights = [tensors[at] for at in self._weights]
        with self._lock:
            if self._packed is None or not self._packed.is_of(weights):
                self._packed = None
                self._packed = _Packed(weights, self._compiled(weights))
            results = self._packed.plan.run(arrays)
        return tuple(_seen(results[name], *place) for name, *place in self._outputs)

    def _compiled(self, weights: Sequence[Any]) -> Plan:
        self.packings += 1
        graph = self._make([np.ascontiguousarray(weight.detach().numpy()) for weight in weights])
        return InferenceSession(graph, **{"threads": torch.get_num_threads(), **self._options}).plan()


class _Packed:
    """A plan with the weights that it has packed, and what tells whether these are still the same.

    A change in place counts up a tensor's version, new memory has another address (the old is held, so that none can take
    its place), and what is written through `.data` or NumPy, where no version counts, shows in elements all over the weight.
    """

    def __init__(self, weights: Sequence[Any], plan: Plan) -> None:
        self.plan = plan
        self._held = [weight.detach() for weight in weights]
        self._marks = [_mark(weight) for weight in self._held]
        flat = [weight.permute(order_of(weight)).numpy().reshape(-1) for weight in self._held]
        self._samples = [array[:: max(1, array.size // SAMPLES)] for array in flat]
        self._sampled = self._sample()

    def _sample(self) -> bytes:
        return np.concatenate(self._samples).tobytes() if self._samples else b""

    def is_of(self, weights: Sequence[Any]) -> bool:
        """Whether these are the weights, with the same values."""
        return [_mark(weight) for weight in weights] == self._marks and self._sample() == self._sampled


def _mark(weight: Any) -> tuple[int, int]:
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _memory(tensor: Any, order: Order) -> Array:
    """A tensor's memory as an array with its axes in that order; a copy where it lies otherwise."""
    array: Array = tensor.detach().permute(order).contiguous().numpy()
    return array


def _is_dense(tensor: Any) -> bool:
    """Whether the memory of a tensor has neither holes nor anything twice."""
    order = order_of(tensor)
    return bool(tensor.permute(order).is_contiguous())


def _seen(array: Array, shape: tuple[int, ...], strides: tuple[int, ...], dense: bool) -> Any:
    """Memory as a tensor with these strides; where they leave holes, a copy."""
    tensor = torch.from_numpy(array)
    if dense:
        return tensor if tensor.stride() == strides else tensor.as_strided(shape, strides)
    axes = sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis))
    seen = tensor.permute(tuple(int(axis) for axis in np.argsort(axes)))
    if any(size > 1 and not stride for size, stride in zip(shape, strides)):
        return seen  # one element for many, which cannot be written to
    return torch.empty_strided(shape, strides).copy_(seen)
