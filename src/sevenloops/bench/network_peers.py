"""Whole networks in each engine: the same ONNX file, weights packed and buffers bound before the timing."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import os
import pickle
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import Unsupported
from .engines import Prepared, Settings, fastest

__all__ = ["PREPARE", "NetworkTask", "load_outputs", "peak_bytes", "reference_outputs", "save_outputs"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class NetworkTask:
    """What the engines are given: ONNX files by the road on which shifts go ("" where there are none), and the inputs.

    `graph` is the pickled graph of a network with shifts, for our own engine: ONNX has no shift.
    """

    files: Mapping[str, Path]
    graph: Path | None
    feeds: Mapping[str, Array]

    def to_values(self, feeds: Path) -> dict[str, Any]:
        """Plain values for a request to a worker; the inputs go into the file `feeds`."""
        np.savez(feeds, **self.feeds)  # type: ignore[arg-type]
        files = {road: str(path) for road, path in self.files.items()}
        return {"files": files, "graph": str(self.graph) if self.graph else None, "feeds": str(feeds)}

    @classmethod
    def from_values(cls, files: Mapping[str, str], graph: str | None, feeds: str) -> NetworkTask:
        """What `to_values` wrote."""
        with np.load(feeds) as stored:
            arrays = {name: stored[name] for name in stored.files}
        return cls({road: Path(path) for road, path in files.items()}, Path(graph) if graph else None, arrays)


def save_outputs(path: str, outputs: list[Array]) -> None:
    """Write the outputs of one run, in the order of the network's outputs."""
    np.savez(path, *outputs)


def load_outputs(path: Path) -> list[Array]:
    """Read what `save_outputs` wrote."""
    with np.load(path) as stored:
        return [stored[name] for name in stored.files]


def peak_bytes() -> int | None:
    """The most memory that this process has had so far, where Linux says it (`getrusage` begins with the parent's)."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else None


Build = Callable[[Path], Prepared]


def _ways(task: NetworkTask, kinds: Mapping[str, Build]) -> Prepared:
    """Every kind of building on every road; the fastest is kept and named. The peak of memory is that of the first alone."""
    peaks: list[int | None] = []
    ways: dict[str, Callable[[], Prepared]] = {}
    for (road, path), (kind, build) in itertools.product(task.files.items(), kinds.items()):
        ways[", ".join(filter(None, (road, kind)))] = _building(build, path, peaks)
    best = fastest(ways)
    return dataclasses.replace(best, details={**best.details, "peak_bytes": peaks[0]})


def _building(build: Build, path: Path, peaks: list[int | None]) -> Callable[[], Prepared]:
    """The details have what the start of this way took: loading, compiling or optimising, and a first run."""

    def timed() -> Prepared:
        start = time.perf_counter()
        prepared = build(path)
        prepared.run()
        peaks.append(peak_bytes())
        return dataclasses.replace(prepared, details={**prepared.details, "start_s": time.perf_counter() - start})

    return timed


def _sevenloops(task: NetworkTask, settings: Settings) -> Prepared:
    """A session as users have it: inputs are taken, and outputs given, as new arrays in every run."""
    from ..session import InferenceSession

    model = pickle.loads(task.graph.read_bytes()) if task.graph else str(next(iter(task.files.values())))  # our parent's
    feeds, last = dict(task.feeds), list[Any]()
    shapes = {name: array.shape for name, array in feeds.items()}
    session = InferenceSession(model, threads=settings.threads, accuracy=settings.accuracy, shapes=shapes)

    def run() -> None:
        last[:] = session.run(None, feeds)

    plan = session.plan(shapes)
    details: dict[str, Any] = {"steps": len(plan.steps), "arena_bytes": plan.memory.total_bytes}
    details["macs_executed"] = sum(step.macs_executed for step in plan.steps)
    details["not_compiled"] = sorted({step.op for step in plan.steps if step.kernel is None})
    return Prepared(run, lambda: last, f"{len(plan.steps)} steps", details)


def _onnxruntime(task: NetworkTask, settings: Settings) -> Prepared:
    """Inputs and outputs are bound once; with all optimisations, or all but the blocked layout."""
    import onnxruntime as ort

    levels = ort.GraphOptimizationLevel

    def build(level: Any) -> Build:
        def with_file(path: Path) -> Prepared:
            options = ort.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = settings.threads, 1
            options.graph_optimization_level = level
            options.log_severity_level = 3
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            binding = session.io_binding()
            for name, array in task.feeds.items():
                binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array)))
            for output, array in zip(session.get_outputs(), session.run(None, dict(task.feeds))):
                binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(array))
            return Prepared(lambda: session.run_with_iobinding(binding), binding.copy_outputs_to_cpu)

        return with_file

    return _ways(task, {"all": build(levels.ORT_ENABLE_ALL), "extended": build(levels.ORT_ENABLE_EXTENDED)})


def _openvino(task: NetworkTask, settings: Settings) -> Prepared:
    """Latency hint, float32; inputs are set once."""
    import openvino as ov

    core = ov.Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": settings.threads}

    def build(path: Path) -> Prepared:
        network = core.read_model(str(path))
        network.reshape({name: list(array.shape) for name, array in task.feeds.items()})
        compiled = core.compile_model(network, "CPU", hints)
        request = compiled.create_infer_request()
        arrays = {name: np.ascontiguousarray(array) for name, array in task.feeds.items()}
        for name, array in arrays.items():
            request.set_tensor(name, ov.Tensor(array, shared_memory=True))

        def run(keep: Any = (core, compiled, arrays)) -> None:  # a tensor does not own the array that it shares
            request.start_async()
            request.wait()

        return Prepared(run, lambda: [np.array(request.get_output_tensor(i).data) for i in range(len(compiled.outputs))])

    return _ways(task, {"": build})


def _mnn(task: NetworkTask, settings: Settings) -> Prepared:
    """Converted by MNN's own tool; full precision. A run overwrites its inputs, so they are copied in every time."""
    import MNN

    converter = importlib.import_module("_tools")  # what MNN.tools.mnnconvert calls

    def build(path: Path) -> Prepared:
        with tempfile.TemporaryDirectory(prefix="sevenloops-mnn-") as folder:
            converted = str(Path(folder, "model.mnn"))
            words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(path), "--MNNModel", converted, "--bizCode", "none"]
            if not converter.mnnconvert(words) or not os.path.exists(converted):
                raise Unsupported("MNN cannot convert this network")
            engine = MNN.Interpreter(converted)
        session = engine.createSession({"backend": "CPU", "numThread": settings.threads, "precision": "high"})
        for name, array in task.feeds.items():
            engine.resizeTensor(engine.getSessionInput(session, name), array.shape)
        engine.resizeSession(session)
        inputs = {name: _mnn_tensor(MNN, np.ascontiguousarray(array)) for name, array in task.feeds.items()}
        slots = {name: engine.getSessionInput(session, name) for name in inputs}
        outputs = list(engine.getSessionOutputAll(session).values())
        hosts = [_mnn_tensor(MNN, np.zeros(output.getShape(), np.float32)) for output in outputs]

        def run() -> None:
            for name, tensor in inputs.items():
                slots[name].copyFrom(tensor)
            engine.runSession(session)
            for output, host in zip(outputs, hosts):
                output.copyToHostTensor(host)

        return Prepared(run, lambda: [np.array(host.getNumpyData()).reshape(host.getShape()) for host in hosts])

    return _ways(task, {"": build})


