"""1. The order of three loops.

A product of matrices is three loops around one multiply-add, and the loops may stand in any order. `ijk` is the definition:
a sum over k for each output. Its inner loop goes down a column of B, and a column is the worst way through a matrix that
lies row by row: every multiply-add needs another cache line, of which it uses 4 bytes of 64. `ikj` does the same
multiply-adds in another order, and its inner loop goes along rows.

The pictures below are the addresses that the two loop nests really touch, in order: look at B.

Seen: at 128, 2.2 GFLOP/s against 4.8; at 1024, 0.61 against 4.0.
(Intel Xeon at 2.80 GHz, AVX-512, 2 shared threads, 2026-11-21, `sevenloops ladder gemm`; all figures: docs/ladder.md.)

    python docs/tutorial/01_order.py
"""

from __future__ import annotations

from rich.console import Console

from sevenloops.ladder import Options, climb, gemm_cases, rungs_named
from sevenloops.ladder.access import small_case, touches
from sevenloops.ladder.access_text import picture
from sevenloops.ladder.text import render, rung_lines, working_set_lines
from sevenloops.machine import Machine


def main(short: bool = False) -> None:
    """Show both schedules, their addresses, and their speed."""
    rungs = rungs_named("gemm", ("ijk", "ikj"))
    cases = gemm_cases([64, 128] if short else [128, 256, 512, 1024])
    for rung in rungs[:1] if short else rungs:
        print("\n".join(rung_lines(rung, cases[-1])))
        print(picture(touches(rung, small_case("gemm"))))

    # The difference grows with the matrix: what one column needs must stay in the cache until the next column uses the
    # other 60 bytes of its lines.
    for case in cases:
        print(f"ijk at {case.name}:", *working_set_lines(rungs[0], case.problem, Machine.host()), sep="\n  ")
    Console(width=120).print(render(climb("gemm", rungs, cases, Options(rounds=1 if short else 3))))


if __name__ == "__main__":
    main()
