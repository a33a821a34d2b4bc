"""Words for `hostile_table`: how to say a model that nobody should write in a line, and what to feed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING
HUGE, PETA = 2**62, 10**15
N = helper.make_node
tensor_of = helper.make_tensor_value_info


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*shape: int) -> Any:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def make_model(
    nodes: Sequence[Any],
    outputs: Sequence[Any] = ("y",),
    inputs: Any = None,
    opset: int = 21,
    functions: Any = (),
    **constants: Any,
) -> Any:
    """A model of nodes; the input is `x`, float32 1x3x8x8, unless `inputs` says otherwise (name -> shape or ValueInfo)."""
    given = {"x": (1, 3, 8, 8)} if inputs is None else inputs
    infos: list[Any] = [s if hasattr(s, "type") else tensor_of(n, FLOAT, s) for n, s in given.items()]
    made = [o if hasattr(o, "type") else helper.make_empty_tensor_value_info(o) for o in outputs]
    inits = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    domains = [helper.make_opsetid("", opset)]
    domains += [helper.make_opsetid("f", 1)] if functions else []
    graph = helper.make_graph(list(nodes), "hostile", infos, made, inits)
    return helper.make_model(graph, opset_imports=domains, functions=list(functions), ir_version=10)


def one(op: str, outputs: int = 1, inputs: Any = None, opset: int = 21, read: Sequence[str] = ("x",), **rest: Any) -> Any:
    """A model of one node that reads `x` and then the arrays among `rest`, in order; what is no array is an attribute."""
    arrays = {name: value for name, value in rest.items() if isinstance(value, np.ndarray)}
    attributes = {name: value for name, value in rest.items() if name not in arrays}
    names = [f"y{i}" if i else "y" for i in range(outputs)]
    return make_model([N(op, [*read, *arrays], names, **attributes)], names, inputs, opset, **arrays)


def spread(op: str, **rest: Any) -> Any:
    """The same without an input: all there is to read is constant."""
    return one(op, inputs={}, read=(), **rest)


# ---- control flow ------------------------------------------------------------------------------------------------------


def loop(turns: Any, body: Sequence[Any], start: Any, scans: Sequence[str] = (), **constants: Any) -> Any:
    """A Loop over `body`, which makes `b` of `a` and perhaps values that are collected."""
    inputs = [tensor_of("i", INT64, ()), tensor_of("c", BOOL, ()), tensor_of("a", FLOAT, None)]
    outputs = [tensor_of("d", BOOL, ()), tensor_of("b", FLOAT, None), *(tensor_of(s, FLOAT, None) for s in scans)]
    graph = helper.make_graph([N("Identity", ["c"], ["d"]), *body], "body", inputs, outputs)
    names = ["y", *(f"y{i}" for i, _ in enumerate(scans))]
    node = N("Loop", ["turns", "go", "start"], names, body=graph)
    return make_model([node], names, {}, turns=np.array(turns, np.int64), go=np.array(True), start=start, **constants)


def fed_loop(turns: int, body: Sequence[Any]) -> Any:
    """The same over the input, so that it cannot be folded."""
    model = loop(turns, body, floats(1))
    del model.graph.initializer[2]
    model.graph.input.append(tensor_of("start", FLOAT, (4,)))
    return model


def nested_ifs(depth: int) -> Any:
    node = N("Relu", ["x"], ["v0"])
    for at in range(depth):
        inner = helper.make_graph([node], "g", [], [tensor_of(f"v{at}", FLOAT, None)])
        node = N("If", ["go"], [f"v{at + 1}"], then_branch=inner, else_branch=inner)
    return make_model([node], [f"v{depth}"], go=np.array(True))


def nested_loops(depth: int) -> Any:
    """Loops of 1000 turns in each other."""
    node = N("Relu", ["start"], ["v0"])
    for at in range(depth):
        inputs = [tensor_of(f"i{at}", INT64, ()), tensor_of(f"c{at}", BOOL, ())]
        outputs = [tensor_of(f"d{at}", BOOL, ()), tensor_of(f"v{at}", FLOAT, None)]
        graph = helper.make_graph([N("Identity", [f"c{at}"], [f"d{at}"]), node], "g", inputs, outputs)
        node = N("Loop", ["turns", "go"], [f"v{at + 1}"], body=graph)
    return make_model([node], [f"v{depth}"], {}, turns=np.array(1000), go=np.array(True), start=floats(1))


def doubling(count: int, fed: bool, op: str = "Concat") -> Any:
    """`count` concatenations of a value with itself."""
    nodes = [N(op, [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(count)]
    if fed:
        return make_model(nodes, [f"v{count}"], {"v0": (64,)})
    return make_model(nodes, [f"v{count}"], {}, v0=floats(64))


# ---- functions ---------------------------------------------------------------------------------------------------------


def function(name: str, *calls: tuple[str, str]) -> Any:
    nodes = [N(op, [f"t{i}" if i else "a"], [f"t{i + 1}"], domain=domain) for i, (op, domain) in enumerate(calls)]
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], [f"t{len(calls)}"], nodes, imports)


def bomb(levels: int, each: int) -> Any:
    """Functions that call the one below `each` times."""
    functions = [function("f0", ("Relu", ""))]
    functions += [function(f"f{i + 1}", *[(f"f{i}", "f")] * each) for i in range(levels)]
    return make_model([N(f"f{levels}", ["x"], ["y"], domain="f")], functions=functions)


def recursion() -> Any:
    functions = [function("f0", ("f1", "f")), function("f1", ("f0", "f"))]
    return make_model([N("f0", ["x"], ["y"], domain="f")], functions=functions)


# ---- types -------------------------------------------------------------------------------------------------------------

TENSOR = helper.make_tensor_type_proto(FLOAT, (2,))
SEQUENCE, OPTIONAL = helper.make_sequence_type_proto(TENSOR), helper.make_optional_type_proto(TENSOR)
MAP = helper.make_map_type_proto(INT64, TENSOR)


def typed(kind: Any, op: str = "Identity", element: Any = None, **attributes: Any) -> Any:
    """One node whose input is of a kind, or a tensor of an element type."""
    info = helper.make_value_info("x", kind) if kind is not None else tensor_of("x", element, (2, 2))
    domain = attributes.pop("domain", "")
    return make_model([N(op, ["x"], ["y"], domain=domain, **attributes)], inputs={"x": info})


def raw_dims(*dims: int) -> Any:
    """A constant whose sizes are not those of its data."""
    model = make_model([N("Add", ["x", "w"], ["y"])], w=floats(1))
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    return model


def sparse(values: Any, places: Any, *dims: int) -> Any:
    model = make_model([N("Add", ["x", "w"], ["y"])])
    sparse = model.graph.sparse_initializer.add(dims=dims)
    sparse.values.CopyFrom(numpy_helper.from_array(values, "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(places, "w_at"))
    return model


def untyped_attribute() -> Any:
    model = one("Softmax", axis=1)
    model.graph.node[0].attribute[0].type = 0
    return model


def resized(*values: float, kind: str = "scales", **attributes: Any) -> Any:
    numbers = np.array(values, np.float32 if kind == "scales" else np.int64)
    inputs = ["x", "", "s"] if kind == "scales" else ["x", "", "", "s"]
    return make_model([N("Resize", inputs, ["y"], **attributes)], s=numbers)


def fed_sizes(
    op: str, values: Any, inputs: Sequence[str] = ("x", "s"), outputs: Sequence[str] = ("y",), **attributes: Any
) -> Any:
    """Sizes that are an input of the network: what is asked is known when it runs."""
    shape = tuple(np.shape(values))
    given = {"s": tensor_of("s", helper.np_dtype_to_tensor_dtype(np.asarray(values).dtype), shape)}
    model = make_model([N(op, list(inputs), list(outputs), **attributes)], outputs, {"x": (1, 3, 8, 8), **given})
    entry = model.metadata_props.add()
    entry.key, entry.value = "s", " ".join(map(str, np.ravel(values)))
    return model


def sample_feeds(model: Any) -> dict[str, Any]:
    """Inputs for a model: zeros and ones of the sizes and dtypes that it declares, or the values that it says itself."""
    said = {entry.key: entry.value.split() for entry in model.metadata_props}
    feeds: dict[str, Any] = {}
    for info in model.graph.input:
        kind = info.type.WhichOneof("value")
        if kind in ("sequence_type", "optional_type"):
            feeds[info.name] = [floats(2)] if kind == "sequence_type" else floats(2)
            continue
        if kind != "tensor_type":
            feeds[info.name] = {1: floats(2)} if kind == "map_type" else floats(2)
            continue
        tensor = info.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        shape = tuple(max(dim.dim_value, 0) for dim in tensor.shape.dim)
        if np.prod(shape, dtype=float) > 1e6 or len(shape) > 64:
            shape = (1,)
        if info.name in said:
            feeds[info.name] = np.array([float(text) for text in said[info.name]]).astype(dtype).reshape(shape)
        else:
            feeds[info.name] = np.full(shape, "a", object) if tensor.elem_type == STRING else np.ones(shape).astype(dtype)
    return feeds