def _mnn_tensor(library: Any, array: Array) -> Any:
    return library.Tensor(array.shape, library.Halide_Type_Float, array, library.Tensor_DimensionType_Caffe)


def _torch(task: NetworkTask, settings: Settings) -> Prepared:
    """The graph as a module, channels last: run eagerly, or traced, frozen and fused for inference."""
    import torch

    from ..graph.onnx_import import load_onnx
    from .torch_model import outputs, peer

    torch.set_num_threads(settings.threads)
    torch.inference_mode(True).__enter__()  # for the rest of this process
    sizes = {name: array.shape for name, array in task.feeds.items()}

    def build(frozen: bool) -> Build:
        def with_file(path: Path) -> Prepared:
            graph = load_onnx(path)
            module = peer(graph, sizes)
            inputs = [_channels_last(torch.from_numpy(np.array(task.feeds[value.name]))) for value in graph.inputs]
            if frozen:
                with _quiet():
                    module = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.trace(module, tuple(inputs))))
            last: list[Any] = []

            def run() -> None:
                last[:] = outputs(module(*inputs))

            return Prepared(run, lambda: [result.numpy() for result in last])

        return with_file

    return _ways(task, {"eager": build(False), "frozen": build(True)})


def _torch_compile(task: NetworkTask, settings: Settings) -> Prepared:
    raise Unsupported("torch-compile is compared on training steps only: sevenloops bench train")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every number that it takes for a constant, and of its own end
        yield


def _channels_last(tensor: Any) -> Any:
    import torch

    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def reference_outputs(task: NetworkTask) -> list[Array]:
    """The outputs in float64, by PyTorch; raises `Unsupported` for operators that are not converted."""
    from ..graph.onnx_import import load_onnx
    from .torch_model import compute

    return compute(load_onnx(next(iter(task.files.values()))), task.feeds)


#: engine -> how it prepares a network
PREPARE: dict[str, Callable[[NetworkTask, Settings], Prepared]] = {
    "sevenloops": _sevenloops,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "mnn": _mnn,
    "torch": _torch,
    "torch-compile": _torch_compile,
}
