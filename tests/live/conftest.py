"""One server with the shipped model for most live tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.server import Server, serving, vitrine


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME into which the command line has imported the shipped model."""
    folder = tmp_path_factory.mktemp("bentoml")
    assert "Imported kidney-stone:" in vitrine(folder, "models", "import", "kidney-stone")
    return folder


@pytest.fixture(scope="session")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve`, ready."""
    with serving(home, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same with every model that ships with weights."""
    folder = tmp_path_factory.mktemp("shipped")
    for name in ("kidney-stone", "churn", "machine-anomaly"):
        vitrine(folder, "models", "import", name)
    with serving(folder, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running
