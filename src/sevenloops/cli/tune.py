"""`sevenloops tune` and `sevenloops tuned`: search schedules, and look after the records of what was found."""

from __future__ import annotations

import json as json_format
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from .. import records
from ..errors import ProblemError
from ..machine import Machine
from ..problem import Problem
from ..records import Record, machine_kind
from ..schedule import Schedule
from ..tune import Progress as Step
from ..tune import tune

__all__ = ["clear_command", "export_command", "import_command", "list_command", "trial_command", "tune_command"]


def tune_command(problems: Sequence[Problem], schedules: Sequence[str], isa: str | None, **options: Any) -> None:
    """Tune every problem; a line for each, as it is finished, says what was found."""
    if not problems:
        raise ProblemError("no problem was given: name descriptors, or --network")
    machine = Machine.described(isa) if isa else None
    extra = [Schedule.from_json(text) for text in schedules]
    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[left]}"), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(set(problems)), left="")

        def show(step: Step) -> None:
            left = "" if step.left_s is None else f"about {_duration(step.left_s)} left"
            progress.update(task, completed=step.done, left=left, description=step.text)
            if step.record:
                print(_line(step.record) + (" (tuned before)" if step.kept else ""), flush=True)
            if step.error:
                print(f"sevenloops: {step.problem}: {step.error}", file=sys.stderr)

        found = tune(problems, machine=machine, extra_schedules=extra, on_progress=show, **options)
    ratios = [record.untuned_s / record.results[0].median_s for record in found]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
    print(f"untuned over tuned: geometric mean {mean:.3f}, at most {max(ratios):.2f}, of {len(ratios)} problems")


def trial_command(model: str, batch: int, shapes: Mapping[str, tuple[int, ...]], again: bool) -> None:
    """Try the layers' best schedules inside the network; a line for each layer where another one wins there."""
    from ..bench.network_bench import case, random_feeds
    from ..classify import load_graph
    from ..network_tuning import Step as TrialStep
    from ..network_tuning import tune_network

    network = case(model, load_graph(model), batch, shapes)
    with Progress(
        BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task(f"trial inside {model}", total=None)

        def show(step: TrialStep) -> None:
            bar.update(task, completed=step.done, total=step.total, description=f"trial inside {model}: {step.text}")

        feeds = random_feeds(network.graph, network.sizes, 0)
        found = tune_network(network.graph, feeds, model, again=again, on_progress=show)
    gained = [(record, record.trial) for record in found if record.trial and record.trial.median_s < record.trial.alone_s]
    for record, trial in gained:
        times = f"{1e3 * trial.alone_s:.4g} ms to {1e3 * trial.median_s:.4g} ms"
        print(f"inside {model}: {record.problem}: {times} {trial.schedule!r}")
    print(f"inside {model}: another schedule than alone is faster for {len(gained)} of {len(found)} layers")


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _line(record: Record) -> str:
    best, *others = record.results
    rest = "".join(f", {r.schedule.algorithm} {1e3 * r.median_s:.4g}" for r in others)
    return f"{record.problem}: {1e3 * best.median_s:.4g} ms {best.schedule!r}{rest}"


def list_command(json: bool = False) -> None:
    """Print every record that counts."""
    entries = records.entries()
    if json:
        rows = [{**json_format.loads(record.to_json()), "shipped": not own} for record, own in entries]
        print(json_format.dumps(rows, indent=2))
        return
    table = Table(title=f"{len(entries)} records; yours are in {records.path()}", title_justify="left")
    for name in ("problem", "machine", "ms", "algorithm", "others, ms", "date", "from"):
        table.add_column(name, overflow="fold", justify="right" if name == "ms" else "left")
    for record, own in entries:
        best, *others = record.results
        rest = ", ".join(f"{r.schedule.algorithm} {1e3 * r.median_s:.4g}" for r in others)
        machine = f"{record.cpu}, {record.kind.split(' l1=')[0]}"
        ms, name, source = f"{1e3 * best.median_s:.4g}", best.schedule.algorithm, "you" if own else "shipped"
        table.add_row(record.problem, machine, ms, name, rest, record.date[:10], source)
    Console().print(table)


def export_command(file: Path, this_machine: bool) -> None:
    """Write your records to a file."""
    print(f"{records.export_file(file, machine_kind(Machine.host()) if this_machine else None)} records written to {file}")


def import_command(file: Path) -> None:
    """Add the records of a file."""
    print(f"{records.import_file(file)} records added from {file}")


def clear_command() -> None:
    """Remove your records."""
    print(f"{records.clear()} records removed")
