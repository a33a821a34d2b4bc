"""Schedules as values: equality, repr, JSON, pickling, and what is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevenloops.errors import ScheduleError
from sevenloops.schedule import Schedule

NAMES = st.from_regex(r"p_[a-z_]{0,8}", fullmatch=True)
VALUES = st.one_of(st.integers(), st.booleans(), st.text(max_size=8))


@given(st.dictionaries(NAMES, VALUES))
def test_every_road_back_gives_the_same_schedule(params: dict[str, Any]) -> None:
    schedule = Schedule("direct", **params)
    roads = [
        eval(repr(schedule)),
        Schedule.from_json(schedule.to_json()),
        pickle.loads(pickle.dumps(schedule)),
        copy.deepcopy(schedule),
        schedule.replace(**params),
        Schedule("direct", **dict(reversed(list(params.items())))),
    ]
    for again in roads:
        assert again == schedule
        assert hash(again) == hash(schedule)
        assert again.params == params
        assert [type(v) for v in again.params.values()] == [type(v) for v in schedule.params.values()]


def test_parameters_are_attributes() -> None:
    schedule = Schedule("direct", tile_pixels=6, unroll=True, order="oc")
    assert (schedule.tile_pixels, schedule.unroll, schedule.order) == (6, True, "oc")
    assert repr(schedule) == "Schedule('direct', order='oc', tile_pixels=6, unroll=True)"
    with pytest.raises(AttributeError, match="schedule of direct has no parameter 'tile'"):
        _ = schedule.tile


def test_algorithms_do_not_mix() -> None:
    assert Schedule("direct", tile=4) != Schedule("im2col", tile=4)
    assert Schedule("direct", tile=4) != Schedule("direct", tile=5)
    assert Schedule("direct") != "direct"


def test_replace() -> None:
    schedule = Schedule("direct", tile=4, block=8)
    assert schedule.replace(tile=5) == Schedule("direct", tile=5, block=8)
    with pytest.raises(ScheduleError, match=r"direct has no parameter \['tiles'\]; it has \['block', 'tile'\]"):
        schedule.replace(tiles=5)


def test_immutable() -> None:
    schedule = Schedule("direct", tile=4)
    with pytest.raises(AttributeError, match=r"use schedule\.replace\(tile=...\)"):
        schedule.tile = 5
    schedule.params["tile"] = 5
    assert schedule.tile == 4


@pytest.mark.parametrize("value", [1.5, None, (1, 2), [1], b"4"])
def test_bad_parameter(value: Any) -> None:
    with pytest.raises(ScheduleError, match="parameter tile of schedule 'direct' is an int, bool or str"):
        Schedule("direct", tile=value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"tile": 4}', '{"algorithm": "direct", "tile": [4]}'])
def test_bad_json(text: str) -> None:
    with pytest.raises(ScheduleError, match="not a schedule"):
        Schedule.from_json(text)
