"""A BentoML store of one's own."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty BENTOML_HOME, for this process and those it starts."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models.model import ModelStore

    folder = tmp_path / "bentoml"
    (folder / "models").mkdir(parents=True)
    (folder / "bentos").mkdir()
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    BentoMLContainer.model_store.set(ModelStore(folder / "models"))
    yield folder
    BentoMLContainer.model_store.reset()
