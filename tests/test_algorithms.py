"""Every algorithm on every problem of the table that it supports, for every instruction set that runs here."""

from __future__ import annotations

import numpy as np
import pytest

import sevenloops
from kernels import MACHINES, check, run
from operands import Operands
from problems import ALL, gemm
from sevenloops.algorithms import ALGORITHMS
from sevenloops.descriptor import parse_problem
from sevenloops.errors import Unsupported
from sevenloops.problem import Problem
from sevenloops.reference import reference_gemm
from sevenloops.schedule import Schedule

#: Candidates tried of those that an algorithm lists, the best first.
SCHEDULES_TRIED = 2
#: One of these, and that only on every third problem for a lesser instruction set: they share the product with direct, or
#: (fft) compile slowly, and test_lowerings and test_fft run their other forms.
FEWER_TRIED = ("im2col", "mec", "kn2row", "fft")
PROBLEMS = {text: parse_problem(text) for text in ALL}


def supported() -> list[tuple[str, str, str]]:
    """An algorithm, a problem that it computes, and an instruction set: all of them, but for `FEWER_TRIED`."""
    pairs = [(name, text) for name in ALGORITHMS for text in ALL if ALGORITHMS[name].supports(PROBLEMS[text]) is None]
    best, *lesser = MACHINES
    found = [(name, text, best) for name, text in pairs]
    found += [(*pair, isa) for isa in lesser for at, pair in enumerate(pairs) if pair[0] not in FEWER_TRIED or at % 3 == 0]
    return found


@pytest.mark.parametrize(("name", "text", "isa"), supported())
def test_agrees_with_the_definition(name: str, text: str, isa: str) -> None:
    problem, machine = PROBLEMS[text], MACHINES[isa]
    schedules = ALGORITHMS[name].schedules(problem, machine)
    assert schedules, "an algorithm that supports a problem has a schedule for it"
    assert len(set(schedules)) == len(schedules)
    tried = schedules[: 1 if name in FEWER_TRIED else SCHEDULES_TRIED]
    if "parallel" in tried[-1].params:  # however little there is to divide: tasks must not meet
        tried[-1] = tried[-1].replace(parallel=True)
    for schedule in tried:
        check(problem, schedule, machine)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_says_why_not(name: str) -> None:
    """Every "no" carries a reason, and forcing the algorithm raises it."""
    for text, problem in PROBLEMS.items():
        reason = ALGORITHMS[name].supports(problem)
        if reason is None:
            continue
        assert isinstance(reason, str), text
        assert reason, text
        with pytest.raises(Unsupported) as caught:
            sevenloops.compile(problem, algorithm=name)
        assert reason in str(caught.value)


@pytest.mark.parametrize("text", ALL)
def test_some_algorithm_computes_it(text: str) -> None:
    assert [name for name in ALGORITHMS if ALGORITHMS[name].supports(PROBLEMS[text]) is None]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_schedules_fit_every_machine(name: str) -> None:
    """Every candidate passes the check that a user's own schedule has to pass, for every problem and machine."""
    algorithm = ALGORITHMS[name]
    for problem in PROBLEMS.values():
        if algorithm.supports(problem) is None:
            for machine in MACHINES.values():
                for schedule in algorithm.schedules(problem, machine):
                    assert algorithm.check(problem, schedule, machine) is None, f"{schedule} for {problem}"


@pytest.mark.parametrize("name", ALGORITHMS)
def test_counts(name: str) -> None:
    """What is executed is at least the definition, or less by what padding and zeros save; memory is never negative."""
    algorithm = ALGORITHMS[name]
    for problem in PROBLEMS.values():
        if algorithm.supports(problem) is None:
            for schedule in algorithm.schedules(problem, MACHINES[next(iter(MACHINES))])[:SCHEDULES_TRIED]:
                assert algorithm.macs_executed(problem, schedule) > 0
                assert algorithm.workspace_bytes(problem, schedule, 2) >= 0


