"""Quantised models, as ONNX Runtime's quantiser writes them, and its operators against ONNX Runtime."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import FallbackWarning, GraphError
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shapes import infer
from sevenloops.session import InferenceSession

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

Array = np.ndarray[Any, Any]
RANDOM = np.random.default_rng(5)
MICROSOFT = "com.microsoft"
NEWEST = min(onnx.defs.onnx_opset_version(), 24)


def model_of(
    nodes: list[Any], inputs: Mapping[str, Any], constants: Mapping[str, Any], outputs: Mapping[str, int], opset: int
) -> Any:
    """A model with the inputs of these arrays, and outputs by element type."""
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    results = [helper.make_tensor_value_info(name, element, None) for name, element in outputs.items()]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", values, results, tensors)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def by_onnxruntime(model: Any, feeds: dict[str, Array]) -> list[Array]:
    """Without its optimiser: what the file says, operator by operator."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    data = model.SerializeToString()
    return list(ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds))


def by_session(model: Any, feeds: dict[str, Array], kind: str = "quantised") -> tuple[list[Array], InferenceSession]:
    with pytest.warns(FallbackWarning) as caught:
        session = InferenceSession(model.SerializeToString())
        results = session.run(None, feeds)
    assert str(caught[0].message).startswith(f"the model is {kind}; it is computed in float32")
    return results, session


def left(session: InferenceSession) -> set[str]:
    """Operators that are not compiled."""
    return {step.op for step in session.plan().steps if step.algorithm == "python"}


# ------------------------------------------------------------------------------------------------ single operators

#: Halves, which go to the even number, what saturates, and ordinary numbers; the scales are powers of two.
VALUES = np.concatenate([np.arange(-9, 9) / 8, [-1e9, 1e9, np.inf, -np.inf], RANDOM.normal(0, 20, 26)]).astype(np.float32)
X = VALUES.reshape(2, 4, 6)
#: scale, attributes, first opset
PARAMETERS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "tensor": (np.float32(0.25), {}, 10),
    "axis": (np.array([0.25, 0.5, 1, 2], np.float32), {"axis": 1}, 13),
    "last axis": (np.array([0.25, 0.5, 1, 2, 4, 8], np.float32), {"axis": -1}, 13),
    "blocks": (2.0 ** RANDOM.integers(-2, 3, (2, 2, 6)).astype(np.float32), {"axis": 1, "block_size": 2}, 21),
}


def quantisers() -> Iterator[Any]:
    for opset in (10, 13, 17, 19, 21, NEWEST):
        for kind, (_, _, first) in PARAMETERS.items():
            for dtype in ("uint8", "int8", "uint16", "int16"):
                if opset >= first and (opset >= 21 or "8" in dtype):
                    yield pytest.param(opset, kind, dtype, id=f"opset {opset}, {kind}, {dtype}")


