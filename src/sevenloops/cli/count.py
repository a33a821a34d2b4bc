"""`sevenloops count`: what a network costs, without running it."""

from __future__ import annotations

import dataclasses
import json as json_format
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..analysis.costs import Cost, count, total
from ..analysis.devices import DEVICES, Prediction, layer_costs, predict, this_machine
from ..analysis.training import TrainingMemory, infer_training, training_memory
from ..bench.network_bench import NetworkCase
from ..bench.report import plain
from ..graph.shapes import infer
from ..machine import Machine
from .analysis import console, mib

__all__ = ["count_command"]


def count_command(found: NetworkCase, *, batches: Sequence[int], optimizer: str, devices: bool, json: bool) -> None:
    """Count, and print; `batches` are those that the memory of training is counted for."""
    sized = infer(found.graph, found.sizes)
    costs = count(sized)
    training = [training_memory(infer_training(found.graph, _sizes(found, batch)), optimizer) for batch in batches]
    rows = layer_costs(sized) if devices else []
    here = this_machine(Machine.host())
    predictions = [predict(rows, device) for device in (*([here] if here else []), *DEVICES)] if devices else []
    if json:
        print(json_format.dumps(_document(found, costs, training, predictions), indent=2))
        return
    out = console()
    out.print(_layers(costs))
    if training:
        out.print(_training(training))
    if predictions:
        out.print(_devices(predictions))
    _summary(out, found, costs)


def _sizes(found: NetworkCase, batch: int) -> Mapping[str, tuple[int, ...]]:
    """The sizes with another batch, for inputs whose first dimension the model leaves open."""
    shapes = {value.name: value.shape for value in found.graph.inputs}
    fixed = {name for name, shape in shapes.items() if shape and isinstance(shape[0], int)}
    return {name: size if name in fixed else (batch, *size[1:]) for name, size in found.sizes.items()}


def _document(
    found: NetworkCase, costs: Sequence[Cost], training: Sequence[TrainingMemory], predictions: Sequence[Prediction]
) -> dict[str, Any]:
    whole = total(costs)
    return {
        "model": found.name,
        "sizes": {name: list(shape) for name, shape in found.sizes.items()},
        "params": whole.params,
        "macs": whole.macs,
        "flops": whole.flops,
        "unique_bytes": whole.unique_bytes,
        "layers": [{**dataclasses.asdict(row), "flops": row.flops, "intensity": row.intensity} for row in costs],
        "training": [
            {name: getattr(row, name) for name in ("batch", "optimizer", *TRAINING)} | {"activations": dict(row.activations)}
            for row in training
        ],
        "predictions": [{**dataclasses.asdict(row), "is": "a prediction from the roofline"} for row in predictions],
    }


def _layers(costs: Sequence[Cost]) -> Table:
    table = Table(caption="one multiply-add is two FLOP; bytes are unique: every operand and result once, nothing fused")
    for name in ("layer", "operator", "output"):
        table.add_column(name, overflow="fold")
    for name in ("params", "MACs", "FLOPs", "bytes", "FLOP/B"):
        table.add_column(name, justify="right")
    for row in costs:
        work = [f"{row.macs:,}", f"{row.flops:,}"] if row.macs else ["", ""]
        shape, params = " x ".join(map(str, row.shape)), f"{row.params:,}" if row.params else ""
        table.add_row(plain(row.name), plain(row.op), shape, params, *work, f"{row.unique_bytes:,}", f"{row.intensity:.1f}")
    return table


#: Columns of the table of training, and what they are called there.
TRAINING = {
    "input_bytes": "inputs",
    "parameter_bytes": "parameters",
    "gradient_bytes": "gradients",
    "optimizer_bytes": "optimizer",
    "activation_bytes": "activations",
    "loss_bytes": "loss",
    "total_bytes": "all",
}


def _training(rows: Sequence[TrainingMemory]) -> Table:
    table = Table(title=f"memory of a training step, MiB, float32, optimizer {rows[0].optimizer}", title_justify="left")
    for name in ("batch", *TRAINING.values()):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(str(row.batch), *(mib(getattr(row, name)) for name in TRAINING))
    return table


def _devices(rows: Sequence[Prediction]) -> Table:
    table = Table(
        title="predictions, not measurements: the roofline at data-sheet speeds (float32, no Winograd, no caches)",
        title_justify="left",
    )
    table.add_column("device")
    for name in ("GFLOP/s", "GB/s", "predicted, ms", "% bound by memory"):
        table.add_column(name, justify="right")
    table.add_column("source", overflow="fold")
    for row in rows:
        speeds = [f"{row.device.peak_gflops:,.0f}", f"{row.device.bandwidth_gbs:,.0f}"]
        share = f"{100 * row.memory_share:.0f}"
        table.add_row(row.device.name, *speeds, f"{1e3 * row.seconds:.3f}", share, row.device.source)
    return table


def _summary(out: Console, found: NetworkCase, costs: Sequence[Cost]) -> None:
    whole = total(costs)
    sizes = ", ".join(f"{plain(name)} {' x '.join(map(str, shape))}" for name, shape in found.sizes.items())
    out.print(
        f"[bold]{plain(found.name)}[/bold], {sizes}: {whole.params:,} parameters, {whole.macs:,} multiply-adds, "
        f"{whole.flops:,} FLOP"
    )
