"""The models that may change while a server runs: those that the locks of folders name, read again and again."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from errors import StoreError
from models.package import StoredModel, open_stored
from models.store_folder import VERSION, StoreFolder

logger = logging.getLogger("vitrine.models")

Fingerprint = tuple[tuple[int, ...], ...]


class FollowedFolders:
    """Folders whose models come and go while a server runs; it remembers what their locks said last.

    Args:
        folders: the folders; of a name that two of them have, the first one's model is served.
        fixed: the names whose versions stay as they are: those that a Bento packs, and those of which VITRINE_MODELS
            names a version.
        chosen: the names that may be served; empty for all.
        known: the names of all models that there were at the start, in these folders or packed.
    """

    def __init__(
        self,
        folders: Sequence[StoreFolder],
        fixed: frozenset[str] = frozenset(),
        chosen: frozenset[str] = frozenset(),
        known: frozenset[str] = frozenset(),
    ) -> None:
        self.folders, self.fixed, self.chosen, self.known = tuple(folders), fixed, chosen, known
        self._locks = dict[StoreFolder, dict[str, str]]()
        self._lock_problems, self._logged = list[str](), list[str]()

    @property
    def lock_problems(self) -> list[str]:
        """Which lock files could not be read the last time, and what to do about it."""
        return list(self._lock_problems)

    def fingerprint(self) -> Fingerprint:
        """Return what changes as soon as a lock file does."""
        return tuple(_state(folder.lock_file) for folder in self.folders)

    def read(self, last_served: Mapping[str, Sequence[str]]) -> dict[str, StoredModel | StoreError]:
        """Return each model that is to be served and may change, by its name, or why it cannot be read.

        Of a lock file that is missing or damaged, what it said last counts. The log says so, and names the models of
        one's own whose names are taken, once until that changes.

        Args:
            last_served: the versions that the server served last by the name of their model, which count where a lock
                could never be read.
        """
        models, problems = dict[str, StoredModel | StoreError](), list[str]()
        self._lock_problems = []
        for folder in self.folders:
            for name, version in self._read_lock(folder, last_served).items():
                if self.chosen and name not in self.chosen:
                    continue
                if name not in self.fixed and name not in models:
                    models[name] = self.open(name, version)
                elif folder.is_own and name not in self.chosen:
                    problems.append(f"{name} of {folder.models} is not served: another model of that name is.")
        for problem in (problems := [*self._lock_problems, *problems]):
            if problem not in self._logged:
                logger.error("%s", problem)
        self._logged = problems
        return models

    def _read_lock(self, folder: StoreFolder, last_served: Mapping[str, Sequence[str]]) -> dict[str, str]:
        """Return what a lock says, or said last; note the problem if it cannot be read."""
        served = {name: versions[0] for name, versions in last_served.items() if versions}
        here = {name: version for name, version in served.items() if (folder.models / name / version).is_dir()}
        before, problem = self._locks.get(folder, here), ""
        try:
            self._locks[folder] = folder.load_lock()
        except FileNotFoundError:
            self._locks[folder], problem = before, "it is missing" if before else ""
        except OSError as error:
            self._locks[folder], problem = before, error.strerror or "an error"
        except ValueError:
            self._locks[folder], problem = before, "it is damaged"
        if problem:
            self._lock_problems.append(
                f"{folder.lock_file} cannot be read ({problem}); what was served goes on. "
                "Import or add a model to have it written anew."
            )
        return self._locks[folder]

    def open(self, name: str, version: str) -> StoredModel | StoreError:
        """Return one version from the first folder that has it, or why it cannot be read."""
        is_tag = Path(name).name == name and VERSION.fullmatch(version)
        places = [folder.models / name / version for folder in self.folders if is_tag]
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            return StoreError(f"{name}:{version:.80} is in a lock file, but in none of the folders of models.")
        try:
            return open_stored(place)
        except StoreError as error:
            return error


def files_fingerprint(folder: Path) -> Fingerprint:
    """Return what changes as soon as any file in a folder does."""
    return tuple(_state(path) for path in sorted(folder.rglob("*")))


def _state(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
