"""ONNX Runtime and OpenVINO as peers: a network of one operation with its epilogue, weights as constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import Unsupported
from ..inputs import FloatArray, Inputs
from ..problem import ConvProblem, GemmProblem, Problem
from .engines import Prepared, fastest
from .shift_roads import ROADS, depthwise_road, slices_road

__all__ = ["build_model", "prepare_onnxruntime", "prepare_openvino"]

OPSET, IR_VERSION = 21, 10  # read by every release since the middle of 2024
OPERATORS = {"relu": "Relu", "leaky_relu": "LeakyRelu", "hard_swish": "HardSwish", "sigmoid": "Sigmoid"}


def build_model(problem: Problem, inputs: Inputs, road: str = "") -> bytes:
    """The problem as an ONNX file: input `x` (NCHW or matrix), output `y`, everything else constant.

    `road` says how channels are shifted (see `shift_roads`).
    """
    from onnx import helper

    build = _Graph(np.dtype(problem.dtype))
    if isinstance(problem, GemmProblem):
        v = build.gemm(problem, inputs)
    else:
        v = build.shifted(problem, inputs, road) if problem.shift else build.conv(problem, inputs)
    build.epilogue(problem, inputs, v)
    x = helper.make_tensor_value_info("x", build.element, _channels_first(inputs.x, problem).shape)
    y = helper.make_tensor_value_info("y", build.element, _output_shape(problem))
    graph = helper.make_graph(build.nodes, "one_operation", [x], [y], build.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()  # type: ignore[no-any-return]


class _Graph:
    """Nodes and constants of the graph under construction."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        from onnx import helper

        self.dtype, self.nodes, self.constants = dtype, list[Any](), list[Any]()
        self.element = helper.np_dtype_to_tensor_dtype(dtype)

    def constant(self, name: str, value: Any, dtype: Any = None) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype or self.dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def conv(self, problem: ConvProblem, inputs: Inputs) -> str:
        operands = ["x", self.constant("w", inputs.w)]
        if inputs.bias is not None:
            operands.append(self.constant("bias", inputs.bias))
        pads = [pair[side] for side in (0, 1) for pair in problem.padding]
        attributes: dict[str, Any] = {"output_padding": problem.output_padding} if problem.transposed else {}
        return self.add(
            "ConvTranspose" if problem.transposed else "Conv",
            *operands,
            kernel_shape=problem.kernel,
            strides=problem.stride,
            dilations=problem.dilation,
            group=problem.groups,
            pads=pads,
            **attributes,
        )

    def shifted(self, problem: ConvProblem, inputs: Inputs, road: str) -> str:
        if road == "depthwise":
            v, w = self.depthwise_road(problem), inputs.w
        else:
            v, w = self.slices_road(problem), inputs.w[:, slices_road(problem).order]
        operands = [v, self.constant("w", w)]
        if inputs.bias is not None:
            operands.append(self.constant("bias", inputs.bias))
        return self.add("Conv", *operands, kernel_shape=problem.kernel)

    def depthwise_road(self, problem: ConvProblem) -> str:
        road = depthwise_road(problem)
        return self.add(
            "Conv",
            "x",
            self.constant("one_hot", road.weight),
            kernel_shape=road.weight.shape[2:],
            strides=problem.stride,
            dilations=road.dilation,
            group=problem.in_channels,
            pads=road.padding * 2,
        )

    def slices_road(self, problem: ConvProblem) -> str:
        road, rank = slices_road(problem), problem.rank
        integers = lambda name, values: self.constant(name, values, np.int64)  # noqa: E731
        pads = [0, 0, *(b for b, _ in road.padding), 0, 0, *(a for _, a in road.padding)]
        padded = self.add("Pad", "x", integers("pads", pads))
        axes, parts = integers("axes", range(1, rank + 2)), []
        for index, ((first, end, step), start) in enumerate(road.slices):
            ends = [end, *(a + size for a, size in zip(start, problem.in_size))]
            bounds = {"starts": [first, *start], "ends": ends, "steps": [step, *problem.stride]}
            starts, ends_, steps = (integers(f"{name}{index}", values) for name, values in bounds.items())
            parts.append(self.add("Slice", padded, starts, ends_, axes, steps))
        return self.add("Concat", *parts, axis=1)

    def gemm(self, problem: GemmProblem, inputs: Inputs) -> str:
        plain = problem.alpha == 1 and inputs.c is None and inputs.bias is None
        if plain and not problem.trans_a and not problem.trans_b:
            return self.add("MatMul", "x", self.constant("w", inputs.w))
        operands, beta = ["x", self.constant("w", inputs.w)], 1.0
        if inputs.c is not None:
            operands, beta = [*operands, self.constant("c", inputs.c)], problem.beta
        elif inputs.bias is not None:
            operands.append(self.constant("bias", inputs.bias))
        sides = {"transA": int(problem.trans_a), "transB": int(problem.trans_b)}
        v = self.add("Gemm", *operands, alpha=problem.alpha, beta=beta, **sides)
        both = inputs.c is not None and inputs.bias is not None
        return self.add("Add", v, self.constant("bias", inputs.bias)) if both else v

    def epilogue(self, problem: Problem, inputs: Inputs, v: str) -> None:
        where = problem.epilogue.residual
        residual = None
        if inputs.residual is not None:
            residual = self.constant("residual", _channels_first(inputs.residual, problem))
        if residual and where == "before":
            v = self.add("Add", v, residual)
        v = self.activation(problem, v)
        if residual and where == "after":
            self.add("Add", v, residual)
        self.nodes[-1].output[0] = "y"

    def activation(self, problem: Problem, v: str) -> str:
        name, params = problem.epilogue.activation, problem.epilogue.params
        if name == "none":
            return v
        if name == "silu":
            return self.add("Mul", v, self.add("Sigmoid", v))
        if name == "clip":
            bounds = [self.constant(bound, value) for bound, value in zip(("low", "high"), params)]
            return self.add("Clip", v, *bounds)
        attributes = {"alpha": params[0]} if name == "leaky_relu" else {}
        return self.add(OPERATORS[name], v, **attributes)


