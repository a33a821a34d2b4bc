"""Shares of the peak as they are shown: what cannot be is marked, as others had the cores while it was measured."""

from __future__ import annotations

__all__ = ["MARK_MEANS", "above_possible", "share_text"]

#: Said below tables that have a mark.
MARK_MEANS = "?: more than is possible, so noise: other programs had the cores while it was measured"


def above_possible(share: float | None, macs: int, macs_executed: int | None) -> bool:
    """Whether a share of the peak, by the `macs` of the definition, is above 1 for what is executed.

    Winograd and FFT execute fewer, so theirs may be above 1. False where it is not known what is executed (None).
    """
    return share is not None and macs_executed is not None and share * min(macs, macs_executed) > macs


def share_text(share: float | None, macs: int, macs_executed: int | None, digits: int = 0) -> str:
    """A share in percent, `-` for None; a `?` follows one that is above what is possible."""
    if share is None:
        return "-"
    return f"{100 * share:.{digits}f}" + ("?" if above_possible(share, macs, macs_executed) else "")
