"""API keys: the file that holds their digests, and the name of the key that a request brings.

A key is `vk_` and 256 random bits. The file keeps its SHA-256 alone. A slow hash, as passwords need, would add
nothing: nobody guesses 256 bits however fast each guess is, and every request would pay for it with milliseconds.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import stat
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.restrictions import Restrictions
from atomic_write import atomic_write
from errors import KeysError
from regular_file import READ_LIMIT_S, read_regular_file, read_within

logger = logging.getLogger("vitrine.keys")

PREFIX = "vk_"
"""The prefix that scanners for leaked secrets can look for."""
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
RELOAD_INTERVAL_S = 2.0
"""How often a running server looks whether the file has changed, in seconds."""
LOG_INTERVAL_S = 60.0
"""While a problem with the file lasts, the log names it this often, in seconds."""
_HEADER = "# Keys of Vitrine's API, each as its SHA-256; `vitrine keys` writes this file anew.\n"


UNRESTRICTED = Restrictions()


class Entry(Restrictions):
    """One key: its name, its SHA-256 in hexadecimal, the day it was made, and whether it may load and unload models."""

    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    created: date
    admin: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    key: list[Entry] = []


class Keys:
    """The keys of one file, which a thread of its own reads again when it has changed.

    A file that is damaged, gone, no regular file or stalled leaves the keys as they were, and the log says so. Before
    the first good file there are no keys, so nobody is let in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries, self._admins = list[tuple[str, str]](), frozenset[str]()
        self.restricted: Mapping[str, Restrictions] = {}
        """The scope and the quotas of each key that has any, by its name."""
        self._last_state: tuple[int, ...] | None = None
        self._looking_since: float | None = None
        self._logged_problem, self._logged_at = "", 0.0
        self._has_looked, self._stopped = threading.Event(), threading.Event()

    def start(self) -> None:
        """Read the file now, within a time limit, and look at it every `RELOAD_INTERVAL_S` until `stop`."""
        threading.Thread(target=self._look_regularly, name="keys", daemon=True).start()
        self._has_looked.wait(READ_LIMIT_S)

    def stop(self) -> None:
        """Look at the file no more."""
        self._stopped.set()

    def check_reading(self) -> None:
        """Log that the thread hangs in reading the file, once each time that it does; to be called now and then."""
        since = self._looking_since
        if since is not None and time.monotonic() > since + READ_LIMIT_S:
            self._looking_since = None
            logger.error("The keys stay as they were: %s was not read within %g seconds.", self._path, READ_LIMIT_S)

    def name_of(self, key: bytes) -> str | None:
        """Return the name of a key, or None for an unknown one; all are compared, so that timing tells nothing."""
        digest, key_name = digest_of(key), None
        for name, known in self._entries:
            if hmac.compare_digest(digest, known):
                key_name = name
        return key_name

    def is_admin(self, name: str) -> bool:
        """Return whether the key of this name may load and unload models."""
        return name in self._admins

    def _look_regularly(self) -> None:
        while True:
            self._looking_since = time.monotonic()
            try:
                self.reload()
            except Exception as error:  # this thread alone notices that a key was removed, so it must not end
                self._log_problem(f"{self._path} could not be looked at.", error)
            self._looking_since = None
            self._has_looked.set()
            if self._stopped.wait(RELOAD_INTERVAL_S):
                return

    def reload(self) -> None:
        """Read the file if it has changed; this may take as long as its file system likes."""
        try:
            status = os.stat(self._path)
            state: tuple[int, ...] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except OSError:
            state = ()
        if state == self._last_state:
            return
        try:
            entries = read_keys(self._path, read_regular_file)
            # First, so that no key is known without its restrictions.
            self.restricted = {entry.name: entry for entry in entries if entry.restrictions()}
            self._entries = [(entry.name, entry.sha256) for entry in entries]
            self._admins = frozenset(entry.name for entry in entries if entry.admin)
        except KeysError as error:
            self._log_problem(str(error))
            if state and isinstance(error.__cause__, OSError):  # perhaps there are no file descriptors left: try again
                return
        else:
            self._logged_problem = ""
            if self._last_state is not None:
                logger.info("%d keys read anew from %s", len(self._entries), self._path)
        self._last_state = state

    def _log_problem(self, problem: str, error: Exception | None = None) -> None:
        """Log why the keys stay as they were, unless the same was logged in the last minute."""
        now = time.monotonic()
        if problem != self._logged_problem or now >= self._logged_at + LOG_INTERVAL_S:
            self._logged_problem, self._logged_at = problem, now
            logger.error("The keys stay as they were: %s", problem, exc_info=error)


