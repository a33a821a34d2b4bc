"""The compile room: cache, workers, pool, machines that are not this one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sevenloops
from sevenloops.algorithms import ALGORITHMS
from sevenloops.compile.build import build_image
from sevenloops.compile.workers import run_job
from sevenloops.descriptor import parse_problem
from sevenloops.errors import (
    ArrayError,
    CompileError,
    CompileTimeout,
    ProblemError,
    ScheduleError,
    Unsupported,
)
from sevenloops.machine import Machine, MachineError
from sevenloops.problem import ConvProblem
from sevenloops.schedule import Schedule


def conv_problem(text: str) -> ConvProblem:
    problem = parse_problem(text)
    assert isinstance(problem, ConvProblem)
    return problem


CONV = conv_problem("mb2 ic16 ih23 iw19 oc40 kh3 kw3 ph1 pw1 bias act=relu")
SOURCE = str(Path(sevenloops.__file__).parents[1])


def conv_inputs(problem: ConvProblem) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)

    def make(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    return make(*problem.x_shape), make(*problem.w_shape), make(problem.out_channels)


@pytest.mark.parametrize(
    ("algorithm", "problems"),
    [
        ("transposed", ["mb1 ic8 ih9 iw9 oc8 kh4 kw4 transposed", "mb1 ic8 ih9 iw9 oc8 kh4 kw4 sh2 sw2 transposed"]),
        ("naive", ["gemm m1 n64 k64", "gemm m1 n64 k64 tb"]),
    ],
)
def test_weights_packed_in_another_order_are_refused(algorithm: str, problems: list[str]) -> None:
    """The same weights, in buffers of the same shape, but not in the same order."""
    kernels = [sevenloops.compile(parse_problem(text), algorithm=algorithm, threads=1) for text in problems]
    x, w = ((1, 9, 9, 8), (8, 8, 4, 4)) if algorithm == "transposed" else ((1, 64), (64, 64))
    packed = [kernel.pack(np.ones(w, np.float32)) for kernel in kernels]
    assert packed[0].array.shape == packed[1].array.shape
    kernels[0](np.ones(x, np.float32), packed[0])
    with pytest.raises(ArrayError, match="must come from this kernel's pack"):
        kernels[1](np.ones(x, np.float32), packed[0])


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_a_job_that_takes_too_long_is_killed() -> None:
    start = time.perf_counter()
    with pytest.raises(CompileTimeout, match=r"took longer than 0\.2 s"):
        run_job(time.sleep, 30, time_limit_s=0.2)
    assert time.perf_counter() - start < 10


def test_a_worker_that_dies_is_an_error_and_the_next_job_works() -> None:
    with pytest.raises(CompileError, match="ended with code"):
        run_job(os._exit, 3)
    assert run_job(abs, -2) == 2


def test_many_at_once_in_order_and_reported() -> None:
    problems = [conv_problem(f"mb1 ic{ic} ih6 iw6 oc8 kh3 kw3") for ic in (3, 5, 7)]
    told: list[object] = []
    kernels = sevenloops.compile_many(problems, on_done=lambda problem, result: told.append(problem))
    assert [kernel.problem for kernel in kernels] == problems
    assert set(told) == set(problems) and len(told) == 3
    with pytest.raises(Unsupported, match="1x1"):
        sevenloops.compile_many(problems, algorithm="pointwise")


def test_errors_come_back_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError):
        run_job(divmod, 1, 0)


# ---- machines --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("isa", "magic", "elf_machine"), [("neon", b"\x7fELF", 183), ("avx2", b"\x7fELF", 62), ("sse4", b"\x7fELF", 62)]
)
@pytest.mark.parametrize("algorithm", ["direct", "depthwise", "naive"])
def test_objects_for_a_machine_that_is_not_this_one(isa: str, magic: bytes, elf_machine: int, algorithm: str) -> None:
    problem = CONV if algorithm != "depthwise" else conv_problem("mb1 g32 ic32 ih9 iw9 oc32 kh3 kw3 ph1 pw1")
    machine = Machine.described(isa, os="linux")
    schedule = ALGORITHMS[algorithm].schedules(problem, machine)[0]
    built = run_job(build_image, problem, schedule, machine, "kernel")
    assert len(built.objects) == 3
    for data in built.objects:
        assert data[:4] == magic
        assert int.from_bytes(data[18:20], "little") == elf_machine


def test_a_kernel_for_another_machine_is_refused_here() -> None:
    other = "neon" if Machine.host().arch == "x86-64" else "avx2"
    with pytest.raises(MachineError, match="cannot run here"):
        sevenloops.compile(CONV, machine=Machine.described(other))


# ---- choice ----------------------------------------------------------------------------------------------------------


def test_forcing() -> None:
    with pytest.raises(Unsupported, match="no algorithm 'magic'"):
        sevenloops.compile(CONV, algorithm="magic")
    with pytest.raises(Unsupported, match="1x1 kernels"):
        sevenloops.compile(CONV, algorithm="pointwise")
    with pytest.raises(ScheduleError, match="algorithm='naive' was asked"):
        sevenloops.compile(CONV, algorithm="naive", schedule=Schedule("direct"))
    with pytest.raises(ProblemError, match="threads"):
        sevenloops.compile(CONV, threads=0)


BAD_SCHEDULES = [
    ({"tile_pixels": 0}, "at least 1"),
    ({"tile_channels": 7}, "multiple"),
    ({"tile_pixels": 500, "task_pixels": 400}, "registers|does not hold"),
    ({"task_pixels": 10**6}, "does not hold"),
    ({"task_pixels": 20}, "whole rows"),
    ({"k_blocks": 3}, "must divide"),
    ({"unroll": 64}, "more than"),
    ({"channel_parts": 9}, "must divide"),
    ({"parallel": 1}, "True or False"),
    ({"extra": 1}, "exactly the parameters"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_SCHEDULES)
def test_a_schedule_that_does_not_fit(change: dict[str, int], reason: str) -> None:
    good = ALGORITHMS["direct"].schedules(CONV, Machine.host())[0]
    bad = Schedule("direct", **{**good.params, **change})
    with pytest.raises(ScheduleError, match=reason):
        sevenloops.compile(CONV, schedule=bad)


def test_a_schedule_of_ones_own() -> None:
    x, w, b = conv_inputs(CONV)
    lanes = Machine.host().lanes
    own = Schedule(
        "direct", tile_pixels=3, tile_channels=2 * lanes, task_pixels=38, channel_parts=1, k_blocks=1, unroll=2,
        parallel=True,
    )  # fmt: skip
    kernel, chosen = sevenloops.compile(CONV, schedule=own), sevenloops.compile(CONV, algorithm="direct")
    assert kernel.schedule == own and "given" in kernel.why
    np.testing.assert_array_equal(kernel(x, kernel.pack(w), bias=b), chosen(x, chosen.pack(w), bias=b))


def test_explain_tells_the_work() -> None:
    text = sevenloops.compile(CONV).explain(disassembly=True)
    for part in ("direct", "register tile", "MACs in the definition", "loop nest", "for (", "multiply-adds"):
        assert part in text


# ---- threads ---------------------------------------------------------------------------------------------------------


def test_results_are_the_same_bits_for_every_thread_count_and_run() -> None:
    problem = conv_problem("mb2 ic64 ih28 iw28 oc96 kh3 kw3 ph1 pw1")
    x, w, _ = conv_inputs(problem)
    results = []
    for threads in (1, 2, 64, None):
        kernel = sevenloops.compile(problem, threads=threads)
        assert kernel.threads <= Machine.host().cores
        results += [kernel(x, kernel.pack(w)) for _ in range(3)]
    assert all(np.array_equal(results[0], result) for result in results)


def test_many_python_threads_at_once() -> None:
    problem = conv_problem("mb1 ic32 ih28 iw28 oc64 kh3 kw3 ph1 pw1")
    rng = np.random.default_rng(5)
    w = rng.standard_normal(problem.w_shape).astype(np.float32)
    xs = [rng.standard_normal(problem.x_shape).astype(np.float32) for _ in range(8)]
    kernels = [sevenloops.compile(problem, threads=threads) for threads in (1, 2)]
    packed = kernels[0].pack(w)
    expected = [kernels[0](x, packed) for x in xs]
    wrong: list[int] = []

    def work(index: int) -> None:
        for turn in range(200):
            if not np.array_equal(kernels[turn % 2](xs[index], packed), expected[index]):
                wrong.append(index)
            if turn % 50 == 0:
                sevenloops.conv2d(xs[index], w, padding=1, layout="NHWC")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCE, **env}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )


PROGRAM = """
import numpy as np, sevenloops
x, w = np.ones((1, 32, 28, 28), np.float32), np.ones((32, 32, 3, 3), np.float32)
assert sevenloops.conv2d(x, w, padding=1, threads=2, accuracy='strict')[0, 0, 5, 5] == 288
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_computes_too() -> None:
    code = PROGRAM + (
        "import os, warnings; warnings.simplefilter('ignore')\n"
        "child = os.fork()\n"
        "assert sevenloops.conv2d(x, w, padding=1, threads=2, accuracy='strict')[0, 0, 5, 5] == 288\n"
        "if not child: os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_a_process_ends_cleanly() -> None:
    done = run_python(PROGRAM)
    assert (done.returncode, done.stderr) == (0, "")


def test_processes_share_one_empty_cache(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jobs = [
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", PROGRAM],
                env={**os.environ, "PYTHONPATH": SOURCE, "SEVENLOOPS_CACHE_DIR": str(tmp_path)},
            )
            for _ in range(4)
        ]
        assert [job.wait(120) for job in jobs] == [0, 0, 0, 0]
