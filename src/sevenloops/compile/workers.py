"""Worker processes that compile: a job that takes too much time or memory is killed, and this process keeps its locks.

Halide holds Python's global lock while it compiles, and a bad schedule can compile for half an hour; a process can be
stopped, a thread cannot. A worker serves jobs one after the other over its standard input and output (pickles, made and
read by this package only). The limits hold in the worker itself, by the system, whatever becomes of this process; how a
worker ends with this process is told in `child`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pickle
import select
import signal
import struct
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import IO, Any

from ..errors import CompileError, CompileTimeout
from ..machine_detect import allowed_cores, memory_bytes
from . import child
from .build import LLVM_ARGS, TIME_LIMIT_S

__all__ = ["TIME_LIMIT_S", "Worker", "compile_all", "memory_limit", "run_job"]

#: How much longer this process waits, for the worker to start; the worker itself measures the time of its job.
START_S = 30.0
#: How long a worker waits for its next job before it ends. A new one takes about a second to start.
IDLE_S = 60.0
#: What it ends with then; the next job may just have been sent.
IDLE_CODE = 75
#: How long a worker that has closed its pipes may take to end.
END_S = 5.0
#: What a job may allocate at least. Halide's libraries map 0.3 GB; most kernels need a few MB more.
LEAST_MEMORY = 2 << 30

Job = tuple[Callable[..., Any], tuple[Any, ...]]


@functools.cache
def memory_limit() -> int:
    """Bytes that a job may allocate: its share when workers on all cores take half of this machine's memory, or 2 GiB."""
    return max(LEAST_MEMORY, memory_bytes() // 2 // allowed_cores())


def _send(stream: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    return pickle.loads(stream.read(struct.unpack("<Q", head)[0]))


class _Interrupted(CompileError):
    """Someone else ended the worker, which says nothing about the job."""


class Worker:
    """One worker process; jobs that must meet in the same process are run by the same worker.

    It ends when it has waited `idle_s` for a job (None: never). Without `limited`, jobs may use any amount of memory.
    """

    def __init__(self, *, idle_s: float | None = None, limited: bool = True) -> None:
        self._idle_s, self._memory_limit = idle_s, memory_limit() if limited else None
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        options = {"stdin": pipe, "stdout": pipe, "start_new_session": True}
        return child.start(__name__, [self._idle_s], env={"HL_LLVM_ARGS": LLVM_ARGS}, **options)

    def run(self, job: Job, time_limit_s: float) -> Any:
        """The job's result. Raises what it raised, `CompileTimeout`, or `CompileError` for a worker that ended.

        A worker that someone else has killed (the system, when memory is short) is started anew, once.
        """
        try:
            return self._ask(job, time_limit_s)
        except _Interrupted:
            self.process = self._start()
            return self._ask(job, time_limit_s)

    def _ask(self, job: Job, time_limit_s: float) -> Any:
        assert self.process.stdin and self.process.stdout
        expired = threading.Event()

        def kill() -> None:
            expired.set()
            self.process.kill()

        timer = threading.Timer(START_S + time_limit_s, kill)
        timer.start()
        try:
            _send(self.process.stdin, (job, time_limit_s, self._memory_limit))
            ok, value = _receive(self.process.stdout)
        except (EOFError, OSError):
            raise self._ended(expired.is_set(), time_limit_s) from None
        finally:
            timer.cancel()
        if ok:
            return value
        if isinstance(value, MemoryError) and self._memory_limit:
            self.stop()  # it may still hold much of it
            raise CompileError(
                f"compiling needed more than {_gib(self._memory_limit)} of memory, the limit for a kernel on this machine, "
                "and was stopped; give a schedule with a smaller tile or less unrolling, or fewer operators at once"
            )
        raise value

    def _ended(self, expired: bool, time_limit_s: float) -> CompileError:
        """What to say of a process that has gone without an answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_S)
        self.stop()
        code = self.process.returncode
        if expired or code == -signal.SIGALRM:
            return CompileTimeout(
                f"compiling took longer than {time_limit_s:g} s and was stopped; give a larger time_limit_s or a "
                "schedule with a smaller tile or less unrolling"
            )
        if code in (IDLE_CODE, -signal.SIGKILL, -signal.SIGTERM):
            return _Interrupted("something else killed the compiler process, twice; the system may be short of memory")
        why = f"code {code}" if code >= 0 else f"signal {-code} ({signal.strsignal(-code)})"
        memory = f", or it needed more than its {_gib(self._memory_limit)} of memory" if self._memory_limit else ""
        return CompileError(f"the compiler process ended with {why}; the schedule may be at fault{memory}")

    def stop(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):  # what a dead process has not read
                    stream.close()
        self.process.kill()
        self.process.wait()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"


class _Workers:
    """The workers that `run_job` shares: at most one a core at any time, however many threads ask."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._lock = threading.Lock()
        self._free = threading.Semaphore(allowed_cores())

    @contextlib.contextmanager
    def one(self) -> Iterator[Worker]:
        with self._free:
            worker = self._take() or Worker(idle_s=IDLE_S)
            try:
                yield worker
            except KeyboardInterrupt:
                worker.stop()
                raise
            finally:
                if worker.alive:
                    with self._lock:
                        self._idle.append(worker)

    def _take(self) -> Worker | None:
        """The one that was used last, so that those that are too many wait long enough to end."""
        with self._lock:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.stop()
        return None

    def stop(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().stop()


#: By process: after a fork the pipes belong to the parent, and its threads may hold the locks.
_workers: dict[int, _Workers] = {}


@atexit.register
def _stop_all() -> None:
    if os.getpid() in _workers:
        _workers[os.getpid()].stop()


def run_job(function: Callable[..., Any], *args: Any, time_limit_s: float = TIME_LIMIT_S) -> Any:
    """Run a module-level function in a worker. Raises what it raises, `CompileTimeout`, or `CompileError`."""
    workers = _workers.get(os.getpid()) or _workers.setdefault(os.getpid(), _Workers())
    with workers.one() as worker:
        return worker.run((function, args), time_limit_s)


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


# ---------------------------------------------------------------------------------------------- in the worker


def main(idle_s: float | None) -> int:
    """Serve jobs until the parent closes the pipe (0), or none has come for `idle_s` seconds (`IDLE_CODE`)."""
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get into the answers
    while select.select([source], [], [], idle_s)[0]:
        try:
            (function, args), time_limit_s, limit = _receive(source)
        except EOFError:
            return 0
        try:
            with _limits(time_limit_s, limit):
                answer = (True, function(*args))
        except Exception as error:
            answer = (False, error)
        try:
            _send(sink, answer)
        except BrokenPipeError:  # the parent was interrupted
            os._exit(0)  # not by the usual road, which would flush the pipe once more
    return IDLE_CODE


@contextlib.contextmanager
def _limits(time_limit_s: float, memory: int | None) -> Iterator[None]:
    """The system ends this process after `time_limit_s`, and refuses it more than `memory` bytes beyond what it has now.

    macOS ignores the limit of memory.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if memory:
        least = [limit for limit in (_mapped_bytes() + memory, soft, hard) if limit != resource.RLIM_INFINITY]
        resource.setrlimit(resource.RLIMIT_AS, (min(least), hard))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the system's way to end it; Python's would wait for its lock
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _mapped_bytes() -> int:
    """The address space that is taken: libraries, and the stacks of their threads."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
