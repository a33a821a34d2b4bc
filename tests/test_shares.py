"""Shares of the peak: those that cannot be are marked as noise wherever they are shown."""

from __future__ import annotations

import dataclasses
import json

import pytest
from rich.console import Console

from sevenloops.analysis.export import as_dict
from sevenloops.analysis.layers import LayerTime
from sevenloops.analysis.profile import LayerProfile, Profile
from sevenloops.analysis.shares import MARK_MEANS, above_possible, share_text
from sevenloops.bench.markdown import page as markdown_page
from sevenloops.bench.report import render as render_bench
from sevenloops.bench.report import to_json
from sevenloops.cli.profile import _print as print_profile
from sevenloops.cli.run import _table as layer_table
from sevenloops.ladder import CONV_CASES, LADDERS, Case, LadderRun, Point
from sevenloops.ladder.text import render as render_ladder
from sevenloops.machine import Machine
from sevenloops.problem import GemmProblem
from test_bench import a_run

MACHINE = Machine.described("avx2", peak_gflops_core=50.0, peak_gflops=100.0, bandwidth_gbs=10.0)


def shown(*what: object) -> str:
    console = Console(width=300, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(*what)
    return " ".join(capture.get().split())


def test_what_is_possible() -> None:
    assert share_text(1.27, 1000, 1000) == "127?" and share_text(1.27, 1000, 1100, digits=1) == "127.0?"
    assert share_text(2.08, 1000, 400) == "208" and share_text(2.6, 1000, 400) == "260?"  # Winograd
    assert share_text(1.27, 1000, None) == "127" and share_text(1.0, 1000, 1000) == "100"
    assert share_text(None, 1000, 1000) == "-"
    assert not above_possible(None, 1000, 1000)


def test_the_ladder() -> None:
    """A product that is faster than the peak beside it; a convolution by fewer multiplications may be."""
    gemm, conv = Case("100", GemmProblem(100, 100, 100)), Case("vgg", CONV_CASES["vgg"])
    seconds = 2e-9 * conv.problem.macs / 100
    points = [
        Point(LADDERS["gemm"]["numpy"], gemm, ((2e-5,),), peaks_gflops=(48.0,)),
        Point(LADDERS["conv"]["winograd"], conv, ((seconds,),), peaks_gflops=(48.0,), macs_executed=conv.problem.macs // 4),
        Point(LADDERS["conv"]["direct"], conv, ((seconds,),), peaks_gflops=(48.0,), macs_executed=conv.problem.macs),
        Point(LADDERS["conv"]["torch"], conv, ((seconds,),), peaks_gflops=(48.0,)),
    ]
    assert [point.above_possible for point in points] == [True, False, True, False]
    environment = {"cpu": "a processor", "isa": "avx2", "threads": 2, "date": "2026-11-24", "command": "ladder"}
    for point in points:
        run = LadderRun("gemm", (point.rung,), (point.case,), (point,), 100.0, environment)
        text = shown(render_ladder(run))
        assert ("208.3?" in text) == (MARK_MEANS in text) == point.above_possible
        assert json.loads(json.dumps(run.to_dict()))["points"][0]["above_possible"] == point.above_possible


@pytest.mark.parametrize("executed", [1_000_000, 400_000])
def test_benchmarks(executed: int) -> None:
    run = a_run()
    own = dataclasses.replace(
        run.rows[0].timings["sevenloops"], peaks_gflops=(0.8, 0.8), details={"macs_executed": executed}
    )
    row = dataclasses.replace(run.rows[0], timings={**run.rows[0].timings, "sevenloops": own})
    run = dataclasses.replace(run, rows=(row,), environment={**run.environment, "command": "sevenloops bench gemm 100"})
    text, document = shown(render_bench(run)), json.loads(to_json(run))
    assert ("125?" in text) == (MARK_MEANS in text) == (executed == 1_000_000)
    assert document["rows"][0]["engines"]["sevenloops"]["above_possible"] == (executed == 1_000_000)
    assert ("| 125? |" in markdown_page([document])) == (executed == 1_000_000)


@pytest.mark.parametrize("executed", [1_000_000, 400_000])
def test_layers(executed: int) -> None:
    """The tables of `run` and `profile`, and the page."""
    is_noise, seconds = executed == 1_000_000, 2e-9 * 1_000_000 / 125
    time = LayerTime("fc", "Gemm", (1,), "", "gemm", 1_000_000, 10, seconds, 2e-5, executed, 100.0)
    text = shown(layer_table([time], MACHINE))
    assert time.above_possible == ("125?" in text) == (MARK_MEANS in text) == is_noise
    layer = LayerProfile("fc", "Gemm", (1,), "", "gemm", "", 1, 1_000_000, executed, 10_000, 1, (seconds,))
    profile = Profile("net", {}, 2, "a processor", 100.0, 10.0, (layer,), (seconds,), (seconds,), 1, 1_000_000, 1, 1, (), ())
    console = Console(width=300, force_terminal=False, highlight=False)
    with console.capture() as capture:
        print_profile(console, profile)
    assert profile.above_possible(layer) == ("125?" in capture.get()) == is_noise
    assert as_dict(profile)["layers"][0]["above_possible"] == is_noise
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    from sevenloops.report import report_page

    page = report_page(profile)
    assert ("125?</td>" in page) == ("125? % of the peak" in page) == is_noise
    assert "125</td>" in page or is_noise
