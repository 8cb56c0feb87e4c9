"""Which versions of which models a service serves: those packed in its Bento, or in service in a store, and one's own.

An operator's own models lie in the folder of VITRINE_MODELS_DIR and are served beside the others.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from errors import StoreError
from models.asked_models import known_names
from models.followed import FollowedFolders
from models.package import MANIFEST, StoredModel, open_stored
from models.store import bentoml_store
from models.store_folder import StoreFolder

CODE_FOLDER = Path(__file__).resolve().parent.parent

logger = logging.getLogger("vitrine")

NameAndVersion = tuple[str, str]


@dataclass(frozen=True)
class ServedVersions:
    """What a service serves when it starts.

    Attributes:
        packed: name and version of each model of the Bento, or of BentoML's store where the service is in no Bento; a
            build packs these.
        own: name and version of each of an operator's own models.
        clashes: the names that are in both places, of which the packed model is served.
        own_folder: where the operator's own models lie; None where there are none.
        known: the names of all models that are packed, in BentoML's store, or the operator's own.
        problems: a sentence for each requested version that cannot be served.
    """

    packed: list[NameAndVersion]
    own: list[NameAndVersion]
    clashes: list[str]
    own_folder: StoreFolder | None
    known: frozenset[str] = frozenset()
    problems: Sequence[str] = ()

    def open_own(self) -> list[StoredModel]:
        """Return the operator's own models; a damaged one is logged and left out."""
        opened, folder = list[StoredModel](), self.own_folder
        if folder is None:
            return opened
        for name, version in self.own:
            try:
                opened.append(open_stored(folder.models / name / version))
            except StoreError as error:
                logger.error("%s", error)
        return opened

    def check(self) -> None:
        """Raise StoreError if a name means two models; the message says what to do."""
        if self.clashes and self.own_folder:
            name = self.clashes[0]
            raise StoreError(
                f"There are two models {name}: one is packed or in BentoML's store, one in {self.own_folder.models} "
                f"(VITRINE_MODELS_DIR). Remove one of them (`vitrine models remove {name}`), or name the version to "
                f"serve (VITRINE_MODELS={name}:VERSION)."
            )


def served_versions(
    requested: Sequence[NameAndVersion] = (), own_folder: StoreFolder | None = None, code_folder: Path = CODE_FOLDER
) -> ServedVersions:
    """Return name and version of every model that a service serves.

    In a built Bento, whose code is its `src` folder, these are packed models. Elsewhere they are the versions that the
    lock of BentoML's store names, or any requested version in that store. With them come those that the lock of
    `own_folder` names, or that are requested from it. An unknown or unreadable tag would keep `bentoml serve` from
    starting, so such are left out, and `problems` says so.

    Args:
        requested: name and beginning of a version (empty: the version in service) of each model that should be served;
            nothing means every model in service. If several versions of a model are requested, the first is the one
            that its name alone means.
        own_folder: where an operator's own models lie, if anywhere.
        code_folder: where the service's code lies.
    """
    available, default = _available(code_folder)
    own_available, own_default = _installed(own_folder) if own_folder else ([], {})
    own_available = [tag for tag in own_available if tag not in available]
    problems = list[str]()
    if requested:
        selected, problems = _select(requested, [*available, *own_available], own_default | default)
        bare_names = {name for name, version in requested if not version}
    else:
        selected = [*(available if is_bento(code_folder) else default.items()), *own_default.items()]
        bare_names = {*default, *own_default}
    clashes = sorted(
        name for name in bare_names & set(default) & set(own_default) if default[name] != own_default[name]
    )
    own = [tag for tag in selected if tag in own_available and tag[0] not in clashes]
    packed = [tag for tag in dict.fromkeys(selected) if tag in available]
    if not is_bento(code_folder):
        store = bentoml_store()
        packed = [(name, version) for name, version in packed if store.bentoml_can_open(f"{name}:{version}")]
    known = frozenset(name for name, _ in [*available, *own_available])
    return ServedVersions(packed, own, clashes, own_folder, known, problems)


