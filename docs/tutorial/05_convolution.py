"""5. From the product to the convolution.

A convolution is seven loops around the same multiply-add, and the same steps work: `hand` is a tile, vectors, unrolling and
all cores in a few lines. What else there is to gain comes from doing something else: `im2col` and `kn2row` turn the layer
into products, `direct` reads the same patches without writing them out, `winograd` and `fft` multiply less. By the MACs of
the definition these two may stand above the peak, for they do not execute them all.

Which one wins depends on the layer. Three input channels leave nothing to save to Winograd; 256 do.

Seen on three channels: `loops` 2.2 GFLOP/s, `hand` 296, `direct` 276, PyTorch 179; on 256: `loops` 1.7,
`direct` 278, `fft` 400, `winograd` 793, PyTorch 256.
(Intel Xeon at 2.80 GHz, AVX-512, 2 shared threads, 2026-11-21, `sevenloops ladder conv`; all figures: docs/ladder.md.)

    python docs/tutorial/05_convolution.py
"""

from __future__ import annotations

from rich.console import Console

from sevenloops.ladder import CONV_CASES, Case, Options, climb, rungs_named
from sevenloops.ladder.text import render, rung_lines
from sevenloops.problem import ConvProblem


def main(short: bool = False) -> None:
    """Show the schedule by hand, and the speed of every way to compute the two layers."""
    layers = {"small": ConvProblem(1, 16, (14, 14), 32, (3, 3), padding=((1, 1),))} if short else CONV_CASES
    cases = [Case(name, problem) for name, problem in layers.items()]
    rungs = [rung for rung in rungs_named("conv") if not (short and rung.kind == "engine")]
    print("\n".join(rung_lines(rungs[2], cases[0])))
    Console(width=140).print(render(climb("conv", rungs, cases, Options(rounds=1 if short else 5))))


if __name__ == "__main__":
    main()
