"""3. Vectors, cores, registers.

Three lines of schedule and the tile pays off. `vector`: an instruction multiplies and adds a whole vector of columns.
`parallel`: the rows of tiles go to all cores. `unroll`: the loops over the tile disappear, so each sum has a register of
its own from the first k to the last. Compare the hot loops: before `unroll`, a load and a store stand around each
multiply-add; after it there are only multiply-adds and the loads of A and B.

Seen at 512: `tile` 4.5 GFLOP/s, `vector` 24, `parallel` 41, `unroll` 200; at 1024 `unroll` has 133.
(Intel Xeon at 2.80 GHz, AVX-512, 2 shared threads, 2026-11-21, `sevenloops ladder gemm`; all figures: docs/ladder.md.)

    python docs/tutorial/03_registers.py
"""

from __future__ import annotations

from rich.console import Console

from sevenloops.ladder import Options, climb, gemm_cases, rungs_named
from sevenloops.ladder.text import render, rung_lines


def main(short: bool = False) -> None:
    """Show the three schedules with their machine code, and their speed."""
    rungs = rungs_named("gemm", ("tile", "vector", "parallel", "unroll"))
    cases = gemm_cases([128] if short else [128, 256, 512, 1024])
    for rung in rungs[1:]:
        print("\n".join(rung_lines(rung, cases[-1], loops=False, assembly=True)))
    Console(width=120).print(render(climb("gemm", rungs, cases, Options(rounds=1 if short else 3))))


if __name__ == "__main__":
    main()
