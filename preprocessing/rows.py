"""row → tensor: check the named values of a row, scale them. Training and serving both call `transform_rows`."""

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

_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?", re.ASCII)
AHEAD = timedelta(minutes=5)
"""How far a client's clock may be ahead of ours."""


class CheckedRows(NamedTuple):
    """Rows that were looked at one by one.

    tensor: (n, features) float32, transformed; only the rows that are right, in order.
    problems: what is wrong with each of the others, by its place among all rows.
    """

    tensor: npt.NDArray[np.float32]
    problems: dict[int, InvalidInput]


def check_rows(rows: Sequence[Row], spec: RowInput) -> CheckedRows:
    """Check every row and transform those that are right; a wrong one costs the others nothing."""
    now, problems, right = datetime.now(UTC), dict[int, InvalidInput](), list[list[float]]()
    for place, row in enumerate(rows):
        try:
            right.append(check_row(row, spec, now))
        except InvalidInput as error:
            problems[place] = error
    values = np.array(right, np.float64).reshape(len(right), len(spec.features))
    return CheckedRows(transform_rows(values, spec), problems)


def check_values(values: npt.NDArray[np.float64], spec: RowInput) -> CheckedRows:
    """`check_rows` for rows that come as numbers alone.

    Args:
        values: (N, features) float64, in the order of the card's features, each in its unit.
        spec: the card's input section; its identifiers are not asked for.
    """
    low, high = (np.array([getattr(each, end) for each in spec.features]) for end in ("low", "high"))
    right = (values >= low) & (values <= high)  # NaN is in no range
    problems = dict[int, InvalidInput]()
    for place in np.flatnonzero(~right.all(axis=1)):
        pairs = zip(values[place].tolist(), spec.features, strict=True)
        problems[int(place)] = InvalidInput("; ".join(filter(None, (_number_problem(*pair) for pair in pairs))) + ".")
    return CheckedRows(transform_rows(values[right.all(axis=1)], spec), problems)


def check_row(row: Row, spec: RowInput, now: datetime) -> list[float]:
    """The values of one row in the order of the card's features.

    Args:
        row: by name, as JSON gave it.
        spec: the card's input section.
        now: what no `past-time` may be later than, give or take `AHEAD`.

    Raises:
        InvalidInput: not an object, or something is missing, unknown, of the wrong type or out of its range; the
            message names everything that is wrong.
    """
    if not isinstance(row, Mapping):
        raise InvalidInput(f"A row is an object of named values, not {_shown(row)}. {_expected(spec)}")
    known = {each.name for each in spec.entries}
    wrong = [f"{each.name} is missing" for each in spec.entries if each.name not in row]
    wrong += [f"{_shown(name)} is unknown" for name in row if name not in known]
    wrong += [
        reason for each in spec.features if each.name in row and (reason := _number_problem(row[each.name], each))
    ]
    wrong += [
        reason
        for each in spec.identifiers
        if each.name in row and (reason := _identifier_problem(row[each.name], each, now))
    ]
    if wrong:
        raise InvalidInput(f"{'; '.join(wrong[:20])}. {_expected(spec)}")
    return [float(row[each.name]) for each in spec.features]


def transform_rows(values: npt.NDArray[np.float64], spec: RowInput) -> npt.NDArray[np.float32]:
    """Take every column through its feature's steps.

    Args:
        values: (N, features) float64, in the order of the card's features, each in its unit.
        spec: the card's input section.

    Returns:
        (N, features) float32.
    """
    columns = [_through(values[:, place], feature) for place, feature in enumerate(spec.features)]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.float32)


def _through(column: npt.NDArray[np.float64], feature: Feature) -> npt.NDArray[np.float64]:
    for step in feature.steps:
        if isinstance(step, Log1p):
            column = np.log1p(column)
        elif isinstance(step, Clip):
            column = np.clip(column, step.low, step.high)
        else:
            column = (column - step.mean) / step.std
    return column


def _number_problem(value: Any, feature: Feature) -> str:
    if type(value) in (int, float) and feature.low <= value <= feature.high:  # a bool is no number, NaN is in no range
        return ""
    unit = f" {feature.unit}" if feature.unit else ""
    return f"{feature.name} must be a number from {feature.low:g} to {feature.high:g}{unit}, not {_shown(value)}"


def _identifier_problem(value: Any, identifier: Identifier, now: datetime) -> str:
    if identifier.kind == "text":
        if isinstance(value, str) and 1 <= len(value) <= identifier.max_length and is_unicode(value):
            return ""
        return f"{identifier.name} must be a text of 1 to {identifier.max_length} characters, not {_shown(value)}"
    try:
        if not _TIME.fullmatch(value):
            raise ValueError
        when = datetime.fromisoformat(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        late = when > now + AHEAD
    except (TypeError, ValueError, OverflowError):
        return f"{identifier.name} must be a time such as {identifier.example!r}, not {_shown(value)}"
    return f"{identifier.name} is in the future ({_shown(value)})" if late else ""


def is_unicode(text: str) -> bool:
    """Whether it can be sent back: JSON can name half of a surrogate pair, UTF-8 cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _expected(spec: RowInput) -> str:
    return f"Expected: {', '.join(each.name for each in spec.entries)}."


def _shown(value: Any) -> str:
    """A client's value in a message, in short."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = ascii(value) if isinstance(value, str) and not is_unicode(value) else repr(value)
    text = text if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    return text if len(text) <= 40 else text[:37] + "…"
