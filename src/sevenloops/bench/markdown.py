"""Kept results (the JSON of `sevenloops bench --output`) as Markdown pages: every row, the lost ones too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..analysis.shares import share_text
from ..errors import SevenLoopsError
from .report import STEP_COLUMNS, step_cells
from .results import NO_PEERS

__all__ = ["MarkdownError", "page", "read_documents"]

Document = dict[str, Any]


class MarkdownError(SevenLoopsError, ValueError):
    """A file that holds no results."""


def read_documents(paths: Iterable[Path]) -> list[Document]:
    """Read kept results; raises `MarkdownError` for a file that holds none."""
    documents = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            document["rows"], document["environment"]["command"], document["summary"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MarkdownError(f"{path} holds no results of sevenloops bench: {error!r}") from None
        documents.append(document)
    return documents


def page(documents: list[Document]) -> str:
    """A summary of all runs, then one section a run with one table row a problem."""
    return "\n".join(["## Summary", "", *_summary(documents), *(line for d in documents for line in _section(d))]) + "\n"


def _table(header: list[str], rows: Iterable[list[str]]) -> list[str]:
    ruled = ["|" + "|".join(f" {cell} " for cell in cells) + "|" for cells in (header, *rows)]
    return [ruled[0], "|" + "---|" * len(header), *ruled[1:]]


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _peers(document: Document) -> list[str]:
    return [name for name in document["summary"]["total_s"] if name != "sevenloops"]


def _command(command: str) -> str:
    """The command as a reader would type it, without where its results were kept."""
    return re.sub(r" --output[ =]\S+", "", command).replace("__main__.py", "sevenloops")


def _title(document: Document) -> str:
    words = document["environment"]["command"].split()
    if "--network" in words:
        what, default = ("gradients of ", "16") if "gradients" in words else ("", "1")
        given = words[words.index("--batch") + 1] if "--batch" in words else default
        return f"{what}{words[words.index('--network') + 1]}, batch {given}"
    kind = next((kind for kind in ("train", "gradients", "gemm", "shift", "conv") if kind in words), "whole networks")
    batch = words[words.index("--batch") + 1] if "--batch" in words else None
    return f"{kind}, batch {batch}" if batch else kind


def _summary(documents: list[Document]) -> list[str]:
    header = ["what", "rows", "geometric mean", "least", "rows below 1", "sum of all layers, ms", "fastest peer's sum, ms"]
    rows, logs, least, below, count = [], [], [], 0, 0
    for d in documents:
        s = d["summary"]
        totals = [s["total_s"][name] for name in _peers(d) if name not in NO_PEERS and s["total_s"][name] is not None]
        own = s["total_s"]["sevenloops"]
        rows.append(
            [
                _title(d),
                str(s["rows"]),
                _ratio(s["geometric_mean_ratio"]),
                _ratio(s["least_ratio"]),
                str(s["rows_below_1"]),
                f"{1e3 * own:.2f}" if own is not None else "-",
                f"{1e3 * min(totals):.2f}" if totals else "-",
            ]
        )
        rows += [
            [f"{_title(d)}: {kind}", str(means["rows_compared"]), _ratio(means["geometric_mean_ratio"]),
             _ratio(means["least_ratio"]), str(means["rows_below_1"]), "", ""]
            for kind, means in s.get("kinds", {}).items()
        ]  # fmt: skip
        ratios = [row["ratio"] for row in d["rows"] if row["ratio"] is not None]
        logs += [math.log(ratio) for ratio in ratios]
        least += ratios
        below += s["rows_below_1"]
        count += len(ratios)
    if len(documents) > 1 and logs:
        mean = math.exp(sum(logs) / len(logs))
        rows.append(["all rows", str(count), f"**{mean:.2f}**", _ratio(min(least)), str(below), "", ""])
    return [*_table(header, rows), ""]


def _section(document: Document) -> list[str]:
    environment, peers = document["environment"], _peers(document)
    versions = ", ".join(f"{name} {version}" for name, version in environment["engines"].items())
    floors = "kinds" in document["summary"]
    header = ["problem", "x", "algorithm", *(["floor ms"] if floors else []), "sevenloops ms", *(f"{p} ms" for p in peers)]
    header += ["GFLOP/s", "% of peak", "ratio", "error"]
    lines = [f"## {_title(document)}", "", f"    {_command(environment['command'])}", ""]
    lines += [
        f"{environment['cpu']}, {environment['isa']}, {environment['threads']} threads, peak "
        f"{document['peak_gflops']:.0f} GFLOP/s, {document['bandwidth_gbs']:.0f} GB/s; {environment['date']}; {versions}.",
        "",
    ]
    if any("parts_s" in engine for row in document["rows"] for engine in row["engines"].values()):
        return [*lines, *_table([*STEP_COLUMNS], _steps(document)), ""]
    return [*lines, *_table(header, (_row(row, peers, floors) for row in document["rows"])), ""]


def _steps(document: Document) -> list[list[str]]:
    """One row for each engine that trains a network."""
    return [
        step_cells(f"{row['name']}, `{row['problem']}`", name, values, row["engines"]["sevenloops"].get("median_s"))
        for row in document["rows"]
        for name, values in row["engines"].items()
    ]


def _milliseconds(engine: dict[str, Any] | None) -> str:
    return f"{1e3 * engine['median_s']:.4g}" if engine and "median_s" in engine else "-"


def _row(row: dict[str, Any], peers: list[str], floors: bool) -> list[str]:
    own = row["engines"]["sevenloops"]
    cells = [f"{row['name']}: `{row['problem']}`" if row["name"] != row["problem"] else f"`{row['problem']}`"]
    cells += [str(row["repeats"]), own.get("details", {}).get("algorithm", "-")]
    cells += [*([f"{1e3 * row['floor_s']:.4g}"] if floors else []), _milliseconds(own)]
    cells += [_milliseconds(row["engines"].get(peer)) for peer in peers]
    if "median_s" not in own:
        return [*cells, "-", "-", "-", own.get("reason") or "-"]
    error = "-" if own["error"] is None else f"{own['error']:.1e}"
    share = own.get("share_of_peak_beside", own["share_of_peak"])
    executed = own.get("details", {}).get("macs_executed")
    return [
        *cells,
        f"{own['gflops']:.0f}",
        share_text(share, row["macs"], executed),
        _ratio(row["ratio"]),
        error,
    ]
