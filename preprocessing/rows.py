"""Check rows of named values and transform them into a model's input. Training and serving call `transform_rows`."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from errors import InvalidInput
from preprocessing.spec import Clip, Feature, Identifier, Log1p, RowInput

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


class CheckedRows(NamedTuple):
    """Rows that were checked one by one.

    Attributes:
        tensor: the valid rows in their order, transformed; shape (n, features), float32.
        problems: what is wrong with each invalid row, by its index among all rows.
    """

    tensor: npt.NDArray[np.float32]
    problems: dict[int, InvalidInput]


def check_rows(rows: Sequence[Row], spec: RowInput) -> CheckedRows:
    """Check every row and transform the valid ones; an invalid row does not affect the others."""
    now, problems, valid = datetime.now(UTC), dict[int, InvalidInput](), list[list[float]]()
    for index, row in enumerate(rows):
        try:
            valid.append(check_row(row, spec, now))
        except InvalidInput as error:
            problems[index] = error
    values = np.array(valid, np.float64).reshape(len(valid), len(spec.features))
    return CheckedRows(transform_rows(values, spec), problems)


def check_values(values: npt.NDArray[np.float64], spec: RowInput) -> CheckedRows:
    """Check rows that consist of numbers alone, and transform the valid ones.

    Args:
        values: shape (N, features), float64, in the order of the card's features, each in its unit.
        spec: the card's input section; its identifiers are not required here.
    """
    low = np.array([feature.low for feature in spec.features])
    high = np.array([feature.high for feature in spec.features])
    valid = ((values >= low) & (values <= high)).all(axis=1)  # NaN is in no range
    problems = dict[int, InvalidInput]()
    for index in np.flatnonzero(~valid):
        pairs = zip(values[index].tolist(), spec.features, strict=True)
        problems[int(index)] = InvalidInput("; ".join(filter(None, (_number_problem(*pair) for pair in pairs))) + ".")
    return CheckedRows(transform_rows(values[valid], spec), problems)


def check_row(row: Row, spec: RowInput, now: datetime) -> list[float]:
    """Check one row and return its values in the order of the card's features.

    Args:
        row: name → value, as parsed from JSON.
        spec: the card's input section.
        now: the present; no `past-time` may be later by more than `MAX_CLOCK_SKEW`.

    Raises:
        InvalidInput: the row is no object, or a value is missing, of the wrong type, out of its range, or unknown where
            the card does not ignore that; the message lists everything that is wrong.
    """
    if not isinstance(row, Mapping):
        raise InvalidInput(f"A row is an object of named values, not {_abbreviated(row)}. {_expected(spec)}")
    known = {entry.name for entry in spec.entries}
    problems = [f"{entry.name} is missing" for entry in spec.entries if entry.name not in row]
    if spec.unknown_fields == "refuse":
        problems += [f"{_abbreviated(name)} is unknown" for name in row if name not in known]
    numbers = [_number_problem(row[feature.name], feature) for feature in spec.features if feature.name in row]
    texts = [_identifier_problem(row[entry.name], entry, now) for entry in spec.identifiers if entry.name in row]
    problems += filter(None, numbers + texts)
    if problems:
        raise InvalidInput(f"{'; '.join(problems[:20])}. {_expected(spec)}")
    return [float(row[feature.name]) for feature in spec.features]


def transform_rows(values: npt.NDArray[np.float64], spec: RowInput) -> npt.NDArray[np.float32]:
    """Apply the steps of each feature to its column.

    Args:
        values: shape (N, features), float64, in the order of the card's features, each in its unit.
        spec: the card's input section.

    Returns:
        Shape (N, features), float32.
    """
    columns = [_transform_column(values[:, index], feature) for index, feature in enumerate(spec.features)]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float32)


def _transform_column(column: npt.NDArray[np.float64], feature: Feature) -> npt.NDArray[np.float64]:
    for step in feature.steps:
        if isinstance(step, Log1p):
            column = np.log1p(column)
        elif isinstance(step, Clip):
            column = np.clip(column, step.low, step.high)
        else:
            column = (column - step.mean) / step.std
    return column


def _number_problem(value: Any, feature: Feature) -> str:
    number = float(value) if isinstance(value, str) and is_number(value) else value
    if type(number) in (int, float) and feature.low <= number <= feature.high:  # a bool is no number, NaN in no range
        return ""
    unit = f" {feature.unit}" if feature.unit else ""
    return f"{feature.name} must be a number from {feature.low:g} to {feature.high:g}{unit}, not {_abbreviated(value)}"


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
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _expected(spec: RowInput) -> str:
    return f"Expected: {', '.join(entry.name for entry in spec.entries)}."


def _abbreviated(value: Any) -> str:
    """Return a client's value as a message quotes it: at most 40 characters, and only the type of a container."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value) if isinstance(value, str) and not is_unicode(value) else repr(value)
    text = text if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "…"