def _channels_first(array: FloatArray, problem: Problem) -> FloatArray:
    if not isinstance(problem, ConvProblem):
        return array
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def _output_shape(problem: Problem) -> tuple[int, ...]:
    if not isinstance(problem, ConvProblem):
        return problem.y_shape
    return (problem.batch, problem.out_channels, *problem.out_size)


def _channels_last(y: FloatArray, problem: Problem) -> FloatArray:
    return np.moveaxis(y, 1, -1) if isinstance(problem, ConvProblem) else y


def prepare_onnxruntime(problem: Problem, inputs: Inputs, threads: int) -> Prepared:
    """Input and output are bound once (no copies are timed); with all optimisations, or all but the blocked layout."""
    import onnxruntime as ort

    x = ort.OrtValue.ortvalue_from_numpy(_channels_first(inputs.x, problem))
    levels = ort.GraphOptimizationLevel

    def build(level: Any, road: str) -> Prepared:
        model = build_model(problem, inputs, road)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = level
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class of their own
            raise Unsupported(f"ONNX Runtime: {error}") from error
        y = ort.OrtValue.ortvalue_from_shape_and_type(list(_output_shape(problem)), np.dtype(problem.dtype))
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)
        return Prepared(lambda: session.run_with_iobinding(binding), lambda: _channels_last(y.numpy(), problem))

    kinds = {"all": levels.ORT_ENABLE_ALL, "extended": levels.ORT_ENABLE_EXTENDED}
    return fastest(_ways(problem, kinds, build))


def _ways(
    problem: Problem, kinds: dict[str, Any], build: Callable[[Any, str], Prepared]
) -> dict[str, Callable[[], Prepared]]:
    """Every kind of building, on every road where the problem needs one."""
    shifted = isinstance(problem, ConvProblem) and problem.shift is not None
    roads = {f"{road}, ": road for road in ROADS} if shifted else {"": ""}
    make = lambda kind, road: lambda: build(kind, road)  # noqa: E731
    return {prefix + name: make(kind, road) for prefix, road in roads.items() for name, kind in kinds.items()}


def prepare_openvino(problem: Problem, inputs: Inputs, threads: int) -> Prepared:
    """Input and output are set once; latency hint, float32; images channels first, or channels last at the edges."""
    import openvino as ov

    if problem.dtype != "float32":
        raise Unsupported(f"OpenVINO on a CPU computes no {problem.dtype}")
    core = ov.Core()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_NUM_THREADS"] = threads

    def build(last: bool, road: str) -> Prepared:
        network = core.read_model(build_model(problem, inputs, road))
        if last:
            network = _with_channels_last(network, problem)
        compiled = core.compile_model(network, "CPU", settings)
        x = np.ascontiguousarray(inputs.x) if last else _channels_first(inputs.x, problem)
        y = np.empty(tuple(compiled.output(0).shape), problem.dtype)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        request.set_output_tensor(ov.Tensor(y, shared_memory=True))

        def run(keep: Any = (core, compiled, x)) -> None:  # a tensor does not own the array that it shares
            request.start_async()
            request.wait()

        return Prepared(run, (lambda: y) if last else (lambda: _channels_last(y, problem)))

    kinds = {"channels first": False}
    if isinstance(problem, ConvProblem):
        kinds["channels last"] = True
    return fastest(_ways(problem, kinds, build))


def _with_channels_last(network: Any, problem: Problem) -> Any:
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    axes = "DHW"[3 - len(problem.y_shape[1:-1]) :]
    edges = PrePostProcessor(network)
    for edge in (edges.input(), edges.output()):
        edge.tensor().set_layout(Layout(f"N{axes}C"))
        edge.model().set_layout(Layout(f"NC{axes}"))
    return edges.build()
