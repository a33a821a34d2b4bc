"""`sevenloops train --memory`: what a step holds after each of its stages, measured and predicted."""

from __future__ import annotations

import json as json_format
from typing import TYPE_CHECKING

from rich.table import Table

from ..analysis.training import infer_training, training_memory
from ..bench.report import plain
from .analysis import console

if TYPE_CHECKING:
    from ..train.job import Job

__all__ = ["memory_command"]


def memory_command(job: Job, json: bool) -> None:
    """Make one step on the first pictures of the data set, and print the table."""
    from ..torch.graphs import to_graph
    from ..train.job import prepare
    from ..train.memory import measure_step, predicted_step
    from ..train.team import Team

    setup = prepare(job, Team())
    pictures, labels = next(setup.epochs.batches(0))
    graph = infer_training(to_graph(setup.module), {"input": tuple(pictures.shape)})
    memory = training_memory(graph, "momentum" if job.recipe.momentum else "sgd")
    measured = measure_step(setup.module, setup.optimizer, pictures, labels, len(labels))
    predicted = predicted_step(memory, pictures.nbytes + labels.nbytes)
    rows = [(stage, m, p) for (stage, m), (_, p) in zip(measured.rows(), predicted.rows())]
    if json:
        document = {
            "model": job.model,
            "batch": len(labels),
            "computed_by": setup.engine.summary,
            "stages": [{"stage": stage, "measured_bytes": m, "predicted_bytes": p} for stage, m, p in rows],
        }
        print(json_format.dumps(document, indent=2))
        return
    table = Table(
        title=f"{plain(job.model)}, batch {len(labels)}, computed by {plain(setup.engine.summary)}: bytes held",
        title_justify="left",
        caption="memories of tensors that somebody holds after the stage, each once; what autograd saved through hooks; "
        "without temporaries inside operators. Predicted: PyTorch's operators, nothing fused, without running statistics",
        caption_justify="left",
    )
    table.add_column("stage")
    for name in ("measured", "predicted", "measured / predicted"):
        table.add_column(name, justify="right")
    for stage, m, p in rows:
        table.add_row(stage, f"{m:,}", f"{p:,}", f"{m / p:.4f}")
    console().print(table)
