"""Which versions of which models a service serves: those packed in its Bento, or those that the store's lock names."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from models.package import MANIFEST
from models.store import bentoml_can_open, read_lock, store_path, version_folders

CODE_FOLDER = Path(__file__).resolve().parent.parent

logger = logging.getLogger("vitrine")

NameAndVersion = tuple[str, str]


def served_tags(requested: Sequence[NameAndVersion] = (), code_folder: Path = CODE_FOLDER) -> list[NameAndVersion]:
    """Return name and version of every model that a service serves.

    In a built Bento, whose code is its `src` folder, these are packed models. Elsewhere they are the versions that the
    store's lock names, or any requested version in the store. An unknown or unreadable tag would keep `bentoml serve`
    from starting, so such are logged and left out.

    Args:
        requested: name and beginning of a version (empty: the version in service) of each model that should be served;
            nothing means every model in service. If several versions of a model are requested, the first is the one
            that its name alone means.
        code_folder: where the service's code lies.
    """
    description = code_folder.parent / "bento.yaml"
    if code_folder.name == "src" and description.exists():
        packed = _packed_tags(description)
        return _select(requested, packed, dict(reversed(packed))) if requested else packed
    stored = [(folder.parent.name, folder.name) for folder in version_folders()]
    locked = {name: version for name, version in read_lock().items() if (name, version) in stored}
    selected = _select(requested, stored, locked) if requested else list(locked.items())
    return [(name, version) for name, version in selected if bentoml_can_open(f"{name}:{version}")]


def serves_own_weights(name: str) -> bool:
    """Return whether the served version of a model has an operator's own weights, which an update must not replace."""
    version = dict(served_tags()).get(name, "")
    try:
        manifest = json.loads((store_path() / name / version / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("own_weights", False))


def _packed_tags(description: Path) -> list[NameAndVersion]:
    """Return the tags of the models in a Bento, from its bento.yaml."""
    bento = yaml.safe_load(description.read_text("utf-8"))
    models = [model for part in (bento, *bento.get("services", ())) for model in part.get("models") or ()]
    tags = (str(model["tag"]).partition(":") for model in models)
    return list(dict.fromkeys((name, version) for name, _, version in tags))


def _select(
    requested: Sequence[NameAndVersion], available: Sequence[NameAndVersion], default: Mapping[str, str]
) -> list[NameAndVersion]:
    """Return the available tags that were requested; log those that are missing or ambiguous.

    Args:
        requested: name and beginning of a version of each; an empty version means the default one.
        available: every name and version to select from.
        default: the default version of each name.
    """
    selected: list[NameAndVersion] = []
    for name, beginning in requested:
        prefix = beginning or default.get(name, "")
        matching = [tag for tag in available if tag[0] == name and prefix and tag[1].startswith(prefix)]
        if len(matching) == 1:
            selected += matching
        else:
            known = ", ".join(sorted(version for other, version in available if other == name)) or "none"
            problem = "means several versions" if matching else "is not there"
            tag = f"{name}:{beginning}" if beginning else name
            logger.error("VITRINE_MODELS: %s %s. Versions there: %s.", tag, problem, known)
    return list(dict.fromkeys(selected))
