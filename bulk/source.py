"""SOURCE: the slices of a folder, a glob, a table, a zip archive or an object store, always in the same order."""

import glob
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from bulk.columns import recognised
from bulk.files import Files, Members, filesystem, is_url, opened_archive, status_of, status_of_info
from bulk.items import Slice
from bulk.tables import CsvRows, ParquetRows, csv_slices, parquet_slices
from errors import BulkError
from models.card import Card, ImageCard

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".gif")
TABLES = (".csv", ".parquet")
MOST_SLICE_BYTES = 256 * 2**20
"""A part of large pictures has fewer of them, so that a kill costs no more than this has taken."""
KINDS: dict[str, Callable[..., Slice]] = {"files": Files, "members": Members, "csv": CsvRows, "parquet": ParquetRows}


class Listed(NamedTuple):
    """A slice, and what tells its content from another as far as it was listed."""

    slice: Slice
    changed: str


class _Entry(NamedTuple):
    path: str
    size: int
    changed: str


class Source:
    """What SOURCE means for one model.

    Args:
        source: a path, a glob or an address, as it was typed.
        card: the model's card.
        columns: of `--column`.
        part_rows: the most items of one part.

    Attributes:
        ignored: how many files of a folder were left out, because they are none that the model takes, and how many
            links to folders, which are not followed.
    """

    def __init__(self, source: str, card: Card, columns: Mapping[str, str], part_rows: int) -> None:
        self._source, self._card, self._part_rows = source, card, part_rows
        self._recognise = partial(_recognise, card, columns)
        self.ignored = 0

    def slices(self) -> Iterator[Listed]:
        """Yield all slices, each of at most `part_rows` items.

        Raises:
            BulkError: there is no such source, it cannot be read, or it is not what the model takes.
        """
        entries, size = list[_Entry](), 0
        for entry in self._entries():
            kind = os.path.splitext(entry.path)[1].lower()
            if kind in TABLES or kind == ".zip" or not isinstance(self._card, ImageCard):
                yield from self._pictures(entries)
                entries, size = [], 0
                yield from self._unpacked(entry, kind)
                continue
            if entries and (len(entries) == self._part_rows or size + entry.size > MOST_SLICE_BYTES):
                yield from self._pictures(entries)
                entries, size = [], 0
            entries.append(entry)
            size += entry.size
        yield from self._pictures(entries)

    def _pictures(self, entries: list[_Entry]) -> Iterator[Listed]:
        if entries:
            paths, sizes, changed = zip(*entries, strict=True)
            yield Listed(Files(paths, sizes), "\n".join(changed))

    def _unpacked(self, entry: _Entry, kind: str) -> Iterator[Listed]:
        """Yield the slices of a table or an archive."""
        if kind == ".csv":
            slices: Iterator[Slice] = csv_slices(entry.path, entry.changed, self._recognise, self._part_rows)
        elif kind == ".parquet":
            slices = parquet_slices(entry.path, entry.changed, self._recognise, self._part_rows)
        elif kind == ".zip" and isinstance(self._card, ImageCard):
            slices = self._members(entry)
        else:
            raise BulkError(
                f"{self._card.name} takes rows, which come in a .csv or .parquet file; {entry.path} is none."
            )
        for part in slices:
            yield Listed(part, entry.changed)

    def _members(self, entry: _Entry) -> Iterator[Members]:
        members, size = dict[int, zipfile.ZipInfo](), 0
        for place, member in enumerate(opened_archive(entry.path, entry.changed).infolist()):
            if member.is_dir() or not self._is_taken(member.filename):
                continue
            if members and (len(members) == self._part_rows or size + member.file_size > MOST_SLICE_BYTES):
                yield _members_of(entry, members)
                members, size = {}, 0
            members[place] = member
            size += member.file_size
        if members:
            yield _members_of(entry, members)

    def _entries(self) -> Iterator[_Entry]:
        """Yield the files that SOURCE names, in the order of their names."""
        source = self._source
        if is_url(source):
            yield from self._remote()
        elif os.path.isdir(source):
            for folder, folders, names in os.walk(source, onerror=_raise):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                self.ignored += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
                for name in sorted(names):
                    if self._is_taken(name):
                        yield _entry(os.path.join(folder, name))
        elif os.path.exists(source) or not glob.has_magic(source):
            try:
                yield _Entry(source, *status_of(source))
            except OSError as error:
                raise BulkError(f"SOURCE {source}: {error.strerror}.") from error
        else:
            for path in _without_loops(glob.iglob(source, recursive=True)):
                if not os.path.isdir(path):
                    yield _entry(path)

    def _remote(self) -> Iterator[_Entry]:
        files, source = filesystem(self._source), self._source
        scheme = source.partition("://")[0]
        try:
            if glob.has_magic(source):
                listed = files.glob(source, detail=True)
            elif source.endswith("/") or files.isdir(source):
                listed = {
                    path: info
                    for path, info in files.find(source, detail=True).items()
                    if self._is_taken(path.rpartition("/")[2])
                }
            else:
                listed = {files._strip_protocol(source): files.info(source)}
        except Exception as error:  # each store has exceptions of its own
            if isinstance(error, BulkError):
                raise
            reason = "there is nothing there" if isinstance(error, FileNotFoundError) else error or type(error).__name__
            raise BulkError(f"SOURCE {source} cannot be listed: {reason}.") from error
        for path, info in sorted(listed.items()):
            if info.get("type") != "directory":
                yield _Entry(f"{scheme}://{path.partition('://')[2] or path}", *status_of_info(info))

    def _is_taken(self, name: str) -> bool:
        """Return whether a file of a folder, or a member of an archive, is what the model takes, by its name."""
        hidden = name.rpartition("/")[2].startswith(".")
        taken = not hidden and name.lower().endswith(PICTURES if isinstance(self._card, ImageCard) else TABLES)
        self.ignored += not taken and not hidden
        return taken


def slice_from_json(fields: dict[str, Any]) -> Slice:
    """Return the slice that `Slice.to_json` described."""
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    kind = str(given.pop("kind"))
    return KINDS[kind](**given)


def _entry(path: str) -> _Entry:
    """Return a file of a folder; one that is gone, or leads nowhere, is found wrong when it is read."""
    try:
        return _Entry(path, *status_of(path))
    except OSError:
        return _Entry(path, 0, "missing")


def _without_loops(paths: Iterable[str]) -> list[str]:
    """Return paths in their order, without those that go through a link to a folder that they have come through."""
    goes_round: dict[str, bool] = {"": False}

    def check(folder: str) -> bool:
        if folder not in goes_round:
            above = os.path.dirname(folder)
            real = os.path.join(os.path.realpath(folder), "") if os.path.islink(folder) else None
            led_back = real is not None and os.path.join(os.path.realpath(above), "").startswith(real)
            goes_round[folder] = led_back or (above != folder and check(above))
        return goes_round[folder]

    return [path for path in sorted(paths) if not check(os.path.dirname(path))]


def _recognise(card: Card, columns: Mapping[str, str], header: list[str], path: str) -> Any:
    return recognised(header, card, columns, path)


def _members_of(entry: _Entry, members: Mapping[int, zipfile.ZipInfo]) -> Members:
    names, sizes = zip(*((member.filename, member.file_size) for member in members.values()), strict=True)
    return Members(entry.path, names, tuple(members), sizes, entry.changed)


def _raise(error: OSError) -> None:
    raise BulkError(f"{error.filename}: {error.strerror}.") from error
