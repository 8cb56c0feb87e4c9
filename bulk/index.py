"""The index: which part answers which input, so that equal inputs are computed once, also by a run that goes on."""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

from bulk.parts import REPLACED, STATE, Format, part_name, read_part
from bulk.rows import Column, Output
from bulk.work import HERE, Claimed

KEY_BYTES = 16
"""So many bytes of a sha256 tell inputs apart."""
MOST_IN_QUERY = 500


class Parts:
    """The parts that lie in the output's folder.

    Args:
        folder: of the output.
        columns: of its rows.
        form: of its files.
    """

    def __init__(self, folder: Path, columns: Sequence[Column], form: Format) -> None:
        self._folder, self._columns, self._form = folder, tuple(columns), form
        self._answers = lru_cache(maxsize=8)(self._read)

    def __reduce__(self) -> tuple[type["Parts"], tuple[Path, tuple[Column, ...], Format]]:
        """Return what another process makes the same of; what was read stays here."""
        return Parts, (self._folder, self._columns, self._form)

    def path(self, part: int) -> Path:
        """Return the file of a part."""
        return self._folder / part_name(part, self._form)

    def answer(self, part: int, digest: str, tag: str) -> Output | None:
        """Return the row that a part has of an input by its sha256 and the model's tag; None if it has none.

        Where this run has replaced the part, the one before is asked, too.
        """
        for path in (self.path(part), self._folder / STATE / REPLACED / part_name(part, self._form)):
            try:
                status = path.stat()
                row = self._answers(path, status.st_mtime_ns, status.st_size).get(digest)
            except (OSError, ValueError):
                continue
            if row is not None and row["model"] == tag:
                return row
        return None

    def _read(self, path: Path, changed: int, size: int) -> dict[str, Output]:
        rows = read_part(path, self._columns, self._form)
        return {row["sha256"]: row for row in rows if row["sha256"]}


class Index:
    """Which part answers each input that was ever claimed; what was not finished is claimed anew.

    It is an aid: without it, or with an older one, inputs would be computed again, and every row be the same.

    Args:
        file: where it is kept.
        parts: the parts that are there.
        tag: the model's name and version.
        parameters: what is asked of it.
        run: tells this run from the others.
    """

    def __init__(self, file: Path, parts: Parts, tag: str, parameters: str, run: int) -> None:
        self._parts, self._tag, self._run, self._lock = parts, tag, run, Lock()
        self._prefix = f"{tag} {parameters} ".encode()
        self._database = _opened(file)

    def claim(self, part: int, digests: Sequence[str]) -> list[Claimed]:
        """Return what becomes of the inputs of a part, by their sha256: what is new is computed by that part.

        A row that is known from before is that part's, too: from now on it is the one that is asked for it.
        """
        keys = [hashlib.sha256(self._prefix + digest.encode()).digest()[:KEY_BYTES] for digest in digests]
        with self._lock, self._database:  # commits
            owners = self._owners(keys)
            claimed = [self._claimed(part, *pair) for pair in zip(digests, map(owners.get, keys), strict=True)]
            answered = [key for key, result in zip(keys, claimed, strict=True) if result.part is None]
            rows = ((key, part, self._run) for key in answered)
            self._database.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", rows)
        return claimed

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _owners(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        """Return part and run of each key that was claimed before."""
        owners = dict[bytes, tuple[int, int]]()
        for start in range(0, len(keys), MOST_IN_QUERY):
            asked = keys[start : start + MOST_IN_QUERY]
            query = f"SELECT key, part, run FROM claims WHERE key IN ({','.join('?' * len(asked))})"
            owners.update((key, (part, run)) for key, part, run in self._database.execute(query, asked))
        return owners

    def _claimed(self, part: int, digest: str, owner: tuple[int, int] | None) -> Claimed:
        if owner is None:
            return HERE
        owned_by, run = owner
        if run == self._run and owned_by != part:
            return Claimed(part=owned_by)
        row = self._parts.answer(owned_by, digest, self._tag)
        return HERE if row is None else Claimed(row=row)


def _opened(file: Path) -> sqlite3.Connection:
    try:
        return _connected(file)
    except sqlite3.OperationalError:  # the disk is full, or read-only
        raise
    except sqlite3.DatabaseError:  # damaged, after a loss of power
        for name in (file.name, f"{file.name}-wal", f"{file.name}-journal"):
            file.with_name(name).unlink(missing_ok=True)
        return _connected(file)


def _connected(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")  # one process has it, so no memory is shared through files
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=OFF")  # a loss of power costs no more than the index
        database.execute("PRAGMA cache_size=-65536")
        database.execute(
            "CREATE TABLE IF NOT EXISTS claims (key BLOB PRIMARY KEY, part INTEGER, run INTEGER) WITHOUT ROWID"
        )
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def opened_index(file: Path, parts: Parts, tag: str, parameters: str, run: int) -> Iterator[Index]:
    """Open the index until the block ends; arguments as of `Index`."""
    index = Index(file, parts, tag, parameters, run)
    try:
        yield index
    finally:
        index.close()
