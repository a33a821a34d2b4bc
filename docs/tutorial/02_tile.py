"""2. Tiles: use what has been fetched more than once.

`ikj` loads two values and stores one for each multiply-add. A tile of rows x columns sums, with k as the loop around it,
loads rows + columns values for rows * columns multiply-adds: 22 for 96 with 6 x 16. That is the number to look at below:
FLOP for each byte that the loops load or store from the matrices.

It hardly runs faster yet. The sums are an array in memory, loaded and stored for each multiply-add, and there is one
multiply-add an instruction. The tile is what the next steps stand on.

Seen at 512: `ikj` 4.7 GFLOP/s, 6 x 16 3.2, 6 x 64 4.5.
(Intel Xeon at 2.80 GHz, AVX-512, 2 shared threads, 2026-11-21, `sevenloops ladder gemm`; all figures: docs/ladder.md.)

    python docs/tutorial/02_tile.py
"""

from __future__ import annotations

from rich.console import Console

from sevenloops.ladder import Options, climb, gemm_cases, rungs_named
from sevenloops.ladder.access import small_case, touches
from sevenloops.ladder.text import render, rung_lines
from sevenloops.ladder.tiles import own_tile
from sevenloops.machine import Machine


def main(short: bool = False) -> None:
    """Show the two tiles, what they save, and their speed."""
    machine = Machine.host()
    rows, columns = own_tile(machine)
    print(f"{machine.isa} has {machine.vector_registers} registers of {machine.lanes}: the tile is {rows} x {columns}")
    rungs = rungs_named("gemm", ("ikj", "tile6x16", "tile"))
    cases = gemm_cases([64] if short else [128, 256, 512])
    print("\n".join(rung_lines(rungs[1], cases[-1])))
    for rung in rungs[:1] if short else rungs:
        trace = touches(rung, small_case("gemm"))
        print(f"{rung.name}: {trace.intensity:.2f} FLOP per byte of A, B and C; {trace.local:,} touches of the tile's sums")
    Console(width=120).print(render(climb("gemm", rungs, cases, Options(rounds=1 if short else 3))))


if __name__ == "__main__":
    main()
