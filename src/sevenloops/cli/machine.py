"""`sevenloops machine`: what was found and measured on this machine, as a table or as JSON."""

from __future__ import annotations

import json as json_format

from rich.console import Console
from rich.table import Table

from ..machine import Machine

__all__ = ["machine_command", "render_machine"]


def machine_command(json: bool = False, remeasure: bool = False) -> None:
    """Print this machine; its speeds are measured quickly the first time, and again (3 to 4 s) if `remeasure` is set."""
    if remeasure:
        with Console(stderr=True).status("measuring multiply-adds and memory bandwidth (about 4 s)"):
            machine = Machine.measured(again=True)
    else:
        machine = Machine.measured()
    if json:
        print(json_format.dumps(machine.to_dict(), indent=2))
    else:
        Console().print(render_machine(machine))


def render_machine(machine: Machine) -> Table:
    """A table of two columns; a speed that was not measured is a dash."""
    table = Table(title=machine.name, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in machine_rows(machine):
        table.add_row(name, value)
    return table


def machine_rows(machine: Machine) -> list[tuple[str, str]]:
    """Names and values of the table, as text."""
    vectors = f"{machine.isa}: {machine.lanes} float32 lanes, {machine.vector_registers} registers"
    caches = ", ".join(_bytes(size) for size in (machine.l1_bytes, machine.l2_bytes, machine.l3_bytes))
    ridge = machine.peak_gflops / machine.bandwidth_gbs if machine.peak_gflops and machine.bandwidth_gbs else None
    return [
        ("system", f"{machine.os}, {machine.arch}"),
        ("vectors", vectors),
        ("cores allowed", str(machine.cores)),
        ("caches L1, L2, L3", caches),
        ("peak of one core", _number(machine.peak_gflops_core, "GFLOP/s (float32 multiply-adds)")),
        ("peak of all cores", _number(machine.peak_gflops, "GFLOP/s")),
        ("memory bandwidth", _number(machine.bandwidth_gbs, "GB/s (reading, all cores)")),
        ("ridge of the roofline", _number(ridge, "FLOP per byte")),
        ("Halide target", machine.halide_target()),
    ]


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _bytes(size: int) -> str:
    return f"{size / 2**20:.4g} MiB" if size >= 2**20 else f"{size / 2**10:.4g} KiB"
