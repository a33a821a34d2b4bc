"""`sevenloops bench accuracy`: rounding errors as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..bench.accuracy import Accuracy, measure_accuracy
from ..bench.network_accuracy import BOUNDS, measure_networks

__all__ = ["accuracy_command", "network_accuracy_command", "print_table"]


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
    print_table("largest error relative to the largest output, worst of three seeds", heads, lines, markdown)


def network_accuracy_command(names: Sequence[str], markdown: bool) -> bool:
    """Measure, and print one row for each network; returns whether all are within their bounds."""
    with Console(stderr=True).status("computing in float64") as status:
        results = measure_networks(names, lambda result: status.update(f"{result.name} is done"))
    heads = ["network", "weights", *(f"{accuracy}, at most {bound:.0e}" for accuracy, bound in BOUNDS.items()), "within"]
    lines = [
        [r.name, r.weights, *(f"{r.errors[accuracy]:.1e}" for accuracy in BOUNDS), "yes" if r.holds else "no"]
        for r in results
    ]
    print_table("largest error relative to the largest output, against float64", heads, lines, markdown)
    return all(result.holds for result in results)


def print_table(title: str, heads: list[str], lines: list[list[str]], markdown: bool) -> None:
    """A table whose first two columns are words."""
    if markdown:
        print("\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *lines]))
        return
    table = Table(title=title)
    for at, head in enumerate(heads):
        table.add_column(head, justify="left" if at < 2 else "right")
    for line in lines:
        table.add_row(*line)
    Console().print(table)
