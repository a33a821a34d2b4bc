"""4. Packing, and the peak.

With its sums in registers the product waits for memory again: a tile reads its columns of B in steps of a whole row. Steps
of 4 KB fall on the same few places of a cache and leave the prefetcher behind, so the largest matrices suffer most. `packed`
copies B into panels once, and takes the rows of A in blocks that stay in L2. The tuned kernel does that with a searched
schedule and packs B before the clock starts, as a network does with its weights. NumPy's BLAS and the machine's peak,
measured beside, say what is left.

Seen at 1024: `unroll` 133 GFLOP/s, `packed` 227, `tuned` 276 (86 % of the peak beside it), NumPy 234.
(Intel Xeon at 2.80 GHz, AVX-512, 2 shared threads, 2026-11-21, `sevenloops ladder gemm`; all figures: docs/ladder.md.)

    python docs/tutorial/04_pack.py
"""

from __future__ import annotations

from rich.console import Console

from sevenloops.ladder import Options, climb, gemm_cases, rungs_named
from sevenloops.ladder.access import small_case, touches
from sevenloops.ladder.access_text import picture
from sevenloops.ladder.text import render, working_set_lines
from sevenloops.machine import Machine


def main(short: bool = False) -> None:
    """Show what packing does to the addresses, the working sets, and the speed of the last rungs."""
    rungs = rungs_named("gemm", ("unroll", "packed", "tuned") if short else ("unroll", "packed", "tuned", "numpy"))
    cases = gemm_cases([128] if short else [128, 256, 512, 1024])
    for rung in rungs[1:2] if short else rungs[:2]:
        print(picture(touches(rung, small_case("gemm"))))
    for rung in rungs[:2]:
        print(rung.name, *working_set_lines(rung, cases[-1].problem, Machine.host()), sep="\n  ")
    Console(width=120).print(render(climb("gemm", rungs, cases, Options(rounds=1 if short else 5))))


if __name__ == "__main__":
    main()
