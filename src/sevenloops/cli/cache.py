"""`sevenloops cache`: what the kernel cache holds."""

from __future__ import annotations

import datetime
import json as json_format

from rich.console import Console
from rich.table import Table

from ..compile import cache
from ..graph import kept

__all__ = ["clear_command", "list_command", "path_command"]


def list_command(json: bool = False) -> None:
    """Print every kept program, cached kernel and choice, the newest first."""
    entries = [*kept.entries(), *cache.entries()]
    if json:
        rows = [
            {name: getattr(entry, name) for name in ("key", "problem", "algorithm", "size_bytes", "modified")}
            for entry in entries
        ]
        print(json_format.dumps(rows, indent=2))
        return
    total = sum(entry.size_bytes for entry in entries)
    table = Table(
        title=f"{len(entries)} programs, kernels and choices, {total / 1024:.0f} KiB in {cache.folder().parent}",
        title_justify="left",
    )
    table.add_column("problem", overflow="fold")
    table.add_column("algorithm")
    table.add_column("KiB", justify="right")
    table.add_column("last used")
    for entry in entries:
        used = datetime.datetime.fromtimestamp(entry.modified).isoformat(" ", "seconds")
        table.add_row(entry.problem, entry.algorithm, f"{entry.size_bytes / 1024:.0f}", used)
    Console().print(table)


def clear_command() -> None:
    """Remove every kept program, cached kernel and choice and say how many there were."""
    print(f"{kept.clear()} programs, {cache.clear()} kernels and choices removed")


def path_command() -> None:
    """Print the folder of the cache."""
    print(cache.folder())
