"""Which columns of a table hold what a model takes: paths or bytes of pictures, or the values of rows."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from errors import BulkError
from models.card import Card, ImageCard

PATHS = ("path", "file", "filename", "file_name", "filepath", "image_path", "url", "uri")
BYTES = ("bytes", "image_bytes", "image", "data", "content", "base64")
"""The names by which a column is recognised, whatever their case, in order of preference."""
Holds = Literal["paths", "bytes", "rows"]


class Columns(NamedTuple):
    """What is read of a table.

    Attributes:
        holds: what an input is.
        names: what the model calls a value, or `path` or `bytes` → the name of its column.
    """

    holds: Holds
    names: dict[str, str]


def recognised(header: Sequence[str], card: Card, given: Mapping[str, str], table: str) -> Columns:
    """Return which columns of a table are read.

    Args:
        header: the names of all columns.
        card: the model's card.
        given: of `--column NAME=COLUMN`; what is not among them is recognised by its name.
        table: the table's path, for messages.

    Raises:
        BulkError: a column is missing or there twice, or there is no such name; the message lists the table's columns.
    """
    own = f"{table} has the columns {', '.join(header[:50])}"
    columns = _recognised(header, card, given, own)
    if twice := [column for column in columns.names.values() if header.count(column) > 1]:
        raise BulkError(f"{own}; {twice[0]} is there {header.count(twice[0])} times, so nobody knows which is meant.")
    return columns


def _recognised(header: Sequence[str], card: Card, given: Mapping[str, str], own: str) -> Columns:
    for name, column in given.items():
        if column not in header:
            near = difflib.get_close_matches(column, header, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise BulkError(f"--column {name}={column}: {own}.{hint}")
    if isinstance(card, ImageCard):
        return _of_pictures(header, card, given, own)
    entries = [entry.name for entry in card.input.entries]
    if unknown := [name for name in given if name not in entries]:
        raise BulkError(f"--column {unknown[0]}=…: {card.name} takes {', '.join(entries)}.")
    names = {name: given.get(name, name) for name in entries}
    if missing := [name for name, column in names.items() if column not in header]:
        raise BulkError(
            f"{own}; {card.name} also takes {', '.join(missing)}. Where a column has another name, say "
            f"--column {missing[0]}=COLUMN."
        )
    return Columns("rows", names)


def _of_pictures(header: Sequence[str], card: ImageCard, given: Mapping[str, str], own: str) -> Columns:
    if unknown := [name for name in given if name not in ("path", "bytes")]:
        raise BulkError(f"--column {unknown[0]}=…: a table of pictures has path=COLUMN, or bytes=COLUMN.")
    if len(given) == 2:
        raise BulkError("--column path=… and --column bytes=…: say one of them.")
    if given:
        (name,) = given
        return Columns("paths" if name == "path" else "bytes", dict(given))
    folded = {column.casefold(): column for column in reversed(header)}
    kinds: tuple[tuple[Holds, str, tuple[str, ...]], ...] = (("paths", "path", PATHS), ("bytes", "bytes", BYTES))
    for holds, name, known in kinds:
        for candidate in known:
            if candidate in folded:
                return Columns(holds, {name: folded[candidate]})
    raise BulkError(
        f"{own}; none of them is known to hold pictures for {card.name}. Say --column path=COLUMN of paths, or "
        "--column bytes=COLUMN of encoded pictures (in CSV: in base64)."
    )


def row_of(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a row by the model's names, with its values as JSON has them; what is empty, or not a number, is null."""
    return {name: _plain(values.get(column)) for name, column in names.items()}


def _plain(value: Any) -> Any:
    if value is None or value == "" or value != value:  # the last is NaN, which tables have for nothing
        return None
    if isinstance(value, str | int | float):
        return value
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
