"""Check rows of named values, and transform those that are right into a model's input."""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from errors import InvalidInput
from preprocessing.row_spec import MISSING_CATEGORY, OTHER_CATEGORY, Feature, Identifier, RowInput
from preprocessing.row_transform import transform_rows

Row = Mapping[str, Any]

_ISO_8601 = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
_SINCE_1970 = re.compile(r"\d{9,13}(\.\d{1,9})?", re.ASCII)
_LEAST_MILLISECONDS = 2e10
"""A larger number is a time in milliseconds, not seconds, which pydantic takes for the border too."""
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MOST_DIGITS = 64
"""The longest text that is read as a number, in characters."""
MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a client's clock may be ahead of the server's."""
MOST_NAMED = 20
"""The most problems of a row, or categories of a feature, that a message names."""


class CheckedRows(NamedTuple):
    """Rows that were checked one by one.

    Attributes:
        tensor: the valid rows in their order, transformed; shape (n, features), float32.
        problems: what is wrong with each invalid row, by its index among all rows.
    """

    tensor: npt.NDArray[np.float32]
    problems: dict[int, InvalidInput]


def check_rows(rows: Sequence[Row], spec: RowInput) -> CheckedRows:
    """Check every row and transform the valid ones; an invalid row does not affect the others.

    Rows are checked column by column, which takes a fifth of the time; a row that does not pass is then checked by
    itself, for the message.
    """
    now = datetime.now(UTC)
    if len(rows) == 1:
        try:
            values, problems = np.array([check_row(rows[0], spec, now)], np.float64), dict[int, InvalidInput]()
        except InvalidInput as error:
            values, problems = np.empty((0, len(spec.features))), {0: error}
        return CheckedRows(transform_rows(values, spec), problems)
    names = [entry.name for entry in spec.entries]
    keys = frozenset(names)
    complete = [
        index
        for index, row in enumerate(rows)
        if isinstance(row, Mapping) and (row.keys() >= keys if spec.unknown_fields == "ignore" else row.keys() == keys)
    ]
    values = np.empty((len(complete), len(spec.features)))
    valid = np.ones(len(complete), bool)
    for place, feature in enumerate(spec.features):
        values[:, place], fits = _checked_column([rows[index][feature.name] for index in complete], feature)
        valid &= fits
    for entry in spec.identifiers:
        fits = np.array([not _identifier_problem(rows[index][entry.name], entry, now) for index in complete], bool)
        valid &= fits
    problems = {}
    for index in sorted(set(range(len(rows))).difference(np.array(complete, int)[valid].tolist())):
        try:
            check_row(rows[index], spec, now)
        except InvalidInput as error:
            problems[index] = error
    return CheckedRows(transform_rows(values[valid], spec), problems)


def check_values(values: npt.NDArray[np.float64], spec: RowInput) -> CheckedRows:
    """Check rows that consist of numbers alone, and transform the valid ones.

    Args:
        values: shape (N, features), float64, in the order of the card's features, each in its unit; a category by its
            place, and where the card allows them NaN for a missing value and `OTHER_CATEGORY` for any other category.
        spec: the card's input section; its identifiers are not required here.
    """
    values = values.copy()
    valid = np.ones(len(values), bool)
    for place, feature in enumerate(spec.features):
        column = values[:, place]
        if feature.categories is None:
            fits = (column >= feature.low) & (column <= feature.high)  # NaN is in no range
        else:
            lowest = OTHER_CATEGORY if feature.other_categories else 0.0
            fits = (column >= lowest) & (column < len(feature.categories)) & (column == np.floor(column))
        if feature.missing and feature.categories is None:
            fits |= np.isnan(column)
        elif feature.missing:
            column[np.isnan(column)] = MISSING_CATEGORY
            fits |= column == MISSING_CATEGORY
        valid &= fits
    problems = dict[int, InvalidInput]()
    for index in np.flatnonzero(~valid):
        pairs = zip(values[index].tolist(), spec.features, strict=True)
        problems[int(index)] = InvalidInput("; ".join(filter(None, (_code_problem(*pair) for pair in pairs))) + ".")
    return CheckedRows(transform_rows(values[valid], spec), problems)


def check_row(row: Row, spec: RowInput, now: datetime) -> list[float]:
    """Check one row and return what `transform_rows` takes of it, in the order of the card's features.

    Args:
        row: name → value, as parsed from JSON.
        spec: the card's input section.
        now: the present; no `past-time` may be later by more than `MAX_CLOCK_SKEW`.

    Raises:
        InvalidInput: the row is no object, or a value is missing, of the wrong type, out of its range, or unknown where
            the card does not ignore that; the message lists everything that is wrong.
    """
    if (numbers := _numbers_of(row, spec)) is not None:
        return numbers
    if not isinstance(row, Mapping):
        raise InvalidInput(f"A row is an object of named values, not {_abbreviated(row)}. {_expected(spec)}")
    known = {entry.name for entry in spec.entries}
    problems = [f"{entry.name} is missing" for entry in spec.entries if entry.name not in row]
    if spec.unknown_fields == "refuse":
        problems += [f"{_abbreviated(name)} is unknown" for name in row if name not in known]
    values = [_value_problem(row[feature.name], feature) for feature in spec.features if feature.name in row]
    texts = [_identifier_problem(row[entry.name], entry, now) for entry in spec.identifiers if entry.name in row]
    problems += filter(None, values + texts)
    if problems:
        raise InvalidInput(f"{'; '.join(problems[:MOST_NAMED])}. {_expected(spec)}")
    return [_code(row[feature.name], feature) or 0.0 for feature in spec.features]


def _numbers_of(row: Row, spec: RowInput) -> list[float] | None:
    """Return what `check_row` returns of a right row of features alone, which is the usual one; None of any other."""
    if type(row) is not dict or spec.identifiers or (spec.unknown_fields == "refuse" and len(row) > len(spec.features)):
        return None
    try:
        numbers = [_code(row[feature.name], feature) for feature in spec.features]
    except KeyError:
        return None
    return None if None in numbers else [number or 0.0 for number in numbers]


def _checked_column(values: Sequence[Any], feature: Feature) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return what the network gets for one feature of several rows, shape (N,), and which of them are accepted."""
    if feature.categories is None and {int, float}.issuperset(map(type, values)):
        with contextlib.suppress(OverflowError):  # a whole number beyond float64, which no range holds
            column = np.array(values, np.float64)
            return column, (column >= feature.low) & (column <= feature.high)
    codes = [_code(value, feature) for value in values]
    return np.array(codes, np.float64), np.array([code is not None for code in codes], bool)