#: One of each algorithm with enough work to be divided.
THREADED = {
    "naive": "mb1 ic7 ih15 iw16 oc13 kh3 kw3 dh2 dw3 ph2 pw3 act=leaky_relu:0.25",
    "im2col": "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "kn2row": "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "mec": "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "fft": "mb2 ic20 ih24 iw27 oc40 kh5 kw7 ph2 pw3 bias act=relu res=before",
    "direct": "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "pointwise": "mb1 ic96 ih14 iw14 oc58 kh1 kw1 bias act=relu res=after",
    "transposed": "mb1 ic32 ih14 iw13 oc48 kh4 kw4 sh2 sw2 ph1 pw1 transposed bias act=relu res=after",
    "transposed_winograd": "mb1 ic32 ih14 iw13 oc48 kh4 kw4 sh2 sw2 ph1 pw1 transposed bias act=relu res=after",
    "transposed_depthwise": "mb2 g40 ic40 ih9 iw10 oc40 kh3 kw3 sh2 sw2 ph1 pw1 transposed oh1 ow1 bias act=relu res=before",
    "turned_depthwise": "mb2 g33 ic33 ih14 iw11 oc33 kh3 kw3 ph1 pw1 transposed bias",
    "turned_pointwise": "mb2 ic40 ih14 iw15 oc58 kh1 kw1 transposed bias act=relu res=after",
    "turned_direct": "mb1 ic32 ih14 iw14 oc48 kh3 kw3 ph1 pw1 transposed bias act=relu res=before",
    "turned_winograd": "mb1 ic32 ih14 iw14 oc48 kh3 kw3 ph1 pw1 transposed bias act=relu res=before",
    "depthwise": "mb2 g27 ic27 ih8 iw7 oc54 kh3 kw3 ph1 pw1 bias",
    "shift": "mb1 ic64 ih16 iw15 oc64 kh1 kw1 shift=5:d2 bias act=relu res=before",
    "gemm": "gemm m255 n129 k65 act=silu res=before",
    "winograd": "mb1 ic32 ih14 iw14 oc64 kh3 kw3 ph1 pw1 bias act=relu res=before",
    "gemv": "gemm m1 n1000 k258 tb bias",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_bit_identical_for_every_thread_count_and_run(name: str) -> None:
    problem: Problem = PROBLEMS[THREADED[name]]
    operands = Operands(problem, integers=False)
    kernels = [sevenloops.compile(problem, algorithm=name, threads=threads) for threads in (1, 2, None, 1)]
    results = [run(kernel, operands).tobytes() for kernel in kernels for _ in range(3)]
    assert len(set(results)) == 1


def test_depthwise_leaves_out_what_sees_padding() -> None:
    """MACs by hand: 7 x 7 outputs of a 7 x 7 kernel with padding 3 see 4+5+6+7+6+5+4 = 37 inputs on each axis."""
    problem = PROBLEMS["mb1 g64 ic64 ih6 iw6 oc64 kh7 kw7 ph3 pw3"]
    problem = parse_problem(str(problem).replace("ih6 iw6", "ih7 iw7"))
    params = {"tile_pixels": 7, "tile_rows": 1, "tile_channels": 16, "task_rows": 7, "stage": True, "channels": "outer"}
    schedule = Schedule("depthwise", **params, skip_padding=False, parallel=False)  # type: ignore[arg-type]
    depthwise = ALGORITHMS["depthwise"]
    assert depthwise.check(problem, schedule, MACHINES[next(iter(MACHINES))]) is None
    assert depthwise.macs_executed(problem, schedule) == 64 * 49 * 49
    assert depthwise.macs_executed(problem, schedule.replace(skip_padding=True)) == 64 * 37 * 37
    # Tasks of 4 rows are 4 and 3: no row is computed twice.
    assert depthwise.macs_executed(problem, schedule.replace(skip_padding=True, task_rows=4)) == 64 * 37 * 37


#: Sums that an activation must survive: where exp overflows or underflows, and the ends of float32.
SUMS = [0, 1e-38, 1, 3, 6, 20, 87, 88.8, 90, 104, 1e3, 1e9, 3e9, 1e30, 3.4e38]


@pytest.mark.parametrize("isa", MACHINES)
@pytest.mark.parametrize("words", ["relu", "clip:-2.0:6.0", "leaky_relu:0.01", "hard_swish", "sigmoid", "silu"])
def test_activations_of_extreme_sums(words: str, isa: str) -> None:
    """A matrix product with one term passes each number of `SUMS`, its opposite, and NaN to the activation."""
    sums = np.array([*SUMS, *(-v for v in SUMS), np.nan], np.float32)
    problem = gemm(f"gemm m{len(sums)} n17 k1 act={words}")
    a, b = sums[:, None].copy(), np.ones((1, 17), np.float32)
    for name in ("naive", "gemm"):
        kernel = sevenloops.compile(problem, algorithm=name, machine=MACHINES[isa])
        result = kernel(a, kernel.pack(b))
        # The smallest numbers may be flushed to zero.
        np.testing.assert_allclose(result, reference_gemm(problem, a, b), rtol=1e-6, atol=2e-36)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_bound_call_gives_the_same(name: str) -> None:
    problem: Problem = PROBLEMS[THREADED[name]]
    operands = Operands(problem, integers=False)
    kernel = sevenloops.compile(problem, algorithm=name)
    expected = run(kernel, operands).copy()
    bound = kernel.bind(operands.x, kernel.pack(operands.w), out=operands.out, **operands.extra)
    operands.poison()
    bound.run()
    assert bound.out is operands.out
    np.testing.assert_array_equal(operands.out, expected)


#: Numbers that float32 rounds, in every place where a float64 problem has a number.
DOUBLE_NUMBERS = [
    "gemm m5 n7 k3 alpha=0.1 beta=-0.7 float64",
    "gemm m5 n7 k3 alpha=0.1 bias act=leaky_relu:0.3 res=before float64",
    "gemm m5 n7 k3 act=clip:-0.1:0.7 float64",
    "gemm m5 n7 k3 act=hard_swish float64",
    "gemm m5 n7 k3 act=silu float64",
    "mb1 ic3 ih5 iw6 oc4 kh3 kw3 ph1 pw1 bias act=leaky_relu:0.3 res=after float64",
    "mb1 ic3 ih5 iw6 oc4 kh3 kw3 sh2 sw2 transposed act=clip:-0.1:0.7 float64",
    "mb1 ic3 ih5 iw6 oc4 kh3 kw3 act=sigmoid float64",
]


@pytest.mark.parametrize("text", DOUBLE_NUMBERS)
def test_no_number_of_a_float64_problem_is_rounded_to_float32(text: str) -> None:
    problem = parse_problem(text)
    operands = Operands(problem, integers=False)
    np.testing.assert_allclose(run(sevenloops.compile(problem), operands), operands.expected(), rtol=1e-13, atol=1e-15)
