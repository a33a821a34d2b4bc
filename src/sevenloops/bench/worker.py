"""One engine in a process of its own (see `process.py`), one JSON object a line each way.

====================================================================================  ==============================
request                                                                               answer
====================================================================================  ==============================
`{"do": "hello"}`                                                                     `{"version": "2.1"}`
`{"do": "prepare", "problem", "seed", "threads", "algorithm", "isa", "output", ...}`  `{"note", "details"}`
`{"do": "prepare_network", "files", "graph", "feeds", "threads", "accuracy", ...}`     the same
`{"do": "prepare_gradient", "direction", "problem", "seed", "threads", ...}`           the same
`{"do": "prepare_training", "graph", "torchvision", "shape", "classes", ...}`          the same
`{"do": "reference", "files", "graph", "feeds", "output"}`                            `{}`
`{"do": "time", "min_time_s", "min_iterations"}`                                      `{"times_s", "parts_s"}`
====================================================================================  ==============================

`prepare` builds the inputs from the seed, runs once, and saves the result (`y_shape`) to the `.npy` file `output`.
A request that fails is answered by `{"reason": "..."}`, and the worker lives on. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import numpy as np

from ..descriptor import parse_problem
from ..errors import SevenLoopsError, Unsupported
from ..inputs import make_inputs
from .engines import ENGINES, Prepared, Settings

__all__ = ["main"]

WARM_UP_S = 0.005
MAX_ITERATIONS = 5000


class _Worker:
    """The engine and the problem that it has ready."""

    def __init__(self, name: str) -> None:
        self.name, self.engine = name, ENGINES[name]
        self.prepared: Prepared | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        actions: dict[str, Callable[..., dict[str, Any]]] = {
            "hello": self.hello,
            "prepare": self.prepare,
            "prepare_network": self.prepare_network,
            "prepare_gradient": self.prepare_gradient,
            "prepare_training": self.prepare_training,
            "reference": self.reference,
            "time": self.time,
        }
        action = actions[request.pop("do")]
        missing = self.engine.missing()
        if missing:
            return {"reason": missing}
        try:
            return action(**request)
        except SevenLoopsError as error:
            return {"reason": str(error)}
        except Exception as error:
            first_line = next(iter(str(error).splitlines()), "")
            return {"reason": f"{type(error).__name__}: {first_line}"}

    def hello(self) -> dict[str, Any]:
        return {"version": self.engine.version()}

    def prepare(
        self,
        problem: str,
        seed: int,
        threads: int,
        algorithm: str | None,
        isa: str | None,
        output: str,
        accuracy: str = "fast",
    ) -> dict[str, Any]:
        self.prepared = None  # frees the memory of the last problem before the next one is built
        parsed = parse_problem(problem)
        settings = Settings(threads, algorithm, isa, accuracy)
        return self._ready(self.engine.prepare(parsed, make_inputs(parsed, seed), settings), output)

    def prepare_gradient(
        self, direction: str, problem: str, seed: int, threads: int, algorithm: str | None, output: str
    ) -> dict[str, Any]:
        """As `prepare`, for one direction of a layer (`gradients`)."""
        from .gradient_peers import prepare_gradient
        from .gradients import GradientWork

        self.prepared = None
        work = GradientWork(direction, parse_problem(problem))
        return self._ready(prepare_gradient(self.name, work, seed, Settings(threads, algorithm)), output)

    def prepare_training(self, threads: int, **values: Any) -> dict[str, Any]:
        """Build a network, train it for a few steps, and have one step ready (`training_peers`)."""
        from .training_peers import TrainingTask, prepare_training

        self.prepared = None
        self.prepared = prepared = prepare_training(self.name, TrainingTask.from_values(**values), Settings(threads))
        return {"note": prepared.note, "details": prepared.details}

    def _ready(self, prepared: Prepared, output: str) -> dict[str, Any]:
        prepared.run()
        np.save(output, prepared.output())
        self.prepared = prepared
        return {"note": prepared.note, "details": prepared.details}

    def prepare_network(
        self, threads: int, accuracy: str, output: str, files: dict[str, str], graph: str | None, feeds: str
    ) -> dict[str, Any]:
        """As `prepare`, for `network_peers`; the details have what a start took and its peak of memory."""
        from .network_peers import PREPARE, NetworkTask, peak_bytes, save_outputs

        self.prepared = None
        if self.name not in PREPARE:
            raise Unsupported(f"{self.name} is compared on single layers only")
        task, start = NetworkTask.from_values(files, graph, feeds), time.perf_counter()
        prepared = PREPARE[self.name](task, Settings(threads, accuracy=accuracy))
        prepared.run()
        details = {"start_s": time.perf_counter() - start, "peak_bytes": peak_bytes(), **prepared.details}
        save_outputs(output, prepared.output())
        self.prepared = prepared
        return {"note": prepared.note, "details": details}

    def reference(self, output: str, **values: Any) -> dict[str, Any]:
        """Compute a network in float64, with PyTorch."""
        from .network_peers import NetworkTask, reference_outputs, save_outputs

        save_outputs(output, reference_outputs(NetworkTask.from_values(**values)))
        return {}

    def time(self, min_time_s: float, min_iterations: int) -> dict[str, Any]:
        """Seconds of each iteration and its parts, after warming up (at least once, and long enough to wake the threads)."""
        if self.prepared is None:
            raise Unsupported("nothing is prepared")
        run, parts, clock = self.prepared.run, self.prepared.parts, time.perf_counter
        warm = clock() + WARM_UP_S
        run()
        while clock() < warm:
            run()
        for seconds in parts.values():
            seconds.clear()
        times: list[float] = []
        end = clock() + min_time_s
        while len(times) < min_iterations or (clock() < end and len(times) < MAX_ITERATIONS):
            start = clock()
            run()
            times.append(clock() - start)
        return {"times_s": times, "parts_s": parts}


def _private_stdout() -> TextIO:
    """The pipe to the parent, with the standard output led to standard error: libraries like to print."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def main(engine: str) -> int:
    """Serve requests from standard input until it ends."""
    worker, pipe = _Worker(engine), _private_stdout()
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=pipe, flush=True)
    return 0
