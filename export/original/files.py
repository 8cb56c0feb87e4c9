"""The file of what the original gave for the examples: JSON or CSV, its entries by name, by place, or in order."""

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from errors import StoreError
from export.original.examples import Example, names_of
from export.original.fields import KNOWN_NAMES

KEYS = ("file", "filename", "file_name", "image", "path", "name", "row", "index", "id", "key")
"""What the column, or the part, that says which example an entry is of may be called."""
MOST_DIGITS = 18
"""More of them are no whole number."""
_KNOWN_WORDS = frozenset(word for words in KNOWN_NAMES.values() for word in words)


class Entry(NamedTuple):
    """What the file holds for one example.

    Attributes:
        key: says which example it is of; None where only the order does.
        column: what the file calls its keys; empty where they have no name.
        answer: JSON: numbers, a label, or an object of named parts.
    """

    key: str | None
    column: str
    answer: Any


def read_expected(file: Path, columns: Collection[str] = ()) -> list[Entry]:
    """Return the entries of a file.

    Args:
        file: JSON or CSV.
        columns: of the examples, whose values may be the keys too.

    Raises:
        StoreError: the file cannot be read, or holds no entries, or one key twice.
    """
    try:
        text, words = file.read_text("utf-8-sig"), (*KEYS, *columns)
        entries = (_json_entries if text.lstrip()[:1] in ("[", "{") else _csv_entries)(text, words)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise StoreError(f"{file}: what the original gave cannot be read ({error}).") from error
    keys = [entry.key for entry in entries if entry.key is not None]
    if not entries:
        raise StoreError(f"{file}: there are no answers in it.")
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise StoreError(f"{file}: {twice} stands in it twice.")
    return entries


def match(entries: Sequence[Entry], examples: Sequence[Example], file: Path) -> dict[int, Any]:
    """Return the answer for each example by the example's place; an example without one is left out.

    Keys are the names of pictures (with or without folder and ending), the numbers of rows (from 0 or from 1), or the
    values of a column of the rows that is called as the keys are.

    Raises:
        StoreError: a key belongs to no example or to several, or there are no keys and another number of entries.
    """
    if all(entry.key is None for entry in entries):
        if len(entries) != len(examples):
            raise StoreError(
                f"{file}: has {len(entries)} answers for {len(examples)} examples and does not say whose they are. "
                "Name the example of each: by the picture's file name, or the number of the row."
            )
        return {place: entry.answer for place, entry in enumerate(entries)}
    places = _places([entry.key or "" for entry in entries], entries[0].column, examples)
    unmatched = [entry.key for entry in entries if (entry.key or "") not in places]
    if unmatched:
        raise StoreError(
            f"{file}: {', '.join(map(str, unmatched[:5]))}{', …' if len(unmatched) > 5 else ''} "
            f"({len(unmatched)} of {len(entries)}) is the name of no example, or of several. The examples are called "
            f"{names_of(examples)}."
        )
    return {places[entry.key or ""]: entry.answer for entry in entries}


def _places(keys: Sequence[str], column: str, examples: Sequence[Example]) -> dict[str, int]:
    """Return the place of the example of each key that belongs to one."""
    if examples and examples[0].values:
        if column in examples[0].values:
            return _unique([example.values[column] for example in examples])
        numbers = [int(key) if _is_count(key) else -1 for key in keys]
        first = 0 if 0 in numbers else 1
        return {
            key: number - first
            for key, number in zip(keys, numbers, strict=True)
            if first <= number < len(examples) + first
        }
    paths = [PurePosixPath(example.name) for example in examples]
    places = _unique([path.stem for path in paths]) | _unique([path.name for path in paths])
    places |= {example.name: place for place, example in enumerate(examples)}
    return {key: places[name] for key in keys for name in (key, PurePosixPath(key).name) if name in places}


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the place of each name that stands once."""
    return {name: place for place, name in enumerate(names) if names.count(name) == 1}


def _json_entries(text: str, keys: Collection[str]) -> list[Entry]:
    content = json.loads(text)
    if isinstance(content, list):
        return [_entry(answer, keys) for answer in content]
    lists = [value for name, value in content.items() if name in ("predictions", "answers") and isinstance(value, list)]
    if len(lists) == 1:
        return [_entry(answer, keys) for answer in lists[0]]
    return [Entry(str(key), "", answer) for key, answer in content.items()]


def _entry(answer: Any, keys: Collection[str]) -> Entry:
    """Return an entry of a list; an object may hold its key beside the rest."""
    if not isinstance(answer, Mapping):
        return Entry(None, "", answer)
    column = next((name for name in keys if isinstance(answer.get(name), str | int)), None)
    if column is None:
        return Entry(None, "", answer)
    return Entry(str(answer[column]), column, {name: value for name, value in answer.items() if name != column})


def _csv_entries(text: str, keys: Collection[str]) -> list[Entry]:
    first = text.partition("\n")[0]
    lines = [line for line in csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count)) if line]
    lines = [[cell.strip() for cell in line] for line in lines]
    if any(len(line) != len(lines[0]) for line in lines):
        raise ValueError("a line has another number of cells than the first")
    header = lines.pop(0) if lines and _is_header(lines, keys) else []
    if not lines:
        return []
    has_keys = bool(header) and header[0].lower() in (*keys, "")
    has_keys = has_keys or (len(lines[0]) > 1 and not any(_is_number(line[0]) for line in lines))
    start, column = int(has_keys), header[0] if header and has_keys else ""
    return [
        Entry(line[0] if has_keys else None, column, _answer(header[start:], [_value(cell) for cell in line[start:]]))
        for line in lines
    ]


def _is_header(lines: Sequence[Sequence[str]], keys: Collection[str]) -> bool:
    """Return whether the first line names columns: by a word that is known, or it alone has no numbers."""
    first, *others = lines
    if first[0].lower() in (*keys, "") or any(cell in _KNOWN_WORDS for cell in first):
        return True
    numeric = [any(_is_number(cell) for cell in line[1:] or line) for line in lines]
    return bool(others) and not numeric[0] and all(numeric[1:])


def _answer(names: Sequence[str], values: Sequence[Any]) -> Any:
    """Return a line's answer: one value, an object of named parts or labels, or numbers in order."""
    if len(values) == 1 and (not names or names[0] not in _KNOWN_WORDS):
        return values[0]
    if names and not all(_is_number(name) for name in names):
        return dict(zip(names, values, strict=True))
    return list(values)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _value(cell: str) -> Any:
    cell = cell.strip()
    if not _is_number(cell):
        return cell
    return int(cell) if _is_count(cell.lstrip("+-")) else float(cell)


def _is_count(text: str) -> bool:
    """Return whether a text is the digits of a number that Python reads, which no example's number exceeds by far."""
    return text.isdecimal() and len(text) <= MOST_DIGITS
