"""Worker processes: their limits, their ends, and what they import."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import sevenloops
from sevenloops.bench.process import EngineProcess
from sevenloops.compile import child, workers
from sevenloops.compile.workers import IDLE_CODE, Worker, run_job
from sevenloops.errors import CompileError, CompileTimeout
from sevenloops.machine_detect import allowed_cores

SOURCE = str(Path(sevenloops.__file__).parents[1])
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can do this")

#: A job that holds Python's global lock, as Halide does, and a lock of the file {path!r} for as long as it lives.
STUBBORN = """
import ctypes, fcntl, os
file = open({path!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
file.write(str(os.getpid()))
file.flush()
ctypes.PyDLL(None).sleep(60)
"""


@pytest.fixture
def own_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[workers._Workers]:
    """Workers that no other test has used, ended afterwards."""
    own = workers._Workers()
    monkeypatch.setattr(workers, "_workers", {os.getpid(): own})
    yield own
    own.stop()


@contextmanager
def stubborn_job(path: Path, time_limit_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose worker is in the middle of a job; it exits with 3 when it hears that it took too long."""
    code = (
        "from sevenloops.compile.workers import CompileTimeout, run_job\n"
        f"try: run_job(exec, {STUBBORN.format(path=str(path))!r}, time_limit_s={time_limit_s})\n"
        "except CompileTimeout: raise SystemExit(3)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": SOURCE})
    try:
        assert within(30, lambda: path.exists() and path.read_text() != "")
        yield parent
    finally:
        parent.kill()
        parent.wait()
        with suppress(OSError, ValueError):
            if not free(path):
                os.kill(int(path.read_text()), signal.SIGKILL)


def free(path: Path) -> bool:
    """Whether the process that locked a file is gone."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def within(seconds: float, true: object) -> bool:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return bool(true())


# ---- ends ------------------------------------------------------------------------------------------------------------


@linux_only
def test_a_worker_ends_with_its_parent_in_the_middle_of_a_job(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with stubborn_job(path, 60) as parent:
        assert not free(path)
        parent.kill()
        assert within(2, lambda: free(path))


def test_the_time_limit_holds_while_the_parent_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with stubborn_job(path, 2) as parent:
        parent.send_signal(signal.SIGSTOP)
        assert within(5, lambda: free(path))
        parent.send_signal(signal.SIGCONT)
        assert parent.wait(10) == 3


def test_a_worker_outlives_the_thread_that_asked_for_it(own_workers: workers._Workers) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(run_job(os.getpid)))
    thread.start()
    thread.join()
    time.sleep(0.2)
    assert run_job(os.getpid) == found[0]


def test_many_threads_share_one_worker_a_core(own_workers: workers._Workers) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(run_job(os.getpid))) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 24
    assert len(set(found)) <= allowed_cores()
    assert len(own_workers._idle) <= allowed_cores()


def test_a_worker_without_work_ends(own_workers: workers._Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IDLE_S", 0.1)
    first = run_job(os.getpid)
    (idle,) = own_workers._idle
    assert idle.process.wait(20) == IDLE_CODE
    assert run_job(os.getpid) != first


# ---- limits ----------------------------------------------------------------------------------------------------------


@linux_only
def test_a_job_that_needs_too_much_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "memory_limit", lambda: 256 << 20)
    worker, free_worker = Worker(), Worker(limited=False)
    try:
        worker.run((exec, ("held = bytearray(100 << 20)",)), 60)
        with pytest.raises(CompileError, match=r"needed more than 0\.2 GiB of memory, the limit"):
            worker.run((exec, ("held = bytearray(500 << 20)",)), 60)
        assert not worker.alive
        free_worker.run((exec, ("held = bytearray(500 << 20)",)), 60)
    finally:
        worker.stop()
        free_worker.stop()


@pytest.mark.parametrize(("gib", "cores", "limit"), [(64, 8, 4), (64, 2, 16), (8, 8, 2), (1, 1, 2)])
def test_the_memory_limit(monkeypatch: pytest.MonkeyPatch, gib: int, cores: int, limit: int) -> None:
    monkeypatch.setattr(workers, "memory_bytes", lambda: gib << 30)
    monkeypatch.setattr(workers, "allowed_cores", lambda: cores)
    assert workers.memory_limit.__wrapped__() == limit << 30


KILLED = (
    "import os, signal\nopen({path!r}, 'a').write('x')\nif os.path.getsize({path!r}) <= {times}: os.kill(os.getpid(), {by})"
)


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_was_killed_is_started_again_once(tmp_path: Path, by: signal.Signals) -> None:
    path = tmp_path / "runs"
    run_job(exec, KILLED.format(path=str(path), times=1, by=int(by)))
    assert path.read_text() == "xx"
    path.unlink()
    with pytest.raises(CompileError, match="killed the compiler process, twice"):
        run_job(exec, KILLED.format(path=str(path), times=9, by=int(by)))
    assert path.read_text() == "xx"


def test_a_crash_and_a_timeout_are_not_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    with pytest.raises(CompileError, match="signal 6"):
        run_job(exec, KILLED.format(path=str(path), times=9, by=int(signal.SIGABRT)))
    with pytest.raises(CompileTimeout):
        run_job(exec, f"open({str(path)!r}, 'a').write('x')\nimport time\ntime.sleep(60)", time_limit_s=1)
    assert path.read_text() == "xx"


# ---- imports ---------------------------------------------------------------------------------------------------------

NAMES = "queue random json struct pickle select signal tempfile ctypes numpy halide sitecustomize sevenloops_plugin"


def trap(folder: Path) -> Path:
    """A folder of modules that leave a mark when they are executed."""
    folder.mkdir()
    for name in NAMES.split():
        (folder / f"{name}.py").write_text(f"open({str(folder)!r} + '/executed-{name}', 'w').close()\nraise SystemExit(1)")
    return folder


def executed(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("executed-*")]


def test_no_file_of_the_current_folder_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_workers: workers._Workers
) -> None:
    folder = trap(tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SEVENLOOPS_CACHE_DIR", str(tmp_path / "cache"))
    problem = sevenloops.parse_problem("mb1 ic3 ih5 iw6 oc4 kh1 kw1")
    assert sevenloops.compile(problem, algorithm="naive").algorithm == "naive"
    with pytest.raises(ModuleNotFoundError):
        run_job(exec, "import sevenloops_plugin")
    with EngineProcess("numpy", threads=1) as engine:
        assert engine.ask("hello")["version"]
    assert executed(folder) == []


def test_no_file_beside_the_script_is_executed(tmp_path: Path) -> None:
    folder = trap(tmp_path / "traps")
    script = tmp_path / "script.py"
    script.write_text(
        "import os, shutil\nfrom sevenloops.compile.workers import run_job\n"
        f"shutil.copytree({str(folder)!r}, os.path.dirname(__file__), dirs_exist_ok=True)\n"  # after its own imports
        "assert run_job(abs, -2) == 2\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd="/", env={**os.environ, "PYTHONPATH": SOURCE}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "queue.py").exists() and executed(folder) == []


def test_what_the_processes_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = str(tmp_path / "here"), str(tmp_path / "other")
    trap(Path(here))
    monkeypatch.chdir(here)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", ["", "relative", here, other, *sys.path])
    found = child.import_path()
    assert other in found and not {"", "relative", here} & set(found)
    assert found.index(os.path.dirname(os.__file__)) < found.index(other)  # the standard library is first
    monkeypatch.setenv("PYTHONPATH", here)  # the user wants it
    assert here in child.import_path()
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.setattr(child, "NEEDED", ("sevenloops_plugin",))  # a folder that holds the program and all its packages
    assert child.import_path()[-1] != other and here in child.import_path()
