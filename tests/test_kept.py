"""Programs kept on disk: found by what they depend on, equal bit for bit, rebuilt when damaged, never stale."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operands import Array
from sevenloops.errors import CacheWarning, GraphError
from sevenloops.graph import kept
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.program import Program
from sevenloops.session import InferenceSession

SHAPE = (1, 8, 9, 9)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "net.onnx", seed=0)


@pytest.fixture(autouse=True)
def no_programs() -> Any:
    kept.clear()
    yield
    kept.clear()


def written(path: Path, seed: int, size: Any = 9) -> Path:
    net = GraphBuilder("net", seed=seed)
    x = net.input("x", (1, 8, size, size))
    y = net.relu(net.conv(x, 16, 3, padding=1))
    net.graph(y=net.conv(net.concat([y, net.relu(y)]), 8, 1), z=net.global_average_pool(y)).save_onnx(path)
    return path


def image(shape: tuple[int, ...] = SHAPE) -> dict[str, Array]:
    return {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def same(a: list[Array], b: list[Array]) -> bool:
    return all(left.tobytes() == right.tobytes() for left, right in zip(a, b))


def test_a_kept_program_gives_the_same_bits(model: Path) -> None:
    plain = InferenceSession(model)
    assert plain.kept_bytes == 0 and not kept.entries()
    first = InferenceSession(model, cache_weights=True)
    (entry,) = kept.entries()
    assert first.kept_bytes == entry.size_bytes == entry.path.stat().st_size and entry.algorithm == "(program of net)"
    again = InferenceSession(model)  # nobody has to ask for it again
    assert again._planner is None and again.kept_bytes == entry.size_bytes
    expected = plain.run(None, image())
    assert same(first.run(None, image()), expected) and same(again.run(None, image()), expected)
    assert same(again.run(["z"], image()), expected[1:])
    assert again.get_inputs() == plain.get_inputs() and again.get_outputs() == plain.get_outputs()
    assert again._planner is None
    assert str(again.plan()) == str(plain.plan()) and again.graph.params == plain.graph.params
    assert same(InferenceSession(model.read_bytes()).run(None, image()), expected)


def test_a_process_that_runs_one_imports_no_planner(model: Path) -> None:
    code = f"""
import sys, numpy as np
from sevenloops import InferenceSession
session = InferenceSession({str(model)!r}, cache_weights=True)
session.run(None, {{"x": np.ones({SHAPE}, np.float32)}})
print(*sys.modules)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "sevenloops.graph.program" in modules
    planned = {"sevenloops.graph.planner", "sevenloops.graph.onnx_import", "sevenloops.graph.passes", "onnx", "halide"}
    assert not modules & planned


def test_programs_are_data(model: Path) -> None:
    program = InferenceSession(model).plan().program
    assert Program.from_json(json.loads(json.dumps(program.to_json()))) == program
    assert str(program).count("constant0+0") >= 1 and "arena" in str(program)
    assert program != InferenceSession(written(model.with_name("wide.onnx"), 0, 11)).plan().program


def test_what_it_depends_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = InferenceSession(model, cache_weights=True)
    for options in ({"accuracy": "strict"}, {"passes": False}, {"shapes": {"x": SHAPE}}):
        assert InferenceSession(model, **options)._planner is not None, options
    assert InferenceSession(model, threads=1)._planner is None
    written(model, seed=5)  # as long as before
    other = InferenceSession(model)
    assert other._planner is not None and not same(other.run(None, image()), first.run(None, image()))
    written(model, seed=0)
    assert InferenceSession(model)._planner is None
    monkeypatch.setattr(kept, "digest_of", lambda files: "other sources")
    assert InferenceSession(model)._planner is not None


