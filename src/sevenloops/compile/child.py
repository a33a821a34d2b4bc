"""Python processes of this package: they import what this process would, and none of them outlives it.

A process that is started with `-c` or `-m` looks for every module in the current folder first, so a `queue.py` beside a
user's model would be executed. Here a process gets this one's `sys.path` instead, the standard library first, without the
folders that Python adds by itself: the current one and that of the script.

Linux kills a process when its parent ends, if it asks for that (`bind`); then it ends in the middle of native code too. The
system means the parent's *thread*, so all are started by one thread that never ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

__all__ = ["bind", "import_path", "start"]

PACKAGE = Path(__file__).resolve().parents[1]
#: What the processes cannot do without.
NEEDED = ("halide", "llvmlite", "numpy")
#: The package by its file, whatever else of that name is installed.
BOOTSTRAP = """
import sys
sys.path[:] = {path}
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location({package!a}, {file!a})
module = sys.modules[spec.name] = module_from_spec(spec)
spec.loader.exec_module(module)
from {package}.compile.child import bind
bind({parent})
from {module} import main
sys.exit(main({arguments}))
"""
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def import_path() -> list[str]:
    """This process's `sys.path`, the standard library first, without the folders of the script and of the user's shell.

    They stay where PYTHONPATH names them, and come last where what is needed is found nowhere else.
    """
    standard = sysconfig.get_path("stdlib")
    asked = {os.path.realpath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path}
    own = _own_folders() - asked
    path = [p for p in sys.path if isinstance(p, str) and os.path.isabs(p) and os.path.realpath(p) not in own]
    kept = sorted(path, key=lambda p: p not in (standard, os.path.join(standard, "lib-dynload")))
    if any(PathFinder.find_spec(name, kept) is None for name in NEEDED):
        kept += sorted(own)
    return kept


def _own_folders() -> set[str]:
    """The folders that Python itself may have put on the path."""
    found = set()
    if script := getattr(sys.modules.get("__main__"), "__file__", None):
        found.add(os.path.dirname(os.path.realpath(script)))
    with contextlib.suppress(OSError):  # it was deleted
        found.add(os.getcwd())
    return found


def start(
    module: str, arguments: Sequence[Any] = (), *, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[Any]:
    """Start a process that calls `main(*arguments)` of a module of this package and exits with what it returns.

    `arguments` are plain values, `env` is added to this process's environment, `options` are those of `Popen`.
    """
    code = BOOTSTRAP.format(
        path=ascii(import_path()),
        package=PACKAGE.name,
        file=str(PACKAGE / "__init__.py"),
        parent=os.getpid(),
        module=module,
        arguments=", ".join(map(ascii, arguments)),
    )
    environment = {**os.environ, **(env or {})}
    environment.pop("PYTHONPATH", None)  # the path has it; an empty or relative entry would mean the current folder
    starter = _starters.get(os.getpid()) or _starters.setdefault(os.getpid(), _Starter())
    process: subprocess.Popen[Any] = starter.call(
        lambda: subprocess.Popen([sys.executable, "-c", code], env=environment, **options)
    )
    return process


class _Starter:
    """One thread, for the life of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns or raises, run by that thread."""
        future: Future[Any] = Future()
        with self._lock:
            if self._calls is None:
                self._calls = queue.SimpleQueue()
                threading.Thread(target=self._serve, args=(self._calls,), name="sevenloops-starter", daemon=True).start()
        self._calls.put((function, future))
        return future.result()

    @staticmethod
    def _serve(calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
        while True:
            function, future = calls.get()
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
            del function, future  # nothing of a call is kept until the next one


#: By process, as threads are not forked.
_starters: dict[int, _Starter] = {}


def bind(parent: int) -> None:
    """End this process when the process `parent`, which started it, ends.

    Only Linux has a way that works while native code holds Python's global lock; elsewhere a process sees the end of its
    input when it is done with its job.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