@pytest.mark.parametrize(("opset", "kind", "dtype"), list(quantisers()))
@pytest.mark.parametrize("zero", [True, False], ids=["zero point", "none"])
def test_quantise_and_dequantise(opset: int, kind: str, dtype: str, zero: bool) -> None:
    """Bit for bit what ONNX Runtime has, by the oracle; without a zero point only uint8 can be written."""
    scale, attributes, _ = PARAMETERS[kind]
    if not zero and dtype != "uint8":
        return
    limits = np.iinfo(dtype)
    constants = {"s": np.asarray(scale)}
    if zero:
        constants["z"] = np.asarray(RANDOM.integers(limits.min // 2, limits.max // 2, np.shape(scale)), dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *constants], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", *constants], ["y"], **attributes),
    ]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = model_of(nodes, {"x": X}, constants, {"q": element, "y": TensorProto.FLOAT}, opset)
    wanted = by_onnxruntime(model, {"x": X})
    found = evaluate(infer(load_onnx(model)), {"x": X}, np.float32)
    for name, array in zip("qy", wanted):
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    if kind == "axis":  # one of each dtype is compiled
        for got, array in zip(by_session(model, {"x": X})[0], wanted):
            np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("opset", [10, 13, 18, 21])
def test_weights_are_dequantised_at_load(opset: int) -> None:
    """int32 too, whose scale may be one a channel from opset 13 on."""
    constants: dict[str, Any] = {"q": RANDOM.integers(-(2**20), 2**20, (3, 4)).astype(np.int32), "s": np.float32(0.001)}
    nodes = [helper.make_node("DequantizeLinear", ["q", "s"], ["w"]), helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = infer(load_onnx(model_of(nodes, {"x": np.zeros((3, 4), np.float32)}, constants, {"y": 1}, opset)))
    assert [node.op for node in graph.nodes] == ["Mul"]
    np.testing.assert_array_equal(graph.constants["w"], constants["q"].astype(np.float32) * np.float32(0.001))


def test_scales_that_do_not_fit_are_named() -> None:
    constants: dict[str, Any] = {"s": np.ones(3, np.float32), "z": np.zeros(3, np.uint8)}
    model = model_of([helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])], {"x": X}, constants, {"y": 2}, 13)
    with pytest.raises(GraphError, match=r"input 1 of \(3,\) does not fit \(2, 4, 6\): one number or \(4,\)"):
        infer(load_onnx(model))


def bytes_of(*shape: int, dtype: type = np.uint8) -> Array:
    return RANDOM.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape).astype(dtype)


A, B, IMAGE = bytes_of(3, 8), bytes_of(8, 5, dtype=np.int8), bytes_of(1, 4, 6, 7)
KERNELS = RANDOM.integers(-9, 9, (6, 4, 3, 3)).astype(np.int8)
ROWS = {"as": np.float32(0.03), "az": np.uint8(120), "ys": np.float32(0.2), "yz": np.uint8(131)}
COLUMNS = {"bs": RANDOM.uniform(0.01, 0.05, 5).astype(np.float32), "bz": np.zeros(5, np.int8)}
TWO = {"bs": np.float32(0.05), "bz": np.uint8(140)}
#: operator and domain: node inputs, attributes, inputs of the model, constants
OPERATORS: dict[str, tuple[str, str, dict[str, Any], dict[str, Array], dict[str, Any]]] = {
    "QLinearMatMul": ("", "a as az b bs bz ys yz", {}, {"a": A}, {**ROWS, **COLUMNS, "b": B}),
    "QLinearConv": (
        "", "a as az w ws wz ys yz bias", {"pads": [1, 0, 1, 1], "strides": [2, 1]}, {"a": IMAGE},
        {**ROWS, "w": KERNELS, "ws": np.linspace(0.01, 0.06, 6, dtype=np.float32), "wz": np.zeros(6, np.int8),
         "bias": RANDOM.integers(-500, 500, 6).astype(np.int32)},
    ),
    "QLinearAdd": (MICROSOFT, "a as az b bs bz ys yz", {}, {"a": A, "b": bytes_of(3, 8)}, {**ROWS, **TWO}),
    "QLinearMul": (MICROSOFT, "a as az b bs bz ys yz", {}, {"a": A, "b": bytes_of(8)}, {**ROWS, **TWO}),
    "QLinearSigmoid": (MICROSOFT, "a as az ys yz", {}, {"a": A}, {**ROWS, "ys": np.float32(1 / 256), "yz": np.uint8(0)}),
    "QLinearLeakyRelu": (MICROSOFT, "a as az ys yz", {"alpha": 0.2}, {"a": A}, ROWS),
    "QLinearSoftmax": (MICROSOFT, "a as az ys yz", {"axis": 1, "opset": 12}, {"a": IMAGE},
                       {**ROWS, "ys": np.float32(1 / 256), "yz": np.uint8(0)}),
    "QLinearGlobalAveragePool": (MICROSOFT, "a as az ys yz", {}, {"a": IMAGE}, {**ROWS, "ys": np.float32(0.01)}),
    "QLinearAveragePool": (MICROSOFT, "a as az ys yz", {"kernel_shape": [3, 2], "strides": [2, 2]}, {"a": IMAGE}, ROWS),
    "QLinearConcat": (MICROSOFT, "ys yz a as az b bs bz", {"axis": 1}, {"a": A, "b": bytes_of(3, 2)}, {**ROWS, **TWO}),
    "QLinearWhere": (MICROSOFT, "c a as az b bs bz ys yz", {}, {"c": A > 99, "a": A, "b": bytes_of(3, 8)}, {**ROWS, **TWO}),
    "QGemm": (MICROSOFT, "a as az b bs bz c ys yz", {"alpha": 0.5}, {"a": A},
              {**ROWS, **COLUMNS, "b": B, "c": RANDOM.integers(-900, 900, 5).astype(np.int32)}),
}  # fmt: skip


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_on_quantised_values(operator: str) -> None:
    domain, inputs, attributes, feeds, constants = OPERATORS[operator]
    node = helper.make_node(operator, inputs.split(), ["y"], domain=domain, **attributes)
    model = model_of([node], feeds, constants, {"y": TensorProto.UINT8}, 13)
    (wanted,) = by_onnxruntime(model, feeds)
    assert len(np.unique(wanted)) > 3
    (got,), session = by_session(model, feeds)
    assert got.dtype == wanted.dtype
    assert np.abs(got.astype(int) - wanted).max() <= 1
    assert left(session) <= {"Cast", "Where"}


