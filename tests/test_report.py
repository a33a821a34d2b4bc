"""The page of a report: complete, harmless, and working in a browser."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from browser import chromium, emulate
from sevenloops.analysis.kernels import kernel_texts
from sevenloops.analysis.pictures import FirstLayer, first_layer
from sevenloops.analysis.profile import Block, LayerProfile, Profile
from sevenloops.cli.main import app
from sevenloops.errors import GraphError
from sevenloops.graph.builder import GraphBuilder
from sevenloops.report import report_page
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
    notes=("fuse_epilogue: relu1 into conv1 as relu", "fold_affine: bn3 stays behind conv2: conv2 is also read by add1"),
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
    from dataclasses import replace

    found = report_page(replace(PROFILE, peak_gflops=None, bandwidth_gbs=None))
    assert 'id="roofline"' not in found and 'id="time"' in found and 'id="filters"' not in found


def ready(window: Any, page: str, folder: Path) -> None:
    path = folder / "report.html"
    path.write_text(page, encoding="utf-8")
    window.get(path.as_uri())


def test_in_a_browser(page: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "browser") as window:
        from selenium.webdriver import ActionChains, Keys

        ready(window, page, tmp_path)
        names = lambda: [cell.text for cell in window.find_elements("css selector", "#layers tbody td:nth-child(2)")]  # noqa: E731
        assert names() == ["conv1", ODD_NAME, "pool", "fc"]
        time_head = window.find_element("xpath", "//th[button[text()='µs']]")
        time_head.find_element("tag name", "button").click()
        assert names() == [ODD_NAME, "conv1", "fc", "pool"] and time_head.get_attribute("aria-sort") == "descending"
        time_head.find_element("tag name", "button").send_keys(Keys.ENTER)  # without a mouse
        assert names() == ["pool", "fc", "conv1", ODD_NAME] and time_head.get_attribute("aria-sort") == "ascending"
        point = window.find_elements("css selector", "#chart-roofline .points path.point")[0]
        window.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
        ActionChains(window).move_to_element(point).perform()
        window.implicitly_wait(20)
        hover = window.find_element("css selector", "#chart-roofline .hoverlayer .hovertext").text
        assert "conv1 (Conv) by direct" in hover and "9.00 M multiply-adds" in hover
        window.find_element("link text", "conv1").click()
        window.implicitly_wait(20)
        assert "loop nest" in window.find_element("css selector", "#kernel-0[open] pre").text
        assert base64.b64decode(window.print_page()).startswith(b"%PDF-")
        assert window.get_log("browser") == []


def test_dark_and_on_a_telephone(page: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "browser") as window:
        from selenium.webdriver.support import wait

        emulate(window, dark=True, phone=True)
        ready(window, page, tmp_path)
        style = "return getComputedStyle(document.body).backgroundColor"
        assert window.execute_script(style) == "rgb(21, 24, 28)"
        assert window.execute_script("return document.documentElement.scrollWidth") <= 390
        text = "return document.querySelector('#chart-time .xtick text').style.fill"
        wait.WebDriverWait(window, 20).until(lambda w: w.execute_script(text) == "rgb(230, 233, 236)")
        emulate(window, dark=False)
        assert window.execute_script(style) == "rgb(255, 255, 255)"
        wait.WebDriverWait(window, 20).until(lambda w: w.execute_script(text) == "rgb(28, 33, 39)")
        assert window.get_log("browser") == []


def test_the_command(tmp_path: Path) -> None:
    net = GraphBuilder("small")
    y = net.max_pool(net.relu(net.conv(net.input("x", (1, 3, 12, 12)), 8, 3)), 2, stride=2)
    net.graph(y=net.linear(net.flatten(y), 4)).save_onnx(tmp_path / "small.onnx")
    output = tmp_path / "page.html"
    (tmp_path / "ladder.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    options = ["-o", str(output), "--runs", "2", "--no-kernels", "--picture", str(tmp_path / "ladder.svg")]
    result = CliRunner().invoke(app, ["report", str(tmp_path / "small.onnx"), *options])
    assert result.exit_code == 0, result.stderr
    page = output.read_text(encoding="utf-8")
    assert result.stdout.startswith(f"{output}: ") and "8 filters of 3 x 3" in page
    assert "data:image/svg+xml;base64," in page and 'alt="ladder.svg"' in page
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
