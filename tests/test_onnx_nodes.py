"""The conformance tests of onnx: its cases of single nodes, models converted from PyTorch, and whole networks.

All cases go through the importer, the inference of sizes and the oracle, which compiles nothing and takes a few seconds.
A session runs some cases of every operator that is compiled; all of them with `pytest --every-onnx-case`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.errors import GraphError
from sevenloops.graph import Graph
from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shapes import infer

onnx = pytest.importorskip("onnx")
from onnx import numpy_helper  # noqa: E402

Arrays = Sequence[Any]
Run = Callable[[Any, Arrays], list[Any]]

#: Cases that cannot pass, by a part of their name, and why.
EXCEPTIONS = {
    "bernoulli": "random numbers",
    "dynamicquantizelinear": "random numbers, some at a half, which float64 rounds to the other side",
    "scan_sum": "Scan of opset 8, which onnx's evaluator lacks",
    "training_dropout": "random numbers",
}


def by_oracle(model: Any, inputs: Arrays) -> list[Any]:
    """Importer, sizes, oracle; the sizes and dtypes that are known beforehand must be those that come out."""
    graph = load_onnx(model)
    feeds = {value.name: np.asarray(array) for value, array in zip(graph.inputs, inputs)}
    sized = infer(graph, {name: array.shape for name, array in feeds.items()})
    found = evaluate(sized, feeds)
    check_types(sized, found)
    return [found[name] for name in graph.outputs]


def check_types(graph: Graph, found: dict[str, Any]) -> None:
    for name, array in found.items():
        known = graph.type_of(name)
        if known.shape is not None and isinstance(array, np.ndarray):
            assert known.shape == array.shape
            # Floats meet float64 somewhere; the dtypes of strings have their length in them.
            assert known.dtype == array.dtype.name or array.dtype.name == "float64" or known.dtype == "object"


def by_session(model: Any, inputs: Arrays) -> list[Any]:
    from sevenloops.session import InferenceSession

    session = InferenceSession(model.SerializeToString())
    names = [value.name for value in session.get_inputs()]
    return list(session.run(None, dict(zip(names, inputs))))


def complaint(case: Any, run: Run) -> str | None:
    """What is wrong with a case, if anything is."""
    try:
        for inputs, outputs in case.data:
            for found, wanted in zip(run(case.model, inputs), outputs):
                compare(found, wanted, case)
    except (AssertionError, GraphError, TypeError, ValueError) as error:
        return f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return None


def compare(found: Any, wanted: Any, case: Any) -> None:
    wanted = np.asarray(wanted)
    assert np.shape(found) == wanted.shape
    if wanted.dtype == object:
        assert (np.asarray(found) == wanted).all()
        return
    half = (wanted.dtype.itemsize < 4 and wanted.dtype.kind not in "iub") or "bf16" in case.name
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    rtol = 1e-2 if half else max(case.rtol, 1e-3)
    np.testing.assert_allclose(np.asarray(found, kind), wanted.astype(kind), rtol=rtol, atol=max(case.atol, 1e-5))


def is_plain(case: Any) -> bool:
    """Whether a case has tensors only, and can pass."""
    arrays = [array for inputs, outputs in case.data for array in (*inputs, *outputs)]
    return not any(isinstance(a, list) or a is None for a in arrays) and not any(part in case.name for part in EXCEPTIONS)


@pytest.fixture(scope="module")
def cases() -> tuple[Any, ...]:
    from sevenloops.bench.onnx_cases import node_cases

    return node_cases()


def test_every_case_by_the_oracle(cases: tuple[Any, ...]) -> None:
    plain = [case for case in cases if is_plain(case)]
    assert len(plain) > 0.9 * len(cases)
    failed = [found for case in plain if (found := complaint(case, by_oracle))]
    assert not failed, "\n".join(failed)


def test_every_exception_is_needed(cases: tuple[Any, ...]) -> None:
    """A row that no case needs any more goes. (Random numbers may agree by chance.)"""
    if not onnx.__version__.startswith("1.23"):
        pytest.skip("the exceptions are those of onnx 1.23")
    for part, why in EXCEPTIONS.items():
        meant = [case for case in cases if part in case.name]
        assert meant, part
        if "random numbers" not in why:
            assert any(complaint(case, by_oracle) for case in meant), part


def converted() -> list[Any]:
    from onnx.backend.test.loader import load_model_tests

    return [*load_model_tests(kind="pytorch-converted"), *load_model_tests(kind="pytorch-operator")]


def stored(folder: Path) -> tuple[Any, list[Any], list[Any]]:
    """A model on disk with inputs and outputs."""

    def arrays(kind: str) -> list[Any]:
        files = sorted(folder.glob(f"test_data_set_0/{kind}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        return [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in files]

    return onnx.load(str(folder / "model.onnx")), arrays("input"), arrays("output")


def test_models_converted_from_pytorch() -> None:
    """Opset 6, most of them."""
    found = converted()
    assert len(found) > 100
    for case in found:
        model, inputs, outputs = stored(Path(case.model_dir))
        for got, wanted in zip(by_oracle(model, inputs), outputs):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5, err_msg=case.name)


# ---- whole networks ------------------------------------------------------------------------------------------------------


def light_models() -> list[Path]:
    import onnx.backend.test

    folder = Path(onnx.backend.test.__file__).parent / "data" / "light"
    return sorted(folder.glob("light_*.onnx"))


def seeded(path: Path) -> Any:
    """The network with random weights where the file has constant ones, of a size that keeps activations near one."""
    model = onnx.load(str(path))
    sizes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    readers = {name: (node.op_type, at) for node in model.graph.node for at, name in enumerate(node.input)}
    for node in list(model.graph.node):
        if node.op_type == "Unsqueeze" and node.output[0] in readers:
            readers[node.input[0]] = readers[node.output[0]]
    rng = np.random.default_rng(len(model.graph.node))
    for node in [node for node in model.graph.node if node.op_type == "ConstantOfShape"]:
        name = node.output[0]
        array = random_weights(rng, tuple(sizes[node.input[0]]), *readers.get(name, ("", 0)))
        model.graph.initializer.append(numpy_helper.from_array(array, name))
        model.graph.node.remove(node)
    return model


def random_weights(rng: Any, shape: tuple[int, ...], operator: str, at: int) -> Any:
    """Weights by what reads them: positive scales and variances, small biases and means, kernels after He et al."""
    if len(shape) > 1:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (rng.standard_normal(shape, np.float32) * scale).astype(np.float32)
    if operator == "Mul" or (operator == "BatchNormalization" and at in (1, 4)):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return (rng.standard_normal(shape) / 10).astype(np.float32)


def by_onnxruntime(model: Any, inputs: Arrays) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns of initializers that are inputs as well
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in load_onnx(model).inputs]
    return list(session.run(None, dict(zip(names, inputs))))


def check_network(path: Path, run: Run) -> None:
    model = seeded(path)
    shapes = [value.sizes for value in load_onnx(model).inputs]
    inputs = [np.random.default_rng(1).standard_normal(shape).astype(np.float32) for shape in shapes]
    found, wanted = run(model, inputs), by_onnxruntime(model, inputs)
    for got, expected in zip(found, wanted):
        assert got.shape == expected.shape
        assert np.abs(expected).max() > 0
        assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_the_light_networks_are_there() -> None:
    assert len(light_models()) == 9


#: Those without hundreds of megabytes of random weights; the others take part with --every-onnx-case.
QUICK = ("light_shufflenet", "light_squeezenet")


@pytest.mark.parametrize("path", light_models(), ids=lambda path: path.stem)
@pytest.mark.parametrize("run", [by_oracle, by_session])
def test_light_networks_agree_with_onnxruntime(path: Path, run: Run, every_onnx_case: bool) -> None:
    if path.stem not in QUICK and not every_onnx_case:
        pytest.skip("takes long: pytest --every-onnx-case runs it")
    check_network(path, run)


# ---- by compiled kernels -------------------------------------------------------------------------------------------------

#: The operators that issue no. 4 promises, and how many of their cases run by default: each compiles a kernel.
PROMISED = """
    Conv ConvTranspose Gemm MatMul MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool LRN BatchNormalization
    InstanceNormalization GroupNormalization LayerNormalization Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid Tanh
    Softplus Softsign Mish Gelu HardSwish Swish Clip ThresholdedRelu Erf Softmax LogSoftmax Add Sub Mul Div Pow Min Max Sum
    Mean Neg Abs Sqrt Exp Log Reciprocal Floor Ceil Round Sign Sin Cos Concat Split Slice Pad Resize Upsample DepthToSpace
    SpaceToDepth Transpose Reshape Flatten Squeeze Unsqueeze ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1
    ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp Dropout Identity Shape Size Gather Cast ConstantOfShape Range
