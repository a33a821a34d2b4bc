"""What the commands about one network share: the network, its sizes, a session with a progress bar, units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ..bench.network_bench import NetworkCase, case
from ..classify import is_file, load_graph
from ..errors import printable
from ..models import find, has_weights
from ..session import InferenceSession
from .problems import named_shapes

__all__ = ["PIPE_WIDTH", "Loaded", "console", "load", "load_case", "mib", "random_weights"]

#: A table is written at this width into a file or pipe.
PIPE_WIDTH = 180


@dataclass(frozen=True)
class Loaded:
    """A network and its session, compiled for the sizes; `random` says that its weights mean nothing."""

    case: NetworkCase
    session: InferenceSession
    random: bool = False


def load_case(model: str, batch: int, shapes: Sequence[str]) -> NetworkCase:
    """A network by name or file, with the size of every input."""
    sizes = named_shapes(shapes)
    return case(Path(model).stem if is_file(model) else model, load_graph(model), batch, sizes)


def load(model: str, batch: int, shapes: Sequence[str], threads: int | None, accuracy: str) -> Loaded:
    """The network compiled, with a progress bar while kernels are not in the cache."""
    found = load_case(model, batch, shapes)
    columns = (TextColumn("compiling"), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        session = InferenceSession(
            found.graph,
            threads=threads,
            accuracy=accuracy,
            shapes=found.sizes,
            progress=lambda label, done, total: bar.update(task, description=printable(label), completed=done, total=total),
        )
    return Loaded(found, session, random_weights(model))


def random_weights(model: str) -> bool:
    """Whether a network of the zoo has random weights: it has no trained ones, or they are not installed."""
    return not is_file(model) and not has_weights(find(model).name)


def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error; wide where it is no terminal."""
    found = Console(highlight=False, stderr=stderr)
    return found if found.is_terminal else Console(width=PIPE_WIDTH, highlight=False, stderr=stderr)


def mib(n_bytes: float) -> str:
    """Bytes in MiB."""
    return f"{n_bytes / 2**20:.2f}"
