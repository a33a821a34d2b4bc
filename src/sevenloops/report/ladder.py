"""The charts of a ladder, from what `sevenloops ladder --output` wrote."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..analysis.shares import share_text
from .charts import BAR, COLOURS, INK, Chart, ReportError, figure_with, plotly

__all__ = ["ladder_charts", "read_ladder"]

Point = Mapping[str, Any]


def read_ladder(path: Path) -> dict[str, Any]:
    """The document of a file that `sevenloops ladder --output` wrote. Raises `ReportError` for any other, `OSError`."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or not {"ladder", "rungs", "points", "peak_gflops", "environment"} <= set(document):
        raise ReportError(f"{path} is no ladder: `sevenloops ladder gemm --output {path.name}` writes one")
    return document


def ladder_charts(document: Mapping[str, Any], at: int = 0) -> list[Chart]:
    """GFLOP/s of every rung against the size of the product, or a chart of bars for each layer; the peak as a line.

    `document` is a ladder's `to_dict()`, `at` tells its charts apart from those of other ladders on the page.
    """
    points = [point for point in document["points"] if point["gflops"]]
    cases = list(dict.fromkeys(point["case"] for point in points))
    if document["ladder"] == "gemm" and len(cases) > 1:
        return [_curves(document, points, f"ladder-{at}")]
    return [_bars(document, points, case, f"ladder-{at}-{index}") for index, case in enumerate(cases)]


def _adds(document: Mapping[str, Any]) -> dict[str, str]:
    return {rung["name"]: rung["adds"] for rung in document["rungs"]}


def _engines(document: Mapping[str, Any]) -> set[str]:
    return {rung["name"] for rung in document["rungs"] if rung["kind"] == "engine"}


def _where(document: Mapping[str, Any]) -> str:
    found = document["environment"]
    return f"{found['cpu']}, {found['isa']}, {found['threads']} threads, {found['date'][:10]}"


def _hover(point: Point, adds: Mapping[str, str]) -> str:
    lines = [
        f"<b>{html.escape(point['rung'])}</b>: {html.escape(adds[point['rung']])}",
        html.escape(point["problem"]),
        f"{point['gflops']:,.4g} GFLOP/s, {1e3 * point['median_s']:,.4g} ms",
    ]
    if point["share_of_peak"]:
        share = share_text(point["share_of_peak"], point["macs"], point.get("macs_executed"), digits=1)
        lines.append(f"{share} % of the peak beside")
    return "<br>".join(lines + (["extrapolated"] if point["extrapolated"] else []))


def _curves(document: Mapping[str, Any], points: Sequence[Point], key: str) -> Chart:
    objects, adds, engines = plotly(), _adds(document), _engines(document)
    sizes = sorted({int(point["case"]) for point in points})
    peak = document["peak_gflops"]
    figure = figure_with("rows = columns = depth of the product", "GFLOP/s")
    figure.add_trace(
        objects.Scatter(
            x=[sizes[0], sizes[-1]], y=[peak, peak], mode="lines", name=f"peak, {peak:.0f}", hoverinfo="skip", meta=INK
        )
    )
    for at, name in enumerate(adds):
        mine = [point for point in points if point["rung"] == name]
        if not mine:
            continue
        figure.add_trace(
            objects.Scatter(
                x=[int(point["case"]) for point in mine],
                y=[point["gflops"] for point in mine],
                mode="lines+markers",
                name=name,
                line={"dash": "dash" if name in engines else "solid", "color": COLOURS[at % len(COLOURS)]},
                marker={"symbol": at // len(COLOURS), "size": 9},
                hovertext=[_hover(point, adds) for point in mine],
                hoverinfo="text",
            )
        )
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    figure.update_yaxes(type="log", dtick=1, minor={"dtick": "D1", "ticks": "outside"})
    text = f"One named schedule after the other, from the naive loops to the tuned kernel. {_where(document)}."
    return Chart(key, "Ladder of the product", text, figure)


def _bars(document: Mapping[str, Any], points: Sequence[Point], case: str, key: str) -> Chart:
    objects, adds, engines = plotly(), _adds(document), _engines(document)
    mine = [point for point in points if point["case"] == case]
    names = [point["rung"] + (" *" if point["extrapolated"] else "") for point in mine]
    figure = figure_with("GFLOP/s by the multiply-adds of the definition", "", showlegend=False)
    figure.add_trace(
        objects.Bar(
            x=[point["gflops"] for point in mine],
            y=names,
            width=BAR,
            orientation="h",
            marker={"color": [COLOURS[1] if point["rung"] in engines else COLOURS[0] for point in mine]},
            text=[f"{point['gflops']:,.3g}" for point in mine],
            hovertext=[_hover(point, adds) for point in mine],
            hoverinfo="text",
        )
    )
    peak = document["peak_gflops"]
    figure.add_vline(x=peak, annotation_text=f"peak, {peak:.0f}", annotation_position="top left")
    low, high = (math.log10(limit([peak, *(point["gflops"] for point in mine)])) for limit in (min, max))
    figure.update_xaxes(type="log", dtick=1, range=[low - 1, high + 0.2])
    figure.update_yaxes(autorange="reversed")
    extrapolated = (
        " * is extrapolated from a tiny layer by its multiply-adds." if any(p["extrapolated"] for p in mine) else ""
    )
    text = f"{mine[0]['problem']}; other libraries in the second colour.{extrapolated} {_where(document)}."
    return Chart(key, f"Ladder, {case}", text, figure)