@pytest.mark.parametrize("operator", ["MatMulInteger", "ConvInteger"])
def test_products_of_integers_are_exact(operator: str) -> None:
    """As integers, and compiled where they become floats at once."""
    a, b, zero = (A, B, COLUMNS["bz"]) if operator == "MatMulInteger" else (IMAGE, KERNELS, np.int8(0))
    constants = {"b": b, "az": np.uint8(7), "bz": np.asarray(zero)}
    nodes = [
        helper.make_node(operator, ["a", "b", "az", "bz"], ["y"]),
        helper.make_node("Cast", ["y"], ["f"], to=TensorProto.FLOAT),
    ]
    for outputs in ({"y": TensorProto.INT32}, {"f": TensorProto.FLOAT}):
        model = model_of(nodes, {"a": a}, constants, outputs, 13)
        (wanted,) = by_onnxruntime(model, {"a": a})
        (got,), session = by_session(model, {"a": a})
        np.testing.assert_array_equal(got, wanted)
        assert (operator in left(session)) == ("y" in outputs)


# ---------------------------------------------------------------------------------------------------------- networks


def network(opset: int) -> Any:
    """Convolutions, one of them depthwise, pools, a sum, a concatenation and a product."""
    weights = {
        "w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (10, 16), "b1": (8,), "b2": (8,), "b4": (10,),
    }  # fmt: skip
    constants = {name: RANDOM.normal(0, 0.4, shape).astype(np.float32) for name, shape in weights.items()}
    make = helper.make_node
    nodes = [
        make("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        make("Relu", ["c1"], ["r1"]),
        make("Conv", ["r1", "w2", "b2"], ["c2"], group=8, pads=[1, 1, 1, 1]),
        make("LeakyRelu", ["c2"], ["r2"], alpha=0.1),
        make("Conv", ["r2", "w3"], ["c3"]),
        make("Add", ["c3", "r1"], ["sum"]),
        make("MaxPool", ["sum"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        make("AveragePool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Sigmoid", ["p2"], ["gate"]),
        make("Mul", ["p1", "gate"], ["scaled"]),
        make("Concat", ["scaled", "p1"], ["both"], axis=1),
        make("GlobalAveragePool", ["both"], ["mean"]),
        make("Flatten", ["mean"], ["flat"]),
        make("Gemm", ["flat", "w4", "b4"], ["y"], transB=1),
    ]
    model = model_of(nodes, {"x": np.zeros((1, 3, 16, 16), np.float32)}, constants, {"y": TensorProto.FLOAT}, opset)
    return onnx.shape_inference.infer_shapes(model)


class Reader:
    """Four images to learn the ranges from."""

    def __init__(self) -> None:
        self.images = iter([{"x": RANDOM.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.images, None)


def quantised(tmp_path: Path, opset: int, form: str) -> Any:
    """The network through ONNX Runtime's quantiser; 7 bits of weights, as its kernels for AVX2 saturate with 8."""
    pytest.importorskip("sympy", reason="onnxruntime.quantization needs it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnxruntime import quantization as q

        onnx.save(network(opset), tmp_path / "float.onnx")
        files = tmp_path / "float.onnx", tmp_path / "int8.onnx"
        if form == "dynamic":
            q.quantize_dynamic(*files, weight_type=q.QuantType.QUInt8)
        else:
            types: dict[str, Any] = {"activation_type": q.QuantType.QUInt8, "weight_type": q.QuantType.QInt8}
            kind = getattr(q.QuantFormat, form)
            q.quantize_static(*files, Reader(), quant_format=kind, per_channel=True, reduce_range=True, **types)
    return onnx.load(tmp_path / "int8.onnx")


FORMS = [*(("QDQ", opset) for opset in (13, 17, 18, NEWEST)), ("QOperator", 13), ("QOperator", NEWEST), ("dynamic", 13)]


@pytest.mark.parametrize(("form", "opset"), FORMS)
def test_a_quantised_network(form: str, opset: int, tmp_path: Path) -> None:
    model = quantised(tmp_path, opset, form)
    wanted_operator = {"QDQ": "DequantizeLinear", "QOperator": "QLinearConv", "dynamic": "ConvInteger"}[form]
    assert wanted_operator in {node.op_type for node in model.graph.node}
    feeds = {"x": RANDOM.normal(size=(1, 3, 16, 16)).astype(np.float32)}
    (wanted,) = by_onnxruntime(model, feeds)
    (got,), session = by_session(model, feeds)
    assert not left(session)
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    last = next(node for node in model.graph.node if "y" in node.output)
    step = float(scales[last.input[1]]) if last.op_type == "DequantizeLinear" else 0.01 * np.abs(wanted).max()
    assert np.abs(got - wanted).max() <= 1.01 * step


def test_a_quantised_network_without_passes(tmp_path: Path) -> None:
    """The layers as the model has them are compiled in float32 too."""
    model = quantised(tmp_path, 13, "QDQ")
    with pytest.warns(FallbackWarning, match="quantised"):
        session = InferenceSession(model.SerializeToString(), passes=False)
    assert not left(session)


def test_the_user_hears_of_it_once(tmp_path: Path) -> None:
    model = quantised(tmp_path, 13, "QDQ")
    feeds = {"x": np.zeros((1, 3, 16, 16), np.float32)}
    with pytest.warns(FallbackWarning) as caught:
        session = InferenceSession(model.SerializeToString())
        for _ in range(2):
            session.run(None, feeds)
    assert len(caught) == 1


# ----------------------------------------------------------------------------------------------------------- halves


def rounded(model: Any, dtype: str) -> tuple[Any, Any]:
    """The model in float16 or bfloat16, and in float32 with the same weights."""
    half, whole = (onnx.ModelProto.FromString(model.SerializeToString()) for _ in range(2))
    for at, tensor in enumerate(model.graph.initializer):
        narrow = numpy_helper.to_array(tensor).astype(np.dtype(dtype))
        half.graph.initializer[at].CopyFrom(numpy_helper.from_array(narrow, tensor.name))
        whole.graph.initializer[at].CopyFrom(numpy_helper.from_array(narrow.astype(np.float32), tensor.name))
    del half.graph.value_info[:]
    for value in (*half.graph.input, *half.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return half, whole


@pytest.mark.parametrize(("dtype", "rounding"), [("float16", 2**-11), ("bfloat16", 2**-8)])
@pytest.mark.parametrize("opset", [13, NEWEST])
def test_a_network_of_halves(opset: int, dtype: str, rounding: float) -> None:
    """In float32 but for its edges, so that its results alone are rounded; and it is said."""
    half, whole = rounded(network(opset), dtype)
    x = RANDOM.normal(size=(1, 3, 16, 16)).astype(np.dtype(dtype))
    (wanted,) = by_onnxruntime(whole, {"x": x.astype(np.float32)})
    (got,), session = by_session(half, {"x": x}, dtype)
    assert got.dtype == np.dtype(dtype)
    assert np.abs(got.astype(np.float32) - wanted).max() <= 1.01 * rounding * np.abs(wanted).max()
    assert [step.op for step in session.plan().steps if step.algorithm == "python"] == ["Cast", "Cast"]
    if dtype == "float16":
        np.testing.assert_allclose(got, by_onnxruntime(half, {"x": x})[0], rtol=0, atol=8 * rounding * np.abs(wanted).max())


def test_casts_to_halves_and_back_cost_nothing() -> None:
    """float16 between float32 operators; an operator that is left gets float16, as it says."""
    make = helper.make_node
    nodes = [
        make("Relu", ["x"], ["r"]),
        make("Cast", ["r"], ["h"], to=TensorProto.FLOAT16),
        make("Add", ["h", "one"], ["s"]),
        make("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
        make("Einsum", ["s"], ["d"], equation="bij->b"),
    ]
    x = RANDOM.normal(size=(1, 4, 4)).astype(np.float32)
    model = model_of(nodes, {"x": x}, {"one": np.float16(1)}, {"y": TensorProto.FLOAT, "d": TensorProto.FLOAT16}, 13)
    with pytest.warns(FallbackWarning) as caught:
        session = InferenceSession(model.SerializeToString())
    assert any("Einsum (d: there is no kernel for it, 3.4e-05 MB a run)" in str(warning.message) for warning in caught)
    y, d = session.run(None, {"x": x})
    np.testing.assert_allclose(y, np.maximum(x, 0) + 1, rtol=1e-6)
    assert d.dtype == np.float16
    assert [step.op for step in session.plan().steps if step.algorithm == "python"] == ["Cast", "Einsum"]


# ------------------------------------------------------------------------------- what onnx's evaluator cannot compute


@pytest.mark.parametrize("p", [1, 2, 3])
def test_global_lp_pool(p: int) -> None:
    x = RANDOM.normal(size=(2, 3, 5, 4)).astype(np.float32)
    model = model_of([helper.make_node("GlobalLpPool", ["x"], ["y"], p=p)], {"x": x}, {}, {"y": TensorProto.FLOAT}, 13)
    with pytest.warns(FallbackWarning, match="GlobalLpPool"):
        (got,) = InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_allclose(got, by_onnxruntime(model, {"x": x})[0], rtol=1e-5)


def test_max_roi_pool() -> None:
    x = RANDOM.normal(size=(2, 3, 12, 10)).astype(np.float32)
    regions = np.array([[0, 0, 0, 9, 11], [1, 2, 3, 7, 8], [1, 5, 5, 5, 5], [0, 8, 9, 30, 30]], np.float32)
    for scale in (1.0, 0.5):
        node = helper.make_node("MaxRoiPool", ["x", "r"], ["y"], pooled_shape=[3, 2], spatial_scale=scale)
        model = model_of([node], {"x": x, "r": regions}, {}, {"y": TensorProto.FLOAT}, 13)
        with pytest.warns(FallbackWarning, match="MaxRoiPool"):
            (got,) = InferenceSession(model.SerializeToString()).run(None, {"x": x, "r": regions})
        np.testing.assert_array_equal(got, by_onnxruntime(model, {"x": x, "r": regions})[0])