def served_tags(requested: Sequence[NameAndVersion] = (), code_folder: Path = CODE_FOLDER) -> list[NameAndVersion]:
    """Return name and version of every packed model that a service serves; see `served_versions`."""
    return served_versions(requested, None, code_folder).packed


def followed_folders(
    served: ServedVersions, requested: Sequence[NameAndVersion] = (), code_folder: Path = CODE_FOLDER
) -> FollowedFolders:
    """Return the folders that a service follows: BentoML's store, unless it is a built Bento, and one's own.

    Args:
        served: what it serves when it starts.
        requested: as `served_versions`.
        code_folder: where the service's code lies.
    """
    store = [] if is_bento(code_folder) else [bentoml_store()]
    own = [served.own_folder] if served.own_folder is not None else []
    packed = {name for name, version in served.packed} if is_bento(code_folder) else set()
    pinned = {name for name, version in requested if version}
    chosen = frozenset(name for name, version in requested)
    return FollowedFolders([*store, *own], frozenset(packed | pinned), chosen, served.known)


def serves_own_weights(name: str) -> bool:
    """Return whether the served version of a model has an operator's own weights, which an update must not replace."""
    version = dict(served_tags()).get(name, "")
    try:
        manifest = json.loads((bentoml_store().models / name / version / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(manifest.get("own_weights", False))


def is_bento(code_folder: Path = CODE_FOLDER) -> bool:
    """Return whether a folder of code is that of a built Bento, whose models never change."""
    return code_folder.name == "src" and (code_folder.parent / "bento.yaml").exists()


def versions_in_bentos(folder: Path) -> list[NameAndVersion]:
    """Return name and version of every model that a Bento in BentoML's store of Bentos packs."""
    return [tag for description in folder.glob("*/*/bento.yaml") for tag in _packed_tags(description)]


def _available(code_folder: Path) -> tuple[list[NameAndVersion], dict[str, str]]:
    """Return every name and version that could be served, and the default version of each name."""
    if not is_bento(code_folder):
        return _installed(bentoml_store())
    packed = _packed_tags(code_folder.parent / "bento.yaml")
    return packed, dict(reversed(packed))


def _installed(folder: StoreFolder) -> tuple[list[NameAndVersion], dict[str, str]]:
    """Return every name and version in a folder, and the version of each name that its lock names, if it is there."""
    tags = [(path.parent.name, path.name) for path in folder.version_folders()]
    return tags, {name: version for name, version in folder.read_lock().items() if (name, version) in tags}


def _packed_tags(description: Path) -> list[NameAndVersion]:
    """Return the tags of the models in a Bento, from its bento.yaml."""
    bento = yaml.safe_load(description.read_text("utf-8"))
    models = [model for part in (bento, *bento.get("services", ())) for model in part.get("models") or ()]
    tags = (str(model["tag"]).partition(":") for model in models)
    return list(dict.fromkeys((name, version) for name, _, version in tags))


def _select(
    requested: Sequence[NameAndVersion], available: Sequence[NameAndVersion], default: Mapping[str, str]
) -> tuple[list[NameAndVersion], list[str]]:
    """Return the available tags that were requested, and a sentence for each that is missing or ambiguous.

    Args:
        requested: name and beginning of a version of each; an empty version means the default one.
        available: every name and version to select from.
        default: the default version of each name.
    """
    selected, problems = list[NameAndVersion](), list[str]()
    names = {name for name, _ in available}
    for name, beginning in requested:
        prefix = beginning or default.get(name, "")
        matching = [tag for tag in available if tag[0] == name and prefix and tag[1].startswith(prefix)]
        if len(matching) == 1:
            selected += matching
        else:
            known = ", ".join(sorted(version for other, version in available if other == name)) or "none"
            problem = "means several versions" if matching else "is not there"
            tag = f"{name}:{beginning}" if beginning else name
            advice = f"Versions there: {known}." if name in names else known_names(name, names)
            problems.append(f"VITRINE_MODELS: {tag} {problem}. {advice}")
    return list(dict.fromkeys(selected)), problems