@pytest.mark.parametrize("damage", ["end", "head", "weights", "empty", "pickle"])
def test_a_damaged_program_is_not_run(model: Path, damage: str) -> None:
    expected = InferenceSession(model, cache_weights=True).run(None, image())
    (entry,) = kept.entries()
    data = bytearray(entry.path.read_bytes())
    if damage == "end":
        del data[-100:]
    elif damage == "empty":
        data.clear()
    elif damage == "pickle":
        data[:] = b"\x80\x04." + bytes(5000)
    else:
        data[60 if damage == "head" else -20] ^= 1
    entry.path.write_bytes(data)
    session = InferenceSession(model)
    assert session._planner is not None and session.kept_bytes == 0
    assert same(session.run(None, image()), expected)
    assert damage == "empty" or not entry.path.exists()
    assert InferenceSession(model, cache_weights=True).kept_bytes == len(entry.path.read_bytes())
    assert InferenceSession(model)._planner is None


def test_a_folder_that_others_may_write_to(model: Path) -> None:
    InferenceSession(model, cache_weights=True)
    os.chmod(kept.folder(), 0o777)
    try:
        from sevenloops.compile import cache

        cache._warned.clear()
        with pytest.warns(CacheWarning, match="others may write"):
            assert InferenceSession(model)._planner is not None
    finally:
        os.chmod(kept.folder(), stat.S_IRWXU)


def test_sizes(model: Path, tmp_path: Path) -> None:
    fixed = InferenceSession(model, cache_weights=True)
    assert fixed.run(None, image())[0].shape == (1, 8, 9, 9)
    loose = written(tmp_path / "open.onnx", 0, "size")
    with pytest.raises(GraphError, match="cache_weights needs shapes"):
        InferenceSession(loose, cache_weights=True)
    InferenceSession(loose, shapes={"x": SHAPE}, cache_weights=True)
    session = InferenceSession(loose, shapes={"x": SHAPE})
    assert session._planner is None
    assert same(session.run(None, image()), fixed.run(None, image()))
    assert session._planner is None and session.get_inputs()[0].shape == (1, 8, "size", "size")
    assert session.run(None, image((1, 8, 7, 7)))[0].shape == (1, 8, 7, 7)  # planned now
    assert same(session.run(None, image()), fixed.run(None, image()))


def test_a_model_that_changed_behind_a_kept_program(tmp_path: Path) -> None:
    loose = written(tmp_path / "open.onnx", 0, "size")
    for _ in range(2):
        session = InferenceSession(loose, shapes={"x": SHAPE}, cache_weights=True)
    expected = session.run(None, image())
    written(loose, 3, "size")
    assert same(session.run(None, image()), expected)
    with pytest.raises(GraphError, match="has changed"):
        session.run(None, image((1, 8, 7, 7)))


def test_what_cannot_be_kept(model: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the model has an operator that only onnx's evaluator computes")
    graph = InferenceSession(model).graph
    with pytest.raises(GraphError, match="got a Graph"):
        InferenceSession(graph, cache_weights=True)
    helper = onnx.helper
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    ports = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", [2, 2]), ("y", []))
    ]
    path = tmp_path / "det.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "det", ports[:1], ports[1:]), ir_version=10), path)
    with pytest.warns(Warning) as warned:
        assert InferenceSession(path, cache_weights=True).kept_bytes == 0
    assert any("determinant is computed in Python" in str(warning.message) for warning in warned)


def test_more_memory_than_there_may_be(model: Path) -> None:
    InferenceSession(model, cache_weights=True)
    assert InferenceSession(model, max_bytes=10**6)._planner is None
    with pytest.raises(GraphError, match="max_bytes"):
        InferenceSession(model, max_bytes=1000)


def test_old_programs_go(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = InferenceSession(model, cache_weights=True).kept_bytes
    monkeypatch.setattr(kept, "MAX_BYTES", size + 100)
    InferenceSession(written(tmp_path / "other.onnx", 7), cache_weights=True)
    (entry,) = kept.entries()
    assert InferenceSession(model)._planner is not None and entry.size_bytes <= size + 100
