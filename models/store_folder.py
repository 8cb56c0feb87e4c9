"""A folder of model versions as they are stored: what is in it, and the lock file that says which are in service."""

import contextlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import TypeAdapter

from errors import StoreError
from models.package import MANIFEST, StoredModel, open_stored
from regular_file import read_regular_file

VERSION = re.compile("[0-9a-f]{16}")
"""The versions that Vitrine derives from content; whatever else lies in a store belongs to other tools."""

_LOCK = TypeAdapter(dict[str, str])

logger = logging.getLogger("vitrine")


@dataclass(frozen=True)
class StoreFolder:
    """Model versions in a folder; to read it changes nothing, so that it may be read-only.

    Attributes:
        models: the folder, with every version in `NAME/VERSION/`.
        state: the folder of the lock file, in which imports do their work too.
    """

    models: Path
    state: Path

    @classmethod
    def own(cls, models: Path) -> Self:
        """Return an operator's own folder of models, the one of VITRINE_MODELS_DIR, which holds its lock file too."""
        return cls(models, models / ".vitrine")

    @property
    def is_own(self) -> bool:
        """Whether this is a folder of VITRINE_MODELS_DIR."""
        return self.state.parent == self.models

    @property
    def lock_file(self) -> Path:
        """The file with the served version of each model by its name, as JSON."""
        return self.state / "models.lock"

    def read_lock(self) -> dict[str, str]:
        """Return the served version of each model by its name; empty if the lock file is missing or damaged."""
        return self.readable_lock() or {}

    def readable_lock(self) -> dict[str, str] | None:
        """Return the served version of each model by its name; None if the lock file is missing or damaged."""
        try:
            return self.load_lock()
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            logger.error("%s cannot be read: %s.", self.lock_file, error)
            return None

    def load_lock(self) -> dict[str, str]:
        """Return the served version of each model by its name; raise OSError or ValueError if it cannot be read."""
        return _LOCK.validate_json(read_regular_file(self.lock_file))

    def version_folders(self) -> list[Path]:
        """Return the folder of every version that Vitrine wrote, damaged ones included."""
        return [folder for folder in self.models.glob("*/*") if VERSION.fullmatch(folder.name)]

    def installed(self) -> list[StoredModel]:
        """Return every readable Vitrine model, by name, the newest version of each first."""
        manifests = sorted(self.models.glob(f"*/*/{MANIFEST}"), key=lambda path: -path.stat().st_mtime)
        models = []
        for manifest in manifests:
            with contextlib.suppress(StoreError):
                models.append(open_stored(manifest.parent))
        return sorted(models, key=lambda stored: stored.card.name)

    def find(self, tag: str) -> StoredModel:
        """Return one stored model.

        Args:
            tag: `name:version`, where a beginning that only one version has will do; the name alone is the served
                version.

        Raises:
            StoreError: there is no such model, or several versions begin so; the message lists what is installed.
        """
        name, _, version = tag.partition(":")
        models = self.installed()
        prefix = version or self.read_lock().get(name, "")
        matching = [stored for stored in models if stored.card.name == name and stored.version.startswith(prefix)]
        if len(matching) == 1 or (matching and not version):
            return matching[0]
        problem = "matches several versions" if matching else "is not installed"
        known = ", ".join(stored.tag for stored in models) or "none"
        raise StoreError(f"{tag} {problem}. Installed: {known}. `vitrine models list` shows what else could be.")
