"""The BentoML store: importing, finding and removing model packages, and the lock file that says which are served.

This module and `service.py` are the only ones that import BentoML.
"""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
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
    EXPLANATIONS,
    MANIFEST,
    PARITY,
    REPORT,
    StoredModel,
    content_version,
    file_digests,
    open_stored,
    sha256,
    verify,
)
from regular_file import read_regular_file

VERSION = re.compile("[0-9a-f]{16}")
"""The versions that Vitrine derives from content; whatever else lies in the store belongs to other tools."""

logger = logging.getLogger("vitrine")


def import_package(package: Path, *, own_weights: bool = False) -> tuple[StoredModel, bool]:
    """Copy a package into the store and make it the served version of its model.

    The copy is built beside the store and moved into it in one step, so an interrupted import leaves either the whole
    model or nothing. Concurrent imports wait for one another.

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
    stored = StoredModel(card, version, store_path() / card.name / version)
    try:
        with _import_lock() as staging_root:
            if is_new := not _is_intact(stored, digests):
                _copy_into_store(package, stored, digests, own_weights, staging_root)
            _update_reports(package, stored)
            _write_lock(read_lock() | {card.name: version})
    except OSError as error:
        raise StoreError(f"{stored.tag} could not be written to the store: {error}. Nothing was installed.") from error
    return stored, is_new


def installed() -> list[StoredModel]:
    """Return every readable Vitrine model in the store, by name, the newest version of each first."""
    manifests = sorted(store_path().glob(f"*/*/{MANIFEST}"), key=lambda path: -path.stat().st_mtime)
    models = []
    for manifest in manifests:
        with contextlib.suppress(StoreError):
            models.append(open_stored(manifest.parent))
    return sorted(models, key=lambda stored: stored.card.name)


def open_packed(models: Iterable[BentoModel]) -> list[StoredModel]:
    """Return the packed models of a service; a damaged one is logged and left out."""
    opened = list[StoredModel]()
    for model in models:
        try:
            opened.append(open_stored(Path(model.resolve().path)))
        except StoreError as error:
            logger.error("%s", error)
    return opened


def find(tag: str) -> StoredModel:
    """Return one stored model.

    Args:
        tag: `name:version`, where a beginning that only one version has will do; the name alone is the served version.

    Raises:
        StoreError: there is no such model, or several versions begin so; the message lists what is installed.
    """
    name, _, version = tag.partition(":")
    models = installed()
    prefix = version or read_lock().get(name, "")
    matching = [stored for stored in models if stored.card.name == name and stored.version.startswith(prefix)]
    if len(matching) == 1 or (matching and not version):
        return matching[0]
    problem = "matches several versions" if matching else "is not installed"
    known = ", ".join(stored.tag for stored in models) or "none"
    raise StoreError(f"{tag} {problem}. Installed: {known}. `vitrine models list` shows what else could be.")


def remove(tag: str) -> list[str]:
    """Delete one version or all versions of a model, damaged ones included.

    If the served version is deleted, the newest remaining one is served from then on. Models that other tools keep in
    the store under the same name stay.

    Args:
        tag: `name:version`, where a beginning that only one version has will do; the name alone is all versions.

    Returns:
        The tags of the deleted versions.

    Raises:
        StoreError: there is no such model, or several versions begin so.
    """
    name, _, version = tag.partition(":")
    with _import_lock() as staging_root:
        matching = sorted(
            folder for folder in version_folders() if folder.parent.name == name and folder.name.startswith(version)
        )
        if not matching:
            raise StoreError(f"{tag} is not installed. `vitrine models list` shows what is.")
        if version and len(matching) > 1:
            known = ", ".join(folder.name for folder in matching)
            raise StoreError(f"{tag} matches several versions: {known}. Give more of it.")
        for folder in matching:
            _delete_in_one_step(folder, staging_root)
        remaining = [stored.version for stored in installed() if stored.card.name == name]
        lock = read_lock()
        if lock.get(name) not in remaining:
            lock.pop(name, None)
        if remaining:
            lock.setdefault(name, remaining[0])
        _write_lock(lock)
        _update_latest(store_path() / name, remaining)
    return [f"{name}:{folder.name}" for folder in matching]


def read_lock() -> dict[str, str]:
    """Return the served version of each model by its name; empty if the lock file is missing or damaged."""
    try:
        lock: dict[str, str] = json.loads(read_regular_file(_lock_path()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.error("%s cannot be read, so no version is in service: %s.", _lock_path(), error)
        return {}
    return lock if isinstance(lock, dict) else {}


def store_path() -> Path:
    """Return the folder of BentoML's model store, which holds `name/version/`."""
    return Path(BentoMLContainer.model_store.get()._path)


