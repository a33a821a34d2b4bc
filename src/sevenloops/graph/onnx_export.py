"""Graphs as ONNX files, so that every engine can be given the very same network."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GraphError
from ..shift import Shift, channel_offsets, channels_of_groups
from .evaluate import FUSED
from .ir import OPSET, OWN, Graph, Node, Value
from .operands import complain
from .protos import node_proto, opsets_of, require_onnx, tensor_proto, value_info
from .shapes import infer
from .windows import WINDOWED

__all__ = ["SHIFTS", "save_onnx"]

#: How our Shift is written: a depthwise convolution with one-hot kernels, or a pad, slices and a concatenation.
SHIFTS = ("depthwise", "slice")
#: Version of the file format; read by every release of the engines since the middle of 2024.
IR_VERSION = 10
#: Protocol buffers hold no more.
LIMIT = 2**31 - 1


def save_onnx(graph: Graph, path: str | os.PathLike[str] | None = None, shift_as: str = "depthwise") -> bytes:
    """Write a graph as an ONNX model of opset `OPSET`; returns its bytes, which with `path` are also written there.

    `shift_as` says how the operator Shift is written, a name of `SHIFTS`. A file appears whole or not at all. Nodes that
    kept their `proto` are written as they were, so all of those of one domain need one opset, which the model then has.
    Raises `GraphError` for nodes that passes made (ONNX has no such operators), for a Shift of unknown channels, for a
    dtype that ONNX lacks, for weights of more than 2 GiB, and where onnx's checker finds fault with the model.
    """
    onnx = require_onnx()
    if shift_as not in SHIFTS:
        raise GraphError(f"shift_as must be one of {', '.join(SHIFTS)}, got {shift_as!r}")
    if sum(constant.nbytes for constant in graph.constants.values()) > LIMIT:
        raise GraphError("the weights have more than 2 GiB, which one ONNX file cannot hold")
    nodes, constants = _written(graph, shift_as)
    protos = [node_proto(node) for node in nodes]
    inputs = [value_info(value.name, value.shape, value.dtype) for value in graph.inputs]
    types = _output_types(graph)
    outputs = [value_info(name, types[name].shape, types[name].dtype) for name in graph.outputs]
    tensors = [tensor_proto(constant, name) for name, constant in constants.items()]
    body = onnx.helper.make_graph(protos, graph.name, inputs, outputs, tensors)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in _opsets(nodes).items()]
    model = onnx.helper.make_model(body, opset_imports=opsets, ir_version=IR_VERSION, producer_name="sevenloops")
    _check(model)
    data: bytes = model.SerializeToString()
    if path is not None:
        _write(Path(path), data)
    return data


def _check(model: Any) -> None:
    """What onnx's checker says; it wants shapes of outputs, which need not be known here and are optional elsewhere."""
    from onnx import checker

    unknown = [info.type.tensor_type for info in model.graph.output if not info.type.tensor_type.HasField("shape")]
    for tensor in unknown:
        tensor.shape.SetInParent()
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise GraphError(f"the graph is no valid ONNX model: {error}") from error
    for tensor in unknown:
        tensor.ClearField("shape")


def _output_types(graph: Graph) -> dict[str, Value]:
    """As the graph says, or as far as they follow without sizes."""
    said = {value.name for value in graph.inputs} | set(graph.constants) | set(graph.values)
    found = graph if said.issuperset(graph.outputs) else infer(graph)
    return {name: (graph if name in said else found).type_of(name) for name in graph.outputs}


def _opsets(nodes: list[Node]) -> dict[str, int]:
    """The version of each domain. Nodes without `proto` need `OPSET`; nodes with one have a say."""
    found = {"": OPSET}
    for node in nodes:
        before = found.setdefault(node.domain, node.opset)
        if before != node.opset and _changed(node, before):
            complain(node, f"is of opset {node.opset} and cannot be written into a model of opset {before}")
    return found | {domain: version for domain, version in _of_bodies(nodes).items() if domain not in found}


def _of_bodies(nodes: list[Node]) -> dict[str, int]:
    """What the bodies of control flow may use besides."""
    found = next((opsets_of(node) for node in nodes if node.op in ("If", "Loop", "Scan") and not node.domain), {})
    return {domain: version for domain, version in found.items() if domain != "ai.onnx"}


def _changed(node: Node, opset: int) -> bool:
    """Whether the operator means something else in another opset."""
    onnx = require_onnx()
    try:
        versions = [onnx.defs.get_schema(node.op, version, node.domain).since_version for version in (node.opset, opset)]
    except onnx.defs.SchemaError:
        return True
    return bool(versions[0] != versions[1])


