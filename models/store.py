"""Model packages in the BentoML store: imported whole or not at all, and which version of each is served."""

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models.model import ModelStore

from errors import StoreError
from models.card import read_card
from models.goldens import read_goldens
from models.package import (
    EXPLANATIONS,
    MANIFEST,
    PARITY,
    REPORT,
    StoredModel,
    files_of,
    open_stored,
    sha256,
    verify,
    version_of,
)

SOURCE = Path(__file__).resolve().parent.parent
VERSION = re.compile("[0-9a-f]{16}")

logger = logging.getLogger("vitrine")


def import_package(package: Path, *, own_weights: bool = False) -> tuple[StoredModel, bool]:
    """Put a package into the store and make it the version that is served.

    Args:
        package: the folder.
        own_weights: whether an operator brought them; `shipped_is_wanted` then leaves them in service.

    The copy is built beside the store and moved into it in one step, so whatever interrupts this leaves either the
    whole model or nothing. Imports wait for one another.

    Returns:
        The stored model, and whether it was written now (False: the same content was there already).

    Raises:
        CardError: the card is not valid.
        StoreError: a file of the package is missing, or the store cannot be written to.
    """
    card = read_card(package / "card.toml")
    if not card.labels:
        raise StoreError(f"{card.name}: the card has no labels yet; import the model with a file of them.")
    read_goldens(package)
    files = files_of(package)
    version = version_of(files)
    stored = StoredModel(card, version, _store_path() / card.name / version)
    try:
        with _exclusive() as home:
            if fresh := not _intact(stored, files):
                _write(home, package, stored, files, own_weights)
            _refresh_report(package, stored)
            _write_lock(read_lock() | {card.name: version})
    except OSError as error:
        raise StoreError(f"{stored.tag} could not be written to the store: {error}. Nothing was installed.") from error
    return stored, fresh


