"""One server with the shipped models for most live tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.server import Server, serving, vitrine

SHIPPED_MODELS = ("kidney-stone", "churn", "machine-anomaly")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME into which the command line has imported every model that ships with weights."""
    folder = tmp_path_factory.mktemp("bentoml")
    for name in SHIPPED_MODELS:
        assert f"Imported {name}:" in vitrine(folder, "models", "import", name)
    return folder


@pytest.fixture(scope="session")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve`, ready."""
    with serving(home, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running