"""
BY_DEFAULT = 1


@pytest.mark.filterwarnings("ignore::sevenloops.errors.FallbackWarning")
def test_cases_of_every_promised_operator_by_a_session(cases: tuple[Any, ...], every_onnx_case: bool) -> None:
    from sevenloops.bench.onnx_cases import with_constants

    chosen: dict[str, list[Any]] = {name: [] for name in PROMISED.split()}
    for case in cases:
        if case.operator in chosen and is_plain(case) and (every_onnx_case or len(chosen[case.operator]) < BY_DEFAULT):
            chosen[case.operator].append(case)
    missing = [name for name, some in chosen.items() if not some and name != "Upsample"]
    assert not missing
    failed = [found for some in chosen.values() for case in some if (found := complaint(with_constants(case), by_session))]
    assert not failed, "\n".join(failed)


@pytest.mark.filterwarnings("ignore::sevenloops.errors.FallbackWarning")
def test_models_converted_from_pytorch_by_a_session(every_onnx_case: bool) -> None:
    for case in converted()[:: 1 if every_onnx_case else 12]:
        model, inputs, outputs = stored(Path(case.model_dir))
        for got, wanted in zip(by_session(model, inputs), outputs):
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5, err_msg=case.name)


def test_the_backend_runs_models_and_nodes() -> None:
    from sevenloops.onnx_backend import SevenLoopsBackend

    x = np.array([[-1, 2, -3]], np.float32)
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    assert SevenLoopsBackend.run_node(node, [x])[0].tolist() == [[0, 2, 0]]
    info = [onnx.helper.make_tensor_value_info(name, 1, [1, 3]) for name in "xy"]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", info[:1], info[1:]))
    ready = SevenLoopsBackend.prepare(model)
    assert ready.run([x])[0].tolist() == ready.run({"x": x})[0].tolist() == [[0, 2, 0]]
    with pytest.raises(GraphError, match="the inputs are x; got 2"):
        ready.run([x, x])
    assert SevenLoopsBackend.supports_device("CPU")
    assert not SevenLoopsBackend.supports_device("CUDA:0")


def test_the_page_of_operators_is_up_to_date(cases: tuple[Any, ...]) -> None:
    from sevenloops.bench.operators import page, table

    stored_page = (Path(__file__).parents[1] / "docs" / "operators.md").read_text(encoding="utf-8")
    if f"onnx {onnx.__version__}. " not in stored_page:
        pytest.skip(f"docs/operators.md was made with another version than onnx {onnx.__version__}")
    assert page(table(cases)) == stored_page, "run: python -m sevenloops.bench.operators docs/operators.md"
