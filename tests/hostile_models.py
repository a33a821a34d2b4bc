"""Models that nobody should write, each in a line: the table `HOSTILE`, name -> function that makes the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["HOSTILE", "make_model", "sample_feeds"]

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


def fed_sizes(op: str, values: Any, inputs: Sequence[str] = ("x", "s"), **attributes: Any) -> Any:
    """Sizes that are an input of the network: what is asked is known when it runs."""
    shape = tuple(np.shape(values))
    given = {"s": tensor_of("s", helper.np_dtype_to_tensor_dtype(np.asarray(values).dtype), shape)}
    model = make_model([N(op, list(inputs), ["y"], **attributes)], inputs={"x": (1, 3, 8, 8), **given})
    entry = model.metadata_props.add()
    entry.key, entry.value = "s", " ".join(map(str, np.ravel(values)))
    return model


nan, inf = float("nan"), float("inf")
Maker = Callable[[], Any]

HOSTILE: dict[str, Maker] = {
    # Sizes beyond everything, all constant.
    "expand": lambda: spread("Expand", k=floats(1), to=ints(PETA)),
    "expand_overflow": lambda: spread("Expand", k=floats(1), to=ints(HUGE, HUGE)),
    "expand_negative": lambda: spread("Expand", k=floats(1), to=ints(-5)),
    "tile": lambda: spread("Tile", k=floats(8), n=ints(PETA)),
    "tile_negative": lambda: spread("Tile", k=floats(8), n=ints(-1)),
    "pad": lambda: spread("Pad", k=floats(8), n=ints(PETA, PETA)),
    "pad_reflect": lambda: spread("Pad", k=floats(8), n=ints(0, PETA), mode="reflect"),
    "constant_of_shape": lambda: spread("ConstantOfShape", to=ints(PETA)),
    "constant_of_shape_many": lambda: spread("ConstantOfShape", to=ints(*[2] * 60)),
    "constant_of_shape_negative": lambda: spread("ConstantOfShape", to=ints(-3)),
    "constant_of_shape_string": lambda: spread("ConstantOfShape", to=ints(3), value="seven"),
    "one_hot": lambda: spread("OneHot", at=ints(0, 1), depth=ints(PETA), values=floats(2)),
    "range": lambda: spread("Range", a=np.array(0), b=np.array(PETA), c=np.array(1)),
    "range_nan": lambda: spread(
        "Range", a=np.float32(0).reshape(()), b=np.array(nan, np.float32), c=np.array(1, np.float32)
    ),
    "range_inf": lambda: spread("Range", a=np.array(0.0), b=np.array(inf), c=np.array(1.0)),
    "range_empty": lambda: spread("Range", a=ints(), b=ints(1), c=ints(1)),
    "range_tiny_step": lambda: spread("Range", a=np.array(0.0), b=np.array(1.0), c=np.array(1e-300)),
    "eye_like": lambda: make_model([N("EyeLike", ["k"], ["y"])], inputs={}, k=floats(3)),
    "hann_window": lambda: spread("HannWindow", size=np.array(PETA)),
    "random": lambda: spread("RandomNormal", shape=[PETA]),
    "outer": lambda: spread("Add", a=floats(2**20, 1), b=floats(1, 2**20)),
    # The same with an input beside.
    "expand_fed": lambda: one("Expand", to=ints(PETA, 1, 3, 8, 8)),
    "tile_fed": lambda: one("Tile", n=ints(PETA, 1, 1, 1)),
    "pad_fed": lambda: one("Pad", n=ints(0, 0, PETA, PETA, 0, 0, PETA, PETA)),
    "pad_fed_overflow": lambda: one("Pad", n=ints(0, 0, HUGE, HUGE, 0, 0, HUGE, HUGE)),
    "pad_floats": lambda: one("Pad", n=floats(8)),
    "resize_fed": lambda: resized(1, 1, 1e9, 1e9),
    "resize_sizes": lambda: resized(1, 3, PETA, PETA, kind="sizes"),
    "one_hot_fed": lambda: make_model([N("OneHot", ["x", "depth", "v"], ["y"])], depth=ints(PETA), v=floats(2)),
    "conv_pads": lambda: one("Conv", w=floats(2, 3, 3, 3), pads=[PETA] * 4),
    "conv_pads_overflow": lambda: one("Conv", w=floats(2, 3, 3, 3), pads=[HUGE] * 4),
    "conv_dilations": lambda: one("Conv", w=floats(2, 3, 3, 3), dilations=[HUGE] * 2),
    "conv_strides": lambda: one("Conv", w=floats(2, 3, 3, 3), strides=[HUGE] * 2),
    "conv_no_channels": lambda: one("Conv", w=np.zeros((2, 0, 3, 3), np.float32)),
    "conv_group_zero": lambda: one("Conv", w=floats(2, 3, 3, 3), group=0),
    "conv_pads_medium": lambda: one("Conv", w=floats(2, 3, 3, 3), pads=[10**5] * 4),
    "conv_transpose_strides": lambda: one("ConvTranspose", w=floats(3, 2, 3, 3), strides=[PETA] * 2),
    "conv_transpose_shape": lambda: one("ConvTranspose", w=floats(3, 2, 3, 3), output_shape=[PETA] * 2),
    "pool_kernel": lambda: one("MaxPool", kernel_shape=[10**6] * 2, pads=[10**6] * 4),
    "pool_pads": lambda: one("AveragePool", kernel_shape=[2, 2], pads=[PETA] * 4),
    "lp_pool_kernel": lambda: one("LpPool", kernel_shape=[10**5] * 2, pads=[10**5] * 4),
    "lp_pool_zero": lambda: one("LpPool", kernel_shape=[2, 2], p=0),
    "lrn_size": lambda: one("LRN", size=10**12),
    "lrn_no_size": lambda: one("LRN"),
    "doubling": lambda: doubling(40, False),
    "doubling_fed": lambda: doubling(40, True),
    "doubling_far": lambda: doubling(70, True),
    # Sizes that come when the network runs.
    "expand_late": lambda: fed_sizes("Expand", [PETA, 1, 3, 8, 8]),
    "tile_late": lambda: fed_sizes("Tile", [PETA, 1, 1, 1]),
    "pad_late": lambda: fed_sizes("Pad", [0, 0, PETA, PETA, 0, 0, PETA, PETA]),
    "reshape_late": lambda: fed_sizes("Reshape", [-1, -1]),
    "reshape_late_zero": lambda: fed_sizes("Reshape", [0, 0, 0, 0, 0, 0]),
    "constant_of_shape_late": lambda: fed_sizes("ConstantOfShape", [PETA], ["s"]),
    "range_late": lambda: fed_sizes("Range", PETA, ["s", "s", "s"]),
    "one_hot_late": lambda: fed_sizes("OneHot", [PETA], ["x", "s", "x"]),
    "resize_late": lambda: fed_sizes("Resize", np.array([1, 1, nan, inf], np.float32), ["x", "", "s"]),
    "resize_late_sizes": lambda: fed_sizes("Resize", [1, 3, PETA, PETA], ["x", "", "", "s"]),
    "slice_late": lambda: fed_sizes("Slice", [HUGE], ["x", "s", "s"]),
    "split_late": lambda: fed_sizes("Split", [HUGE, -HUGE], ["x", "s"]),
    "top_k_late": lambda: fed_sizes("TopK", [-1], ["x", "s"]),
    "gather_late": lambda: fed_sizes("Gather", [HUGE], ["x", "s"]),
    "unsqueeze_late": lambda: fed_sizes("Unsqueeze", list(range(80)), ["x", "s"]),
    # Numbers that are none.
    "resize_nan": lambda: resized(1, 1, nan, 1),
    "resize_inf": lambda: resized(1, 1, inf, 1),
    "resize_zero": lambda: resized(1, 1, 0, 1),
    "resize_negative": lambda: resized(1, 1, -2, 1),
    "resize_few": lambda: resized(2, 2),
    "resize_sizes_zero": lambda: resized(0, 0, 0, 0, kind="sizes"),
    "resize_roi": lambda: make_model(
        [N("Resize", ["x", "r", "s"], ["y"], coordinate_transformation_mode="tf_crop_and_resize")],
        r=np.array([nan, 0, 0, 0, inf, 1, 1, 1], np.float32),
        s=np.ones(4, np.float32),
    ),
    "resize_policy": lambda: resized(1, 3, 9, 9, kind="sizes", keep_aspect_ratio_policy="whatever"),
    "resize_empty_ratio": lambda: make_model(
        [N("Resize", ["x", "", "", "s"], ["y"], keep_aspect_ratio_policy="not_larger")], inputs={"x": (0, 3)}, s=ints(4, 4)
    ),
    "resize_mode": lambda: resized(1, 1, 2, 2, mode="quintic"),
    "upsample_nan": lambda: one("Upsample", opset=9, s=np.array([1, 1, nan, inf], np.float32)),
    "batch_norm_nan": lambda: one("BatchNormalization", **{k: floats(3) * nan for k in "abcd"}),
    "clip_strings": lambda: make_model([N("Clip", ["x", "s"], ["y"])], s=np.array(["a"], object)),
    # Attributes of a wrong type, or missing.
    "softmax_axis_string": lambda: one("Softmax", axis="one"),
    "softmax_axis_floats": lambda: one("Softmax", axis=[1.0, 2.0]),
    "softmax_axis_far": lambda: one("Softmax", axis=HUGE),
    "softmax_no_type": untyped_attribute,
    "concat_no_axis": lambda: make_model([N("Concat", ["x", "x"], ["y"])]),
    "concat_nothing": lambda: make_model([N("Concat", [], ["y"], axis=0)]),
    "concat_left_out": lambda: make_model([N("Concat", ["x", "", "x"], ["y"], axis=0)]),
    "transpose_perm_string": lambda: one("Transpose", perm="abcd"),
    "transpose_perm_far": lambda: one("Transpose", perm=[HUGE, 0, 1, 2]),
    "transpose_perm_float": lambda: one("Transpose", perm=2.5),
    "conv_strides_string": lambda: one("Conv", w=floats(2, 3, 3, 3), strides="ab"),
    "conv_strides_float": lambda: one("Conv", w=floats(2, 3, 3, 3), strides=[1.5, 1.5]),
    "conv_pads_number": lambda: one("Conv", w=floats(2, 3, 3, 3), pads=1),
    "conv_group_string": lambda: one("Conv", w=floats(2, 3, 3, 3), group="two"),
    "conv_auto_pad_number": lambda: one("Conv", w=floats(2, 3, 3, 3), auto_pad=3),
    "pool_no_kernel": lambda: one("MaxPool"),
    "pool_kernel_number": lambda: one("MaxPool", kernel_shape=2),
    "pool_kernel_short": lambda: one("MaxPool", kernel_shape=[2]),
    "cast_no_to": lambda: one("Cast"),
    "cast_to_string": lambda: one("Cast", to=STRING),
    "cast_to_nothing": lambda: one("Cast", to=99),
    "cast_to_text": lambda: one("Cast", to="complex"),
    "constant_no_value": lambda: make_model([N("Constant", [], ["y"])], inputs={}),
    "constant_strange": lambda: make_model([N("Constant", [], ["y"], strange=1)], inputs={}),
    "constant_no_output": lambda: make_model([N("Constant", [], [], value_float=1.0), N("Relu", ["x"], ["y"])]),
    "gemm_alpha_string": lambda: make_model([N("Gemm", ["x", "b"], ["y"], alpha="a")], inputs={"x": (2, 3)}, b=floats(3, 4)),
    "leaky_relu_alpha": lambda: one("LeakyRelu", alpha="much"),
    "leaky_relu_alpha_ints": lambda: one("LeakyRelu", alpha=[1, 2]),
    "split_parts_zero": lambda: one("Split", num_outputs=0),
    "split_parts_negative": lambda: one("Split", num_outputs=-2),
    "split_more": lambda: one("Split", outputs=9, num_outputs=9, axis=1),
    "flatten_axis": lambda: one("Flatten", axis="a"),
    "depth_to_space_zero": lambda: one("DepthToSpace", blocksize=0),
    "depth_to_space_text": lambda: one("DepthToSpace", blocksize="two"),
    "group_norm_zero": lambda: one("GroupNormalization", s=floats(3), b=floats(3), num_groups=0),
    "layer_norm_axis": lambda: one("LayerNormalization", s=floats(8), axis=9),
    "einsum": lambda: one("Einsum", equation="ij->"),
    "einsum_none": lambda: one("Einsum"),
    "graph_where_number": lambda: make_model([N("Softmax", ["x"], ["y"], axis=helper.make_graph([], "g", [], []))]),
    "number_where_graph": lambda: make_model(
        [N("If", ["go"], ["y"], then_branch=1, else_branch=2)], inputs={}, go=np.array(True)
    ),
    "tensor_where_number": lambda: one("Softmax", axis=numpy_helper.from_array(ints(1))),
    # Inputs and outputs: too few, too many.
    "add_alone": lambda: make_model([N("Add", ["x"], ["y"])]),
    "add_three": lambda: make_model([N("Add", ["x", "x", "x"], ["y"])]),
    "add_nothing": lambda: make_model([N("Add", [], ["y"])], inputs={}),
    "add_left_out": lambda: make_model([N("Add", ["", "x"], ["y"])]),
    "relu_nothing": lambda: make_model([N("Relu", [], ["y"])], inputs={}),
    "relu_two": lambda: make_model([N("Relu", ["x", "x"], ["y"])]),
    "relu_no_output": lambda: make_model([N("Relu", ["x"], [])], outputs=["x"]),
    "relu_outputs": lambda: one("Relu", outputs=3),
    "conv_outputs": lambda: one("Conv", outputs=3, w=floats(2, 3, 3, 3)),
    "conv_alone": lambda: one("Conv"),
    "conv_many": lambda: one("Conv", a=floats(2, 3, 3, 3), b=floats(2), c=floats(1), d=floats(1)),
    "add_outputs": lambda: make_model([N("Add", ["x", "x"], ["y", "z"])], ["y", "z"]),
    "add_outputs_constant": lambda: spread("Add", outputs=2, a=floats(2), b=floats(2)),
    "identity_outputs": lambda: one("Identity", outputs=2),
    "identity_nothing": lambda: make_model([N("Identity", [], ["y"])], inputs={}),
    "identity_empty_name": lambda: make_model([N("Identity", [""], ["y"])], inputs={}),
    "identity_unnamed_output": lambda: make_model([N("Identity", ["x"], [""]), N("Relu", ["x"], ["y"])]),
    "dropout_nothing": lambda: make_model([N("Dropout", [], ["y"])], inputs={}),
    "dropout_outputs": lambda: one("Dropout", outputs=4),
    "batch_norm_few": lambda: one("BatchNormalization", a=floats(3)),
    "pool_outputs": lambda: one("MaxPool", outputs=3, kernel_shape=[2, 2]),
    "shape_outputs": lambda: one("Shape", outputs=2),
    "where_few": lambda: make_model([N("Where", ["x"], ["y"])]),
    "slice_few": lambda: one("Slice", a=ints(0)),
    "slice_matrix": lambda: one("Slice", a=ints(0).reshape(1, 1), b=ints(HUGE).reshape(1, 1)),
    "slice_old_none": lambda: make_model([N("Slice", ["x"], ["y"])], opset=9),
    "slice_axes_twice": lambda: one("Slice", a=ints(0, 0), b=ints(1, 1), c=ints(0, 0)),
    "clip_old_text": lambda: one("Clip", opset=9, min="low"),
    "pad_old_text": lambda: one("Pad", opset=9, pads="low"),
    "upsample_none": lambda: make_model([N("Upsample", ["x"], ["y"])], opset=9),
    "old_broadcast_scalar": lambda: make_model(
        [N("Add", ["a", "b"], ["y"], broadcast=1, axis=0)], inputs={"a": (), "b": ()}, opset=6
    ),
    "prelu_alone": lambda: make_model([N("PRelu", ["x"], ["y"])]),
    "swish_two": lambda: make_model([N("Swish", ["x", "x"], ["y"])], opset=24),
    "group_norm_old": lambda: make_model([N("GroupNormalization", [], ["y"])], inputs={}, opset=18),
    "softmax_old_nothing": lambda: make_model([N("Softmax", [], ["y"])], inputs={}, opset=9),
    "reduce_axes_far": lambda: one("ReduceSum", a=ints(HUGE)),
    "reduce_axes_twice": lambda: one("ReduceMean", a=ints(1, 1)),
    "squeeze_axes_float": lambda: one("Squeeze", a=floats(1)),
    "unsqueeze_many": lambda: one("Unsqueeze", a=ints(*range(80))),
    "unsqueeze_fold": lambda: spread("Unsqueeze", k=floats(1), a=ints(*range(63))),
    "gather_scalar": lambda: make_model([N("Gather", ["x", "i"], ["y"])], inputs={"x": ()}, i=ints(0)),
    "gather_float": lambda: one("Gather", i=floats(1)),
    "gather_far": lambda: spread("Gather", k=floats(2), i=ints(HUGE)),
    "gather_rank": lambda: one("Gather", i=np.zeros((1,) * 62, np.int64)),
    "arg_max_scalar": lambda: one("ArgMax", inputs={"x": ()}, axis=3),
    "matmul_scalar": lambda: make_model([N("MatMul", ["x", "x"], ["y"])], inputs={"x": ()}),
    "mod_float": lambda: spread("Mod", a=floats(2), b=floats(2)),
    "div_zero": lambda: spread("Div", a=ints(1, -(2**63)), b=ints(0, -1)),
    "div_fed_zero": lambda: make_model(
        [N("Shape", ["x"], ["s"]), N("Div", ["s", "z"], ["t"]), N("Reshape", ["x", "t"], ["y"])], z=ints(0)
    ),
    "pow_negative": lambda: spread("Pow", a=ints(2), b=ints(-1)),
    "reshape_minus": lambda: one("Reshape", s=ints(-1, -1)),
    "reshape_two": lambda: one("Reshape", s=ints(-2, 3)),
    "reshape_far": lambda: one("Reshape", s=ints(HUGE, HUGE)),
    "reshape_floats": lambda: one("Reshape", s=floats(2)),
    "reshape_rank": lambda: one("Reshape", s=ints(192, *[1] * 70)),
    "expand_rank": lambda: one("Expand", s=ints(*[1] * 70)),
    "input_rank": lambda: one("Relu", inputs={"x": (1,) * 70}),
    "input_rank_40": lambda: one("Relu", inputs={"x": (1,) * 40}),
    "add_rank_40": lambda: make_model([N("Add", ["x", "k"], ["y"])], inputs={"x": (1,) * 39 + (3,)}, k=floats(3)),
    "transpose_rank_40": lambda: one("Transpose", inputs={"x": (1,) * 37 + (2, 3, 2)}),
    "softmax_rank_40": lambda: one("Softmax", inputs={"x": (1,) * 37 + (2, 3, 2)}),
    "conv_rank_40": lambda: one("Conv", inputs={"x": (1,) * 40}, w=np.ones((1,) * 40, np.float32)),
    "input_huge": lambda: one("Relu", inputs={"x": (PETA, PETA)}),
    "input_zero": lambda: one("Relu", inputs={"x": (0, 3)}),
    "conv_empty": lambda: one("Conv", inputs={"x": (0, 3, 8, 8)}, w=floats(2, 3, 3, 3)),
    "pool_empty": lambda: one("MaxPool", inputs={"x": (1, 3, 0, 0)}, kernel_shape=[2, 2]),
    "softmax_empty": lambda: one("Softmax", inputs={"x": (2, 0)}),
    "reduce_empty": lambda: make_model([N("ReduceMax", ["x"], ["y"])], inputs={"x": (2, 0)}),
    "resize_empty": lambda: make_model(
        [N("Resize", ["x", "", "s"], ["y"])], inputs={"x": (1, 0, 2, 2)}, s=floats(4) * 0 + 2
    ),
    "cum_sum_far": lambda: one("CumSum", a=np.array(HUGE)),
    # Strings, sequences, optionals, maps.
    "string_identity": lambda: typed(None, element=STRING),
    "string_relu": lambda: typed(None, "Relu", STRING),
    "string_concat": lambda: typed(None, "Concat", STRING, axis=0),
    "string_reshape": lambda: make_model(
        [N("Reshape", ["x", "s"], ["y"])], inputs={"x": tensor_of("x", STRING, (2, 2))}, s=ints(4)
    ),
    "string_softmax": lambda: typed(None, "Softmax", STRING),
    "string_normalizer": lambda: typed(None, "StringNormalizer", STRING),
    "string_equal": lambda: make_model(
        [N("Equal", ["x", "s"], ["y"])], inputs={"x": tensor_of("x", STRING, (2, 2))}, s=np.array("a", object)
    ),
    "string_constant": lambda: make_model([N("Constant", [], ["y"], value_string="a")], inputs={}),
    "string_add": lambda: make_model([N("Constant", [], ["s"], value_string="a"), N("Add", ["x", "s"], ["y"])]),
    "string_cast": lambda: make_model([N("Cast", ["x"], ["s"], to=STRING), N("Cast", ["s"], ["y"], to=FLOAT)]),
    "sequence": lambda: typed(SEQUENCE),
    "sequence_at": lambda: make_model(
        [N("SequenceAt", ["x", "i"], ["y"])], inputs={"x": helper.make_value_info("x", SEQUENCE)}, i=np.array(0)
    ),
    "sequence_relu": lambda: typed(SEQUENCE, "Relu"),
    "sequence_inside": lambda: make_model(
        [N("SplitToSequence", ["x"], ["s"], axis=1), N("ConcatFromSequence", ["s"], ["y"], axis=0)]
    ),
    "sequence_length": lambda: make_model([N("SequenceConstruct", ["x", "x"], ["s"]), N("SequenceLength", ["s"], ["y"])]),
    "sequence_output": lambda: make_model([N("SequenceConstruct", ["x", "x"], ["y"])]),
    "sequence_add": lambda: make_model([N("SequenceConstruct", ["x", "x"], ["s"]), N("Add", ["s", "x"], ["y"])]),
    "sequence_empty": lambda: make_model([N("SequenceEmpty", [], ["y"])], inputs={}),
    "sequence_constant": lambda: make_model(
        [N("SequenceConstruct", ["k", "k"], ["s"]), N("ConcatFromSequence", ["s"], ["y"], axis=0)], inputs={}, k=floats(2)
    ),
    "optional": lambda: typed(OPTIONAL),
    "optional_get": lambda: typed(OPTIONAL, "OptionalGetElement"),
    "optional_inside": lambda: make_model([N("Optional", ["x"], ["s"]), N("OptionalGetElement", ["s"], ["y"])]),
    "optional_empty": lambda: make_model([N("Optional", [], ["y"], type=TENSOR)], inputs={}),
    "map": lambda: typed(MAP),
    "map_vectorizer": lambda: typed(MAP, "DictVectorizer", int64_vocabulary=[1], domain="ai.onnx.ml"),
    "no_type": lambda: make_model([N("Relu", ["x"], ["y"])], inputs={"x": helper.make_empty_tensor_value_info("x")}),
    "bfloat16": lambda: typed(None, "Relu", TensorProto.BFLOAT16),
    "float8": lambda: typed(None, "Identity", TensorProto.FLOAT8E4M3FN),
    "int4": lambda: typed(None, "Identity", TensorProto.INT4),
    "complex": lambda: typed(None, "Add", TensorProto.COMPLEX64),
    "bool_relu": lambda: typed(None, "Relu", BOOL),
    "bool_conv": lambda: make_model(
        [N("Conv", ["x", "w"], ["y"])], inputs={"x": tensor_of("x", BOOL, (1, 1, 3, 3))}, w=np.ones((1, 1, 1, 1), bool)
    ),
    "dtypes_differ": lambda: one("Conv", w=floats(2, 3, 3, 3).astype(np.float64)),
    "dtypes_differ_concat": lambda: make_model([N("Concat", ["x", "k"], ["y"], axis=0)], k=np.zeros((1, 3, 8, 8), np.int64)),
    "not_float": lambda: make_model([N("Not", ["x"], ["y"])]),
    "where_float": lambda: make_model([N("Where", ["x", "x", "x"], ["y"])]),
    # Constants and messages that contradict themselves.
    "dims_negative": lambda: raw_dims(-1),
    "dims_huge": lambda: raw_dims(HUGE, HUGE, 4),
    "dims_many": lambda: raw_dims(*[1] * 70),
    "sparse_huge": lambda: sparse(floats(1), ints(0), PETA),
    "sparse_negative": lambda: sparse(floats(1), ints(0), -4),
    "sparse_outside": lambda: sparse(floats(1), ints(99), 8),
    "sparse_many": lambda: sparse(floats(3), ints(1), 8),
    "unknown_domain": lambda: make_model([N("Magic", ["x"], ["y"], domain="of.others")]),
    "unknown_operator": lambda: make_model([N("Magic", ["x"], ["y"])]),
    "own_domain": lambda: make_model([N("Elementwise", ["x"], ["y"], domain="sevenloops", expression="x")]),
    "own_shift": lambda: make_model([N("Shift", ["x"], ["y"], domain="sevenloops", kernel="x")]),
    "fused_attribute": lambda: one("Relu", activation="relu"),
    "fused_conv": lambda: one("Conv", w=floats(2, 3, 3, 3), activation=7, residual=1),
    "captured_attribute": lambda: one("Softmax", captured="x"),
    "output_is_input": lambda: make_model([N("Relu", ["x"], ["z"])], outputs=["x"]),
    "outputs_twice": lambda: make_model([N("Relu", ["x"], ["y"])], outputs=["y", "y"]),
    "no_outputs": lambda: make_model([N("Relu", ["x"], ["y"])], outputs=[]),
    "no_nodes": lambda: make_model([], outputs=["x"]),
    "inputs_twice": lambda: make_model([N("Relu", ["x"], ["y"])], inputs={"x": (2,), "z": tensor_of("x", FLOAT, (3,))}),
    # Loops and functions.
    "loop_for_ever": lambda: loop(HUGE, [N("Add", ["a", "a"], ["b"])], floats(1)),
    "loop_for_ever_fed": lambda: fed_loop(HUGE, [N("Relu", ["a"], ["b"])]),
    "loop_doubling": lambda: loop(60, [N("Concat", ["a", "a"], ["b"], axis=0)], floats(1)),
    "loop_doubling_fed": lambda: fed_loop(60, [N("Concat", ["a", "a"], ["b"], axis=0)]),
    "loop_expand": lambda: loop(2, [N("Expand", ["a", "to"], ["b"])], floats(1), to=ints(PETA)),
    "loop_collects": lambda: loop(HUGE, [N("Relu", ["a"], ["b"]), N("Relu", ["a"], ["e"])], floats(2**16), ["e"]),
    "loop_nested": lambda: nested_loops(4),
    "loop_negative": lambda: loop(-3, [N("Relu", ["a"], ["b"])], floats(1)),
    "loop_matrix_of_turns": lambda: loop([1, 2], [N("Relu", ["a"], ["b"])], floats(1)),
    "loop_unknown_operator": lambda: loop(2, [N("Magic", ["a"], ["b"])], floats(1)),
    "if_deep": lambda: nested_ifs(12),
    "functions": lambda: bomb(3, 2),
    "bomb": lambda: bomb(40, 2),
    "bomb_wide": lambda: bomb(6, 12),
    "functions_deep": lambda: bomb(2000, 1),
    "functions_in_a_circle": recursion,
    "function_unknown": lambda: make_model([N("f9", ["x"], ["y"], domain="f")], functions=[function("f0", ("Relu", ""))]),
}


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
