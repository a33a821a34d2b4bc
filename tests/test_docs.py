"""The Python in the README and the docs runs as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("README.md", "loop nest"),
        ("docs/schedules.md", "loop nest"),
        ("docs/tuning.md", "loop nest"),
        ("docs/profiling.md", "% of the time, bound by"),
        ("docs/training_operators.md", "modules have kernels of sevenloops"),
    ],
)
def test_python_blocks_run(page: str, printed: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    if any("import torch" in block for block in blocks):
        pytest.importorskip("torch", reason="the page is about PyTorch")
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    assert printed in capsys.readouterr().out


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