def _written(graph: Graph, shift_as: str) -> tuple[list[Node], Mapping[str, Any]]:
    """Nodes that ONNX has, and the constants with those that the shifts need."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.domain == OWN and node.op == "Shift":
            nodes += _shift(graph, node, constants, shift_as)
        elif node.domain == OWN or (not node.domain and any(name in node.attributes for name in FUSED)):
            complain(node, "was made by a pass, and ONNX has no such operator: save the graph as it was before the passes")
        else:
            # Explicit pads and another way to say them exclude each other in ONNX.
            plain = {k: v for k, v in node.attributes.items() if k != "pads" or node.get("auto_pad", "NOTSET") == "NOTSET"}
            nodes.append(
                node.replace(attributes=plain) if node.op in WINDOWED and len(plain) < len(node.attributes) else node
            )
    return nodes, constants


def _shift(graph: Graph, node: Node, constants: dict[str, Any], shift_as: str) -> list[Node]:
    shape = graph.type_of(node.inputs[0]).shape
    channels = shape[1] if shape is not None and len(shape) > 2 else None
    if shape is None or not isinstance(channels, int):
        complain(node, f"the number of channels of {node.inputs[0]!r} is not known: infer the graph's sizes first")
    if node.get("frames", 1) > 1:
        complain(node, "was made by a pass, and ONNX has no such operator: save the graph as it was before the passes")
    rank, given = len(shape) - 2, (node.get("kernel", (3, 3)), node.get("dilation", (1, 1)))
    shift = Shift(*given, node.get("convention", "contiguous")).of_rank(rank)
    reach = [max(abs(offset[axis]) for offset in channel_offsets(shift, channels)) for axis in range(rank)]
    write = _as_depthwise if shift_as == "depthwise" else _as_slices
    return write(node, shift, channels, reach, constants)


def _as_depthwise(node: Node, shift: Shift, channels: int, reach: list[int], constants: dict[str, Any]) -> list[Node]:
    """One 1 in the kernel of each channel, where it is read."""
    steps = [dilation if far else 1 for dilation, far in zip(shift.dilation, reach)]
    kernel = tuple(2 * (far // step) + 1 for far, step in zip(reach, steps))
    weights = np.zeros((channels, 1, *kernel), np.float32)
    for c, offset in enumerate(channel_offsets(shift, channels)):
        weights[(c, 0, *(by // step + k // 2 for by, step, k in zip(offset, steps, kernel)))] = 1
    name = _constant(constants, f"{node.label}.one_hot", weights)
    attributes = {"kernel_shape": kernel, "dilations": tuple(steps), "pads": tuple(reach) * 2, "group": channels}
    return [Node("Conv", (node.inputs[0], name), node.outputs, attributes, node.name)]


def _as_slices(node: Node, shift: Shift, channels: int, reach: list[int], constants: dict[str, Any]) -> list[Node]:
    """The padded input, cut for each group of channels; channels back in their order where the groups are interleaved."""
    label, rank = node.label, len(reach)
    integers = lambda hint, values: _constant(constants, f"{label}.{hint}", np.array(values, np.int64))  # noqa: E731
    pads = integers("pads", [0, 0, *reach, 0, 0, *reach])
    nodes = [Node("Pad", (node.inputs[0], pads), (f"{label}.padded",), {}, f"{label}.pad")]
    parts: list[str] = []
    axes, offsets = integers("axes", range(1, rank + 2)), channel_offsets(shift, channels)
    order: list[int] = []
    for members in (group for group in channels_of_groups(shift, channels) if group):
        step = members[1] - members[0] if len(members) > 1 else 1
        begins = [far + by for far, by in zip(reach, offsets[members[0]])]
        # Padding reaches as far behind as before: an end counted from behind fits every size.
        ends = [far - by for far, by in zip(reach, offsets[members[0]])]
        at = len(parts)
        starts = integers(f"starts{at}", [members[0], *begins])
        stops = integers(f"ends{at}", [members[-1] + 1, *(-end if end else np.iinfo(np.int64).max for end in ends)])
        steps = integers(f"steps{at}", [step, *(1,) * rank])
        parts.append(f"{label}.part{at}")
        nodes.append(Node("Slice", (f"{label}.padded", starts, stops, axes, steps), (parts[-1],), {}, parts[-1]))
        order += members
    inverse = np.argsort(order)
    sorted_ = order == sorted(order)
    joined = node.outputs if sorted_ else (f"{label}.joined",)
    nodes.append(Node("Concat", tuple(parts), joined, {"axis": 1}, f"{label}.concat"))
    if not sorted_:
        nodes.append(Node("Gather", (*joined, integers("order", inverse)), node.outputs, {"axis": 1}, f"{label}.gather"))
    return nodes


def _constant(constants: dict[str, Any], name: str, value: Any) -> str:
    while name in constants:
        name += "_"
    constants[name] = value
    return name


def _write(path: Path, data: bytes) -> None:
    """A file beside the target, renamed when it is whole."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise GraphError(f"{path} cannot be written: {error}") from error
    try:
        with open(handle, "wb") as file:
            file.write(data)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except OSError as error:
        raise GraphError(f"{path} cannot be written: {error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
