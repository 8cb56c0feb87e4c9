"""Pictures that are files of their own, on this machine or in an object store, and the members of a zip archive."""

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from bulk.items import MOST_CHUNK_BYTES, MOST_CHUNK_ITEMS, Item, too_large
from errors import BulkError, UnknownAddress
from regular_file import read_regular_file

UNKNOWN_SIZE = 2**20
"""What a file is taken for whose size no listing says, in bytes, when a chunk is filled."""


def is_url(path: str) -> bool:
    """Return whether a path is an address, such as s3://bucket/key, and no file of this machine."""
    return "://" in path


def filesystem(url: str) -> Any:
    """Return fsspec's file system of an address.

    Raises:
        UnknownAddress: nobody knows such addresses.
        BulkError: the package that it needs is not installed.
    """
    import fsspec

    scheme = url.partition("://")[0]
    options = {"use_listings_cache": False} if scheme in ("s3", "gs", "gcs") else {}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise missing_extra(f"{scheme}:// addresses need {error.name or 'a package'}") from error
    except ValueError as error:
        raise UnknownAddress(f"{url}: {scheme}:// is no kind of address that can be read ({error}).") from error


def missing_extra(what: str) -> BulkError:
    """Return the error of something that the extra `scale` brings."""
    return BulkError(
        f"{what}, which the extra `scale` brings: pip install --require-hashes -r requirements/scale.txt, or the image "
        "of --flavour scale."
    )


def open_binary(path: str) -> BinaryIO:
    """Open a file of this machine or of an object store."""
    return cast(BinaryIO, filesystem(path).open(path, "rb") if is_url(path) else open(path, "rb"))


def read_files(paths: Sequence[str], sizes: Sequence[int], most_bytes: int) -> list[bytes | str]:
    """Return the bytes of each file, or why it cannot be read; those of one object store are fetched together.

    Args:
        paths: files of this machine, or addresses.
        sizes: of each, in bytes; -1 where that is not known.
        most_bytes: larger ones are not read.
    """
    contents, stores = dict[str, bytes | str](), dict[str, dict[str, int]]()
    for path, size in zip(paths, sizes, strict=True):
        if path in contents:
            continue
        if size > most_bytes:
            contents[path] = too_large(size, most_bytes)
        elif is_url(path):
            stores.setdefault(path.partition("://")[0], {})[path] = size
        else:
            contents[path] = _read(path, most_bytes)
    for known_sizes in stores.values():
        contents.update(zip(known_sizes, _fetched(known_sizes, most_bytes), strict=True))
    return [contents[path] for path in paths]


def _fetched(sizes: Mapping[str, int], most_bytes: int) -> Iterator[bytes | str]:
    """Yield what `read_files` returns of the addresses of one store, whose sizes are -1 where that is not known."""
    ends = [None if size >= 0 else most_bytes + 1 for size in sizes.values()]
    try:
        files = filesystem(next(iter(sizes)))
        keys = [files._strip_protocol(path) for path in sizes]
        fetched = files.cat_ranges(keys, None, ends, on_error="return")  # `cat` takes a [ in a key for a pattern
    except UnknownAddress as error:
        fetched = [error] * len(sizes)
    except BulkError:
        raise
    except Exception as error:  # each store has exceptions of its own
        fetched = [error] * len(sizes)
    for data in fetched:
        yield _content(data, most_bytes)


def _read(path: str, most_bytes: int) -> bytes | str:
    try:
        return read_regular_file(Path(path), most_bytes)
    except (OSError, ValueError) as error:  # the latter of a name with a null in it
        return f"The file cannot be read: {getattr(error, 'strerror', None) or error}."


def _content(data: object, most_bytes: int) -> bytes | str:
    if isinstance(data, Exception):
        reason = "No such file or directory" if isinstance(data, FileNotFoundError) else str(data)
        return f"The file cannot be read: {reason or type(data).__name__}."
    content = cast(bytes, data)
    return too_large(len(content), most_bytes) if len(content) > most_bytes else content