def digest_of(key: bytes) -> str:
    """Return the digest that stands in the file for a key."""
    return hashlib.sha256(key).hexdigest()


def read_keys(path: Path, read: Callable[[Path], bytes] = read_within) -> list[Entry]:
    """Return the entries of the file.

    Args:
        path: the file.
        read: returns its bytes.

    Raises:
        KeysError: it is missing, unreadable, damaged, or no regular file.
    """
    try:
        entries = _File.model_validate(tomllib.loads(read(path).decode("utf-8"))).key
    except OSError as error:
        advice = f"; make it with `vitrine keys add NAME --file {path}`" if isinstance(error, FileNotFoundError) else ""
        raise KeysError(f"The file of API keys {path} cannot be read ({error.strerror}){advice}.") from error
    except ValidationError as error:
        detail = error.errors()[0]
        place = ".".join(map(str, detail["loc"]))
        raise KeysError(f"The file of API keys {path} is damaged at {place}: {detail['msg']}.") from error
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, numbers too long, brackets too deep
        raise KeysError(f"The file of API keys {path} is damaged: {error}.") from error
    if len({entry.name for entry in entries}) < len(entries):
        raise KeysError(f"The file of API keys {path} has two keys of one name.")
    return entries


def add_key(path: Path, name: str, *, admin: bool = False, restrictions: Restrictions = UNRESTRICTED) -> str:
    """Make a key, and the file if it is not there; the key is returned this once and kept nowhere.

    Args:
        path: the file.
        name: whose key it is.
        admin: whether it may load and unload models.
        restrictions: its scope and its quotas.

    Raises:
        KeysError: there is one of that name, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    with _changing(path) as entries:
        if name in [entry.name for entry in entries]:
            raise KeysError(f"{path} has a key {name} already; remove it, or choose another name.")
        today = datetime.now(UTC).date()
        digest, limits = digest_of(key.encode()), restrictions.restrictions()
        entries.append(Entry(name=name, sha256=digest, created=today, admin=admin, **limits))
    return key


def remove_key(path: Path, name: str) -> None:
    """Take a key out of the file.

    Raises:
        KeysError: there is none of that name, or the file cannot be read or written.
    """
    with _changing(path) as entries:
        del entries[_place_of(name, entries, path)]


def restrict_key(path: Path, name: str, restrictions: Restrictions) -> None:
    """Give a key another scope and other quotas, in place of all that it had.

    Raises:
        KeysError: there is none of that name, or the file cannot be read or written.
    """
    with _changing(path) as entries:
        place = _place_of(name, entries, path)
        old = entries[place].model_dump(include={"name", "sha256", "created", "admin"})
        entries[place] = Entry(**old, **restrictions.restrictions())


def file_warnings(path: Path | None) -> list[str]:
    """Return what an operator should know about the file; nothing where there is none, or where it cannot be read."""
    try:
        mode, entries = (stat.S_IMODE(path.stat().st_mode), read_keys(path)) if path is not None else (0, [])
    except (OSError, KeysError):
        return []
    warnings = []
    if mode & 0o077:
        warnings.append(
            f"{path} (mode {mode:04o}) is open to others than its owner: `chmod 600` it, unless it is a mounted secret "
            "or a server of another user reads it."
        )
    if path is not None and not entries:
        warnings.append(f"{path} has no key yet, so nobody is let in: `vitrine keys add NAME --file {path}` makes one.")
    return warnings


def _place_of(name: str, entries: list[Entry], path: Path) -> int:
    for place, entry in enumerate(entries):
        if entry.name == name:
            return place
    known = ", ".join(entry.name for entry in entries) or "none"
    raise KeysError(f"{path} has no key {name}; it has: {known}.")


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
        f'\n[[key]]\nname = "{entry.name}"\nsha256 = "{entry.sha256}"\ncreated = {entry.created.isoformat()}\n'
        + "admin = true\n" * entry.admin
        + "".join(f"{limit} = {json.dumps(value)}\n" for limit, value in entry.restrictions().items())
        for entry in entries
    ]
    with atomic_write(path, private=True) as file:  # a server of another user can read it as before
        file.write((_HEADER + "".join(tables)).encode())
