"""The parent's end of a worker: start it, ask it, and survive whatever becomes of it."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from types import TracebackType
from typing import Any

from ..compile import child
from ..errors import SevenLoopsError

__all__ = ["EngineProcess", "WorkerError"]


class WorkerError(SevenLoopsError, RuntimeError):
    """An engine cannot do what was asked; the message is the reason."""


class EngineProcess:
    """A worker process for one engine (see `worker.py`), ended with the `with` block; `name` is `ENGINE[:ALGORITHM]`.

    A worker that crashes or does not answer within the time limit is started anew by the next request.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name, self.threads = name, threads
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed by close()

    def __enter__(self) -> EngineProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ask(self, do: str, time_limit_s: float = 300.0, **values: Any) -> dict[str, Any]:
        """Send a request, wait for the answer. Raises `WorkerError` with the engine's reason, or when it ended."""
        process = self._running()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            process.stdin.flush()
        try:
            line = self._lines.get(timeout=time_limit_s)
        except queue.Empty:
            self._stop()
            raise WorkerError(f"no answer to {do!r} within {time_limit_s:g} s") from None
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "reason" in answer:
            raise WorkerError(answer["reason"])
        return answer

    def restart(self) -> None:
        """Begin anew, in a fresh process, with the next request."""
        self._stop()

    def close(self) -> None:
        """End the worker."""
        self._stop()
        self._log.close()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process, self._lines = self._start(), queue.Queue()
            threading.Thread(target=_read, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _start(self) -> subprocess.Popen[str]:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
        return child.start(
            "sevenloops.bench.worker",
            [self.name.partition(":")[0]],
            env=dict.fromkeys(names, str(self.threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()  # it keeps nothing, and a library that hangs would not listen to less
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                assert pipe is not None
                pipe.close()
        self._process = None

    def _last_words(self) -> str:
        """Why a worker ended: its exit status and the last line that it wrote."""
        assert self._process is not None
        status = self._process.wait()
        self._stop()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"its process ended with status {status}" + (f": {lines[-1]}" if lines else "")


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    """Pass on every line; an empty one means the end."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError):
        for line in process.stdout:
            lines.put(line)
    lines.put("")
