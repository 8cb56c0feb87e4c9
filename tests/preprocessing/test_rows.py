"""Rows are refused with a reason for each problem, and every step of a card equals one computed by hand."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from errors import InvalidInput
from preprocessing.row_spec import RowInput
from preprocessing.row_transform import transform_rows
from preprocessing.rows import MAX_CLOCK_SKEW, check_row, check_rows

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
VALID = {"income": 99.0, "angle": -30, "name": "x", "at": "2026-06-01T11:59:59Z"}


def test_steps_are_taken_in_order() -> None:
    expected = [[(math.log(100) - 2) / 0.5, -30.0], [(math.log(1000) - 2) / 0.5, 7.25]]
    actual = transform_rows(np.array([[99, -30], [1e6, 7.25]]), SPEC)
    assert actual.dtype == np.float32 and actual.flags.c_contiguous
    assert np.allclose(actual, expected, atol=1e-6)


def test_an_invalid_row_is_a_problem_of_its_own_index() -> None:
    rows: Any = [VALID, {**VALID, "income": -1}, {**VALID, "income": 0}, "text", {**VALID, "more": 1}]
    checked = check_rows(rows, SPEC)
    assert set(checked.problems) == {1, 3, 4}
    assert np.allclose(checked.tensor, transform_rows(np.array([[99.0, -30], [0, -30]]), SPEC))
    assert check_rows([], SPEC).tensor.shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"income": None}, "income must be a number from 0 to 1e\\+06, not None"),
        ({"income": "5 "}, "income must be .*not '5 '"),
        ({"income": "1_0"}, "income must be .*not '1_0'"),
        ({"income": "nan"}, "income must be .*not 'nan'"),
        ({"income": "1e999"}, "income must be .*not '1e999'"),
        ({"income": "-1"}, "income must be .*not '-1'"),
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
        ({"at": True}, "at must be a time such as .*, or seconds since 1970, not True"),
        ({"at": 10**400}, "at must be a time"),
        ({"at": math.nan}, "at must be a time"),
        ({"at": 1e20}, "at must be a time"),
        ({"at": -1e17}, "at must be a time"),
        ({"income": "1" * 100_000 + "x"}, "income must be a number .*not '1111"),
        ({"income": "1" * 65}, "income must be a number"),
        ({"at": "2026"}, "at must be a time"),
        ({"at": NOW.timestamp() + 400}, "at is in the future"),
        ({"at": (NOW.timestamp() + 400) * 1000}, "at is in the future"),
        ({"at": "2026-06-01T12:06:00Z"}, "at is in the future"),
        ({"at": "9999-12-31T23:59:59-12:00"}, "at "),
        ({"incme": 5}, "'incme' is unknown.*Expected: income, angle, name, at"),
    ],
)
def test_what_is_wrong_is_named_with_its_value(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_row({**VALID, **change}, SPEC, NOW)


def test_all_problems_of_a_row_are_listed_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        check_row({"angle": 999, "name": 3, "other": 1}, SPEC, NOW)
    for part in ("income is missing", "at is missing", "'other' is unknown", "angle must be", "name must be"):
        assert part in str(raised.value)


def test_a_number_may_come_as_text() -> None:
    texts = {**VALID, "income": "99", "angle": "-3e1"}
    assert check_row(texts, SPEC, NOW) == [99.0, -30.0]
    checked = check_rows([texts, VALID, {**texts, "income": "1e999"}], SPEC)
    assert set(checked.problems) == {2} and (checked.tensor[0] == checked.tensor[1]).all()


def test_a_category_that_is_a_number_may_come_as_text_too() -> None:
    feature = {"name": "rooms", "categories": [1, 2.5, "many"], "example": 1, "other_categories": True}
    spec = RowInput.model_validate({"kind": "row", "features": [feature]})
    rows = [{"rooms": value} for value in ("2.5", 2.5, "many", "1", 1, "7")]
    assert check_rows(rows, spec).tensor.ravel().tolist() == [1, 1, 2, 0, 0, -1]


@pytest.mark.parametrize("at", [1_780_315_200, 1_780_315_200.5, "1780315200", 1_780_315_200_000, "1780315200000", 0])
def test_a_time_may_be_seconds_or_milliseconds_since_1970(at: object) -> None:
    assert NOW.timestamp() == 1_780_315_200
    assert check_row({**VALID, "at": at}, SPEC, NOW) == [99.0, -30.0]


def test_a_card_may_have_unknown_fields_ignored() -> None:
    row = {**VALID, "firmware": {"major": 3}}
    assert check_row(row, SPEC.model_copy(update={"unknown_fields": "ignore"}), NOW) == [99.0, -30.0]
    checked = check_rows([row, VALID, {"firmware": 3}], SPEC.model_copy(update={"unknown_fields": "ignore"}))
    assert set(checked.problems) == {2} and len(checked.tensor) == 2
    with pytest.raises(InvalidInput, match="'firmware' is unknown"):
        check_row(row, SPEC, NOW)


@pytest.mark.parametrize(
    "at", ["2026-06-01T12:00:00+00:00", "2026-06-01T13:59:00+02:00", "2026-06-01", (NOW + MAX_CLOCK_SKEW).isoformat()]
)
def test_times_of_any_zone_up_to_now_are_accepted(at: str) -> None:
    assert check_row({**VALID, "at": at}, SPEC, NOW) == [99.0, -30.0]


def test_a_time_without_a_zone_is_utc() -> None:
    in_future = (NOW + timedelta(minutes=6)).replace(tzinfo=None).isoformat()
    with pytest.raises(InvalidInput, match="future"):
        check_row({**VALID, "at": in_future}, SPEC, NOW)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(["income", "angle", "name", "at", "else"]), anything))
def test_any_json_value_is_accepted_or_refused_by_name(row: dict[str, object]) -> None:
    checked = check_rows([row], SPEC)
    assert len(checked.tensor) + len(checked.problems) == 1
    assert np.isfinite(checked.tensor).all()
