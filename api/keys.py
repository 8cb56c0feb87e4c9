"""API keys: their file, and whose key it is that a request brings.

A key is `vk_` and 256 random bits. The file keeps its SHA-256 alone. A slow hash, as passwords need, would add
nothing: nobody guesses 256 bits however fast each guess is, and every request would pay for it with milliseconds.
"""

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
import tempfile
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from errors import KeysError

logger = logging.getLogger("vitrine.keys")

PREFIX = "vk_"
"""What scanners for leaked secrets can look for."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
LOOK_EVERY_S = 2.0
"""How often a running server looks whether the file has changed."""
_HEAD = "# Keys of Vitrine's API, each as its SHA-256; `vitrine keys` writes this file anew.\n"


class Entry(BaseModel):
    """One key: whose it is, the SHA-256 of the key in hexadecimal, and the day it was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: date


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Entry] = []


class Keys:
    """The keys of one file, which is read again when it has changed.

    A file that is damaged or gone leaves the keys as they were; before the first good one there are none, and nobody
    is let in. Either is logged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries = list[tuple[str, str]]()
        self._seen: tuple[int, ...] | None = None
        self._look_at = 0.0

    def name_of(self, key: bytes) -> str | None:
        """Whose key this is; None if it is nobody's. All are compared, so that time tells nothing."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY_S
            self._look()
        digest, found = digest_of(key), None
        for name, known in self._entries:
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def _look(self) -> None:
        try:
            now = os.stat(self._path)
            state: tuple[int, ...] = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        except OSError:
            state = ()
        if state == self._seen:
            return
        try:
            self._entries = [(each.name, each.sha256) for each in read_keys(self._path)]
        except KeysError as error:
            logger.error("The keys stay as they were: %s", error)
            if state and isinstance(error.__cause__, OSError):  # no file descriptors, say: try again
                return
        else:
            if self._seen is not None:
                logger.info("%d keys read anew from %s", len(self._entries), self._path)
        self._seen = state


def digest_of(key: bytes) -> str:
    """What the file has in place of a key."""
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path) -> list[Entry]:
    """The entries of the file.

    Raises:
        KeysError: it is missing, unreadable or damaged.
    """
    try:
        entries = _File.model_validate(tomllib.loads(path.read_text("utf-8"))).key
    except OSError as error:
        advice = f"; make it with `vitrine keys add NAME --file {path}`" if isinstance(error, FileNotFoundError) else ""
        raise KeysError(f"The file of API keys {path} cannot be read ({error.strerror}){advice}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KeysError(f"The file of API keys {path} is damaged: {error}.") from error
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(str(each) for each in detail["loc"])
        raise KeysError(f"The file of API keys {path} is damaged at {place}: {detail['msg']}.") from error
    if len({each.name for each in entries}) < len(entries):
        raise KeysError(f"The file of API keys {path} has two keys of one name.")
    return entries


def add_key(path: Path, name: str) -> str:
    """Make a key, and the file if it is not there; the key is returned this once and kept nowhere.

    Raises:
        KeysError: there is one of that name, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    with _changing(path) as entries:
        if name in [each.name for each in entries]:
            raise KeysError(f"{path} has a key {name} already; remove it, or choose another name.")
        today = datetime.now(UTC).date()
        entries.append(Entry(name=name, sha256=digest_of(key.encode()), created=today))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        KeysError: there is none of that name, or the file cannot be read or written.
    """
    with _changing(path) as entries:
        kept = [each for each in entries if each.name != name]
        if len(kept) == len(entries):
            known = ", ".join(each.name for each in entries) or "none"
            raise KeysError(f"{path} has no key {name}; it has: {known}.")
        entries[:] = kept


def warnings_of(path: Path | None) -> list[str]:
    """What an operator should know of the file; nothing where there is none, or where it cannot be read."""
    try:
        mode, entries = (stat.S_IMODE(path.stat().st_mode), read_keys(path)) if path is not None else (0, [])
    except (OSError, KeysError):
        return []
    found = []
    if mode & 0o077:
        found.append(
            f"{path} (mode {mode:04o}) is open to others than its owner: `chmod 600` it, unless it is a mounted secret "
            "or a server of another user reads it."
        )
    if path is not None and not entries:
        found.append(f"{path} has no key yet, so nobody is let in: `vitrine keys add NAME --file {path}` makes one.")
    return found


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[list[Entry]]:
    """Hand out the entries, then write them as they are: whole or not at all, and one writer at a time."""
    path = path.resolve()  # a link stays one
    if path.exists() and not path.is_file():
        raise KeysError(f"{path} is no file: name one, or a new one.")
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            entries = read_keys(path) if path.exists() else []
            yield entries
            _write(path, entries)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"The file of API keys {path} cannot be written ({error.strerror}).") from error


def _write(path: Path, entries: list[Entry]) -> None:
    tables = [
        f'\n[[key]]\nname = "{each.name}"\nsha256 = "{each.sha256}"\ncreated = {each.created.isoformat()}\n'
        for each in entries
    ]
    descriptor, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(_HEAD + "".join(tables))
            if path.exists():  # the server, perhaps of another user, can read it as before
                now = path.stat()
                os.fchmod(descriptor, stat.S_IMODE(now.st_mode))
                if (now.st_uid, now.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(descriptor, now.st_uid, now.st_gid)
            file.flush()
            os.fsync(descriptor)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
