"""Settings of every test: a kernel cache that starts empty, and repeatable random problems in CI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# No deadline: the first example of a property may compile a kernel.
settings.register_profile("local", deadline=None, max_examples=30)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-onnx-case", action="store_true", help="run all conformance cases of onnx by compiled kernels")
    parser.addoption("--late-runs", type=int, help="run every row of the problem tables so often, with tasks that come late")


@pytest.fixture
def every_onnx_case(request: pytest.FixtureRequest) -> bool:
    """Whether the conformance tests of onnx run in full, which compiles some thousand kernels."""
    return bool(request.config.getoption("--every-onnx-case"))


@pytest.fixture
def late_runs(request: pytest.FixtureRequest) -> int | None:
    """How often the tests of determinism run each row of the problem tables; None: a sample of them, a few times."""
    runs: int | None = request.config.getoption("--late-runs")
    return runs


@pytest.fixture
def one_thread() -> Iterator[None]:
    """One thread for PyTorch: in tiny layers its threads take most of the time waiting for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def seven_algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A table of the algorithms whose order by predicted time the tests of the choice know; and no choice remembered."""
    from sevenloops import choice
    from sevenloops.algorithms import ALGORITHMS

    for name in set(ALGORITHMS) - {"depthwise", "pointwise", "direct", "gemv", "gemm", "im2col", "naive"}:
        monkeypatch.delitem(ALGORITHMS, name)
    choice._choose.cache_clear()
    yield
    choice._choose.cache_clear()


@pytest.fixture
def no_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither shipped nor own tuned records; those that a test makes go to its own folder."""
    from sevenloops import records

    monkeypatch.setattr(records, "SHIPPED", tmp_path / "default.jsonl")
    monkeypatch.setattr(records, "path", lambda: tmp_path / "tuned.jsonl")
    yield
    records._forget()


@pytest.fixture(scope="session", autouse=True)
def fresh_cache() -> Iterator[None]:
    """Compile everything again: a kernel left by an older version of the code must not pass a test.

    Set SEVENLOOPS_CACHE_DIR to keep the kernels between runs while working on the tests themselves.
    """
    if "SEVENLOOPS_CACHE_DIR" in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="sevenloops-test-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEVENLOOPS_CACHE_DIR", folder)
        yield