def filled(sizes: Sequence[int], most_items: int = MOST_CHUNK_ITEMS) -> Iterator[slice]:
    """Yield slices of a sequence so that each holds a bounded number of files, and of bytes unless one has more."""
    start, total = 0, 0
    for place, size in enumerate(sizes):
        size = UNKNOWN_SIZE if size < 0 else size
        if place > start and (place - start >= most_items or total + size > MOST_CHUNK_BYTES):
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


@dataclass(frozen=True)
class Files:
    """Files that are pictures.

    Attributes:
        paths: of this machine, or addresses of one store; they are the names of the inputs.
        sizes: in bytes.
    """

    paths: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.paths)

    def chunks(self, most_bytes: int) -> Iterator[list[Item]]:
        """Read the files, as `Slice.chunks`."""
        for part in filled(self.sizes):
            contents = read_files(self.paths[part], self.sizes[part], most_bytes)
            yield [
                Item(path, None, content) if isinstance(content, str) else Item(path, content)
                for path, content in zip(self.paths[part], contents, strict=True)
            ]

    def to_json(self) -> dict[str, Any]:
        """Return what makes the same slice."""
        return {"kind": "files"} | asdict(self)


@dataclass(frozen=True)
class Members:
    """Members of a zip archive that are pictures.

    Attributes:
        archive: its path or address.
        names: of the members, in the order of the archive.
        places: of the members among all of the archive, since several may have one name.
        sizes: unpacked, in bytes.
        changed: tells one content of the archive from another; a process that has it open opens it anew.
    """

    archive: str
    names: tuple[str, ...]
    places: tuple[int, ...]
    sizes: tuple[int, ...]
    changed: str

    @property
    def count(self) -> int:
        """The number of members."""
        return len(self.names)

    def chunks(self, most_bytes: int) -> Iterator[list[Item]]:
        """Unpack the members, as `Slice.chunks`."""
        for part in filled(self.sizes):
            yield [
                self._item(name, place, size, most_bytes)
                for name, place, size in zip(self.names[part], self.places[part], self.sizes[part], strict=True)
            ]

    def _item(self, name: str, place: int, size: int, most_bytes: int) -> Item:
        own_name = f"{self.archive}!{name}"
        if size > most_bytes:
            return Item(own_name, None, too_large(size, most_bytes))
        try:
            archive = opened_archive(self.archive, self.changed)
            listed = archive.infolist()[place]
            if listed.filename != name:
                return Item(own_name, None, "The archive has no such member any more.")
            with archive.open(listed) as member:
                data = member.read(size + 1)
            return Item(own_name, data)
        except BulkError:
            raise
        except Exception as error:  # a damaged member makes zipfile, zlib or lzma raise anything
            return Item(own_name, None, f"The member cannot be unpacked: {error}.")

    def to_json(self) -> dict[str, Any]:
        """Return what makes the same slice."""
        return {"kind": "members"} | asdict(self)


@lru_cache(maxsize=2)
def opened_archive(path: str, changed: str) -> zipfile.ZipFile:
    """Return an archive, which stays open for the next slice of it.

    Raises:
        BulkError: it is no zip archive, or is damaged.
    """
    try:
        return zipfile.ZipFile(open_binary(path) if is_url(path) else path)
    except BulkError:
        raise
    except Exception as error:  # a damaged archive makes zipfile, or a store, raise anything
        raise BulkError(f"{path} is no zip archive that can be read: {error}.") from error


def status_of(path: str) -> tuple[int, str]:
    """Return the size of a file in bytes, and what tells one content of it from another as far as a listing says.

    Raises:
        OSError: it is not there.
    """
    if is_url(path):
        return status_of_info(filesystem(path).info(path))
    status = os.stat(path)
    return status.st_size, f"{status.st_size} {status.st_mtime_ns}"


def status_of_info(info: dict[str, Any]) -> tuple[int, str]:
    """Return the same from what fsspec says of a file."""
    size = int(info.get("size") or 0)
    tag = next((info[name] for name in ("ETag", "etag", "mtime", "LastModified", "updated") if info.get(name)), "")
    return size, f"{size} {tag}"
