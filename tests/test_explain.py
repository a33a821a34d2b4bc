"""What `explain` says: the matrices with their sizes, who won and why, the hot loop, times taken now."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import sevenloops
from sevenloops.cli.main import app
from sevenloops.compile.explain import hot_loop
from sevenloops.compile.picture import gemm_picture
from sevenloops.descriptor import parse_problem

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
        "= 2 multiply-adds, 2 instructions with a memory operand, 4 vector registers, 1 accesses to the stack (spills)"
    )


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
