"""Rows: what is refused and how it is said, and every step of a card by hand."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from errors import InvalidInput
from preprocessing.rows import AHEAD, check_row, check_rows, transform_rows
from preprocessing.spec import RowInput

SPEC = RowInput.model_validate(
    {
        "kind": "row",
        "features": [
            {
                "name": "income",
                "low": 0,
                "high": 1e6,
                "example": 5,
                "steps": [
                    {"kind": "clip", "low": 0, "high": 999},
                    {"kind": "log1p"},
                    {"kind": "standardise", "mean": 2.0, "std": 0.5},
                ],
            },
            {"name": "angle", "unit": "°", "low": -180, "high": 180, "example": 0},
        ],
        "identifiers": [
            {"name": "name", "kind": "text", "max_length": 5, "example": "a"},
            {"name": "at", "kind": "past-time", "example": "2026-01-15T08:30:00Z"},
        ],
    }
)
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
RIGHT = {"income": 99.0, "angle": -30, "name": "x", "at": "2026-06-01T11:59:59Z"}


def test_steps_are_taken_in_order() -> None:
    wanted = [[(math.log(100) - 2) / 0.5, -30.0], [(math.log(1000) - 2) / 0.5, 7.25]]
    got = transform_rows(np.array([[99, -30], [1e6, 7.25]]), SPEC)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    assert np.allclose(got, wanted, atol=1e-6)


def test_a_wrong_row_is_a_problem_of_its_own_place() -> None:
    rows: Any = [RIGHT, {**RIGHT, "income": -1}, {**RIGHT, "income": 0}, "text", {**RIGHT, "more": 1}]
    checked = check_rows(rows, SPEC)
    assert set(checked.problems) == {1, 3, 4}
    assert np.allclose(checked.tensor, transform_rows(np.array([[99.0, -30], [0, -30]]), SPEC))
    assert check_rows([], SPEC).tensor.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"income": None}, "income must be a number from 0 to 1e\\+06, not None"),
        ({"income": "5"}, "income must be .*not '5'"),
        ({"income": True}, "income must be .*not True"),
        ({"income": math.nan}, "income must be .*not nan"),
        ({"income": math.inf}, "income must be .*not inf"),
        ({"income": 10**400}, "income must be .*not 1000.*…"),
        ({"income": [1]}, "income must be .*not a list"),
        ({"angle": 180.5}, "angle must be a number from -180 to 180 °, not 180.5"),
        ({"name": ""}, "name must be a text of 1 to 5 characters"),
        ({"name": "sechse"}, "name must be a text of 1 to 5 characters, not 'sechse'"),
        ({"name": 5}, "name must be a text"),
        ({"name": "\ud800"}, r"name must be a text .*not '\\ud800'"),
        ({"at": "2026-01-15\ud80008:30:00Z"}, "at must be a time"),
        ({"at": "2026-W03"}, "at must be a time"),
        ({"at": "yesterday"}, "at must be a time such as '2026-01-15T08:30:00Z'"),
        ({"at": 1700000000}, "at must be a time"),
        ({"at": "2026-06-01T12:06:00Z"}, "at is in the future"),
        ({"at": "9999-12-31T23:59:59-12:00"}, "at "),
        ({"incme": 5}, "'incme' is unknown.*Expected: income, angle, name, at"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(change: dict[str, object], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_row({**RIGHT, **change}, SPEC, NOW)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        check_row({"angle": 999, "name": 3, "other": 1}, SPEC, NOW)
    for part in ("income is missing", "at is missing", "'other' is unknown", "angle must be", "name must be"):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    "at", ["2026-06-01T12:00:00+00:00", "2026-06-01T13:59:00+02:00", "2026-06-01", (NOW + AHEAD).isoformat()]
)
def test_times_of_any_zone_up_to_now_are_taken(at: str) -> None:
    assert check_row({**RIGHT, "at": at}, SPEC, NOW) == [99.0, -30.0]


def test_no_zone_is_utc() -> None:
    late = (NOW + timedelta(minutes=6)).replace(tzinfo=None).isoformat()
    with pytest.raises(InvalidInput, match="future"):
        check_row({**RIGHT, "at": late}, SPEC, NOW)


anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=8),
    lambda inner: some.lists(inner, max_size=2) | some.dictionaries(some.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(some.dictionaries(some.sampled_from(["income", "angle", "name", "at", "else"]), anything))
def test_whatever_json_says_it_is_taken_or_refused_by_name(row: dict[str, object]) -> None:
    checked = check_rows([row], SPEC)
    assert len(checked.tensor) + len(checked.problems) == 1
    assert np.isfinite(checked.tensor).all()
