"""The BentoML store, and folders laid out like it: importing, finding and removing model packages.

This module and `service.py` are the only ones that import BentoML.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import ModelStore
from bentoml.models import BentoModel

from atomic_write import atomic_write
from errors import StoreError
from models.card import is_regressor, read_card
from models.goldens import read_goldens
from models.package import (
    MANIFEST,
    StoredModel,
    content_version,
    damage_of,
    file_digests,
    open_stored,
    sha256,
)
from models.store_files import delete_in_one_step, first_reason, open_to_all, update_latest, update_reports
from models.store_folder import StoreFolder

logger = logging.getLogger("vitrine")


@dataclass(frozen=True)
class Store(StoreFolder):
    """BentoML's model store, or a folder laid out like it, to read and to change."""

    def import_package(self, package: Path, *, own_weights: bool = False) -> tuple[StoredModel, bool]:
        """Copy a package into the store and make it the served version of its model.

        The copy is built beside the store and moved into it in one step, so an interrupted import leaves either the
        whole model or nothing. Concurrent imports wait for one another.

        Args:
            package: the folder of the package.
            own_weights: whether the weights are an operator's own; see `models.served_versions.serves_own_weights`.

        Returns:
            The stored model, and whether it was written now (False: the same content was there already).

        Raises:
            CardError: the card is not valid.
            StoreError: a file of the package is missing, or the store cannot be written to.
        """
        card = read_card(package / "card.toml")
        if not card.labels and not is_regressor(card):
            raise StoreError(f"{card.name}: the card has no labels yet; import the model with a file of them.")
        read_goldens(package)
        digests = file_digests(package)
        version = content_version(digests)
        stored = StoredModel(card, version, self.models / card.name / version)
        try:
            with self._import_lock() as staging_root:
                damage = self._damage(stored, digests) if stored.path.exists() else ""
                if is_new := bool(damage) or not stored.path.exists():
                    self._copy_into_store(package, stored, digests, own_weights, staging_root)
                if damage:
                    logger.warning("%s was damaged, and is repaired: %s.", stored.tag, damage)
                update_reports(package, stored)
                self._write_lock(self._lock_to_change() | {card.name: version})
        except OSError as error:
            raise StoreError(
                f"{stored.tag} could not be written to the store: {first_reason(error)}. Nothing was installed."
            ) from error
        return stored, is_new

    def remove(self, tag: str) -> list[str]:
        """Delete one version or all versions of a model, damaged ones included.

        If the served version is deleted, the newest remaining one is served from then on. Models that other tools keep
        in the store under the same name stay.

        Args:
            tag: `name:version`, where a beginning that only one version has will do; the name alone is all versions.

        Returns:
            The tags of the deleted versions.

        Raises:
            StoreError: there is no such model, or several versions begin so.
        """
        name, _, version = tag.partition(":")
        with self._import_lock() as staging_root:
            matching = sorted(
                folder
                for folder in self.version_folders()
                if folder.parent.name == name and folder.name.startswith(version)
            )
            if not matching:
                raise StoreError(f"{tag} is not installed. `vitrine models list` shows what is.")
            if version and len(matching) > 1:
                known = ", ".join(folder.name for folder in matching)
                raise StoreError(f"{tag} matches several versions: {known}. Give more of it.")
            self._delete(matching, staging_root)
        return [f"{name}:{folder.name}" for folder in matching]

    def prune(self, keep: int, also_kept: Collection[tuple[str, str]], *, dry_run: bool) -> list[str]:
        """Delete the versions that are not in service, damaged ones included.

        Args:
            keep: how many of the newest versions of each model to keep beside the one in service.
            also_kept: names and versions to keep, such as those that Bentos pack.
            dry_run: whether to delete nothing.

        Returns:
            The tags of the deleted versions.

        Raises:
            StoreError: the lock file is missing or damaged, so that nobody knows what is in service.
        """
        with self._import_lock() as staging_root:
            lock, folders = self.readable_lock(), self.version_folders()
            if lock is None and folders:
                raise StoreError(f"{self.lock_file} is missing or damaged: import the models that you serve again.")
            served = {*(lock or {}).items(), *also_kept}
            idle = [folder for folder in folders if (folder.parent.name, folder.name) not in served]
            newest = sorted(idle, key=lambda folder: folder.stat().st_mtime, reverse=True)
            kept = Counter[str]()
            pruned = list[Path]()
            for folder in newest:
                kept[folder.parent.name] += 1
                if kept[folder.parent.name] > keep:
                    pruned.append(folder)
            if pruned and not dry_run:
                self._delete(pruned, staging_root)
        return sorted(f"{folder.parent.name}:{folder.name}" for folder in pruned)

    def _delete(self, folders: Sequence[Path], staging_root: Path) -> None:
        """Delete versions; of a model whose served version is deleted, the newest remaining one is served."""
        for folder in folders:
            delete_in_one_step(folder, staging_root)
        installed, lock = self.installed(), self._lock_to_change()
        for name in {folder.parent.name for folder in folders}:
            remaining = [stored.version for stored in installed if stored.card.name == name]
            if lock.get(name) not in remaining:
                lock.pop(name, None)
            if remaining:
                lock.setdefault(name, remaining[0])
            update_latest(self.models / name, remaining)
        self._write_lock(lock)

    def bentoml_can_open(self, tag: str) -> bool:
        """Return whether BentoML can open a model; if not, log the command that repairs it.

        One unreadable model would keep the whole service from starting.
        """
        try:
            bentoml.models.get(tag, _model_store=ModelStore(self.models))
        except Exception as error:  # a damaged model.yaml makes BentoML raise anything
            reason, name = str(error).partition("\n")[0], tag.partition(":")[0]
            logger.error("%s: damaged (model.yaml: %s). Run `vitrine models import %s` or `add`.", tag, reason, name)
            return False
        return True

    def _damage(self, stored: StoredModel, digests: dict[str, str]) -> str:
        """Return what is wrong with the stored copy of this content, BentoML's own description included."""
        try:
            if damage := damage_of(stored):
                return damage
            if stored.manifest() != digests:
                return f"{MANIFEST} lists other files"
            return "" if self.bentoml_can_open(stored.tag) else "model.yaml cannot be read"
        except StoreError:
            return f"{MANIFEST} is missing or damaged"

    def _copy_into_store(
        self, package: Path, stored: StoredModel, digests: dict[str, str], own_weights: bool, staging_root: Path
    ) -> None:
        card, version = stored.card, stored.version
        staging = Path(tempfile.mkdtemp(dir=staging_root, prefix="staging-"))
        os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # BentoML reports the creation of a model as an event
        labels = {"app": "vitrine", "task": card.task, "architecture": card.architecture}
        report = StoredModel(card, version, package).report()
        metadata: dict[str, Any] = {"title": card.title, "data": card.data, "sha256": digests}
        metadata |= {"metrics": report["metrics"]} if "metrics" in report else {}
        metadata |= {"parameters": card.parameters} if card.parameters else {}
        manifest = {"name": card.name, "version": version, "files": digests, "own_weights": own_weights}
        try:
            created = bentoml.models.create(
                stored.tag, labels=labels, metadata=metadata, _model_store=ModelStore(staging)
            )
            with created as model:
                for name, digest in digests.items():
                    copy = Path(model.path) / name
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(package / name, copy)
                    if sha256(copy) != digest:
                        raise StoreError(f"{package / name} changed while it was being copied. Import it again.")
                (Path(model.path) / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
            stored.path.parent.mkdir(parents=True, exist_ok=True)
            if stored.path.exists():  # a damaged copy
                delete_in_one_step(stored.path, staging_root)
            open_to_all(staging / card.name / version)
            os.replace(staging / card.name / version, stored.path)
            update_latest(stored.path.parent, [version])
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    @contextlib.contextmanager
    def _import_lock(self) -> Iterator[Path]:
        """Let one process at a time change the store.

        Yields:
            The folder for staging, cleaned of what an import that was killed left in it.
        """
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / ".import").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for abandoned in self.state.glob("staging-*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            yield self.state

    def _lock_to_change(self) -> dict[str, str]:
        """Return the lock; where it is missing or damaged, the newest version of each model, so that none is lost."""
        lock = self.readable_lock()
        return lock if lock is not None else {stored.card.name: stored.version for stored in reversed(self.installed())}

    def _write_lock(self, lock: dict[str, str]) -> None:
        with atomic_write(self.lock_file) as file:
            file.write((json.dumps(lock, indent=1, sort_keys=True) + "\n").encode())


def bentoml_store() -> Store:
    """Return BentoML's model store."""
    models = Path(BentoMLContainer.model_store.get()._path)
    return Store(models, models.parent / "vitrine")


def import_package(package: Path, *, own_weights: bool = False) -> tuple[StoredModel, bool]:
    """Import into BentoML's store; see `Store.import_package`."""
    return bentoml_store().import_package(package, own_weights=own_weights)


def installed() -> list[StoredModel]:
    """Return every readable Vitrine model in BentoML's store; see `StoreFolder.installed`."""
    return bentoml_store().installed()


def find(tag: str) -> StoredModel:
    """Return one model of BentoML's store; see `StoreFolder.find`."""
    return bentoml_store().find(tag)


def remove(tag: str) -> list[str]:
    """Remove from BentoML's store; see `Store.remove`."""
    return bentoml_store().remove(tag)


def read_lock() -> dict[str, str]:
    """Return the served versions of BentoML's store; see `StoreFolder.read_lock`."""
    return bentoml_store().read_lock()


def open_packed(models: Iterable[BentoModel]) -> list[StoredModel]:
    """Return the packed models of a service; a damaged one is logged and left out."""
    opened = list[StoredModel]()
    for model in models:
        try:
            opened.append(open_stored(Path(model.resolve().path)))
        except StoreError as error:
            logger.error("%s", error)
    return opened