def _code(value: Any, feature: Feature) -> float | None:
    """Return the number that stands for a value before its steps, None for a value that is not accepted."""
    if value is None and feature.missing:
        return np.nan if feature.categories is None else MISSING_CATEGORY
    number = float(value) if isinstance(value, str) and is_number(value) else value
    if feature.categories is None:
        fits = type(number) in (int, float) and feature.low <= number <= feature.high  # no bool; NaN is in no range
        return float(number) if fits else None
    if type(value) not in (str, int, float):
        return None
    place = feature.places.get(value, feature.places.get(number))
    return OTHER_CATEGORY if place is None and feature.other_categories else place


def _value_problem(value: Any, feature: Feature) -> str:
    if _code(value, feature) is not None:
        return ""
    or_null = " or null" if feature.missing else ""
    if feature.categories is None:
        unit = f" {feature.unit}" if feature.unit else ""
        allowed = f"a number from {feature.low:g} to {feature.high:g}{unit}"
    elif feature.other_categories:
        allowed = "a text or a number"
    else:
        allowed = f"one of {_listed(feature.categories)}"
    return f"{feature.name} must be {allowed}{or_null}, not {_abbreviated(value)}"


def _code_problem(value: float, feature: Feature) -> str:
    """Return what is wrong with a number that stands for a value of a feature, as `check_values` takes it."""
    if feature.categories is None:
        return "" if np.isnan(value) and feature.missing else _value_problem(value, feature)
    lowest = OTHER_CATEGORY if feature.other_categories else 0.0
    if (value == MISSING_CATEGORY and feature.missing) or (
        lowest <= value < len(feature.categories) and value == np.floor(value)
    ):
        return ""
    last = len(feature.categories) - 1
    return f"{feature.name} must be a place from 0 to {last} in {_listed(feature.categories)}, not {value:g}"


def _listed(categories: Sequence[str | float]) -> str:
    return ", ".join(map(_abbreviated, categories[:MOST_NAMED])) + (", …" if len(categories) > MOST_NAMED else "")


def _identifier_problem(value: Any, identifier: Identifier, now: datetime) -> str:
    if identifier.kind == "text":
        if isinstance(value, str) and 1 <= len(value) <= identifier.max_length and is_unicode(value):
            return ""
        return f"{identifier.name} must be a text of 1 to {identifier.max_length} characters, not {_abbreviated(value)}"
    try:
        in_future = _time(value) > now + MAX_CLOCK_SKEW
    except (TypeError, ValueError, OverflowError, OSError):  # the last is the C library's
        example = f"{identifier.example!r}, or seconds since 1970"
        return f"{identifier.name} must be a time such as {example}, not {_abbreviated(value)}"
    return f"{identifier.name} is in the future ({_abbreviated(value)})" if in_future else ""


def _time(value: Any) -> datetime:
    """Return a time that is written in ISO 8601, or as seconds or milliseconds since 1970."""
    if type(value) in (int, float) or _SINCE_1970.fullmatch(value):
        seconds = float(value)
        return datetime.fromtimestamp(seconds / 1e3 if seconds > _LEAST_MILLISECONDS else seconds, UTC)
    if not _ISO_8601.fullmatch(value):
        raise ValueError
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def is_number(text: str) -> bool:
    """Return whether a text is a number in ASCII; Python itself takes other digits, spaces and underscores, too."""
    return len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) is not None


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can encode a text: JSON can spell half of a surrogate pair, which UTF-8 cannot."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _expected(spec: RowInput) -> str:
    return f"Expected: {', '.join(entry.name for entry in spec.entries)}."


def _abbreviated(value: Any) -> str:
    """Return a client's value as a message quotes it: at most 40 characters, and only the type of a container."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value) if isinstance(value, str) and not is_unicode(value) else repr(value)
    text = text if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "…"
