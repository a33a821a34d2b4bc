"""A profile for programs: plain values for JSON, rows for CSV, events for a trace viewer."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import Any

from ..errors import printable
from .profile import LayerProfile, Profile

__all__ = ["as_csv", "as_dict", "as_trace", "layer_row"]


#: What `Profile` computes for the whole network.
DERIVED = (
    "latency_s", "steps_s", "around_s", "coverage", "overhead", "overhead_quartiles", "product_share", "peak_bytes",
)  # fmt: skip


def layer_row(profile: Profile, layer: LayerProfile) -> dict[str, Any]:
    """A layer's stored and derived figures, by name, as plain values; seconds, bytes, and shares from 0 to 1."""
    row = {field.name: getattr(layer, field.name) for field in dataclasses.fields(layer) if field.name != "times_s"}
    row["shape"] = list(layer.shape)
    row["flops"], row["intensity"] = layer.flops, layer.intensity
    row["median_s"], row["spread_s"] = layer.seconds, layer.spread_s
    row["gflops"], row["gbs"] = layer.gflops, layer.gbs
    row["share_of_time"] = profile.share(layer)
    row["share_of_peak"] = profile.compute_share(layer)
    row["above_possible"] = profile.above_possible(layer)
    row["share_of_bandwidth"] = profile.bandwidth_share(layer)
    row["bound"] = profile.bound(layer)
    return row


def as_dict(profile: Profile) -> dict[str, Any]:
    """Everything, for JSON. Times of all runs are in it; derived figures are named in the docstrings of `Profile`."""
    document = dataclasses.asdict(profile)
    document["sizes"] = {name: list(shape) for name, shape in profile.sizes.items()}
    for name in DERIVED:
        document[name] = getattr(profile, name)
    for name in ("notes", "fused", "missed"):
        document[name] = [str(note) for note in getattr(profile, name)]
    document["bytes_are"] = "unique: every operand and result of a step once"
    document["kinds"] = [{**dataclasses.asdict(kind), "gflops": kind.gflops} for kind in profile.kinds()]
    document["layers"] = [{**layer_row(profile, layer), "times_s": list(layer.times_s)} for layer in profile.layers]
    return document


def as_csv(profile: Profile) -> str:
    """One row a layer under the names of `layer_row`; a shape is written `1x64x56x56`, control characters as escapes."""
    out = io.StringIO()
    rows = [layer_row(profile, layer) for layer in profile.layers]
    writer = csv.DictWriter(out, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        names = {name: printable(row[name]) for name in ("name", "op")}
        writer.writerow({**row, **names, "shape": "x".join(map(str, row["shape"]))})
    return out.getvalue()


def as_trace(profile: Profile) -> dict[str, Any]:
    """The profiled runs in the Trace Event Format (JSON), which Perfetto and chrome://tracing open.

    One track has the runs, one the steps with their figures, a counter the live memory. The steps of a run follow each
    other without a gap in between; times are in microseconds.
    """
    events: list[dict[str, Any]] = [
        _named("process_name", 0, f"sevenloops {profile.model}"),
        _named("thread_name", 1, "runs"),
        _named("thread_name", 2, "steps"),
    ]
    clock = 0.0
    for run, whole in enumerate(profile.profiled_s):
        start = clock
        for layer in profile.layers:
            took = 1e6 * layer.times_s[run]
            events.append(
                {"ph": "X", "pid": 1, "tid": 2, "ts": clock, "dur": took, "name": layer.name, "cat": layer.op}
                | {"args": layer_row(profile, layer)}
            )
            events.append({"ph": "C", "pid": 1, "ts": clock, "name": "live memory", "args": {"bytes": layer.live_bytes}})
            clock += took
        took = max(clock - start, 1e6 * whole)
        events.append({"ph": "X", "pid": 1, "tid": 1, "ts": start, "dur": took, "name": f"run {run + 1}", "cat": "run"})
        clock = start + took
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"model": profile.model}}


def _named(what: str, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": thread, "name": what, "args": {"name": name}}
