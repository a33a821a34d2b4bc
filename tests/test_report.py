"""The page of a report: complete, harmless, and working in a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from browser import chromium, emulate
from sevenloops.analysis.costs import count, total
from sevenloops.analysis.kernels import kernel_texts
from sevenloops.analysis.pictures import FirstLayer, first_layer
from sevenloops.analysis.profile import Block, LayerProfile, Profile
from sevenloops.cli.main import app
from sevenloops.errors import GraphError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.graph.ir import Note
from sevenloops.graph.passes import optimise
from sevenloops.ladder import CONV_CASES, LADDERS, Case, LadderRun, Point, gemm_cases
from sevenloops.models import build
from sevenloops.report import ladder_charts, read_ladder, report_page
from sevenloops.report.charts import ReportError
from sevenloops.session import InferenceSession

pytest.importorskip("plotly")
pytest.importorskip("matplotlib")
#: as a model may have it
ODD_NAME = "<script>alert('x')</script> & </script>"


def layer(name: str, op: str, macs: int, seconds: float) -> LayerProfile:
    times = (seconds, 1.1 * seconds, 0.9 * seconds)
    problem = f"problem of {name}" if macs else ""
    return LayerProfile(name, op, (1, 8, 9, 9), problem, "direct", "", 100, macs, macs // 2, 10_000, 4000, times)


PROFILE = Profile(
    model="a network",
    sizes={"x": (1, 3, 9, 9)},
    threads=2,
    machine="a processor",
    peak_gflops=100.0,
    bandwidth_gbs=10.0,
    layers=(
        layer("conv1", "Conv", 9_000_000, 3e-4),
        layer(ODD_NAME, "Conv", 4_000_000, 5e-4),
        layer("pool", "MaxPool", 0, 1e-5),
        layer("fc", "Gemm", 70_000, 2e-4),
    ),
    runs_s=(1e-3,) * 3,
    profiled_s=(1e-3,) * 3,
    params=400,
    macs=13_070_000,
    arena_bytes=8192,
    constant_bytes=1600,
    blocks=(Block("y", 0, 4000, 0, 1), Block(ODD_NAME, 4032, 4000, 1, 3)),
    notes=(
        Note("made", "relu1", "relu1 into conv1 as relu", "fuse_epilogue"),
        Note("missed", "bn3", "bn3 stays behind conv2: conv2 is also read by add1", "fold_affine"),
    ),
)
WEIGHT = np.random.default_rng(0).standard_normal((6, 3, 5, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def page() -> str:
    kernels = {"problem of conv1": "loop nest\n  for y < 3", f"problem of {ODD_NAME}": ODD_NAME}
    peers = {"sevenloops": 1e-3, "onnxruntime": 2e-3}
    return report_page(PROFILE, kernels=kernels, filters=FirstLayer("conv1", WEIGHT), peers=peers)


def without_plotly(page: str) -> str:
    """The page without the library, which has addresses of its own in its texts."""
    blocks = re.findall(r"<script>.*?</script>", page, flags=re.DOTALL)
    return page.replace(max(blocks, key=len), "")


def test_the_page_has_everything_and_loads_nothing(page: str) -> None:
    own = without_plotly(page)
    for part in ("conv1", "13,070,000", "a processor", "100 GFLOP/s", "loop nest", "6 filters of 5 x 5", "bn3 stays behind"):
        assert part in own
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", own) and "@import" not in own and "url(" not in own
    figures = json.loads(re.findall(r'<script id="figures" type="application/json">(.*?)</script>', own, re.DOTALL)[0])
    assert list(figures) == ["roofline", "time", "kinds", "memory", "arena", "peers"]
    points = figures["roofline"]["data"][1:]
    assert sum(len(trace["x"]) for trace in points) == 3  # a pool has no multiply-adds
    assert page.count("plotly.js v") == 1


def test_names_of_a_model_stay_text(page: str) -> None:
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<!-- " not in without_plotly(page)


def test_an_unmeasured_machine_has_no_roofline() -> None:
    found = report_page(replace(PROFILE, peak_gflops=None, bandwidth_gbs=None))
    assert 'id="roofline"' not in found and 'id="time"' in found and 'id="filters"' not in found


def profile_of(name: str) -> Profile:
    """The page's profile of a network of the zoo, with its real layers and made-up times: nothing is compiled."""
    costs = count(optimise(build(name, batch=1)))
    layers, blocks = [], []
    for at, row in enumerate(costs):
        seconds = 1e-5 + max(row.macs / 5e10, row.unique_bytes / 1e10)
        algorithm, problem = ("direct", f"problem {at}") if row.macs else ("expression", "")
        layers.append(
            replace(layer(row.name, row.op, row.macs, seconds), shape=row.shape, algorithm=algorithm, problem=problem)
        )
        blocks.append(Block(row.name, 4096 * (at % 3), 4096, at, at + 1))
    runs = (sum(one.seconds for one in layers),) * 3
    whole = total(costs)
    measured = replace(PROFILE, model=name, layers=tuple(layers), blocks=tuple(blocks), runs_s=runs, profiled_s=runs)
    return replace(measured, params=whole.params, macs=whole.macs)


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("browser")) as found:
        yield found


