"""The first second of a user: whole processes from `python -c` to the first result of a network, each engine in its own.

Caches are warm (each engine runs once before it is timed) and files are in the page cache. The time is from before the
process is started until it has the result, so the interpreter and every import are in it. What our own start consists of is
measured by other processes, whose functions are wrapped in timers.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..compile.child import PACKAGE
from ..errors import ProblemError
from ..graph.kept import folder
from .network_bench import NetworkCase
from .process import WorkerError
from .results import OWN

__all__ = ["ENGINES", "PARTS", "Start", "measure_import", "measure_starts"]

#: Makes a copy of a model another file: whoever measures without a kept program must not find that of the same model.
DOC_STRING = b"\x32\x04kept"
#: Our own engine with all that a run needs kept by an earlier process (`cache_weights=True`).
KEPT = f"{OWN}, kept"
#: How each engine makes `session`, as users write it; `path`, `threads`, `inputs` and a copy `kept` of `path` are known.
ENGINES = {
    OWN: """
from sevenloops import InferenceSession
session = InferenceSession(path, threads=threads)
run = lambda feeds: session.run(None, feeds)
""",
    KEPT: """
from sevenloops import InferenceSession
shapes = {name: shape for name, (shape, _) in inputs.items()}
session = InferenceSession(kept, threads=threads, shapes=shapes, cache_weights=True)
run = lambda feeds: session.run(None, feeds)
""",
    "onnxruntime": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
run = lambda feeds: session.run(None, feeds)
""",
    "openvino": """
import openvino
model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads})
run = lambda feeds: [model(feeds)[output] for output in model.outputs]
""",
}
#: The parts of our own start, and the functions that do them (none calls another).
PARTS = {
    "read the model": ("graph.planner:_graph", "session:worth_a_look", "session:identify"),
    "passes": ("graph.planner:infer", "graph.planner:optimise", "graph.planner:lower"),
    "load kernels": ("graph.plan:_kernels", "session:find"),
    "pack weights": ("graph.plan:Plan._pack",),
    "first run": ("graph.plan:Plan.run", "graph.kept:Kept.run"),
}
WRAPPED = """
import importlib, time
begin = time.perf_counter()
import numpy
parts = {"import numpy": time.perf_counter() - begin}
begin = time.perf_counter()
from sevenloops import InferenceSession
parts["import InferenceSession"] = time.perf_counter() - begin

def wrap(part, owner, name):
    function = getattr(owner, name)
    def timed(*args, **options):
        begin = time.perf_counter()
        result = function(*args, **options)
        parts[part] = parts.get(part, 0.0) + time.perf_counter() - begin
        return result
    setattr(owner, name, timed)

for part, functions in table.items():
    for module, _, name in (function.partition(":") for function in functions):
        owner = importlib.import_module(f"sevenloops.{module}")
        *classes, name = name.split(".")
        for inner in classes:
            owner = getattr(owner, inner)
        wrap(part, owner, name)
"""
FIRST_RUN = """
import numpy
run({name: numpy.ones(shape, dtype) for name, (shape, dtype) in inputs.items()})
"""
IMPORT = """
import numpy, time
begin = time.perf_counter()
import sevenloops
parts = {"import": time.perf_counter() - begin}
"""
#: When the result was there; wall clock, which is the same in all processes.
SAY = """
import json, time
print(json.dumps({**parts, "done": time.time()}))
"""
LIMIT_S = 600.0


@dataclass(frozen=True)
class Start:
    """Seconds of every whole process by engine, or the reason why it cannot run; and of the parts of our own start."""

    name: str
    seconds: Mapping[str, tuple[float, ...] | str]
    parts: Mapping[str, tuple[float, ...]]

    def median_s(self, engine: str) -> float | None:
        """None for an engine that cannot run the network."""
        times = self.seconds[engine]
        return None if isinstance(times, str) else statistics.median(times)


def measure_import(rounds: int) -> float:
    """Median seconds of `import sevenloops` in a process that has NumPy."""
    return statistics.median(_process(IMPORT)[1]["import"] for _ in range(rounds))


def measure_starts(
    cases: Sequence[tuple[NetworkCase, Path | None]],
    against: Sequence[str],
    threads: int,
    rounds: int,
    say: Callable[[str], None] = lambda text: None,
) -> list[Start]:
    """Time the first result of networks; each comes with its ONNX file, or one is written.

    Raises `ProblemError` for an engine that is not known, `WorkerError` where our own start fails.
    """
    peers = [name for name in ENGINES if name not in (OWN, KEPT)]
    unknown = [name for name in against if name not in peers]
    if unknown:
        raise ProblemError(f"the start is measured against {', '.join(peers)}; got {unknown[0]!r}")
    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for at, (case, path) in enumerate(cases):
            own = Path(temporary) / f"{at}.onnx"
            if path is None:
                case.graph.save_onnx(own)
            else:
                shutil.copyfile(path, own)
            found.append(_measured(case, own, (OWN, KEPT, *against), threads, rounds, say))
        return found


def _measured(
    case: NetworkCase, path: Path, engines: Sequence[str], threads: int, rounds: int, say: Callable[[str], None]
) -> Start:
    inputs = {value.name: (list(case.sizes[value.name]), value.dtype) for value in case.graph.inputs}
    kept = path.with_name(f"{path.stem}-kept.onnx")
    kept.write_bytes(path.read_bytes() + DOC_STRING)
    given = f"path, kept, threads, inputs = {str(path.absolute())!r}, {str(kept.absolute())!r}, {threads!r}, {inputs!r}\n"
    given += "parts = {}\n"
    whole = {engine: given + ENGINES[engine] + FIRST_RUN for engine in engines}
    wrapped = f"{given}table = {PARTS!r}\n{WRAPPED}{ENGINES[OWN]}{FIRST_RUN}"
    seconds: dict[str, Any] = {}
    for engine in engines:
        say(f"{case.name}: {engine}, once untimed")
        try:
            _process(whole[engine])
            seconds[engine] = ()
        except WorkerError as error:
            if engine in (OWN, KEPT):
                raise
            seconds[engine] = str(error)
    parts: dict[str, tuple[float, ...]] = {}
    for at in range(rounds):
        say(f"{case.name}: round {at + 1} of {rounds}")
        for engine in engines:
            if not isinstance(seconds[engine], str):
                seconds[engine] += (_process(whole[engine])[0],)
        for part, second in _process(wrapped)[1].items():
            parts[part] = (*parts.get(part, ()), second)
    for program in folder().glob(f"{kept.stat().st_size}-*"):
        program.unlink()
    return Start(case.name, seconds, parts)


def _process(code: str) -> tuple[float, dict[str, float]]:
    """Run `python -c` in an empty folder: the seconds until it has its result, and the parts that it says."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # compiled Python is one of the warm caches
    with tempfile.TemporaryDirectory() as empty:
        begin = time.time()
        try:
            done = subprocess.run(
                [sys.executable, "-c", code + SAY],
                cwd=empty,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            raise WorkerError(f"no first result within {LIMIT_S:.0f} s") from None
    if done.returncode:
        raise WorkerError((done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1])
    parts = json.loads(done.stdout.splitlines()[-1])
    return parts.pop("done") - begin, parts
