"""Worker processes that compile: a job that takes too long is killed, and this process keeps its locks and its time.

Halide holds Python's global lock while it compiles, and a bad schedule can compile for half an hour; a process can be
stopped, a thread cannot. A worker serves jobs one after the other over its standard input and output (pickles, made and
read by this package only) and ends when its input is closed, so none outlives its parent.
"""

from __future__ import annotations

import atexit
import os
import pickle
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, Any

from ..errors import CompileError, CompileTimeout
from ..locks import renewed_lock
from .build import LLVM_ARGS

__all__ = ["TIME_LIMIT_S", "Worker", "compile_all", "run_job"]

#: How long one kernel may compile before its worker is stopped.
TIME_LIMIT_S = 60.0

Job = tuple[Callable[..., Any], tuple[Any, ...]]


def _send(stream: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    return pickle.loads(stream.read(struct.unpack("<Q", head)[0]))


class Worker:
    """One worker process; jobs that must meet in the same process are run by the same worker."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
        env = {**os.environ, "PYTHONPATH": path, "HL_LLVM_ARGS": LLVM_ARGS}
        command = [sys.executable, "-c", "from sevenloops.compile.workers import main; main()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, start_new_session=True
        )

    def run(self, job: Job, time_limit_s: float) -> Any:
        """The job's result; raises what it raised, or `CompileTimeout` after killing the worker."""
        assert self.process.stdin and self.process.stdout
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(time_limit_s, kill)
        timer.start()
        try:
            _send(self.process.stdin, job)
            ok, value = _receive(self.process.stdout)
        except (EOFError, OSError):
            self.stop()
            if expired.is_set():
                raise CompileTimeout(
                    f"compiling took longer than {time_limit_s:g} s and was stopped; give a larger time_limit_s or a "
                    "schedule with a smaller tile or less unrolling"
                ) from None
            code = self.process.returncode
            raise CompileError(f"the compiler process ended with code {code}; the schedule may be at fault") from None
        finally:
            timer.cancel()
        if ok:
            return value
        raise value

    def stop(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                stream.close()
        self.process.kill()
        self.process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None


_idle: list[Worker] = []
_lock = renewed_lock(sys.modules[__name__], "_lock")
_owner_pid = os.getpid()


def _take() -> Worker:
    global _owner_pid
    with _lock:
        if _owner_pid != os.getpid():  # after a fork the pipes belong to the parent
            _idle.clear()
            _owner_pid = os.getpid()
        while _idle:
            worker = _idle.pop()
            if worker.alive:
                return worker
    return Worker()


@atexit.register
def _stop_all() -> None:
    with _lock:
        while _idle and _owner_pid == os.getpid():
            _idle.pop().stop()


def run_job(function: Callable[..., Any], *args: Any, time_limit_s: float = TIME_LIMIT_S) -> Any:
    """Run a module-level function in a worker. Raises what it raises, `CompileTimeout`, or `CompileError`."""
    worker = _take()
    try:
        return worker.run((function, args), time_limit_s)
    except KeyboardInterrupt:
        worker.stop()
        raise
    finally:
        if worker.alive:
            with _lock:
                _idle.append(worker)


def compile_all(tasks: Iterable[Callable[[], Any]], processes: int) -> Iterator[tuple[int, Any]]:
    """Run thunks that each wait for a worker, `processes` at once; yields (index, result or exception) as they end."""
    with ThreadPoolExecutor(processes) as pool:
        waiting: dict[Future[Any], int] = {pool.submit(task): index for index, task in enumerate(tasks)}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    yield waiting.pop(future), future.result() if error is None else error
        finally:
            for future in waiting:
                future.cancel()


def main() -> None:
    """Serve jobs until the parent closes the pipe."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get into the answers
    while True:
        try:
            function, args = _receive(source)
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except Exception as error:
            answer = (False, error)
        try:
            _send(sink, answer)
        except BrokenPipeError:  # the parent was interrupted
            os._exit(0)  # not by the usual road, which would flush the pipe once more
