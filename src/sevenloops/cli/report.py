"""`sevenloops report`: the page about one network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ..analysis.kernels import kernel_texts
from ..analysis.pictures import FirstLayer, first_layer
from ..bench.network_bench import run_networks
from ..bench.report import plain, write_atomically
from ..bench.runner import BenchError, Options
from ..errors import GraphError
from ..report import Chart, report_page
from ..report.charts import plotly
from ..report.ladder import ladder_charts, read_ladder
from ..report.pictures import file_uri
from ..report.training import training_charts
from .analysis import Loaded
from .profile import measure_profile

__all__ = ["Extras", "report_command"]


@dataclass(frozen=True)
class Extras:
    """What a page has beside the profile: other engines, loop nests, charts of ladders and trainings, pictures."""

    against: tuple[str, ...]
    kernels: bool
    charts: tuple[Chart, ...]
    pictures: tuple[Path, ...]

    @classmethod
    def read(
        cls, against: Sequence[str], kernels: bool, ladders: Sequence[Path], trainings: Sequence[Path],
        pictures: Sequence[Path],
    ) -> Extras:  # fmt: skip
        """Raises `ReportError` for files of another kind and without plotly, `OSError`: before anything is measured."""
        plotly()
        for path in pictures:
            file_uri(path)
        charts = [chart for at, path in enumerate(ladders) for chart in ladder_charts(read_ladder(path), at)]
        charts += training_charts(trainings) if trainings else []
        return cls(tuple(against), kernels, tuple(charts), tuple(pictures))


def report_command(loaded: Loaded, output: Path, runs: int, extras: Extras) -> None:
    """Measure, compare with other engines if any are asked for, and write the page."""
    if not output.absolute().parent.is_dir():  # better now than after measuring
        raise BenchError(f"cannot write {output}: its folder does not exist")
    options = Options(extras.against, loaded.session.threads, rounds=3, slice_s=0.1, accuracy=loaded.session.accuracy)
    profile = measure_profile(loaded, runs)
    peers = _peers(loaded, options) if extras.against else None
    texts: dict[str, str] = {}
    if extras.kernels:
        with Console(stderr=True).status("") as status:
            plan = loaded.session.plan(loaded.case.sizes)
            texts = kernel_texts(plan, lambda done, total: status.update(f"loop nests: {done} of {total}"))
    page = report_page(
        profile, kernels=texts, filters=_filters(loaded), peers=peers, charts=extras.charts, pictures=extras.pictures
    )
    write_atomically(output, page)
    print(f"{output}: {len(profile.layers)} steps, {len(page) / 2**20:.1f} MiB")


def _filters(loaded: Loaded) -> FirstLayer | None:
    try:
        found = first_layer(loaded.case.graph)
    except GraphError:
        return None
    return replace(found, remark="The weights are random.") if loaded.random else found


def _peers(loaded: Loaded, options: Options) -> dict[str, float]:
    """Seconds of a run by engine, ours too; those that could not run are left out, with a line that says why."""
    with Console(stderr=True).status("") as status:
        (row,) = run_networks([loaded.case], options, lambda text: status.update(plain(text))).rows
    found = {}
    for name, timing in row.timings.items():
        if timing.reason is None:
            found[name] = timing.median_s
        else:
            Console(stderr=True).print(f"{name}: {plain(timing.reason)}")
    return found
