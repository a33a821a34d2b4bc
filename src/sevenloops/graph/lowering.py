"""From a graph of known sizes to steps: each node becomes kernel calls on tensors, or no call at all where a view will do.

Layout is decided here, value by value. Convolutions and pools read and write channels-last memory; what follows keeps the
order that it finds (an addition does not care), reshapes and transposes are views wherever the memory allows, and a value
is brought into another order only when a step needs it. So NCHW appears at the edges, and a copy is a step that shows.

Concatenations of channels are views too: convolutions that feed nothing else write into their slice (`out_pitch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Union

import numpy as np

from ..arrays import ALIGNMENT, address, aligned_empty
from ..errors import SevenLoopsError
from ..layers.copy_slice import CopySlice
from ..layers.permute import Permute
from .ir import Graph, Node
from .place import Storage, Tensor, identity, last
from .views import reshape_order, reshaped

__all__ = ["Constant", "Lowering", "NotLowered", "Operand", "PythonStep", "Step", "Weights"]

Array = np.ndarray[Any, Any]
#: What is copied at once of weights whose columns are put into another order.
BLOCK_BYTES = 2**23


class NotLowered(SevenLoopsError):
    """A node that is not compiled, with the reason; the reference evaluator computes it."""


@dataclass(frozen=True)
class Constant:
    """An operand that never changes."""

    array: Array = field(repr=False)


@dataclass(frozen=True)
class Weights:
    """Weights of a constant, to be packed by the step's kernel; `key` names them for all steps that use them alike.

    `held` is the array, or empty once it is packed. `gather` is an axis of a matrix and indices to take along it first.
    """

    key: tuple[Any, ...]
    held: list[Array] = field(repr=False, compare=False)
    gather: tuple[int, Array] | None = field(default=None, repr=False, compare=False)

    def changed(self, array: Array, *key: Any) -> Weights:
        """Other weights made of these."""
        return Weights((*self.key, *key), [array])

    def take(self, overwrite: bool = False) -> Array:
        """What is to be packed; not held any more. With `overwrite` it may be made where the array lies."""
        array = self.held.pop()
        if self.gather is None:
            return array
        axis, indices = self.gather
        if overwrite and axis == 1 and array.flags.c_contiguous and array.flags.writeable:
            rows = max(1, BLOCK_BYTES // (array.itemsize * array.shape[1]))
            for start in range(0, len(array), rows):
                array[start : start + rows] = array[start : start + rows, indices]
            return array
        return np.take(array, indices, axis, out=aligned_empty(array.shape, array.dtype), mode="clip")


Operand = Union[Tensor, Constant, Weights]


@dataclass(frozen=True)
class Step:
    """One kernel call: `problem` names the kernel, operands are in calling order without the output.

    Where the second operand of a convolution or product is a tensor, its kernel packs it anew in each run.
    """

    label: str
    op: str
    problem: Any
    operands: tuple[Operand, ...]
    output: Tensor

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it reads."""
        return tuple(operand for operand in self.operands if isinstance(operand, Tensor))

    @property
    def writes(self) -> tuple[Tensor, ...]:
        """The tensors it writes."""
        return (self.output,)


@dataclass(frozen=True)
class PythonStep:
    """A node that is not compiled; `function` takes its inputs as arrays (None where left out) and returns its outputs."""

    label: str
    op: str
    reason: str
    function: Callable[[list[Any]], list[Array]]
    operands: tuple[Tensor | Constant | None, ...]
    outputs: tuple[Tensor | None, ...]

    @property
    def reads(self) -> tuple[Tensor, ...]:
        """The tensors it reads."""
        return tuple(operand for operand in self.operands if isinstance(operand, Tensor))

    @property
    def writes(self) -> tuple[Tensor, ...]:
        """The tensors it writes."""
        return tuple(output for output in self.outputs if output is not None)


