"""Example rows that an operator brings: a CSV file whose header names the features, or a JSON file of rows."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from errors import StoreError

if TYPE_CHECKING:  # reading a file takes no converter
    from export.rows.model import FeatureFacts, Values

NO_VALUE = frozenset(("", "NA", "NaN", "nan", "null", "None"))
"""What stands in a cell of a CSV file that has no value."""
MOST_EXAMPLES = 10_000


def read_examples(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file by name; the cells of a CSV file are texts, the values of a JSON file what they are.

    The rows of a JSON file may stand under `samples` or `readings`, as in a request.

    Raises:
        StoreError: the file cannot be read, has no rows or more than `MOST_EXAMPLES`, or a row has other names.
    """
    try:
        text = file.read_text("utf-8-sig")
        rows = _json_rows(text) if text.lstrip()[:1] in ("[", "{") else _csv_rows(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise StoreError(f"{file}: the examples cannot be read ({error}).") from error
    if not 1 <= len(rows) <= MOST_EXAMPLES:
        raise StoreError(f"{file}: there must be 1 to {MOST_EXAMPLES:,} example rows, not {len(rows):,}.")
    for number, row in enumerate(rows, 1):
        if row.keys() != rows[0].keys():
            raise StoreError(f"{file}: row {number} names other values than the first row.")
    return rows


def example_values(rows: Sequence[dict[str, Any]], features: "Sequence[FeatureFacts]", file: Path) -> "Values":
    """Return rows in the order of the features, shape (N, features), without the columns beside them.

    Raises:
        StoreError: a feature is missing, or the cell of a number is none.
    """
    names = [feature.name for feature in features]
    if missing := [name for name in names if name not in rows[0]]:
        raise StoreError(
            f"{file}: the examples lack {', '.join(missing[:20])}. Their header must name the model's features: "
            f"{', '.join(names[:50])}."
        )
    values = np.empty((len(rows), len(features)), object)
    for place, feature in enumerate(features):
        for number, row in enumerate(rows):
            values[number, place] = _value(row[feature.name], feature, f"{file}: row {number + 1}, {feature.name}")
    return values


def _value(cell: Any, feature: "FeatureFacts", where: str) -> Any:
    if feature.is_text or not isinstance(cell, str):
        is_value = not isinstance(cell, str) or cell in (feature.categories or ()) or cell not in NO_VALUE
        return cell if is_value else None
    if cell in NO_VALUE:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise StoreError(f"{where}: {cell!r:.60} is no number, which this feature of the model is.")
    return int(number) if cell.lstrip("+-").isdigit() else number


def _json_rows(text: str) -> list[dict[str, Any]]:
    content = json.loads(text)
    if isinstance(content, dict):
        content = next((content[name] for name in ("samples", "readings") if name in content), [content])
    rows = [row.get("features", row) if isinstance(row, dict) else row for row in content]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a row is an object of named values")
    return rows


def _csv_rows(text: str) -> list[dict[str, Any]]:
    header = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=header.count))
    names, *rows = [row for row in reader if row] or [[]]
    if len(set(names)) != len(names):
        raise ValueError("a name stands twice in the header")
    if any(len(row) != len(names) for row in rows):
        raise ValueError("a line has another number of cells than the header")
    return [dict(zip(names, row, strict=True)) for row in rows]
