"""What `explain` says: the matrices with their sizes, who won and why, the hot loop, times taken now."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import sevenloops
from sevenloops.cli.main import app
from sevenloops.compile import resolve_schedule
from sevenloops.compile.build import lowered_text
from sevenloops.compile.explain import hot_loop, loop_nest
from sevenloops.compile.picture import gemm_picture
from sevenloops.compile.workers import run_job
from sevenloops.descriptor import parse_problem
from sevenloops.machine import Machine

SMALL = "mb1 ic8 ih6 iw6 oc5 kh3 kw3"


def test_matrices_have_the_sizes_of_the_problem() -> None:
    lines = gemm_picture(parse_problem("mb2 ic64 ih56 iw56 oc32 kh3 kw3 ph1 pw1"))
    assert lines[0] == "6,272 pixels x (3 x 3 taps x 64 channels = 576) times 576 x 32"
    assert "13.78 MiB, 9.00 times the input's 1.53 MiB" in lines[1]
    assert lines[5] == "6,272 | patches |  x 576 | weights |  = | output |"
    assert lines[2].split() == ["576", "32", "32"]
    assert gemm_picture(parse_problem("gemm m256 n192 k1152"))[3] == "256 |   A   |  x 1,152 |  B  |  = |  C  |"
    grouped = gemm_picture(parse_problem("mb1 g4 ic8 ih6 iw6 oc12 kh3 kw3"))
    assert "(3 x 3 taps x 2 channels = 18) times 18 x 3, 4 times, one for each group" in grouped[0]
    widths = {len(line) for line in lines[3:7]}
    assert len(widths) <= 2  # only the row with the signs differs


def test_growth_by_lowering_is_that_of_the_books() -> None:
    """11x11/4 7.56 times, 5x5/1 25 times, 3x3/1 9 times: (K / s)^2."""
    for text, growth in (
        ("mb1 ic3 ih227 iw227 oc96 kh11 kw11 sh4 sw4", "7.10"),  # fewer windows fit than pixels / 16
        ("mb1 ic96 ih27 iw27 oc256 kh5 kw5 ph2 pw2", "25.00"),
        ("mb1 ic256 ih13 iw13 oc384 kh3 kw3 ph1 pw1", "9.00"),
    ):
        assert f"{growth} times the input's" in gemm_picture(parse_problem(text))[1]


def test_transposed_convolutions_scatter() -> None:
    lines = gemm_picture(parse_problem("transposed mb1 ic6 ih5 iw5 oc4 kh3 kw3 sh2 sw2"))
    assert lines[0].startswith("25 pixels of the input x 6 channels") and "36" in lines[1]


def test_the_winner_and_the_loser_are_named() -> None:
    text = sevenloops.compile(parse_problem(SMALL)).explain()
    assert " won: " in text and "as matrices" in text and "\n> " in text
    assert "naive runs as it was asked for" in sevenloops.compile(parse_problem(SMALL), algorithm="naive").explain()


def test_the_hot_loop_counts_what_is_in_it() -> None:
    assembly = "f:\n\tmovq %rax, %rbx\n.L1:\n\tvmovups (%rsi), %zmm1\n\tvfmadd231ps %zmm1, %zmm2, %zmm3\n"
    assembly += "\tvfmadd231ps 8(%rsp), %zmm2, %zmm4\n\tjne .L1\n\tret\n"
    *body, last = hot_loop(assembly)
    assert body[0] == ".L1:" and len(body) == 5
    assert last == (
        "= 4 instructions: multiply-adds 2, with a memory operand 2, of which on the stack (spills) 1; vector registers 4"
    )


def test_the_hot_loop_is_not_the_transform() -> None:
    """More multiply-adds, among other instructions and stores, are not where the products are."""
    other = "\tvaddps %zmm1, %zmm2, %zmm3\n\tvmovups %zmm3, (%rdi)\n\tvfmadd231ps %zmm1, %zmm2, %zmm3\n"
    text = ".L1:\n" + 9 * other + "\tjne .L1\n.L2:\n" + 4 * "\tvfmadd231ps (%rsi), %zmm2, %zmm3\n" + "\tjne .L2\n"
    assert hot_loop(text)[0] == ".L2:"


@pytest.mark.parametrize(
    ("text", "algorithm", "isa"),
    [
        ("mb1 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1", "direct", "avx512"),
        ("mb1 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1", "direct", "avx2"),
        ("mb1 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1", "direct", "neon"),
        ("mb1 ic64 ih14 iw14 oc64 kh3 kw3 ph1 pw1", "winograd", "avx2"),
        ("mb1 g32 ic32 ih14 iw14 oc32 kh3 kw3 ph1 pw1", "depthwise", "avx2"),
        ("gemm m64 n64 k64", "gemm", "avx2"),
        ("gemm m64 n64 k64", "gemm", "sse4"),
    ],
)
def test_the_hot_loop_has_the_multiply_adds_of_the_schedule(text: str, algorithm: str, isa: str) -> None:
    """A vector for each lane-wide piece of the tile, as often as it is unrolled; a depthwise one for each of nine taps."""
    problem, machine = parse_problem(text), Machine.described(isa)
    schedule, _ = resolve_schedule(problem, algorithm, None, machine)
    *body, last = hot_loop(run_job(lowered_text, problem, schedule, machine)["assembly"])
    params = {name: int(value) for name, value in schedule.params.items() if isinstance(value, int)}
    rows = params["tile_tiles"] if algorithm == "winograd" else params["tile_pixels"] * params.get("tile_rows", 1)
    sums = rows * params["tile_channels"] // machine.lanes
    assert f"multiply-adds {sums * (9 if algorithm == 'depthwise' else params['unroll'])}, " in last
    registers = int(last.split()[-1])
    assert sums < registers <= machine.vector_registers
    if isa.startswith("avx"):  # each of them, and no other, is in the loop's text
        assert registers == len({word.strip(",()")[1:] for op in body for word in op.split() if "mm" in word[:4]})


def test_names_that_a_worker_has_met_before_are_read_as_written() -> None:
    text = "produce out$1 {\n for (out$1.s0.x, 0, 4) {\n  allocate a$2[float32 * 4]\n  allocate a[float32 * 4]\n"
    assert loop_nest(text) == [
        "produce out",
        " for (out.s0.x, 0, 4)",
        "  allocate a$2[float32 * 4]",
        "  allocate a[float32 * 4]",
    ]


def test_every_algorithm_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sevenloops.cli import explain

    result = CliRunner().invoke(app, ["explain", "gemm m5 n6 k7", "--measure", "--threads", "1"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout[result.stdout.index("measured now") :].splitlines()
    assert any(line.split()[0] == "gemm" and "ms measured" in line for line in lines)
    assert lines[-1].endswith("was chosen")
    kernel = sevenloops.compile(parse_problem("gemm m5 n6 k7"))
    monkeypatch.setattr(explain, "time_kernel", None)  # must not be called
    monkeypatch.setattr(explain, "SLOWEST_S", 0.0)
    lines = explain.measured_lines(kernel)
    assert all("takes too long" in line for line in lines[1:-1]) and lines[-1] == "  nothing was timed"
