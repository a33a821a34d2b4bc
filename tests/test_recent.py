"""What a process keeps of the kernels it has met: a bounded number, and nothing that is in use goes."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sevenloops
from sevenloops import conv2d, functional, matmul
from sevenloops.arrays import address
from sevenloops.compile import Kernel, choices, layer
from sevenloops.compile import kernel as kernel_module
from sevenloops.problem import ConvProblem
from sevenloops.recent import Recent

RNG = np.random.default_rng(5)
#: Widths of images, each with a kernel of its own; and of one whose layout is converted by compiled layers.
WIDTHS, LARGE = range(3, 15), 70
W = RNG.integers(-2, 3, (5, 3, 2, 2)).astype(np.float32)
TABLES: list[tuple[Any, str]] = [
    (functional, "_conv_kernels"), (functional, "_gemm_kernels"), (sys.modules["sevenloops.compile"], "_kernels"),
    (layer, "_loaded"), (choices, "_known"),
]  # fmt: skip


def image(width: int) -> np.ndarray[Any, Any]:
    return RNG.integers(-2, 3, (1, 3, width, width)).astype(np.float32)


def right(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> bool:
    """Whether y is x convolved with W, by its definition."""
    n = x.shape[-1] - 1
    windows = [x[0, :, ky : ky + n, kx : kx + n] for ky in range(2) for kx in range(2)]
    expected = sum(np.einsum("chw,oc->ohw", part, W[:, :, k // 2, k % 2]) for k, part in enumerate(windows))
    return np.array_equal(y[0], expected)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables that keep two entries."""
    for module, name in TABLES:
        monkeypatch.setattr(module, name, Recent(2))


def mappings() -> int:
    gc.collect()
    return len(Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())


def test_what_is_used_stays() -> None:
    table: Recent[int, str] = Recent(10)
    for key in range(1000):
        table.keep(key, str(key))
        assert table.find(0) == "0"
        assert len(table) <= 11  # the one that is used may be in both generations
    assert table.find(999) == "999"
    assert table.find(500) is None
    assert table.keep(0, "another") == "0"


@pytest.mark.usefixtures("few")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are read from /proc")
def test_ever_new_shapes_do_not_grow() -> None:
    """Memory mappings and tables stay as they are after the first shapes, and every result is right."""
    sevenloops.compile_many([ConvProblem(1, 3, (width, width), 5, (2, 2)) for width in WIDTHS])
    found = []
    for width in WIDTHS:
        x = image(width)
        assert right(x, conv2d(x, W))
        a, b = x[0, 0], x[0, 1]
        np.testing.assert_array_equal(matmul(a, b, algorithm="naive"), a @ b)
        found.append(mappings())
        assert max(len(getattr(module, name)) for module, name in TABLES) <= 2
    assert max(found) - found[2] <= 4, found  # a kernel takes two


@pytest.mark.usefixtures("few")
def test_a_kernel_that_is_held_outlives_the_tables() -> None:
    x = image(LARGE)
    kernel = sevenloops.compile(ConvProblem(1, 3, (LARGE, LARGE), 5, (2, 2)))
    bound = kernel.bind(np.ascontiguousarray(np.moveaxis(x, 1, -1)), kernel.pack(W))
    function, arrays = kernel.loaded.run, bound.keep
    del kernel
    for width in WIDTHS:
        conv2d(image(width), W)
    gc.collect()
    assert right(x, np.moveaxis(bound.run(), -1, 1))
    del bound
    gc.collect()
    arrays[-1].fill(np.nan)
    assert function(*map(address, arrays)) == 0  # the bare function holds the code too
    assert right(x, np.moveaxis(arrays[-1], -1, 1))


@pytest.mark.usefixtures("few")
def test_threads_that_drive_out_each_others_kernels() -> None:
    wrong: list[int] = []

    def work(first: int) -> None:
        for turn in range(60):
            width = LARGE if turn % 4 == 0 else WIDTHS[(first + turn) % len(WIDTHS)]
            x = image(width)
            if not right(x, conv2d(x, W, threads=1 + turn % 2)):
                wrong.append(width)

    threads = [threading.Thread(target=work, args=(5 * at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_packed_weights_of_calls_share_buffers() -> None:
    """A thread keeps one buffer of a size, not one for each kernel that it has called."""
    kernel_module._buffers.by_bytes.clear()
    for width in WIDTHS:
        conv2d(image(width), W, algorithm="direct")
    assert len(kernel_module._buffers.by_bytes) == 1
    assert sum(kernel_module._buffers.by_bytes) <= 2 * kernel_module.MAX_KEPT_BYTES


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer signals")
def test_a_call_may_be_interrupted_by_another() -> None:
    """A signal handler that calls the same kernel with other weights does not disturb the call it interrupts."""
    x, results = image(9), []
    others = -W
    expected = conv2d(x, W, algorithm="direct")

    def handle(number: int, frame: object) -> None:
        results.append(np.array_equal(conv2d(x, others, algorithm="direct"), -expected))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(results) < 200:
            assert np.array_equal(conv2d(x, W, algorithm="direct"), expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(results)


def test_kernels_are_kept_by_default() -> None:
    problem = ConvProblem(1, 3, (9, 9), 5, (2, 2))
    first = sevenloops.compile(problem)
    assert isinstance(first, Kernel)
    assert sevenloops.compile(problem) is first
