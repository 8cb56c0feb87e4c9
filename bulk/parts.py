"""Parts of the output: encoding rows as CSV, JSON Lines or Parquet, and reading them back."""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from bulk.files import missing_extra
from bulk.rows import Column, Kind, Output

Format = Literal["jsonl", "csv", "parquet"]
STATE, REPLACED = ".vitrine", "replaced"
"""Where the output's folder keeps what a run that goes on needs, and in it the parts that this run has replaced."""
_TO_BE_QUOTED = re.compile(r'[,"\r\n]')


def part_name(part: int, form: Format) -> str:
    """Return the name of a part's file."""
    return f"part-{part:06d}.{form}"


def part_numbers(folder: Path, form: Format) -> list[int]:
    """Return the numbers of all parts that lie in a folder."""
    files = [path.name for path in folder.glob(f"part-*.{form}")]
    numbers = (int(digits) for digits in (name[5 : -len(form) - 1] for name in files) if digits.isdecimal())
    return [number for number in numbers if part_name(number, form) in files]


def check_format(form: Format) -> None:
    """Return if parts of that format can be written here.

    Raises:
        BulkError: it takes a package that is not installed.
    """
    if form == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise missing_extra("--format parquet needs pyarrow") from error


def encode(rows: Sequence[Output], columns: Sequence[Column], form: Format) -> bytes:
    """Return rows as the bytes of a file; a column that a row lacks is null."""
    if form == "jsonl":
        names = [column.name for column in columns]
        write = json.JSONEncoder(ensure_ascii=False).encode
        lines = (write({name: row.get(name) for name in names}) + "\n" for row in rows)
        return "".join(lines).encode("utf-8", "backslashreplace")
    if form == "csv":
        table = [[column.name for column in columns]]
        table += [[_cell(row.get(name), kind) for name, kind in columns] for row in rows]
        return "".join(map(_csv_line, table)).encode("utf-8", "backslashreplace")
    return _parquet(rows, columns)


def read_part(path: Path, columns: Sequence[Column], form: Format) -> Iterator[Output]:
    """Yield the rows of a part, as they were before it was encoded.

    Raises:
        OSError: it is not there.
        ValueError: it is no part with these columns.
    """
    if form == "jsonl":
        with path.open("rb") as file:
            yield from map(json.loads, file)
    elif form == "csv":
        csv.field_size_limit(2**31 - 1)
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            if next(reader, None) != [column.name for column in columns]:
                raise ValueError(f"{path} has other columns")
            for cells in reader:
                yield {name: _value(cell, kind) for (name, kind), cell in zip(columns, cells, strict=True)}
    else:
        from pyarrow.parquet import ParquetFile

        for row in ParquetFile(path).read().to_pylist():
            yield {name: dict(row[name]) if kind == "numbers" and row[name] else row[name] for name, kind in columns}


def _csv_line(cells: Sequence[str]) -> str:
    """Return cells as one record; Python's own writer does not quote a carriage return, which its reader then takes."""
    quoted = ('"' + cell.replace('"', '""') + '"' if _TO_BE_QUOTED.search(cell) else cell for cell in cells)
    return ",".join(quoted) + "\n"


def _cell(value: Any, kind: Kind) -> str:
    if value is None:
        return ""
    if kind in ("numbers", "texts"):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(value) if kind == "truth" else str(value)


def _value(cell: str, kind: Kind) -> Any:
    if not cell:
        return None
    return cell if kind == "text" else json.loads(cell)


def _parquet(rows: Sequence[Output], columns: Sequence[Column]) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    types = {
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "numbers": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
        "texts": pyarrow.list_(pyarrow.string()),
    }
    arrays = {
        name: pyarrow.array([_arrow_value(row.get(name), kind) for row in rows], types[kind]) for name, kind in columns
    }
    file = io.BytesIO()
    write_table(pyarrow.table(arrays), file)
    return file.getvalue()


def _arrow_value(value: Any, kind: Kind) -> Any:
    if kind == "text" and isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return list(value.items()) if kind == "numbers" and value is not None else value