def ready(window: Any, page: str, folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    window.get_log("browser")
    window.get(path.as_uri())


def names(window: Any) -> list[str]:
    return list(
        window.execute_script("return [...document.querySelectorAll('#layers td:nth-child(2)')].map(c => c.textContent)")
    )


def hover(window: Any, at: int, expected: str) -> str:
    """What the roofline says of one of its layers, reached by the mouse."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support import wait

    point = window.find_elements("css selector", "#chart-roofline .points path.point")[at]
    window.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(window).move_to_element(point).perform()
    text = "return [...document.querySelectorAll('#chart-roofline .hoverlayer .hovertext')].map(t => t.textContent).join()"
    wait.WebDriverWait(window, 20).until(lambda w: expected in w.execute_script(text))
    return str(window.execute_script(text))


@pytest.mark.parametrize("name", ["small", "alexnet", "resnet50", "efficientnet_lite0"])
def test_in_a_browser(name: str, window: Any, page: str, tmp_path: Path) -> None:
    """No error in the console, the table sorts with mouse and keyboard, a hover shows a layer, it prints."""
    from selenium.webdriver import Keys

    found = PROFILE if name == "small" else profile_of(name)
    ready(window, page if name == "small" else report_page(found), tmp_path)
    assert names(window) == [one.name for one in found.layers]
    head = window.find_element("xpath", "//th[button[text()='µs']]")
    slowest_first = [one.name for one in sorted(found.layers, key=lambda one: -one.seconds)]
    head.find_element("tag name", "button").click()
    assert names(window) == slowest_first and head.get_attribute("aria-sort") == "descending"
    head.find_element("tag name", "button").send_keys(Keys.ENTER)  # without a mouse
    ascending = [one.name for one in sorted(found.layers, key=lambda one: one.seconds)]
    assert names(window) == ascending and head.get_attribute("aria-sort") == "ascending"
    last = [one for one in found.layers if one.macs][-1]  # fully connected, and no other point lies on its own
    groups: dict[str, list[LayerProfile]] = {}
    for one in found.layers:
        groups.setdefault(one.op, []).extend([one] if one.macs else [])
    drawn = [one for group in sorted(groups.values(), key=lambda g: -sum(one.seconds for one in g)) for one in group]
    shown = hover(window, drawn.index(last), f"{last.name} ({last.op}) by direct")
    assert f"{last.macs / 1e6:,.2f} M multiply-adds" in shown
    printed = base64.b64decode(window.print_page())
    assert printed.startswith(b"%PDF-") and len(re.findall(rb"/Type\s*/Page\b", printed)) >= 3
    assert window.get_log("browser") == []


def test_a_layer_leads_to_its_kernel(window: Any, page: str, tmp_path: Path) -> None:
    ready(window, page, tmp_path)
    window.find_element("link text", "conv1").click()
    window.implicitly_wait(20)
    assert "loop nest" in window.find_element("css selector", "#kernel-0[open] pre").text


def test_on_paper_charts_are_dark_on_white_and_fit(window: Any, page: str, tmp_path: Path) -> None:
    """Also from a dark screen; afterwards it is as it was."""
    ready(window, page, tmp_path)
    state = """
    const text = document.querySelector("#chart-time .xtick text"), svg = document.querySelector("#chart-time .main-svg");
    return [text.style.fill, svg.getBoundingClientRect().width];"""
    emulate(window, dark=True)
    wait_for(window, state, lambda found: found[0] == "rgb(230, 233, 236)")
    window.execute_script("dispatchEvent(new Event('beforeprint'))")
    wait_for(window, state, lambda found: found == ["rgb(28, 33, 39)", 660])
    window.execute_script("dispatchEvent(new Event('afterprint'))")
    wait_for(window, state, lambda found: found[0] == "rgb(230, 233, 236)" and found[1] > 1000)
    emulate(window, dark=False)
    assert window.get_log("browser") == []


def wait_for(window: Any, script: str, holds: Callable[[Any], bool]) -> None:
    from selenium.webdriver.support import wait

    wait.WebDriverWait(window, 20).until(lambda w: holds(w.execute_script(script)))


def test_dark_and_on_a_telephone(page: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "browser") as window:
        emulate(window, dark=True, phone=True)
        ready(window, page, tmp_path)
        style = "return getComputedStyle(document.body).backgroundColor"
        assert window.execute_script(style) == "rgb(21, 24, 28)"
        assert window.execute_script("return document.documentElement.scrollWidth") <= 390
        text = "return document.querySelector('#chart-time .xtick text').style.fill"
        wait_for(window, text, lambda found: found == "rgb(230, 233, 236)")
        emulate(window, dark=False)
        assert window.execute_script(style) == "rgb(255, 255, 255)"
        wait_for(window, text, lambda found: found == "rgb(28, 33, 39)")
        assert window.get_log("browser") == []


def ladder_document(kind: str) -> dict[str, Any]:
    """What `sevenloops ladder --output` writes."""
    rungs = [LADDERS[kind][name] for name in (("ijk", "tuned", "numpy") if kind == "gemm" else ("python", "tuned", "torch"))]
    cases = gemm_cases([64, 128]) if kind == "gemm" else [Case("walkthrough", CONV_CASES["walkthrough"])]
    points = tuple(
        Point(rung, case, ((1e-3 / at,),), extrapolated="times 9" if rung.kind == "python" else None, peaks_gflops=(9.0,))
        for case in cases
        for at, rung in enumerate(rungs, 1)
    )
    environment = {"cpu": "a <processor>", "isa": "avx2", "threads": 2, "date": "2026-11-21T12:00:00"}
    document = LadderRun(kind, tuple(rungs), tuple(cases), points, 100.0, environment).to_dict()
    return dict(json.loads(json.dumps(document)))


def test_ladders_are_charts_like_the_others(window: Any, tmp_path: Path) -> None:
    documents = [ladder_document("gemm"), ladder_document("conv")]
    charts = [chart for at, document in enumerate(documents) for chart in ladder_charts(document, at)]
    assert [chart.title for chart in charts] == ["Ladder of the product", "Ladder, walkthrough"]
    lines = {trace.name: trace for trace in charts[0].figure.data}
    assert list(lines) == ["peak, 100", "ijk", "tuned", "numpy"] and lines["numpy"].line.dash == "dash"
    assert lines["tuned"].x == (64, 128) and lines["tuned"].y == pytest.approx([2 * n**3 / 5e-4 / 1e9 for n in (64, 128)])
    assert charts[1].figure.data[0].y == ("python *", "tuned", "torch") and "extrapolated" in charts[1].text
    ready(window, report_page(PROFILE, charts=charts), tmp_path)
    drawn = "return document.querySelectorAll('#chart-ladder-0 .points path.point').length"
    assert window.execute_script(drawn) == 6
    assert window.execute_script("return document.querySelectorAll('#chart-ladder-1-0 .bars .point').length") == 3
    assert window.get_log("browser") == []


def test_what_is_no_ladder_is_refused(tmp_path: Path) -> None:
    for at, text in enumerate(('{"points": []}', "[]", "<svg/>")):
        path = tmp_path / f"{at}.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ReportError, match="is no ladder: `sevenloops ladder gemm --output"):
            read_ladder(path)


def test_the_command(tmp_path: Path) -> None:
    net = GraphBuilder("small")
    y = net.max_pool(net.relu(net.conv(net.input("x", (1, 3, 12, 12)), 8, 3)), 2, stride=2)
    net.graph(y=net.linear(net.flatten(y), 4)).save_onnx(tmp_path / "small.onnx")
    output = tmp_path / "page.html"
    (tmp_path / "access.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "ladder.json").write_text(json.dumps(ladder_document("gemm")), encoding="utf-8")
    options = ["-o", str(output), "--runs", "2", "--no-kernels", "--picture", str(tmp_path / "access.svg")]
    options += ["--ladder", str(tmp_path / "ladder.json")]
    result = CliRunner().invoke(app, ["report", str(tmp_path / "small.onnx"), *options])
    assert result.exit_code == 0, result.stderr
    page = output.read_text(encoding="utf-8")
    assert result.stdout.startswith(f"{output}: ") and "8 filters of 3 x 3" in page
    assert "data:image/svg+xml;base64," in page and 'alt="access.svg"' in page and "a \\u003cprocessor>" not in page
    assert 'id="chart-ladder-0"' in page and "a &lt;processor&gt;" in page
    assert len(re.findall("<tr><td", page)) >= 3 and "kernel-0" not in page
    result = CliRunner().invoke(app, ["report", "lenet5", "-o", "/no/such/folder/r.html"])
    assert result.exit_code == 2 and "its folder does not exist" in result.stderr


def test_texts_of_kernels() -> None:
    net = GraphBuilder("small")
    y = net.max_pool(net.conv(net.input("x", (1, 3, 12, 12)), 8, 3, name="first"), 2, stride=2)
    session, seen = InferenceSession(net.graph(y=y)), list[tuple[int, int]]()
    texts = kernel_texts(session.plan(), lambda done, total: seen.append((done, total)))
    assert list(texts) == list(dict.fromkeys(str(step.problem) for step in session.plan().steps))
    assert all("schedule" in text and "for " in text for text in texts.values())
    assert seen[-1] == (len(texts), len(texts))


def test_a_network_without_filters() -> None:
    net = GraphBuilder("plain")
    with pytest.raises(GraphError, match="plain has no convolution over two axes"):
        first_layer(net.graph(y=net.relu(net.input("x", (1, 3)))))
