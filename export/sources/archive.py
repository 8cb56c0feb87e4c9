"""Reading single files out of a zip or tar.gz archive from elsewhere, of which nothing is unpacked by its own name."""

import gzip
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Self

from errors import StoreError

MOST_BYTES = 8 * 2**30
"""What all files of an archive may hold together."""
MOST_RATIO, FREE_BYTES = 100, 2**20
"""How many times as large as when compressed a file may be; weights hardly shrink. Small ones may be any."""
MOST_HEADER_BYTES = 2**16
"""What a tar may say of one file, such as a long name, which is read before the file is looked at."""
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What the readers of archives raise for one that is damaged, encrypted, or of a form that they do not know."""


class _Header(tarfile.TarInfo):
    """A header that is refused before what belongs to it is read, if that is too much or leads back."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return a header of 512 bytes; see `tarfile.TarInfo.frombuf`."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.size > MOST_HEADER_BYTES and not header.isreg()):
            raise tarfile.ReadError(f"a header in it announces {header.size:,} bytes")
        return header


class Archive:
    """The files of an open archive.

    Args:
        archive: a zip or tar archive that has been checked.
        origin: what messages call it.
    """

    def __init__(self, archive: zipfile.ZipFile | tarfile.TarFile, origin: Path) -> None:
        self._archive, self._origin = archive, origin
        names = archive.namelist() if isinstance(archive, zipfile.ZipFile) else archive.getnames()
        self._stored = {PurePosixPath(name).as_posix(): name for name in names}
        self.names = frozenset(self._stored)

    def read(self, name: str, most_bytes: int) -> bytes:
        """Return the bytes of a file.

        Raises:
            StoreError: there is no such file, it is damaged or larger than `most_bytes`.
        """
        try:
            with self._open(name) as stream:
                data = stream.read(most_bytes + 1)
        except (OSError, *_DAMAGE) as error:
            raise StoreError(f"{self._origin}: {name} in it cannot be read ({error}).") from error
        if len(data) > most_bytes:
            raise StoreError(f"{self._origin}: {name} in it has more than {most_bytes:,} bytes.")
        return data

    def copy(self, name: str, target: Path) -> None:
        """Write the bytes of a file to another.

        Raises:
            StoreError: there is no such file, or it is damaged.
            OSError: the target cannot be written.
        """
        try:
            with self._open(name) as stream, target.open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
        except _DAMAGE as error:
            raise StoreError(f"{self._origin}: {name} in it cannot be read ({error}).") from error

    def _open(self, name: str) -> IO[bytes]:
        if name not in self.names:
            raise StoreError(f"{self._origin}: there is no {name} in it.")
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(self._stored[name])
        stream = self._archive.extractfile(self._stored[name])
        if stream is None:
            raise StoreError(f"{self._origin}: {name} in it is no file.")
        return stream


@contextmanager
def open_archive(file: Path) -> Iterator[Archive]:
    """Open a zip or tar.gz archive whose files have safe names and sizes.

    Raises:
        StoreError: it is none or damaged, a name leads out of it, it holds links, or far more than its size suggests.
    """
    with ExitStack() as stack:
        packed: zipfile.ZipFile | tarfile.TarFile
        try:
            if zipfile.is_zipfile(file):
                packed = stack.enter_context(zipfile.ZipFile(file))
                _check_zip(packed, file)
            else:
                packed = stack.enter_context(tarfile.open(file, "r:gz", tarinfo=_Header))
                _check_tar(packed, file)
        except _DAMAGE as error:
            raise StoreError(f"{file}: is no archive that can be read ({error}).") from error
        yield Archive(packed, file)  # what goes wrong in the caller's hands is no damage of the archive


def _check_zip(packed: zipfile.ZipFile, file: Path) -> None:
    for info in packed.infolist():
        _check_name(info.filename, file)
        _check_size(info.file_size, info.compress_size, file)
    _check_size(sum(info.file_size for info in packed.infolist()), MOST_BYTES, file)


def _check_tar(packed: tarfile.TarFile, file: Path) -> None:
    size = file.stat().st_size
    for member in packed:  # a file is skipped, and so decompressed, only after its size was checked
        _check_name(member.name, file)
        if not (member.isfile() or member.isdir()):
            raise StoreError(f"{file}: {member.name} in it is a link or a device, which is refused.")
        _check_size(member.offset_data + member.size, size, file)  # all until its end, headers too


def _check_name(name: str, file: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or ":" in name:
        raise StoreError(f"{file}: the name {name!r} in it leads out of it, so the archive is refused.")


def _check_size(size: int, compressed: int, file: Path) -> None:
    if size > min(MOST_BYTES, MOST_RATIO * compressed + FREE_BYTES):
        raise StoreError(
            f"{file}: holds {size:,} bytes in {compressed:,}; that is no archive of weights, and is refused."
        )
