"""How fast kernels pack their weights: the bytes read and written, and their share of the memory bandwidth.

Calls whose weights are new each time pack in every call (`Kernel.once`), so packing counts there as arithmetic does. The
same arrays are packed again and again: what the last cache holds of them is not read from memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..algorithms import ALGORITHMS
from ..arrays import address, aligned_empty
from ..compile import Kernel, compile
from ..inputs import make_inputs
from .networks import Layer
from .results import OWN, Timing

__all__ = ["PackTime", "measure_packs"]


@dataclass(frozen=True)
class PackTime:
    """One kernel's packing: `timing` of `pack` into memory that was touched before, `repeats` of its layer in a network."""

    name: str
    algorithm: str
    repeats: int
    read_bytes: int
    written_bytes: int
    timing: Timing

    @property
    def moved_bytes(self) -> int:
        """Bytes read plus bytes written."""
        return self.read_bytes + self.written_bytes


def measure_packs(
    layers: Sequence[Layer],
    algorithm: str | None = None,
    threads: int | None = None,
    rounds: int = 7,
    say: Callable[[str], None] = lambda text: None,
) -> list[PackTime]:
    """Time the packing of every layer, by the algorithm of that name, by `"all"` that compute it, or by the one chosen.

    Raises what `sevenloops.compile` raises.
    """
    found = []
    for layer in layers:
        names: list[str | None] = [algorithm]
        if algorithm == "all":
            rows = [row for row in ALGORITHMS.values() if isinstance(layer.problem, row.kinds)]
            names = [row.name for row in rows if row.supports(layer.problem) is None]
        for name in names:
            say(f"{layer.name}: {name or 'the chosen algorithm'}")
            kernel = compile(layer.problem, algorithm=name, threads=threads)
            found.append(_measured(kernel, layer, rounds))
    return found


def _measured(kernel: Kernel, layer: Layer, rounds: int) -> PackTime:
    w = make_inputs(kernel.problem, 0).w
    packed = aligned_empty(kernel.image.pack_buffers[-1].shape, kernel.problem.dtype)
    addresses = address(w), address(packed)
    kernel.loaded.pack(*addresses)
    samples = []
    for _ in range(rounds):
        times: list[float] = []
        while len(times) < 5 or sum(times) < 0.01:
            begin = time.perf_counter()
            kernel.loaded.pack(*addresses)
            times.append(time.perf_counter() - begin)
        samples.append(tuple(times))
    timing = Timing(OWN, rounds_s=tuple(samples))
    return PackTime(layer.name, kernel.algorithm, layer.repeats, w.nbytes, packed.nbytes, timing)
