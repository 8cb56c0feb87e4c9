"""One server with the shipped model for most live tests."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.live.server import Server, environment, serving


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME into which the command line has imported the shipped model."""
    folder = tmp_path_factory.mktemp("bentoml")
    command = [str(Path(sys.executable).with_name("vitrine")), "models", "import", "kidney-stone"]
    ran = subprocess.run(command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=True)
    assert "Imported kidney-stone:" in ran.stdout
    return folder


@pytest.fixture(scope="session")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`bentoml serve`, ready."""
    with serving(home, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running
