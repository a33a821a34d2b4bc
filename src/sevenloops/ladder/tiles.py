"""The register tile that the ladder gives a machine."""

from __future__ import annotations

from ..algorithms.tiles import register_tiles, tap_cycles
from ..machine import Machine

__all__ = ["own_tile"]


def own_tile(machine: Machine) -> tuple[int, int]:
    """(rows, columns) of the tile with the fewest cycles a multiply-add by the model of `algorithms.tiles`.

    At equal cycles the wider tile, whose rows have fewer addresses. 6 x 16 is what AVX2 gets elsewhere (BLIS on Haswell).
    """
    tiles = register_tiles(machine, 6 * machine.lanes, 64)
    return min(tiles, key=lambda tile: (tap_cycles(tile[0], tile[1] // machine.lanes) / (tile[0] * tile[1]), -tile[1]))
