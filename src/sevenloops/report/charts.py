"""The charts of a report, drawn by plotly. Colours come from the page, so that they fit light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..analysis.profile import Block, LayerProfile, Profile
from ..errors import SevenLoopsError, printable

__all__ = ["BAR", "COLOURS", "INK", "Chart", "ReportError", "figure_with", "plotly", "profile_charts", "safe"]

#: Okabe and Ito's colours, which people with any kind of colour vision tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#b8a800")
HEIGHT = 420
#: The width of a bar, of the distance to the next. Without it a trace takes the least distance of its own bars.
BAR = 0.9
#: Marks a line that the page draws in the colour of its text.
INK = "ink"


class ReportError(SevenLoopsError, RuntimeError):
    """Something that a report needs is not installed."""


@dataclass(frozen=True)
class Chart:
    """A plotly figure with an id for links, a title, and how to read it."""

    key: str
    title: str
    text: str
    figure: Any


def plotly() -> Any:
    """`plotly.graph_objects`. Raises `ReportError` where it is not installed."""
    try:
        import plotly.graph_objects as objects
    except ImportError:
        raise ReportError("reports need plotly and matplotlib: pip install 'sevenloops[report]'") from None
    return objects


def profile_charts(profile: Profile, peers: Mapping[str, float] | None = None) -> list[Chart]:
    """All charts of a profile; `peers` are the seconds of a run by engine, ours too, where they were measured."""
    charts = [_time(profile), _kinds(profile)]
    if profile.peak_gflops and profile.bandwidth_gbs:
        charts.insert(0, _roofline(profile, profile.peak_gflops, profile.bandwidth_gbs))
    charts += [_memory(profile), _arena(profile)]
    return [*charts, _peers(peers)] if peers else charts


def figure_with(x: str, y: str, **layout: Any) -> Any:
    """An empty figure with titles of its axes, in the style of the page."""
    objects = plotly()
    figure = objects.Figure()
    figure.update_layout(
        template="none",
        font={"family": "system-ui, sans-serif"},
        height=HEIGHT,
        margin={"l": 64, "r": 16, "t": 16, "b": 64},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        **layout,
    )
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)
    return figure


def safe(text: str) -> str:
    """A name from a model in HTML, without control characters."""
    return html.escape(printable(text))


def _group(layer: LayerProfile) -> str:
    """What a colour says: the operator, of convolutions and products with the algorithm that was chosen."""
    return safe(f"{layer.op}, {layer.algorithm}" if layer.macs else layer.op)


def _groups(profile: Profile) -> dict[str, list[tuple[int, LayerProfile]]]:
    """The layers with their places by group, the group that takes the most time first."""
    found: dict[str, list[tuple[int, LayerProfile]]] = {}
    for at, layer in enumerate(profile.layers):
        found.setdefault(_group(layer), []).append((at, layer))
    return dict(sorted(found.items(), key=lambda item: -sum(layer.seconds for _, layer in item[1])))


def _palette(profile: Profile) -> dict[str, str]:
    return {group: COLOURS[at % len(COLOURS)] for at, group in enumerate(_groups(profile))}


def _hover(profile: Profile, layer: LayerProfile) -> str:
    lines = [
        f"<b>{safe(layer.name)}</b> ({safe(layer.op)}) by {layer.algorithm}",
        f"{' x '.join(map(str, layer.shape))}",
        f"{1e6 * layer.seconds:,.1f} µs ± {1e6 * layer.spread_s:,.1f}, {100 * profile.share(layer):.1f} % of the time",
        f"{layer.macs / 1e6:,.2f} M multiply-adds, {layer.macs_executed / 1e6:,.2f} M executed",
        f"{layer.bytes / 2**20:,.3f} MiB unique, {layer.intensity:.1f} FLOP a byte",
        f"{layer.gflops:,.1f} GFLOP/s, {layer.gbs:,.1f} GB/s",
    ]
    return "<br>".join(lines)


def _roofline(profile: Profile, peak: float, bandwidth: float) -> Chart:
    objects, palette = plotly(), _palette(profile)
    figure = figure_with("FLOP for each unique byte", "GFLOP/s")
    shown = [layer for layer in profile.layers if layer.macs and layer.seconds]
    ridge = peak / bandwidth
    low = min([ridge / 8, *(layer.intensity for layer in shown)]) / 1.5
    high = max([ridge * 8, *(layer.intensity for layer in shown)]) * 1.5
    roof = {"x": [low, ridge, high], "y": [low * bandwidth, peak, peak]}
    figure.add_trace(
        objects.Scatter(
            **roof,
            mode="lines",
            name=f"{bandwidth:.0f} GB/s, {peak:.0f} GFLOP/s",
            hoverinfo="skip",
            line={"width": 3},
            meta=INK,
        )
    )
    for group, members in _groups(profile).items():
        rows = [layer for _, layer in members if layer.macs and layer.seconds]
        if not rows:
            continue
        figure.add_trace(
            objects.Scatter(
                x=[layer.intensity for layer in rows],
                y=[layer.gflops for layer in rows],
                mode="markers",
                name=group,
                hovertext=[_hover(profile, layer) for layer in rows],
                hoverinfo="text",
                marker={
                    "size": [8 + 40 * profile.share(layer) ** 0.5 for layer in rows],
                    "color": palette[group],
                    "opacity": 0.75,
                },
            )
        )
    figure.update_xaxes(type="log", dtick=1, minor={"dtick": "D1", "ticks": "outside"})
    figure.update_yaxes(type="log", dtick=1, minor={"dtick": "D1", "ticks": "outside"})
    text = (
        "Each circle is a layer, as large as its share of the time. Under the slope, memory binds; under the flat line, "
        "arithmetic does. A layer above the roof executes fewer multiply-adds than its definition has (Winograd), or its "
        "operands lie in a cache already."
    )
    return Chart("roofline", "Roofline", text, figure)


def _bars(profile: Profile, y: str, values: list[float]) -> Any:
    """A bar for each step in order, in the colour of its group."""
    objects, palette = plotly(), _palette(profile)
    figure = figure_with("step", y, barmode="overlay")
    for group, members in _groups(profile).items():
        figure.add_trace(
            objects.Bar(
                x=[at for at, _ in members],
                y=[values[at] for at, _ in members],
                width=BAR,
                name=group,
                marker={"color": palette[group]},
                hovertext=[_hover(profile, layer) for _, layer in members],
                hoverinfo="text",
            )
        )
    return figure


def _time(profile: Profile) -> Chart:
    figure = _bars(profile, "µs", [1e6 * layer.seconds for layer in profile.layers])
    text = "The median time of every step, in the order in which they run; the colour says operator and algorithm."
    return Chart("time", "Time of every step", text, figure)


def _kinds(profile: Profile) -> Chart:
    objects, palette = plotly(), _palette(profile)
    figure = figure_with("% of all", "", barmode="stack", legend_traceorder="normal")
    macs, params = (sum(getattr(layer, name) for layer in profile.layers) or 1 for name in ("macs", "params"))
    for group, members in _groups(profile).items():
        layers = [layer for _, layer in members]
        shares = {
            "time": sum(layer.seconds for layer in layers) / profile.steps_s,
            "multiply-adds": sum(layer.macs for layer in layers) / macs,
            "parameters": sum(layer.params for layer in layers) / params,
        }
        figure.add_trace(
            objects.Bar(
                y=list(shares),
                x=[100 * share for share in shares.values()],
                name=group,
                orientation="h",
                marker={"color": palette[group]},
                hovertemplate="%{x:.1f} % of %{y}<extra>" + group + "</extra>",
            )
        )
    figure.update_yaxes(autorange="reversed")
    text = (
        f"Convolutions and fully connected layers take {100 * profile.product_share:.1f} % of the time. What most of the "
        "multiply-adds are in need not be what most of the parameters, or of the time, are in."
    )
    return Chart("kinds", "Time, work and parameters by operator", text, figure)


def _memory(profile: Profile) -> Chart:
    figure = _bars(profile, "MiB", [layer.live_bytes / 2**20 for layer in profile.layers])
    figure.add_hline(y=profile.arena_bytes / 2**20, line={"dash": "dash"}, annotation_text="the arena")
    text = (
        "The values in the arena while a step runs. The arena is as large as the dashed line; what it has above the highest "
        "bar is lost to gaps. The network's inputs and outputs are the caller's memory."
    )
    return Chart("memory", "Memory over the steps", text, figure)


def _arena(profile: Profile) -> Chart:
    objects = plotly()
    figure = figure_with("step", "MiB from the start of the arena", showlegend=False, barmode="overlay", bargap=0)
    blocks = profile.blocks
    figure.add_trace(
        objects.Bar(
            x=[(block.first + block.last) / 2 for block in blocks],
            width=[block.last - block.first + 1 for block in blocks],
            base=[block.offset / 2**20 for block in blocks],
            y=[block.n_bytes / 2**20 for block in blocks],
            marker={
                "color": [COLOURS[at % len(COLOURS)] for at in range(len(blocks))],
                "opacity": 0.8,
                "line": {"width": 1},
            },
            hovertext=[_block(block) for block in blocks],
            hoverinfo="text",
        )
    )
    text = "Where each value lies, and from which step to which: values that are never needed together share their bytes."
    return Chart("arena", "The arena over the steps", text, figure)


def _block(block: Block) -> str:
    place = f"{block.n_bytes:,} bytes at {block.offset:,}"
    return f"<b>{safe(block.name)}</b><br>{place}<br>steps {block.first} to {block.last}"


def _peers(peers: Mapping[str, float]) -> Chart:
    objects = plotly()
    figure = figure_with("ms a run", "")
    order = sorted(peers, key=lambda name: -peers[name])
    colours = [COLOURS[5] if name == "sevenloops" else COLOURS[0] for name in order]
    figure.add_trace(
        objects.Bar(
            y=order,
            x=[1e3 * peers[name] for name in order],
            orientation="h",
            marker={"color": colours},
            texttemplate="%{x:.2f}",
            hovertemplate="%{y}: %{x:.3f} ms<extra></extra>",
        )
    )
    text = "Each engine in a process of its own, in turn, on the same ONNX file; medians."
    return Chart("peers", "Beside other engines", text, figure)
