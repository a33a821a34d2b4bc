"""Loss, accuracy and rate of trainings, from the logs of `sevenloops train`: charts of a page, or a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..train.errors import TrainingError
from ..train.log import read_log
from .charts import COLOURS, Chart, ReportError, figure_with, plotly, safe

__all__ = ["save_curves", "training_charts"]

#: What is drawn against the epochs: key, title, label of the axis.
CURVES = (("loss", "Loss", "cross entropy"), ("accuracy", "Accuracy", "%"))


def _name(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    start = next((row for row in rows if row["event"] == "start"), {})
    return f"{start.get('model', path.stem)} on {start.get('data', 'unknown data')}"


def _curves(path: Path, key: str) -> tuple[str, list[tuple[str, list[float], list[float]]]]:
    """The name of a training, and (what, epochs, values) in training and in testing. Raises `ReportError`, `OSError`."""
    try:
        rows = read_log(path)
    except TrainingError as error:
        raise ReportError(str(error)) from None
    epochs = [row for row in rows if row["event"] == "epoch"]
    if not epochs:
        raise ReportError(f"{path} has no epoch that is over, so there is nothing to draw")
    scale = 100.0 if key == "accuracy" else 1.0
    at = [row["epoch"] + 1.0 for row in epochs]
    trained, tested = ([scale * values[key] for values in part] for part in (epochs, [row["test"] for row in epochs]))
    return _name(path, rows), [("training", at, trained), ("testing", at, tested)]


def training_charts(paths: Sequence[Path]) -> list[Chart]:
    """Loss and accuracy of one or more trainings against the epoch, as charts of a report."""
    objects, charts = plotly(), []
    for key, title, unit in CURVES:
        figure = figure_with("epoch", unit)
        names = []
        for number, path in enumerate(paths):
            name, curves = _curves(path, key)
            names.append(name)
            for what, at, values in curves:
                line = {"color": COLOURS[number % len(COLOURS)], "dash": "dot" if what == "training" else "solid"}
                figure.add_trace(
                    objects.Scatter(x=at, y=values, mode="lines+markers", name=safe(f"{name}, {what}"), line=line)
                )
        text = f"{', '.join(names)}: in training (dotted, with augmentation and dropout at work) and in testing."
        charts.append(Chart(f"training-{key}", f"{title} of the training", text, figure))
    return charts


def save_curves(paths: Sequence[Path], output: Path) -> None:
    """Loss and accuracy side by side as a .png or .svg. Raises `ReportError` without matplotlib and for other files."""
    if output.suffix not in (".png", ".svg"):
        raise ReportError(f"curves are drawn into .png or .svg files, not {output.name}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ReportError("curves need matplotlib: pip install 'sevenloops[report]'") from None
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, title, unit) in zip(figure.subplots(1, 2), CURVES):
        for number, path in enumerate(paths):
            name, curves = _curves(path, key)
            for what, at, values in curves:
                style = ":" if what == "training" else "-"
                axes.plot(at, values, style, marker=".", color=COLOURS[number % len(COLOURS)], label=f"{name}, {what}")
        axes.set(xlabel="epoch", ylabel=unit, title=title)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(output, dpi=150)
