"""The cache lines of a trace as a picture of characters."""

from __future__ import annotations

import numpy as np

from .access import Trace
from .table import LINE

__all__ = ["picture", "window"]

COLUMNS, ROWS = 96, 12


def window(trace: Trace, touches: int) -> slice:
    """The part that is drawn: so many touches from the first product on."""
    begin = trace.begin()
    return slice(begin, begin + touches)


def picture(trace: Trace, touches: int = 4 * COLUMNS) -> str:
    """A block for each array: cache lines downwards, time to the right; `o` is loaded, `#` stored, `.` not touched."""
    part = window(trace, touches)
    array, store, line = trace.array[part], trace.store[part], trace.first[part] // LINE
    column = np.arange(len(array)) * COLUMNS // max(1, touches)
    text = [f"{trace.rung}, {trace.problem}: {len(array)} touches from the first product on, in order"]
    for index, name in enumerate(trace.names):
        mine = array == index
        lines = -(-trace.extent[index] // LINE)
        each = -(-lines // ROWS)
        rows = [["."] * COLUMNS for _ in range(-(-lines // each))]
        for at, where, stored in zip(column[mine], line[mine] // each, store[mine]):
            rows[where][at] = "#" if stored else "o"
        text.append(f"  {name}: {lines} lines of {LINE} bytes" + (f", {each} in a row" if each > 1 else ""))
        text += ["    " + "".join(row) for row in rows]
    moves = ", ".join(f"{name} {count:.3g}" for name, count in trace.new_lines().items())
    text.append(f"  changes of line for 100 multiply-adds: {moves}")
    text.append(f"  {trace.intensity:.2f} FLOP per byte loaded or stored; {trace.local:,} touches of tiles besides")
    return "\n".join(text)
