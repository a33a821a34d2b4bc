"""`sevenloops bench accuracy`: rounding errors as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..bench.accuracy import Accuracy, measure_accuracy

__all__ = ["accuracy_command"]


def accuracy_command(kernels: tuple[int, ...], channels: tuple[int, ...], markdown: bool) -> None:
    """Measure, and print one row for each way: its largest error for each problem, then the root mean square."""
    with Console(stderr=True).status("") as status:
        results = measure_accuracy(kernels, channels, lambda result: status.update(f"{result.what}: {result.problem}"))
    rows: dict[tuple[int, str], list[Accuracy]] = {}
    for result in results:
        rows.setdefault((result.problem.kernel[0], result.what), []).append(result)
    heads = ["kernel", "way", *(f"{c} channels" for c in channels), "root mean square"]
    lines = [
        [f"{k} x {k}", what, *(f"{r.largest:.1e}" for r in found), f"{found[-1].root_mean_square:.1e}"]
        for (k, what), found in rows.items()
    ]
    if markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines]))
        return
    table = Table(title="largest error relative to the largest output, worst of three seeds")
    for head in heads:
        table.add_column(head, justify="left" if head in ("kernel", "way") else "right")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
