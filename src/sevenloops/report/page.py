"""The page: one HTML file with everything in it, readable without a network, with and without a mouse, on paper too."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from ..analysis.pictures import FirstLayer, filter_tiles, grid
from ..analysis.profile import LayerProfile, Profile
from ..analysis.shares import MARK_MEANS, share_text
from ..graph.ir import Note
from .charts import Chart, plotly, profile_charts, safe
from .pictures import as_uri, file_uri

__all__ = ["report_page"]

#: Columns of the table: heading, unit or meaning on hover.
COLUMNS = (
    ("step", "in the order in which they run"),
    ("layer", "the node of the model"),
    ("operator", "layout: a copy that only changes the order of axes"),
    ("output", "batch, channels, height, width"),
    ("algorithm", "what was chosen for it"),
    ("params", "weights and biases, as the passes left them"),
    ("MMACs", "millions of multiply-adds, by the definition"),
    ("executed", "millions of multiply-adds that the code really does"),
    ("KiB", "unique bytes: every operand and result once"),
    ("FLOP/B", "arithmetic intensity"),
    ("µs", "median time"),
    ("± µs", "distance between the quartiles"),
    ("% time", "share of all steps"),
    ("GFLOP/s", "of the definition's FLOP"),
    ("% peak", f"of the measured GFLOP/s; {MARK_MEANS}"),
    ("% GB/s", "of the measured bandwidth"),
)

PEAK_COLUMN = [name for name, _ in COLUMNS].index("% peak")


def report_page(
    profile: Profile,
    *,
    kernels: Mapping[str, str] | None = None,
    filters: FirstLayer | None = None,
    peers: Mapping[str, float] | None = None,
    charts: Sequence[Chart] = (),
    pictures: Sequence[Path] = (),
) -> str:
    """The page for a profile.

    `kernels` has what is known of a problem (`LayerProfile.problem`) as text: schedule, loop nest; `filters` are those of
    the first layer; `peers` seconds of a run by engine; `charts` further ones of the caller's (`ladder_charts`),
    `pictures` PNG or SVG files to show at the end. Raises `ReportError` where plotly or matplotlib is not
    installed and for other files, `OSError`.
    """
    drawn = [*profile_charts(profile, peers), *charts]
    sections = [
        _summary(profile),
        *(_chart(chart) for chart in drawn[:1]),
        _table(profile, kernels or {}),
        *(_chart(chart) for chart in drawn[1:]),
        _filters(filters),
        _kernels(profile, kernels or {}),
        _notes(profile),
        *(_picture(at, path) for at, path in enumerate(pictures)),
    ]
    figures = {chart.key: json.loads(chart.figure.to_json()) for chart in drawn}
    title = f"{profile.model}: where the time goes"
    plotly()
    from plotly.offline import get_plotlyjs

    parts = {
        "title": safe(title),
        "style": _resource("page.css"),
        "nav": _nav(drawn, filters, kernels),
        "body": "\n".join(section for section in sections if section),
        "plotly": get_plotlyjs(),
        "figures": json.dumps(figures).replace("<", "\\u003c"),
        "script": _resource("page.js"),
    }
    page = _resource("page.html")
    page = page.replace("<!-- title -->", parts.pop("title"))
    for name, value in parts.items():
        page = page.replace(f"<!-- {name} -->", value, 1)
    return page


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _nav(charts: Sequence[Chart], filters: FirstLayer | None, kernels: Mapping[str, str] | None) -> str:
    entries = [("summary", "Summary"), ("layers", "Layers"), *((chart.key, chart.title) for chart in charts)]
    entries += [("filters", "Filters")] if filters is not None else []
    entries += [("kernels", "Kernels")] if kernels else []
    entries += [("notes", "Passes")]
    return "\n".join(f'<a href="#{key}">{html.escape(title)}</a>' for key, title in entries)


def _section(key: str, title: str, text: str, inside: str) -> str:
    note = f"<p>{safe(text)}</p>" if text else ""
    return f'<section id="{key}"><h2>{safe(title)}</h2>{note}\n{inside}\n</section>'


def _summary(profile: Profile) -> str:
    work = 0.0 if profile.macs is None else 2e-9 * profile.macs / profile.latency_s
    executed = sum(layer.macs_executed for layer in profile.layers)
    share = ""
    if profile.peak_gflops:
        share = f", {share_text(work / profile.peak_gflops, profile.macs or 0, executed)} % of the peak"
    sizes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in profile.sizes.items())
    counted = "not known" if profile.params is None else f"{profile.params:,}"
    figures = [
        ("a run", f"{1e3 * profile.latency_s:.3f} ms", f"median of {len(profile.runs_s)}, {profile.threads} threads"),
        ("speed", f"{work:,.0f} GFLOP/s", f"of the definition's FLOP{share}"),
        ("multiply-adds", "not known" if profile.macs is None else f"{profile.macs:,}", "two FLOP each"),
        ("parameters", counted, f"{profile.constant_bytes / 2**20:.1f} MiB packed"),
        ("convolution + FC", f"{100 * profile.product_share:.1f} %", "of the time"),
        ("arena", f"{profile.arena_bytes / 2**20:.2f} MiB", f"{profile.peak_bytes / 2**20:.2f} MiB alive at once"),
        (
            "sum of steps",
            f"{100 * profile.coverage:.1f} %",
            f"of a whole run; {1e6 * profile.around_s:,.0f} µs of Python around",
        ),
        ("fusions", f"{len(profile.fused)} made", f"{len(profile.missed)} missed"),
    ]
    cards = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd><dd>{html.escape(more)}</dd></div>"
        for name, value, more in figures
    )
    where = profile.machine
    if profile.peak_gflops and profile.bandwidth_gbs:
        where += f"; measured ceilings {profile.peak_gflops:.0f} GFLOP/s and {profile.bandwidth_gbs:.1f} GB/s"
    return _section("summary", profile.model, f"{sizes}, on {where}", f'<dl class="cards">{cards}</dl>')


def _chart(chart: Chart) -> str:
    label = html.escape(chart.title, quote=True)
    buttons = "".join(
        f'<button type="button" data-save="{form}" data-chart="{chart.key}" aria-label="{label} as {form.upper()}">'
        f"{form.upper()}</button>"
        for form in ("png", "svg")
    )
    box = f'<div class="chart" id="chart-{chart.key}" role="img" aria-label="{label}"></div><p class="save">{buttons}</p>'
    return _section(chart.key, chart.title, chart.text, box)


def _table(profile: Profile, kernels: Mapping[str, str]) -> str:
    heads = "".join(
        f'<th scope="col" aria-sort="{"ascending" if at == 0 else "none"}" title="{html.escape(about, quote=True)}">'
        f'<button type="button">{html.escape(name)}</button></th>'
        for at, (name, about) in enumerate(COLUMNS)
    )
    numbers = {problem: at for at, problem in enumerate(kernels)}
    rows = "\n".join(_row(profile, at, layer, numbers.get(layer.problem)) for at, layer in enumerate(profile.layers))
    text = "A click on a heading, or Enter on it, sorts by that column. A layer's name leads to its kernel."
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>"
    box = f'<div class="wide" tabindex="0" role="region" aria-label="Layers">{table}</div>'
    return _section("layers", "Layers", text, box)


def _row(profile: Profile, at: int, layer: LayerProfile, kernel: int | None) -> str:
    name = safe(layer.name)
    linked = name if kernel is None else f'<a href="#kernel-{kernel}">{name}</a>'
    peak, bandwidth = profile.compute_share(layer), profile.bandwidth_share(layer)
    texts = [
        (str(at), None),
        (linked, layer.name),
        (safe(layer.op), None),
        (" x ".join(map(str, layer.shape)), None),
        (html.escape(layer.algorithm), None),
    ]
    numbers = (
        (layer.params, 0),
        (layer.macs / 1e6, 2),
        (layer.macs_executed / 1e6, 2),
        (layer.bytes / 1024, 1),
        (layer.intensity, 1),
        (1e6 * layer.seconds, 1),
        (1e6 * layer.spread_s, 1),
        (100 * profile.share(layer), 1),
        (layer.gflops, 1),
        (None if peak is None else 100 * peak, 0),
        (None if bandwidth is None else 100 * bandwidth, 0),
    )
    cells = [f'<td data-value="{safe(value or text)}">{text}</td>' for text, value in texts]
    mark = {PEAK_COLUMN: "?"} if profile.above_possible(layer) else {}
    cells += [
        f'<td class="n" data-value="{0 if value is None else value}">'
        f"{f'{value:,.{digits}f}' if value else ''}{mark.get(len(texts) + at, '')}</td>"
        for at, (value, digits) in enumerate(numbers)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _filters(filters: FirstLayer | None) -> str:
    if filters is None:
        return ""
    count, channels, height, width = filters.weight.shape
    picture = as_uri(grid(filter_tiles(filters.weight, scale=max(2, 48 // height))))
    kind = "red, green and blue" if channels == 3 else f"the mean of {channels} channels, in grey"
    text = f"{filters.name}: {count} filters of {height} x {width}, {kind}, each with its own contrast. {filters.remark}"
    return _section(
        "filters", "Filters of the first layer", text, f'<img src="{picture}" alt="{html.escape(text, quote=True)}">'
    )


def _picture(at: int, path: Path) -> str:
    image = f'<img src="{file_uri(path)}" alt="{html.escape(path.name, quote=True)}">'
    return f'<section id="picture-{at}" class="picture"><h2>{html.escape(path.stem)}</h2>{image}</section>'


def _kernels(profile: Profile, kernels: Mapping[str, str]) -> str:
    if not kernels:
        return ""
    boxes = []
    for at, (problem, text) in enumerate(kernels.items()):
        names = [layer.name for layer in profile.layers if layer.problem == problem]
        first = next((layer for layer in profile.layers if layer.problem == problem), None)
        head = f"{first.algorithm if first else ''}: {', '.join(names)}"
        boxes.append(
            f'<details id="kernel-{at}"><summary>{safe(head)}<br><code>{html.escape(problem)}</code></summary>'
            f'<pre tabindex="0">{html.escape(text)}</pre></details>'
        )
    return _section("kernels", "Kernels", "How each is computed: its schedule, its work, its loop nest.", "\n".join(boxes))


def _notes(profile: Profile) -> str:
    def box(title: str, notes: Sequence[Note], is_open: bool) -> str:
        entries = "".join(f"<li>{html.escape(str(note))}</li>" for note in notes) or "<li>none</li>"
        return f"<details{' open' if is_open else ''}><summary>{title}: {len(notes)}</summary><ul>{entries}</ul></details>"

    inside = box("left as they are, and why", profile.missed, True) + box("made", profile.fused, False)
    return _section(
        "notes", "What the passes did", "Layers that were fused, folded or moved before the network ran.", inside
    )
