"""The model of a run: installed in a store, in a folder of one's own, or packed in the Bento that this code lies in."""

import difflib
from pathlib import Path

from errors import BulkError
from models.package import StoredModel
from models.registry import bundled_cards
from models.served_versions import CODE_FOLDER, is_bento
from models.store import bentoml_store
from models.store_folder import StoreFolder


def find_model(tag: str, models_dir: Path | None, code_folder: Path = CODE_FOLDER) -> StoredModel:
    """Return one model.

    Args:
        tag: `name:version`, where a beginning that only one version has will do; the name alone is the served version.
        models_dir: the folder of VITRINE_MODELS_DIR, which goes first; None where there is none.
        code_folder: where this code lies; in a Bento its `src`.

    Raises:
        BulkError: there is no such model; the message names the nearest.
        StoreError: several versions begin so.
    """
    folders: list[StoreFolder] = [StoreFolder.own(models_dir)] if models_dir is not None else []
    if is_bento(code_folder):  # one that was exported holds its models; one in BentoML's store has them there
        packed = code_folder.parent / "models"
        folders.append(StoreFolder(packed, packed / ".vitrine"))
    folders.append(bentoml_store())
    name, _, version = tag.partition(":")
    installed = [stored for folder in folders for stored in folder.installed()]
    for folder in folders:
        if any(stored.card.name == name and stored.version.startswith(version) for stored in folder.installed()):
            return folder.find(tag)
    names = sorted({stored.card.name for stored in installed})
    known = ", ".join(stored.tag for stored in installed) or "none"
    if name in names:
        raise BulkError(f"There is no version {version} of {name}. Installed: {known}.")
    near = next(iter(difflib.get_close_matches(name, {*names, *bundled_cards()}, 1, 0.5)), "")
    hint = f" Did you mean {near}?" if near not in ("", name) else ""
    if near and near not in names:
        hint += f" It can be installed with `vitrine models import {near}`."
    raise BulkError(f"There is no model {name}.{hint} Installed: {known}.")
