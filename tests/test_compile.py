"""The compile room: cache, workers, pool, machines that are not this one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
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
from sevenloops import machine_measure, records
from sevenloops.algorithms import ALGORITHMS
from sevenloops.compile import cache, choices, store, workers
from sevenloops.compile.build import KernelImage, build_image
from sevenloops.compile.workers import run_job
from sevenloops.descriptor import parse_problem
from sevenloops.errors import (
    ArrayError,
    CacheWarning,
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


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


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


def image(problem: ConvProblem = CONV) -> KernelImage:
    machine = Machine.host()
    return store.kernel_image(problem, ALGORITHMS["direct"].schedules(problem, machine)[0], machine, 60.0)


# ---- cache -----------------------------------------------------------------------------------------------------------


def test_second_build_comes_from_the_cache(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image()
    monkeypatch.setattr(workers, "run_job", lambda *args, **kwargs: pytest.fail("compiled again"))
    assert image() == first
    (entry,) = cache.entries()
    assert (entry.problem, entry.algorithm) == (str(CONV), "direct")
    assert entry.size_bytes == entry.path.stat().st_size > 1000
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "empty", "renamed"])
def test_damaged_file_is_built_again(own_cache: Path, damage: str) -> None:
    good = image()
    (path,) = own_cache.glob("*.7k")
    data = path.read_bytes()
    broken = {
        "truncated": data[: len(data) // 2],
        "flipped": data[:-10] + bytes([data[-10] ^ 1]) + data[-9:],
        "foreign": b"\x7fELF" + data,
        "empty": b"",
        "renamed": data,
    }[damage]
    path.write_bytes(broken)
    if damage == "renamed":  # another kernel's file under this key
        other = conv_problem("mb1 ic16 ih9 iw9 oc16 kh3 kw3")
        image(other)
        (wrong,) = set(own_cache.glob("*.7k")) - {path}
        path.write_bytes(broken := wrong.read_bytes())
    again = image()
    assert (again.name, again.buffers) == (good.name, good.buffers)
    assert path.read_bytes() != broken
    assert str(CONV) in [entry.problem for entry in cache.entries()]


def test_a_folder_that_others_may_write_is_not_used(own_cache: Path) -> None:
    image()
    own_cache.chmod(0o777)
    with pytest.warns(CacheWarning, match="others may write"):
        assert image() is not None


def test_an_unwritable_cache_warns_and_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(blocked))
    with pytest.warns(CacheWarning, match="cannot be used"):
        assert image() is not None


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which even root can make none")
def test_a_cache_that_cannot_be_created_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", "/proc/sevenloops")
    with pytest.warns(CacheWarning, match="/proc/sevenloops/kernels cannot be used.*compiled again in each process") as told:
        assert image() is not None
        assert image() is not None
    assert len(told) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", ["kernel", "list", "records", "state", "speeds"])
def test_a_pipe_in_the_cache_folder_does_not_hang(own_cache: Path, what: str) -> None:
    machine = Machine.host()
    path, read = {
        "kernel": (own_cache / "k.7k", lambda: cache.read("k")),
        "list": (own_cache / "k.7k", cache.entries),
        "records": (records.path(), records.entries),
        "state": (records.path(), lambda: choices._state.__wrapped__(0, records.path())),
        "speeds": (machine_measure.stored_path(machine), lambda: machine_measure.with_stored(machine)),
    }[what]
    own_cache.mkdir(parents=True, mode=0o700)
    os.mkfifo(path)
    thread = threading.Thread(target=read, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        thread.start()
        thread.join(10)
    assert not thread.is_alive()


def test_a_full_disk_warns_and_leaves_nothing_behind(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(CacheWarning, match="No space left"):
        assert image() is not None
    assert list(own_cache.iterdir()) == []


def test_the_cache_is_bounded(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image()
    (entry,) = cache.entries()
    monkeypatch.setattr(cache, "MAX_BYTES", entry.size_bytes + 100)
    os.utime(entry.path, (1, 1))
    other = conv_problem("mb1 ic16 ih9 iw9 oc16 kh3 kw3")
    image(other)
    assert [kept.problem for kept in cache.entries()] == [str(other)]  # the least recently used one went
    assert cache.clear() == 1
    assert cache.entries() == []


def test_the_key_depends_on_everything_that_the_code_does() -> None:
    host, s = Machine.host(), Schedule("naive")
    keys = {
        store.image_key(CONV, s, host),
        store.image_key(CONV, Schedule("naive", x=1), host),
        store.image_key(conv_problem("mb1 ic16 ih9 iw9 oc16 kh3 kw3"), s, host),
        store.image_key(CONV, s, Machine.described("neon")),
        store.image_key(CONV, s, dataclasses.replace(host, cores=host.cores + 1)),  # layers divide their work by them
        store.image_key(CONV, s, dataclasses.replace(host, l2_bytes=2 * host.l2_bytes)),
    }
    assert len(keys) == 6
    assert store.image_key(CONV, s, dataclasses.replace(host, name="another", peak_gflops=1.0)) in keys


@pytest.mark.parametrize("name", ["__init__", "shift", "epilogue", "machine", "layers/floats", "layers/new/module"])
def test_the_digest_changes_with_every_source(tmp_path: Path, name: str) -> None:
    copy = tmp_path / "sevenloops"
    shutil.copytree(store.PACKAGE, copy, ignore=lambda folder, names: [n for n in names if n == "__pycache__"])
    digest = store.digest_of(store.sources(copy))
    assert digest == store.digest_of(store.sources())
    path = copy / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    assert store.digest_of(store.sources(copy)) != digest


@pytest.mark.parametrize("what", ["versions of the compiler", "version of numpy", "sources"])
def test_the_digest_has_the_sources_and_the_versions(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    before = store.build_digest.__wrapped__()
    if what == "sources":
        monkeypatch.setattr(store, "sources", list)
    elif what == "version of numpy":
        monkeypatch.setattr(np, "__version__", "0")
    else:
        monkeypatch.setattr(store, "build_versions", lambda: {"halide": "0", "llvmlite": "0"})
    assert store.build_digest.__wrapped__() != before


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
