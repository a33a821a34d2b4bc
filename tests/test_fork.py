"""A process that forks while its other threads are in the middle of anything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
ROOT = Path(__file__).resolve().parent.parent

#: Weights and inputs are small integers, so every right result is exact. `in_child(work)` does work in a forked child,
#: which is killed after half a minute; `meanwhile(work)` does it again and again in another thread.
PROGRAM = """
import contextlib, multiprocessing, os, signal, sys, threading, time, warnings
import numpy as np
import sevenloops
from sevenloops.graph.builder import GraphBuilder

warnings.filterwarnings("ignore", category=DeprecationWarning)  # Python 3.12 on: of forks beside threads
rng = np.random.default_rng(3)

def integers(*shape):
    return rng.integers(-2, 3, shape).astype(np.float32)

def network(batch=1):
    build = GraphBuilder()
    x = build.input("x", (batch, 8, 40, 40))
    for _ in range(6):
        x = build.clip(build.conv(x, 8, 3, padding=1), -4, 4)
    graph = build.graph(y=x)
    return graph.replace(constants={name: np.round(2 * a) if a.ndim == 4 else a for name, a in graph.constants.items()})

session = sevenloops.InferenceSession(network(), accuracy="strict", threads=2)
feeds = {"x": integers(1, 8, 40, 40)}
expected = session.run(None, feeds)[0]
assert 0 < np.abs(expected).max() <= 4
x, w = integers(1, 8, 40, 40), integers(70, 8, 3, 3)
y = sevenloops.conv2d(x, w, accuracy="strict", threads=2)

def run_session():
    assert np.array_equal(session.run(None, feeds)[0], expected)

def call():
    assert np.array_equal(sevenloops.conv2d(x, w, accuracy="strict", threads=2), y)

def compile_new(size):
    w = np.random.default_rng(size).integers(-2, 3, (3, 2, size, size)).astype(np.float32)  # NumPy locks a generator
    y = sevenloops.conv2d(np.ones((1, 2, 20, 20), np.float32), w, accuracy="strict")
    assert np.array_equal(y[0, :, 0, 0], w.sum((1, 2, 3)))

def in_child(work):
    child = os.fork()
    if not child:
        signal.alarm(30)
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, work

@contextlib.contextmanager
def meanwhile(*works):
    ended, errors = threading.Event(), []
    def repeat(work):
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            errors.append(error)
            raise
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not errors
"""

CASES = {
    "sessions and calls": """
with meanwhile(run_session, call):
    for turn in range(20):
        time.sleep(0.001 * turn)
        in_child(lambda: (run_session(), call(), run_session()))
        run_session()
        call()
""",
    "children of children": """
with meanwhile(run_session, call):
    def work():
        with meanwhile(run_session, call):
            in_child(lambda: (run_session(), call()))
    in_child(work)
""",
    "multiprocessing": """
with meanwhile(run_session, call):
    for work in (run_session, call):
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join(30)
        child.kill()
        assert child.exitcode == 0
""",
    "compiling": """
sizes = iter(range(3, 18, 2))
with meanwhile(lambda: compile_new(next(sizes, 3)), lambda: sevenloops.InferenceSession(network()).run(None, feeds)):
    for size in (2, 4):
        in_child(lambda: (compile_new(size), run_session(), call()))
    run_session()
""",
    "importing": """
from importlib import import_module
names = ["sevenloops." + name for name in ("onnx_backend", "analysis.profile", "ladder.table", "tune.search")]
importing = threading.Thread(target=lambda: [import_module(name) for name in names])
importing.start()
while importing.is_alive():
    in_child(lambda: [import_module(name) for name in names])
importing.join()
""",
    "while it holds the session's lock itself": """
child = None
def forks(label, done, total):
    global child
    child = os.fork() if child is None else child
later = sevenloops.InferenceSession(network(batch="N"), accuracy="strict", progress=forks)
for _ in range(2):
    assert np.array_equal(later.run(None, feeds)[0], expected)
if not child:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    "every lock held": """
from sevenloops import locks
held, over = threading.Event(), threading.Event()
owners = list(locks._attributes.items())
assert len(owners) >= 4
def hold():
    with contextlib.ExitStack() as stack:
        for owner, attribute in owners:
            stack.enter_context(getattr(owner, attribute))
        held.set()
        over.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
def work():
    compile_new(6)
    run_session()
    call()
    for owner, attribute in owners:
        with getattr(owner, attribute):
            pass
try:
    in_child(work)
finally:
    over.set()
    thread.join()
""",
}


@pytest.mark.parametrize("case", CASES)
def test_a_child_computes_whatever_other_threads_were_at(case: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-W", "error", "-c", PROGRAM + CASES[case]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_every_lock_is_renewed_in_a_child() -> None:
    """Whoever needs a lock takes it from `locks`: one that another thread held in the parent is never released.

    But for what starts processes: each process has its own.
    """
    makers = ("threading.Lock(", "threading.RLock(", "threading.Condition(", "threading.Semaphore(")
    for path in sorted((ROOT / "src").rglob("*.py")):
        if path.name not in ("locks.py", "workers.py", "child.py"):
            assert not [maker for maker in makers if maker in path.read_text(encoding="utf-8")], path
