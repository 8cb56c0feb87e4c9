"""The store that the commands work on: the folder of VITRINE_MODELS_DIR where that is set, else BentoML's."""

import contextlib
from typing import TYPE_CHECKING

from cli.serve import HOME, keep_models_dir
from settings import load_settings

if TYPE_CHECKING:
    from models.store import Store


def open_store() -> "Store":
    """Return the store that the settings name, as `vitrine serve` reads them."""
    # BentoML takes a second to import, which no help should wait for.
    from models.store import Store, bentoml_store

    keep_models_dir()
    with contextlib.chdir(HOME):
        folder = load_settings().models_dir
    return Store.own(folder) if folder is not None else bentoml_store()


def place_of(store: "Store") -> str:
    """Return where a store is, for the line that says what went into it; empty for BentoML's."""
    return f" in {store.models}" if store.is_own else ""