class Lowering:
    """The state of a lowering: the steps so far and where each value lies."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.steps: list[Step | PythonStep] = []
        self.storages: list[Storage] = []
        self._tensors: dict[str, Tensor] = {}
        self._pending: dict[str, tuple[Tensor, tuple[int, ...]]] = {}
        self._copies: dict[tuple[Tensor, tuple[int, ...]], Tensor] = {}
        self._slices: dict[str, tuple[str, int]] = {}
        self.readers = graph.consumers()
        self.node: Node | None = None
        self.label = ""  # of steps that belong to no node

    # ------------------------------------------------------------------------------------------------ values

    def constant(self, name: str) -> Array | None:
        """The array of a constant, or None for a value."""
        return self.graph.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value or constant."""
        return self.graph.type_of(name).sizes

    def dtype(self, name: str) -> str:
        """The dtype of a value or constant."""
        return self.graph.type_of(name).dtype

    def storage(self, elements: int, dtype: str = "float32", name: str = "") -> Storage:
        """New memory."""
        self.storages.append(Storage(len(self.storages), max(1, elements), dtype, name))
        return self.storages[-1]

    def fresh(self, shape: tuple[int, ...], order: tuple[int, ...], dtype: str = "float32", name: str = "") -> Tensor:
        """A dense tensor in new memory."""
        return Tensor(self.storage(math.prod(shape), dtype, name), shape, order)

    def output(self, name: str, order: tuple[int, ...]) -> Tensor:
        """Where a value shall be written: new memory, or its slice of a concatenation. Binds the name."""
        shape = self.shape(name)
        if name in self._slices:
            whole, offset = self._slices[name]
            base = self._concatenated(whole)
            tensor = replace(base, shape=shape, offset=base.offset + offset, pitch=base.shape[1])
        else:
            tensor = self.fresh(shape, order, self.dtype(name), name)
        self.bind(name, tensor)
        return tensor

    def pitch(self, name: str) -> int:
        """The `out_pitch` of a convolution that writes a value."""
        return self.shape(self._slices[name][0])[1] if name in self._slices else 0

    def bind(self, name: str, tensor: Tensor) -> None:
        """Say where a value lies."""
        self._tensors[name] = tensor

    def bind_reshaped(self, name: str, source: Tensor, shape: tuple[int, ...]) -> None:
        """A value that is another one reshaped: a view, or a copy when it is read and not before."""
        view = reshaped(source, shape)
        if view is not None:
            self.bind(name, view)
        else:
            self._pending[name] = (source, shape)

    def pending(self, name: str) -> Tensor | None:
        """What a value is a reshape of, if that needs a copy that has not been made."""
        return self._pending[name][0] if name in self._pending else None

    def tensor(self, name: str) -> Tensor:
        """Where a value lies; constants become storages that are filled once."""
        if name in self._pending:
            source, shape = self._pending.pop(name)
            ready = self.in_order(source, reshape_order(source, shape))
            view = reshaped(ready, shape)
            assert view is not None, "an order was chosen in which the reshape is a view"
            self.bind(name, view)
        if name not in self._tensors:
            raise NotLowered(f"{name} is a constant where a value is expected")
        return self._tensors[name]

    def operand(self, name: str, order: tuple[int, ...]) -> Tensor | Constant:
        """A float32 value or constant in an order of axes, dense."""
        array = self.constant(name)
        if array is None:
            return self.in_order(self.tensor(name), order)
        return Constant(aligned(array.transpose(order)))

    def in_order(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        """The same value, dense, with its axes in an order; copied by a step unless it is so already."""
        if not tensor.pitch and tensor.same_memory(order):
            return replace(tensor, order=order)
        key = (tensor, order)
        if key not in self._copies:
            dense = self._dense(tensor)
            if not dense.same_memory(order):
                target = self.fresh(tensor.shape, order, tensor.dtype)
                axes = tuple(dense.order.index(axis) for axis in order)
                self.emit(Permute(dense.memory, axes), (dense,), target, "layout")
                dense = target
            self._copies[key] = replace(dense, order=order)
        return self._copies[key]

    def _dense(self, tensor: Tensor) -> Tensor:
        if not tensor.pitch:
            return tensor
        target = self.fresh(tensor.shape, tensor.order, tensor.dtype)
        channels = tensor.memory[-1]
        self.emit(CopySlice(tensor.size // channels, channels, tensor.pitch, channels), (tensor,), target, "layout")
        return target

    def channels_last(self, name: str) -> Tensor:
        """A value as convolutions read it."""
        tensor = self.tensor(name)
        return self.in_order(tensor, last(len(tensor.shape)))

    def plain(self, name: str) -> Tensor:
        """A value with its axes as they are written."""
        tensor = self.tensor(name)
        return self.in_order(tensor, identity(len(tensor.shape)))

    # ------------------------------------------------------------------------------------------------- steps

    def emit(self, problem: Any, operands: tuple[Operand, ...], output: Tensor, op: str = "") -> None:
        """Add a kernel call of the present node."""
        label = self.node.label if self.node else self.label
        self.steps.append(Step(label, op or (self.node.op if self.node else ""), problem, operands, output))

    def emit_python(self, function: Callable[[list[Any]], list[Array]], node: Node, reason: str) -> None:
        """Compute the node by a function of arrays."""
        operands = []
        for name in node.inputs:
            array = self.constant(name) if name else None
            operands.append(None if not name else self.tensor(name) if array is None else Constant(array))
        outputs = []
        for name in node.outputs:
            tensor = None
            if name:
                tensor = self.output(name, identity(len(self.shape(name))))
            outputs.append(tensor)
        self.steps.append(PythonStep(node.label, node.op, reason, function, tuple(operands), tuple(outputs)))

    # --------------------------------------------------------------------------------------- concatenations

    def plan_slices(self, node: Node, writers: Mapping[str, Node], able: Callable[[Lowering, Node], bool]) -> None:
        """Let the producers of a concatenation of channels write into their slices where they can (`able`)."""
        shape = self.shape(node.outputs[0])
        axis = node.get("axis", 0) % max(1, len(shape))
        if axis != 1 or len(shape) < 3 or self.dtype(node.outputs[0]) != "float32":
            return
        offset = 0
        for name in node.inputs:
            writer = writers.get(name)
            alone = len(self.readers.get(name, ())) == 1 and name not in self.graph.outputs and node.inputs.count(name) == 1
            if alone and writer is not None and name not in self._slices and able(self, writer):
                self._slices[name] = (node.outputs[0], offset)
            offset += self.shape(name)[1]

    def sliced(self, node: Node) -> bool:
        """Whether some input of a concatenation is written in place."""
        return any(self._slices.get(name, ("", 0))[0] == node.outputs[0] for name in node.inputs)

    def is_slice(self, name: str) -> bool:
        """Whether a value is written in place of its concatenation."""
        return name in self._slices

    def _concatenated(self, name: str) -> Tensor:
        if name not in self._tensors:
            shape = self.shape(name)
            self.bind(name, self.fresh(shape, last(len(shape)), "float32", name))
        return self._tensors[name]

    def concatenate_slices(self, node: Node) -> None:
        """Finish a concatenation of which some inputs are in place already: copy the others into their slices."""
        whole = self._concatenated(node.outputs[0])
        offset, channels = 0, whole.shape[1]
        for name in node.inputs:
            own = self.shape(name)[1]
            if not self.is_slice(name):
                source = self.operand(name, last(len(whole.shape)))
                target = replace(whole, shape=self.shape(name), offset=whole.offset + offset, pitch=channels)
                rows = math.prod(self.shape(name)) // own
                self.emit(CopySlice(rows, own, own, channels), (source,), target)
            offset += own


def aligned(array: Array) -> Array:
    """A dense copy that starts on a cache line, or the array itself if it does."""
    if array.flags.c_contiguous and array.flags.aligned and address(array) % ALIGNMENT == 0:
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy
