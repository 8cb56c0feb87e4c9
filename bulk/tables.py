"""Tables: CSV and Parquet files whose rows are paths of pictures, encoded pictures, or rows for a model of rows."""

import base64
import binascii
import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import chain, islice
from typing import Any

from bulk.columns import Columns, Holds, row_of
from bulk.files import UNKNOWN_SIZE, filled, is_url, missing_extra, open_binary, read_files
from bulk.items import MOST_CHUNK_ITEMS, Item, too_large
from errors import BulkError

DELIMITERS = ",;\t"
MOST_CELL_CHARACTERS = 64 * 2**20
"""The longest cell of a CSV file, such as a picture in base64; Python's own limit is 131,072."""
ROWS_A_CHUNK = 1000
"""So many rows are given to a model of rows at once, as many as a request may hold."""
PATHS_A_CHUNK = 64
"""So many paths of a table are read at once, since nobody has said how large the files are."""


@dataclass(frozen=True)
class Table(ABC):
    """What all slices of tables have.

    Attributes:
        path: of the table, or its address.
        start: where its first row begins: the byte in a CSV file, the number of the row in a Parquet file.
        first: the number of its first row, from 1.
        rows: the number of its rows.
        holds: what an input is.
        names: which columns are read, as of `Columns`.
        changed: tells one content of the table from another.
    """

    path: str
    start: int
    first: int
    rows: int
    holds: Holds
    names: dict[str, str]
    changed: str

    @property
    def count(self) -> int:
        """The number of rows."""
        return self.rows

    def chunks(self, most_bytes: int) -> Iterator[list[Item]]:
        """Read the rows, as `Slice.chunks`."""
        records, number = self._every_record(), self.first
        while part := list(islice(records, ROWS_A_CHUNK if self.holds == "rows" else MOST_CHUNK_ITEMS)):
            named = [(f"{self.path}#{number + place}", record) for place, record in enumerate(part)]
            number += len(part)
            if self.holds == "paths":
                yield from self._of_paths(named, most_bytes)
            elif self.holds == "bytes":
                yield [self._of_bytes(name, record, most_bytes) for name, record in named]
            else:
                yield [self._of_row(name, record) for name, record in named]

    def _every_record(self) -> Iterator[Mapping[str, Any] | str]:
        """Yield as many records as there are rows, whatever becomes of the table."""
        records, missing = self._records(), "The table has no such row any more."
        with closing(records):
            for _ in range(self.rows):
                try:
                    yield next(records, missing)
                except BulkError:
                    raise
                except Exception as error:  # a damaged table makes its library, or a store, raise anything
                    missing = f"The table cannot be read from here on: {error}."
                    yield missing

    @abstractmethod
    def _records(self) -> Generator[Mapping[str, Any] | str, None, None]:
        """Yield each row by the names of its columns, or what is wrong with it."""

    def _of_row(self, name: str, record: Mapping[str, Any] | str) -> Item:
        return Item(name, None, record) if isinstance(record, str) else Item(name, row_of(record, self.names))

    def _of_bytes(self, name: str, record: Mapping[str, Any] | str, most_bytes: int) -> Item:
        if isinstance(record, str):
            return Item(name, None, record)
        value = record[self.names["bytes"]]
        if isinstance(value, Mapping):  # as data sets of pictures have it: their bytes beside their path
            value = value.get("bytes")
        try:
            data = base64.b64decode(value, validate=True) if isinstance(value, str) else value
        except (binascii.Error, ValueError) as error:
            return Item(name, None, f"The cell is no picture in base64: {error}.")
        if not isinstance(data, bytes) or not data:
            return Item(name, None, "The cell is empty.")
        return Item(name, None, too_large(len(data), most_bytes)) if len(data) > most_bytes else Item(name, data)

    def _of_paths(self, named: Sequence[tuple[str, Mapping[str, Any] | str]], most_bytes: int) -> Iterator[list[Item]]:
        paths = [self._path(record) for _, record in named]
        for part in filled([UNKNOWN_SIZE] * len(paths), PATHS_A_CHUNK):
            files = [path for path in paths[part] if path]
            contents = dict(zip(files, read_files(files, [-1] * len(files), most_bytes), strict=True))
            items = []
            for (name, record), path in zip(named[part], paths[part], strict=True):
                content = contents[path] if path else record if isinstance(record, str) else "The cell is empty."
                items.append(Item(path or name, None, content) if isinstance(content, str) else Item(path, content))
            yield items

    def _path(self, record: Mapping[str, Any] | str) -> str:
        """Return the path in a row, where a relative one begins at the table's folder; empty where there is none."""
        path = "" if isinstance(record, str) else str(record[self.names["path"]] or "")
        if not path or is_url(path) or os.path.isabs(path):
            return path
        folder = self.path.rpartition("/")[0]
        return f"{folder}/{path}" if folder else path


@dataclass(frozen=True)
class CsvRows(Table):
    """Rows of a CSV file.

    Attributes:
        header: the names of all columns.
        delimiter: between the cells.
    """

    header: tuple[str, ...] = ()
    delimiter: str = ","

    def _records(self) -> Generator[Mapping[str, Any] | str, None, None]:
        csv.field_size_limit(MOST_CELL_CHARACTERS)
        with open_binary(self.path) as file:
            file.seek(self.start)
            lines = (line.decode("utf-8", "replace") for line in file)
            for cells in islice(filter(None, csv.reader(lines, delimiter=self.delimiter)), self.rows):
                if len(cells) == len(self.header):
                    yield dict(zip(self.header, cells, strict=True))
                else:
                    yield f"The row has {len(cells)} cells, the header {len(self.header)}."

    def to_json(self) -> dict[str, Any]:
        """Return what makes the same slice."""
        return {"kind": "csv"} | asdict(self)


@dataclass(frozen=True)
class ParquetRows(Table):
    """Rows of a Parquet file."""

    def _records(self) -> Generator[Mapping[str, Any] | str, None, None]:
        place, last = 0, self.start + self.rows
        for group, size in enumerate(group_sizes(self.path, self.changed)):
            first, end = max(self.start, place), min(last, place + size)
            if first < end:
                table = row_group(self.path, self.changed, group, tuple(self.names.values()))
                for part in table.slice(first - place, end - first).to_batches(MOST_CHUNK_ITEMS):
                    yield from part.to_pylist()
            place += size

    def to_json(self) -> dict[str, Any]:
        """Return what makes the same slice."""
        return {"kind": "parquet"} | asdict(self)


class _CountedLines:
    """The lines of a binary file as text, and the number of bytes of those that were taken."""

    def __init__(self, file: Any, path: str) -> None:
        self._file, self._path, self.offset = file, path, 0

    def __iter__(self) -> "_CountedLines":
        return self

    def __next__(self) -> str:
        line: bytes = self._file.readline()
        if not line:
            raise StopIteration
        self.offset += len(line)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BulkError(f"{self._path} is not UTF-8 ({error}). Save it as such.") from error


def csv_slices(path: str, changed: str, recognise: Any, most_rows: int) -> Iterator[CsvRows]:
    """Yield the slices of a CSV file; what they hold is recognised by its header.

    Raises:
        BulkError: the file has no header, is not UTF-8, or lacks a column.
    """
    csv.field_size_limit(MOST_CELL_CHARACTERS)
    with open_binary(path) as file:
        lines = _CountedLines(file, path)
        first = next(lines, "").removeprefix("\ufeff")
        if not first.strip():
            return
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(chain([first], lines, ["\n"]), delimiter=delimiter)  # the last line ends no open quote
        number, rows, cells = 1, 0, list[str]()
        try:
            header = tuple(next(reader))
            columns: Columns = recognise(header, path)
            start = lines.offset
            for cells in reader:
                rows += bool(cells)
                if rows == most_rows:
                    yield CsvRows(path, start, number, rows, *columns, changed, header, delimiter)
                    start, number, rows = lines.offset, number + rows, 0
        except csv.Error as error:
            raise BulkError(f"{path}, after row {number + rows - 1:,}: {error}.") from error
        if cells:
            raise BulkError(f"{path}: a quote that opens in row {number + rows - 1:,} is closed nowhere.")
        if rows:
            yield CsvRows(path, start, number, rows, *columns, changed, header, delimiter)


def parquet_slices(path: str, changed: str, recognise: Any, most_rows: int) -> Iterator[ParquetRows]:
    """Yield the slices of a Parquet file; what they hold is recognised by its columns.

    Raises:
        BulkError: it cannot be read, lacks a column, or the extra `scale` is not installed.
    """
    file = parquet_file(path, changed)
    columns: Columns = recognise(file.schema_arrow.names, path)
    total = file.metadata.num_rows
    for start in range(0, total, most_rows):
        yield ParquetRows(path, start, start + 1, min(most_rows, total - start), *columns, changed)


@lru_cache(maxsize=4)
def parquet_file(path: str, changed: str) -> Any:
    """Return a Parquet file, which stays open for the next slice of it; errors as of `parquet_slices`."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise missing_extra(f"{path}: Parquet needs pyarrow") from error
    try:
        return ParquetFile(open_binary(path) if is_url(path) else path)
    except (OSError, ArrowException) as error:
        raise BulkError(f"{path} is no Parquet file that can be read: {error}.") from error


def group_sizes(path: str, changed: str) -> list[int]:
    """Return the number of rows of each row group."""
    metadata = parquet_file(path, changed).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@lru_cache(maxsize=2)
def row_group(path: str, changed: str, group: int, columns: tuple[str, ...]) -> Any:
    """Return a row group, which the next slice may lie in, too."""
    return parquet_file(path, changed).read_row_group(group, columns=list(columns))
