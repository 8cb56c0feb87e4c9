"""One Podman and one image for all tests of what is deployed."""

import sys
from pathlib import Path

import pytest

from tests.deploy.engine import Podman, checked, find_podman
from tests.live.server import environment

IMAGE = "localhost/vitrine:test"


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman, with the base image that the Dockerfiles name."""
    return find_podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="session")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME that `make image` has put the shipped models into."""
    return tmp_path_factory.mktemp("image-store")


@pytest.fixture(scope="session")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bill of materials of `image` is written."""
    return tmp_path_factory.mktemp("sbom") / "vitrine.cdx.json"


@pytest.fixture(scope="session")
def image(podman: Podman, image_store: Path, sbom: Path) -> str:
    """The CPU image as `make image` builds it; gives its tag."""
    options = ["--engine=podman", f"--tag={IMAGE}", f"--sbom={sbom}"]
    settings = environment(image_store) | podman.building
    checked(sys.executable, "-m", "deploy.container.image", *options, env=settings)
    return IMAGE
