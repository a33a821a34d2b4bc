"""The lowerings of Caffe con Troll: every form on a few problems, work and workspace counted by hand."""

from __future__ import annotations

import pytest

from kernels import check
from problems import conv
from sevenloops.algorithms import ALGORITHMS, check_schedule
from sevenloops.machine import Machine
from sevenloops.problem import ConvProblem
from sevenloops.schedule import Schedule

MACHINE = Machine.host()
PROBLEM = conv("mb2 ic8 ih6 iw5 oc24 kh3 kw3 ph1 pw1")  # 6 x 5 = 30 outputs of each image
COMMON = {"tile_pixels": 4, "tile_channels": MACHINE.lanes, "task_pixels": 12, "channel_parts": 1, "unroll": 1}
PANELS = -(-24 // MACHINE.lanes)


def schedule(name: str, **params: int | str | bool) -> Schedule:
    return Schedule(name, **{**COMMON, "parallel": True, **params})


FORMS: dict[str, list[dict[str, str | bool]]] = {
    "im2col": [{"batched": False}, {"batched": True}],
    "mec": [{"products": "summed"}, {"products": "stored"}],
    "kn2row": [{"products": "accumulated"}, {"products": "stored"}],
}
PROBLEMS = [
    "mb3 ic5 ih6 iw9 oc11 kh2 kw4 pt1 pl3 pr1 bias act=relu",
    "mb2 g2 ic6 ih7 iw6 oc34 kh3 kw3 dh2 dw3 ph3 pw2 bias res=before",
    "mb2 ic3 id4 ih5 iw6 oc9 kd3 kh3 kw2 pd1 ph1",
]


@pytest.mark.parametrize("text", PROBLEMS)
@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in FORMS.items() for form in forms])
def test_every_form(name: str, form: dict[str, str | bool], text: str) -> None:
    """The first candidate of each form, also where the model would not choose it."""
    problem = conv(text)
    listed = ALGORITHMS[name].schedules(problem, MACHINE)
    check(problem, next(s for s in listed if form.items() <= s.params.items()), MACHINE)


def macs(s: Schedule, problem: ConvProblem = PROBLEM) -> int:
    assert check_schedule(problem, s, MACHINE) is None
    return ALGORITHMS[s.algorithm].macs_executed(problem, s)


def workspace(s: Schedule, threads: int = 2, problem: ConvProblem = PROBLEM) -> int:
    return ALGORITHMS[s.algorithm].workspace_bytes(problem, s, threads)


def test_im2col_counts() -> None:
    """30 outputs are tasks of 12, 12 and 6, the last in 2 tiles; 60 of both images are 5 tasks; 9 taps of 8 channels."""
    lanes = PANELS * MACHINE.lanes
    columns = 4 * 2 * 30 * 9 * 8
    apart, batched = schedule("im2col", k_blocks=1, batched=False), schedule("im2col", k_blocks=1, batched=True)
    assert macs(apart) == 2 * 32 * lanes * 72
    assert macs(batched) == 60 * lanes * 72
    assert workspace(apart) == workspace(batched) == columns


def test_kn2row_counts() -> None:
    """Stored: 216 columns for each input pixel, no product for padding. Accumulated: sums and staged rows of a task."""
    stored, accumulated = schedule("kn2row", products="stored"), schedule("kn2row", products="accumulated")
    assert macs(stored) == 2 * 32 * -(-216 // MACHINE.lanes) * MACHINE.lanes * 8
    assert workspace(stored) == 4 * 2 * 30 * 216 + 2 * 4 * 24
    assert macs(accumulated) == 2 * 32 * PANELS * MACHINE.lanes * 72
    # Tasks begin at pixels 0, 12 and 24, columns 0, 2 and 4: 12 pixels lie in 3 rows, which read 5, each 7 wide.
    assert workspace(accumulated) == 2 * (4 * 12 * MACHINE.lanes + 4 * 5 * 7 * 8)
    assert workspace(accumulated.replace(parallel=False)) * 2 == workspace(accumulated)


def test_kn2row_counts_of_transposed() -> None:
    """3 channels and 16 positions are 48 columns; 30 pixels of each image are 8 tiles of 4, and no lane is idle."""
    problem = conv("mb2 ic8 ih6 iw5 oc3 kh4 kw4 sh2 sw2 ph1 pw1 transposed")
    stored = schedule("kn2row", products="stored")
    assert macs(stored, problem) == 2 * 32 * 48 * 8
    assert workspace(stored, problem=problem) == 4 * 2 * 30 * 48 + 2 * 4 * 3
    reason = check_schedule(problem, schedule("kn2row", products="accumulated"), MACHINE)
    assert reason is not None
    assert "plain convolutions" in reason


def test_mec_counts() -> None:
    """Columns are k times the input, not k^2 times; the summed form has those of the two padding rows too."""
    stored, summed = schedule("mec", products="stored"), schedule("mec", products="summed")
    assert macs(stored) == 2 * 32 * -(-72 // MACHINE.lanes) * MACHINE.lanes * 24
    assert workspace(stored) == 4 * 2 * 30 * 24 + 4 * 2 * 30 * 72 + 2 * 4 * 24
    assert macs(summed) == 2 * 32 * PANELS * MACHINE.lanes * 72
    assert workspace(summed) == 4 * 2 * 8 * 5 * 24


@pytest.mark.parametrize("name", ["mec", "kn2row"])
def test_refusals(name: str) -> None:
    strided = conv("mb1 ic8 ih9 iw9 oc24 kh3 kw3 sh2 sw2 ph1 pw1")
    reason = check_schedule(strided, schedule(name, products="stored"), MACHINE)
    assert reason is not None
    assert "unit stride" in reason
    assert all(s.products != "stored" for s in ALGORITHMS[name].schedules(strided, MACHINE))
    reason = check_schedule(PROBLEM, schedule(name, products="dropped"), MACHINE)
    assert reason is not None
    assert "products must be one of" in reason
    missing = check_schedule(PROBLEM, schedule(name), MACHINE)
    assert missing is not None
    assert "exactly the parameters" in missing


def test_a_transposed_tensor_too_large_to_store() -> None:
    """There is no other form for transposed problems, so the algorithm cannot compute this one."""
    reason = ALGORITHMS["kn2row"].supports(conv("mb1 ic3 ih224 iw224 oc96 kh11 kw11 sh2 sw2 transposed"))
    assert reason is not None
    assert "2,331,377,664 bytes" in reason


def test_a_tensor_too_large_to_store() -> None:
    """The products of 121 positions would not fit 2 GiB: the stored form is not offered, and refused when asked for."""
    large = conv("mb1 ic3 ih224 iw224 oc96 kh11 kw11 ph5 pw5")
    assert all(s.products != "stored" for s in ALGORITHMS["kn2row"].schedules(large, MACHINE))
    reason = check_schedule(large, schedule("kn2row", products="stored"), MACHINE)
    assert reason is not None
    assert "2,331,377,664 bytes" in reason
