"""Names from a model reach terminals and pages as text: nothing in them moves the cursor, colours, or is markup."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from sevenloops import InferenceSession
from sevenloops.analysis.export import as_csv
from sevenloops.analysis.layers import layer_times
from sevenloops.analysis.profile import Profile, profile
from sevenloops.bench.report import render, render_starts
from sevenloops.cli.main import app
from sevenloops.cli.profile import _print as print_profile
from sevenloops.cli.run import _table as layer_table
from sevenloops.errors import FallbackWarning, GraphError, KernelError, printable
from sevenloops.graph import Graph, Node, Value
from sevenloops.machine import Machine
from test_bench import a_run

#: Colours, a title, C1, the other direction, line breaks, and what rich takes for markup or refuses.
NAMES = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\u202egnp.x",
    "a\nb\r\u2028c",
    "[red]x[/red]",
    "[/]",
    "\\[b]",
    "\udc80",
]
MACHINE = Machine.described(Machine.host().isa, peak_gflops_core=50.0, peak_gflops=100.0, bandwidth_gbs=10.0)


def bad(text: str) -> list[str]:
    """What should not be in a text for people. Line breaks are the table's own."""
    return [c for c in text if not c.isprintable() and c != "\n"]


def network(names: list[str] = NAMES) -> Graph:
    """A convolution of every name, two of them with something that stays apart, all reading what the last wrote."""
    nodes, value = [], "x"
    for name in names:
        nodes.append(Node("Conv", (value, "w"), (f"{name}y",), {"pads": (1, 1, 1, 1)}, name))
        nodes.append(Node("Softsign", (f"{name}y",), (f"{name}z",), {}, f"{name} of"))
        value = f"{name}z"
    weights = {"w": np.full((4, 4, 3, 3), 0.1, np.float32)}
    return Graph(tuple(nodes), (Value("x", (1, 4, 6, 6)),), (value,), weights, name="[/] \x1b[1m")


@pytest.fixture(scope="module")
def found() -> Profile:
    feeds = {"x": np.ones((1, 4, 6, 6), np.float32)}
    return profile(InferenceSession(network()), feeds, 1, machine=MACHINE)


def shown(what: object) -> str:
    console = Console(width=400, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_printable() -> None:
    assert printable("conv1/ü 数 [x]") == "conv1/ü 数 [x]"
    assert printable("\x1b[31m\x9b\u202e\n\udc80") == r"\x1b[31m\x9b\u202e\n\udc80"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"


@pytest.mark.parametrize("name", NAMES)
def test_errors_and_warnings(name: str) -> None:
    for error in (GraphError(f"{name} is wrong"), KernelError(f"{name} failed"), FallbackWarning(f"{name} is slow")):
        assert not bad(str(error))
        assert "\n" not in str(error)
    with pytest.raises(GraphError) as raised:
        InferenceSession(network([name])).run(None, {name: 1})
    assert not bad(str(raised.value))


def test_a_warning_of_what_is_not_compiled() -> None:
    pytest.importorskip("onnx", reason="the reference evaluator is in the package onnx")
    graph = Graph((Node("Det", ("x",), ("y",), {}, NAMES[0]),), (Value("x", (3, 3)),), ("y",))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        InferenceSession(graph)
    assert r"\x1b[31mred" in str(caught[0].message) and not bad(str(caught[0].message))


def test_the_plan_and_the_notes() -> None:
    plan = InferenceSession(network()).plan()
    assert not bad(str(plan)) and r"\x1b[31mred" in str(plan)
    assert plan.notes and not any(bad(str(note)) or "\n" in str(note) for note in plan.notes)
    assert {note.node for note in plan.notes} & {f"{name} of" for name in NAMES}


def test_tables(found: Profile) -> None:
    """As they are in the model, but for what is no text: no exception, no colour, no part of a name lost."""
    console = Console(width=400, force_terminal=False, highlight=False)
    with console.capture() as capture:
        print_profile(console, found)
    session = InferenceSession(network())
    times = layer_times(session, {"x": np.ones((1, 4, 6, 6), np.float32)}, MACHINE, repeats=1)
    run = a_run()
    named = replace(run, rows=tuple(replace(run.rows[0], name=name) for name in NAMES))
    for text in (capture.get(), shown(layer_table(times, MACHINE)), shown(render(named)), shown(render_starts(named))):
        assert not bad(text)
        for name in NAMES:
            assert printable(name) in text
    assert not bad(as_csv(found)) and r"\x1b[31mred" in as_csv(found)


@pytest.mark.parametrize("command", ["profile", "count"])
def test_commands(command: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="ONNX files are read by the package onnx")
    path = tmp_path / "net.onnx"
    network(NAMES[:-1]).save_onnx(path)  # the last is no UTF-8
    result = CliRunner().invoke(app, [command, str(path), *(["--runs", "1"] if command == "profile" else [])])
    assert result.exit_code == 0, result.output
    assert not bad(result.stdout) and not bad(result.stderr)
    assert r"\x1b" in result.stdout


def test_the_report(found: Profile) -> None:
    pytest.importorskip("plotly")
    pytest.importorskip("matplotlib")
    from plotly.offline import get_plotlyjs

    from sevenloops.report import report_page

    evil = "<img src=x onerror=alert(1)>\u202e\x9b"
    layers = tuple(replace(layer, name=evil, op=evil) for layer in found.layers)
    note = replace(found.notes[0], text=evil)
    named = replace(found, model=evil, sizes={evil: (1,)}, layers=layers, notes=(note,))
    page = report_page(replace(named, blocks=tuple(replace(block, name=evil) for block in found.blocks)))
    page = page.replace(get_plotlyjs(), "")
    assert "<img src=x" not in page and "\u202e" not in page and "\x9b" not in page
    figures = page[page.index('id="figures"') :]
    assert "\\u003cimg" not in figures[: figures.index("</script>")]  # plotly would read tags in names