def version_folders() -> list[Path]:
    """Return the folder of every version that Vitrine wrote into the store, damaged ones included."""
    return [folder for folder in store_path().glob("*/*") if VERSION.fullmatch(folder.name)]


def bentoml_can_open(tag: str) -> bool:
    """Return whether BentoML can open a model; if not, log the command that repairs it.

    One unreadable model would keep the whole service from starting.
    """
    try:
        bentoml.models.get(tag)
    except Exception as error:  # a damaged model.yaml makes BentoML raise anything
        reason, name = str(error).partition("\n")[0], tag.partition(":")[0]
        logger.error("%s: damaged (model.yaml: %s). Run `vitrine models import %s`.", tag, reason, name)
        return False
    return True


def _is_intact(stored: StoredModel, digests: dict[str, str]) -> bool:
    """Return whether the store holds this very content undamaged, BentoML's own description included."""
    try:
        verify(stored)
        return stored.manifest() == digests and bentoml_can_open(stored.tag)
    except StoreError:
        return False


def _copy_into_store(
    package: Path, stored: StoredModel, digests: dict[str, str], own_weights: bool, staging_root: Path
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
        created = bentoml.models.create(stored.tag, labels=labels, metadata=metadata, _model_store=ModelStore(staging))
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
            _delete_in_one_step(stored.path, staging_root)
        os.replace(staging / card.name / version, stored.path)
        _update_latest(stored.path.parent, [version])
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _update_reports(package: Path, stored: StoredModel) -> None:
    """Copy the reports of a package to its stored version where they have changed; they are no part of the version."""
    for name in (REPORT, EXPLANATIONS, PARITY):
        source, target = package / name, stored.path / name
        if source.exists() and not (target.exists() and target.read_bytes() == source.read_bytes()):
            with atomic_write(target) as file:
                file.write(source.read_bytes())


def _delete_in_one_step(folder: Path, staging_root: Path) -> None:
    """Move a folder out of the store before it is deleted, so that nobody finds it there half deleted."""
    trash = Path(tempfile.mkdtemp(dir=staging_root, prefix="staging-"))
    os.replace(folder, trash / folder.name)
    shutil.rmtree(trash, ignore_errors=True)


def _update_latest(folder: Path, versions: list[str]) -> None:
    """Write the file by which BentoML finds a model's newest version; delete the model's folder if it is empty."""
    if versions:
        with atomic_write(folder / "latest") as file:
            file.write(versions[0].encode())
    elif not any(path.is_dir() for path in folder.iterdir()):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _import_lock() -> Iterator[Path]:
    """Let one process at a time change the store.

    Yields:
        The folder for staging, cleaned of what an import that was killed left in it.
    """
    staging_root = _lock_path().parent
    staging_root.mkdir(parents=True, exist_ok=True)
    with (staging_root / ".import").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for abandoned in staging_root.glob("staging-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        yield staging_root


def _lock_path() -> Path:
    return store_path().parent / "vitrine" / "models.lock"


def _write_lock(lock: dict[str, str]) -> None:
    with atomic_write(_lock_path()) as file:
        file.write((json.dumps(lock, indent=1, sort_keys=True) + "\n").encode())
