"""What the processes of one server remember together, for as long as it runs."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomic_write import atomic_write
from errors import Unavailable
from models.followed import FollowedFolders
from models.package import StoredModel


@dataclass(frozen=True)
class RunState:
    """Two small files in the folder that a server's processes share.

    A process that comes in place of a dead one reads them, so that it serves what the dead one did.
    """

    folder: Path

    def served(self) -> dict[str, list[str]]:
        """Return the versions of each model that were last in service."""
        return dict(self._read("served.json", {}))

    def remember_served(self, served: Mapping[str, list[str]]) -> None:
        """Note the versions of each model that are in service now; raise Unavailable if that cannot be written."""
        if self.served() != served:
            self._write("served.json", served)

    def unloaded(self) -> list[str]:
        """Return the names of the models that a client took out of service."""
        return list(self._read("unloaded.json", []))

    def set_unloaded(self, name: str, *, unloaded: bool) -> None:
        """Note that a client takes a model out of service, or brings it back.

        Raises:
            Unavailable: the folder cannot be written to.
        """
        with self._changing():
            others = [other for other in self.unloaded() if other != name]
            self._write("unloaded.json", sorted([*others, name] if unloaded else others))

    def fingerprint(self) -> tuple[int, ...]:
        """Return what changes as soon as a model is taken out of service or brought back."""
        try:
            status = os.stat(self.folder / "unloaded.json")
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _read(self, name: str, default: object) -> Any:
        try:
            return json.loads((self.folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            return default

    def _write(self, name: str, content: object) -> None:
        with self._writing(), atomic_write(self.folder / name) as file:
            file.write(json.dumps(content).encode())

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        with self._writing(), (self.folder / ".changing").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Make the folder again if something that cleans up has deleted it; raise Unavailable where that fails."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise Unavailable(
                f"The server's folder {self.folder} cannot be written to ({error.strerror}), so its processes cannot "
                "agree on what they serve. Make it writable, or restart the server.",
                5,
            ) from error


def last_served(stored: Sequence[StoredModel], folders: FollowedFolders, state: RunState) -> list[StoredModel]:
    """Return the versions to start with: those that this server served last, where one of its processes died.

    Args:
        stored: the versions that the locks name; none of a lock that cannot be read just now.
        folders: where others lie.
        state: what the server's processes remember; nothing when the server starts.
    """
    served, models = state.served(), list(stored)
    for name in sorted({*served, *(model.card.name for model in stored)} - folders.fixed):
        opened = [folders.open(name, version) for version in served.get(name, ())]
        earlier = [model for model in opened if isinstance(model, StoredModel)]
        if earlier:
            models = [*(model for model in models if model.card.name != name), *earlier]
    return models
