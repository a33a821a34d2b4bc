"""Results have the same bits in every run, for every number of threads, in whatever order the tasks end.

`kernels.check` watches every parallel kernel of the problem tables a task at a time. Here tasks run late and out of order
on two to eight threads: for a sample of the tables, or, with `pytest --late-runs 200`, for all rows of them, so often.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import pytest

import sevenloops
from kernels import MACHINES, run
from operands import Operands
from problems import ALL
from scheduler import ParFor, can_schedule, kernel_with_loop, late
from sevenloops.algorithms import ALGORITHMS
from sevenloops.compile import layer, runtime
from sevenloops.descriptor import parse_problem
from sevenloops.epilogue import ACTIVATIONS
from sevenloops.models import ZOO, build
from sevenloops.problem import Problem
from sevenloops.schedule import Schedule

MACHINE = next(iter(MACHINES.values()))
pytestmark = pytest.mark.skipif(
    not can_schedule(MACHINE), reason="kernels are linked by LLVM here, onto a loop of their own"
)

#: Problems whose results were seen to change from run to run, and one with a partial tile for every epilogue.
SEEN = [
    "mb1 ic40 ih13 iw13 oc40 kh5 kw5 ph2 pw2 bias res=after",
    "mb1 ic40 ih13 iw13 oc40 kh5 kw5 ph2 pw2 bias res=before",
    "mb1 g64 ic64 ih24 iw9 oc192 kh6 kw6 sh2 sw2 ph3 pl2 yp193 act=silu res=after",
    "mb3 ic16 ih20 iw15 oc64 kh3 kw3 sh2 sw2 pb2 pr1 bias res=after",
    "mb2 ic17 ih17 iw27 oc16 kh4 kw4 pb3 pw1 transposed bias res=after",
]
EPILOGUES = [
    f"{shape} {bias} act={activation} {residual}".replace("  ", " ").strip()
    for shape in ("mb1 ic24 ih13 iw11 oc24 kh3 kw3 ph1 pw1", "mb1 g24 ic24 ih13 iw11 oc24 kh3 kw3 ph1 pw1")
    for bias, activation, residual in itertools.product(("", "bias"), ACTIVATIONS, ("", "res=before", "res=after"))
]
#: Of the tables, one row in so many runs where no number of runs is asked for.
SAMPLE = 12


def parallel_schedule(name: str, problem: Problem) -> Schedule | None:
    """The best schedule whose tasks run in parallel, whether or not that pays; None where there is none."""
    for schedule in ALGORITHMS[name].schedules(problem, MACHINE):
        if "parallel" not in schedule.params:
            return None
        tasks = schedule.replace(parallel=True)
        if ALGORITHMS[name].check(problem, tasks, MACHINE) is None:
            return tasks
    return None


def rows(texts: list[str]) -> list[tuple[str, str]]:
    """Algorithms with the problems that they compute."""
    problems = [(text, parse_problem(text)) for text in dict.fromkeys(texts)]
    return [(name, text) for name, row in ALGORITHMS.items() for text, problem in problems if row.supports(problem) is None]


def check_late(name: str, text: str, runs: int) -> None:
    """Run on the pool, and with late tasks on 2 to 8 threads; every result has the same bits."""
    problem = parse_problem(text)
    schedule = parallel_schedule(name, problem)
    if schedule is None:
        return
    kernel = sevenloops.compile(problem, schedule=schedule, threads=2)
    operands = Operands(problem, integers=False, seed=3)
    expected = run(kernel, operands).tobytes()
    for seed in range(runs):
        assert run(kernel, operands).tobytes() == expected, f"{name} for {text}: run {seed} differs"
        shuffled = kernel_with_loop(kernel, late(2 + seed % 7, seed))
        assert run(shuffled, operands).tobytes() == expected, (
            f"{name} for {text}: late tasks of seed {seed} change the result"
        )


@pytest.mark.parametrize(("name", "text"), rows(SEEN))
def test_what_was_seen_to_change(name: str, text: str, late_runs: int | None) -> None:
    check_late(name, text, late_runs or 20)


def test_tables(late_runs: int | None) -> None:
    table = rows(ALL)
    for name, text in table if late_runs else table[::SAMPLE]:
        check_late(name, text, late_runs or 3)


def test_epilogues(late_runs: int | None) -> None:
    """Bias, residual on either side and every activation, where tasks do not divide the image."""
    table = rows(EPILOGUES)
    for name, text in table if late_runs else table[:: 4 * SAMPLE]:
        check_late(name, text, late_runs or 3)


@pytest.mark.parametrize("network", sorted(ZOO))
def test_networks(network: str, late_runs: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole networks, layers and all, by the pool and by late tasks."""
    if not late_runs and network not in ("lenet5", "shiftresnet20"):
        pytest.skip("takes long: pytest --late-runs 20 runs it")
    graph = build(network, batch=1)
    (value,) = graph.inputs
    feeds = {value.name: np.random.default_rng(5).standard_normal(value.sizes, dtype=np.float32)}

    def results(session: Any, runs: int) -> set[bytes]:
        return {b"".join(array.tobytes() for array in session.run(None, feeds)) for _ in range(runs)}

    expected = results(sevenloops.InferenceSession(graph), late_runs or 5)
    assert len(expected) == 1
    par_for = ParFor(late(3, 7))
    monkeypatch.setitem(runtime._runtime().exports, "sevenloops_par_for", par_for.address)
    compiled = importlib.import_module("sevenloops.compile")  # the package's attribute of that name is the function
    monkeypatch.setattr(compiled, "_kernels", type(compiled._kernels)())
    monkeypatch.setattr(layer, "_loaded", type(layer._loaded)())
    assert results(sevenloops.InferenceSession(graph), max(2, (late_runs or 0) // 10)) == expected