def shipped_is_wanted(name: str) -> bool:
    """Whether the weights that ship with the source should be served: not where an operator has brought others."""
    version = dict(served_tags()).get(name)
    try:
        manifest = json.loads((_store_path() / name / (version or "") / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return True
    return not manifest.get("own_weights", False)


def installed() -> list[StoredModel]:
    """Every Vitrine model in the store, by name, newest first; what other tools put there is passed over."""
    found = []
    for manifest in sorted(_store_path().glob(f"*/*/{MANIFEST}"), key=lambda each: -each.stat().st_mtime):
        with contextlib.suppress(StoreError):
            found.append(open_stored(manifest.parent))
    return sorted(found, key=lambda stored: stored.card.name)


def find(name: str, version: str | None = None) -> StoredModel:
    """A stored model; without a version the one that is served. A unique beginning of a version will do.

    Raises:
        StoreError: there is none; the message lists what there is.
    """
    have = [stored for stored in installed() if stored.card.name == name]
    wanted = version or read_lock().get(name, "")
    matching = [stored for stored in have if stored.version.startswith(wanted)]
    if len(matching) == 1 or (matching and version is None):
        return matching[0]
    known = ", ".join(stored.tag for stored in installed()) or "none"
    what = f"{name}:{version}" if version else name
    how = "matches several versions" if matching else "is not installed"
    raise StoreError(f"{what} {how}. Installed: {known}. `vitrine models list` shows what else could be.")


def remove(name: str, version: str | None = None) -> list[str]:
    """Delete a version (a unique beginning will do), or all versions, of a model; damaged ones too.

    The newest that is left is served then; what other tools keep in the store under the name stays.

    Returns:
        The tags that are gone.

    Raises:
        StoreError: there is none, or several versions begin so.
    """
    what = f"{name}:{version}" if version else name
    with _exclusive() as home:
        every = [
            each for each in _store_path().glob("*/*") if each.parent.name == name and VERSION.fullmatch(each.name)
        ]
        gone = sorted(each for each in every if each.name.startswith(version or ""))
        if not gone:
            raise StoreError(f"{what} is not installed. `vitrine models list` shows what is.")
        if version and len(gone) > 1:
            raise StoreError(
                f"{what} matches several versions: {', '.join(each.name for each in gone)}. Give more of it."
            )
        for each in gone:
            _discard(home, each)
        left = [stored.version for stored in installed() if stored.card.name == name]
        lock = {key: value for key, value in read_lock().items() if key != name or value in left}
        if left and name not in lock:
            lock[name] = left[0]
        _write_lock(lock)
        _point_latest(_store_path() / name, left)
    return [f"{name}:{each.name}" for each in gone]


def read_lock() -> dict[str, str]:
    """Name → version of what this store serves."""
    try:
        lock: dict[str, str] = json.loads(_lock_path().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return lock if isinstance(lock, dict) else {}


def served_tags(chosen: Sequence[tuple[str, str]] = (), source: Path = SOURCE) -> list[tuple[str, str]]:
    """Name and version of what a service whose code lies in `source` serves.

    In a built Bento (the code is its `src` folder) only what it packed; else what the store's lock names, or any
    version in the store that is asked for. An unknown or unreadable tag would keep `bentoml serve` from starting, so
    such are logged and left out.

    Args:
        chosen: name and beginning of a version (empty: the one in service) of what is wanted; nothing means all in
            service. Of several versions of a model the first is the one that its name alone means.
        source: the folder of the code.
    """
    description = source.parent / "bento.yaml"
    if source.name == "src" and description.exists():
        bento = yaml.safe_load(description.read_text("utf-8"))
        listed = [model for part in (bento, *bento.get("services", ())) for model in part.get("models") or ()]
        packed = list(dict.fromkeys(_split(str(model["tag"])) for model in listed))
        default = dict(reversed(packed))
        return _chosen(chosen, packed, default) if chosen else packed
    there = [(path.parent.name, path.name) for path in _store_path().glob("*/*") if VERSION.fullmatch(path.name)]
    locked = {name: version for name, version in read_lock().items() if (name, version) in there}
    wanted = _chosen(chosen, there, locked) if chosen else list(locked.items())
    return [(name, version) for name, version in wanted if _opens(f"{name}:{version}")]


def _split(tag: str) -> tuple[str, str]:
    name, _, version = tag.partition(":")
    return name, version


def _chosen(
    chosen: Sequence[tuple[str, str]], there: Sequence[tuple[str, str]], default: Mapping[str, str]
) -> list[tuple[str, str]]:
    found = []
    for name, beginning in chosen:
        wanted = beginning or default.get(name, "")
        matching = [tag for tag in there if tag[0] == name and wanted and tag[1].startswith(wanted)]
        if len(matching) == 1:
            found += matching
        else:
            known = ", ".join(sorted(version for each, version in there if each == name)) or "none"
            how = "means several versions" if matching else "is not there"
            tag = f"{name}:{beginning}" if beginning else name
            logger.error("VITRINE_MODELS: %s %s. Versions there: %s.", tag, how, known)
    return list(dict.fromkeys(found))


def _intact(stored: StoredModel, files: dict[str, str]) -> bool:
    """Whether the store has this very content, every byte of it; BentoML's own description as well."""
    try:
        verify(stored)
        return stored.manifest() == files and _opens(stored.tag)
    except StoreError:
        return False


def _opens(tag: str) -> bool:
    """Whether BentoML can open a model; one that it cannot would keep the whole service from starting."""
    try:
        bentoml.models.get(tag)
    except Exception as error:  # a damaged model.yaml makes it raise anything
        reason, name = str(error).partition("\n")[0], tag.partition(":")[0]
        logger.error("%s: damaged (model.yaml: %s). Run `vitrine models import %s`.", tag, reason, name)
        return False
    return True


def _write(home: Path, package: Path, stored: StoredModel, files: dict[str, str], own_weights: bool) -> None:
    card, version, target = stored.card, stored.version, stored.path
    staging = Path(tempfile.mkdtemp(dir=home, prefix="staging-"))
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # creating a model is an event that BentoML reports
    try:
        metrics = _read_metrics(package)
        labels = {"app": "vitrine", "task": card.task, "architecture": card.architecture}
        facts = {"title": card.title, "data": card.data, "sha256": files} | metrics
        facts |= {"parameters": card.parameters} if card.parameters else {}
        tag = f"{card.name}:{version}"
        with bentoml.models.create(tag, labels=labels, metadata=facts, _model_store=ModelStore(staging)) as model:
            for name, digest in files.items():
                copy = Path(model.path) / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(package / name, copy)
                if sha256(copy) != digest:
                    raise StoreError(f"{package / name} changed while it was being copied. Import it again.")
            written = {"name": card.name, "version": version, "files": files, "own_weights": own_weights}
            (Path(model.path) / MANIFEST).write_text(json.dumps(written, indent=1) + "\n", "utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            _discard(home, target)  # damaged
        os.replace(staging / card.name / version, target)
        _replace(target.parent / "latest", version)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _read_metrics(package: Path) -> dict[str, Any]:
    try:
        return {"metrics": json.loads((package / REPORT).read_text("utf-8"))["metrics"]}
    except (OSError, ValueError, KeyError):
        return {}


def _refresh_report(package: Path, stored: StoredModel) -> None:
    for name in (REPORT, EXPLANATIONS, PARITY):
        report, there = package / name, stored.path / name
        if report.exists() and not (there.exists() and there.read_bytes() == report.read_bytes()):
            _replace(there, report.read_text("utf-8"))


def _discard(home: Path, folder: Path) -> None:
    """Take a folder out of the store in one step, then delete it."""
    away = Path(tempfile.mkdtemp(dir=home, prefix="staging-"))
    os.replace(folder, away / folder.name)
    shutil.rmtree(away, ignore_errors=True)


def _point_latest(folder: Path, versions: list[str]) -> None:
    """Have BentoML's `latest` name the newest version; where none is left, the model's folder goes."""
    if versions:
        _replace(folder / "latest", versions[0])
    elif not any(each.is_dir() for each in folder.iterdir()):
        shutil.rmtree(folder)


@contextlib.contextmanager
def _exclusive() -> Iterator[Path]:
    """Hold the store's import lock; gives the folder for staging, cleaned of what a killed import left there."""
    home = _lock_path().parent
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".import").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in home.glob("staging-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield home


def _store_path() -> Path:
    return Path(BentoMLContainer.model_store.get()._path)


def _lock_path() -> Path:
    return _store_path().parent / "vitrine" / "models.lock"


def _write_lock(lock: dict[str, str]) -> None:
    _replace(_lock_path(), json.dumps(lock, indent=1, sort_keys=True) + "\n")


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, "utf-8")
    part.replace(path)
