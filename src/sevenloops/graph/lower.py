"""The table of lowerings, and `lower`: a graph of known sizes as steps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import ProblemError, Unsupported
from .ir import OWN, Graph, Node, Note, Value
from .lower_conv import conv, conv_transpose, gemm, matmul, shift, writes_slices
from .lower_layers import REDUCTIONS, elementwise, global_pool, lrn, pool, reduce, softmax
from .lower_moves import (
    concat,
    depth_to_space,
    identity_node,
    pad,
    reshape,
    slice_node,
    space_to_depth,
    split,
    transpose,
)
from .lower_norms import batch_norm, group_norm, instance_norm, layer_norm, resize
from .lowering import Lowering, NotLowered, PythonStep, Step
from .operands import naming
from .place import Storage, Tensor, identity

__all__ = ["LOWERINGS", "Lowered", "lower"]

#: Operator (ONNX's, or our own domain's) to the function that lowers it.
LOWERINGS: dict[str, Callable[[Lowering, Node], None]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "Shift": shift,
    "MaxPool": pool,
    "AveragePool": pool,
    "LRN": lrn,
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LayerNormalization": layer_norm,
    "Resize": resize,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Elementwise": elementwise,
    "Identity": identity_node,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "Concat": concat,
    "Split": split,
    "Slice": slice_node,
    "Pad": pad,
    **{op: global_pool if op.startswith("Global") else reduce for op in REDUCTIONS},
}


@dataclass(frozen=True)
class Lowered:
    """Steps in order, with the storages that graph inputs and outputs lie in.

    `tail` is what is left of the graph where sizes depend on values: `dynamic`, the node that decides them, runs first.
    `outputs` gives the graph's outputs, and what `dynamic` and `tail` read, as plain tensors of a storage each; those of
    them that are constants are in `constants`.
    """

    steps: tuple[Step | PythonStep, ...]
    storages: tuple[Storage, ...]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    constants: dict[str, Any]
    notes: tuple[Note, ...]
    dynamic: Node | None = None
    tail: Graph | None = None


def lower(graph: Graph, prepare: Callable[[Graph], Graph] = lambda graph: graph) -> Lowered:
    """Lower every node up to the first whose sizes depend on values. Every value before it must have a known size.

    `prepare` (the passes) rewrites the part that is lowered, and only that: the rest will be lowered when its sizes are
    known, and with thousands of such nodes each plan would otherwise cost as much as the whole network.

    Strings and sequences (dtype "object") are never in the memory of a plan: an operator that reads or writes one is
    treated as one whose sizes depend on values.
    """
    ready, dynamic, tail = _cut(graph)
    fixed, known = [*graph.outputs, *(dynamic.inputs if dynamic else ())], graph.constants
    graph = prepare(_head(graph, ready, dynamic, tail))
    lo = Lowering(graph)
    writers = graph.producers()
    inputs = {}
    for value in graph.inputs:
        if value.dtype == "object":
            continue
        inputs[value.name] = lo.fresh(value.sizes, identity(len(value.sizes)), value.dtype, value.name)
        lo.bind(value.name, inputs[value.name])
    for node in graph.nodes:
        if node.op == "Concat" and not node.domain:
            with naming(node):
                lo.plan_slices(node, writers, writes_slices)
    for node in graph.nodes:
        with naming(node):
            _lower_node(lo, node)
    outputs = _finish(lo, [name for name in dict.fromkeys(graph.outputs) if name in inputs or name in writers], inputs)
    known = {**known, **graph.constants}
    constants = {name: known[name] for name in fixed if name in known}
    return Lowered(tuple(lo.steps), tuple(lo.storages), inputs, outputs, constants, graph.notes, dynamic, tail)


def _lower_node(lo: Lowering, node: Node) -> None:
    lo.node = node
    lowering = LOWERINGS.get(node.op) if node.domain in ("", "ai.onnx", OWN) else None
    before = len(lo.steps)
    try:
        if lowering is None:
            raise NotLowered("there is no kernel for it")
        if node.proto is not None:
            raise NotLowered(f"it means something else in opset {node.opset} than in the one that is compiled")
        lowering(lo, node)
    except (NotLowered, ProblemError, Unsupported) as error:
        lo.steps[before:] = [step for step in lo.steps[before:] if step.op == "layout"]  # others may read these copies
        from .fallback import evaluate

        lo.emit_python(functools.partial(evaluate, node), node, str(error))
    finally:
        lo.node = None


def _has_place(value: Value) -> bool:
    """Whether a value can lie in the memory of a plan."""
    return value.known and value.dtype != "object"


def _cut(graph: Graph) -> tuple[list[Node], Node | None, Graph | None]:
    """The nodes up to the first of unknown output size; that node; the graph behind it."""
    for at, node in enumerate(graph.nodes):
        values = [graph.type_of(name) for name in (*node.inputs, *node.outputs) if name and name not in graph.constants]
        if all(map(_has_place, values)):
            continue
        ready, rest = list(graph.nodes[:at]), graph.nodes[at + 1 :]
        known = {value.name for value in graph.inputs} | {name for n in ready for name in n.outputs if name}
        written = known | {name for name in node.outputs if name}
        read = {name for n in rest for name in n.inputs if name} | set(graph.outputs)
        written_later = {name for n in rest for name in n.outputs if name}
        inputs = [graph.type_of(name) for name in sorted(written) if name in read]
        outputs = tuple(name for name in graph.outputs if name in written_later)
        return ready, node, Graph(rest, tuple(inputs), outputs, graph.constants, name=graph.name)
    return list(graph.nodes), None, None


def _head(graph: Graph, ready: list[Node], dynamic: Node | None, tail: Graph | None) -> Graph:
    """The part that is lowered. It hands out what it has of the graph's outputs, and what `dynamic` and `tail` read."""
    if dynamic is None or tail is None:
        return graph
    values = {name: graph.values[name] for node in ready for name in node.outputs if name}
    here = {value.name for value in graph.inputs if _has_place(value)} | set(values)
    wanted = dict.fromkeys([*graph.outputs, *dynamic.inputs, *(value.name for value in tail.inputs)])
    read = {name for node in ready for name in node.inputs}
    constants = {name: constant for name, constant in graph.constants.items() if name in read}
    outputs = tuple(name for name in wanted if name in here)
    return graph.replace(nodes=tuple(ready), outputs=outputs, constants=constants, values=values)


def _finish(lo: Lowering, names: list[str], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each output plain, alone in its storage, and in no input's."""
    taken = {tensor.storage.id for tensor in inputs.values()}
    outputs: dict[str, Tensor] = {}
    for name in names:
        lo.label = name
        tensor = lo.plain(name) if lo.dtype(name) == "float32" else lo.tensor(name)
        whole = tensor.offset == 0 and tensor.size == tensor.storage.elements and tensor.plain
        if not whole or tensor.storage.id in taken:
            shape = tensor.shape
            target = lo.fresh(shape, identity(len(shape)), tensor.dtype, name)
            lo.steps.append(PythonStep(name, "Copy", "", _copy, (tensor,), (target,)))
            tensor = target
        taken.add(tensor.storage.id)
        outputs[name] = tensor
    return outputs


def _copy(arrays: list[Any]) -> list[Any]:
    return arrays
