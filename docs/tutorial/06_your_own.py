"""6. Change one schedule.

A rung is a file with a function `define(problem, machine)`: the product in four lines, then its schedule. This script does
what a reader does with an editor: it takes the file of `unroll`, changes the tile, and climbs again. Too small a tile
leaves multiply-adds waiting for one another; one too large does not fit the registers, and sums are spilled to
memory.

    python docs/tutorial/06_your_own.py

By hand, with any change that you like:

    sevenloops ladder gemm --rung unroll --code > mine.py
    sevenloops ladder gemm --schedule mine.py --size 512 --assembly
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from rich.console import Console

from sevenloops.ladder import GEMM, Options, climb, gemm_cases, own_rung
from sevenloops.ladder.text import render
from sevenloops.machine import Machine


def main(short: bool = False) -> None:
    """Try tiles of several heights, each as a file of its own."""
    code, lanes = GEMM["unroll"].code(), Machine.host().lanes
    tiles = [(2, 2), (8, 2)] if short else [(2, 2), (4, 2), (8, 2), (12, 2), (6, 4), (16, 4)]
    with tempfile.TemporaryDirectory() as folder:
        rungs = [GEMM["unroll"]]
        for rows, vectors in tiles:
            path = Path(folder) / f"tile{rows}x{vectors * lanes}.py"
            path.write_text(code.replace("own_tile(machine)", f"{rows}, {vectors * lanes}"), encoding="utf-8")
            rungs.append(own_rung(path))
        run = climb("gemm", rungs, gemm_cases([64] if short else [256, 512]), Options(rounds=1 if short else 5))
    Console(width=120).print(render(run))


if __name__ == "__main__":
    main()
