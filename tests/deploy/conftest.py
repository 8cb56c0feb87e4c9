"""One Podman, one image and one set of build contexts for all tests of what is deployed."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.deploy.contexts import Contexts, prepare
from tests.deploy.engine import Podman, checked, find_podman, missing_programs
from tests.deploy.kustomize import missing
from tests.deploy.rootfs import Bootstrap
from tests.live.server import environment
from tests.source import copy_of_the_source

IMAGE = "localhost/vitrine:test"
BOOTSTRAP = pytest.StashKey[Bootstrap]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start to download the base image's packages, which takes more than a minute, while other tests run."""
    if any("podman" in getattr(item, "fixturenames", ()) for item in session.items) and not missing_programs():
        session.config.stash[BOOTSTRAP] = Bootstrap()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the download if the tests ended before it."""
    if bootstrap := config.stash.get(BOOTSTRAP, None):
        bootstrap.stop()


@pytest.fixture(scope="session")
def haproxy() -> None:
    """HAProxy, or the reason why what needs it is not run."""
    if not shutil.which("haproxy"):
        missing("haproxy", "Install 2.6 or newer: apt-get install haproxy")


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Podman:
    """Podman, with the base image that the Dockerfiles name."""
    return find_podman(tmp_path_factory.mktemp("podman"), pytestconfig.stash.get(BOOTSTRAP, None))


@pytest.fixture(scope="session")
def image_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BENTOML_HOME that `make image` has put the shipped models into."""
    return tmp_path_factory.mktemp("image-store")


@pytest.fixture(scope="session")
def contexts(image_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    """Three build contexts, made from two stores."""
    folder = tmp_path_factory.mktemp("contexts")
    here = prepare(folder / "here", image_store)
    source = copy_of_the_source(folder / "source")
    elsewhere = prepare(folder / "elsewhere", folder / "home", source)
    (source / "errors.py").write_text((source / "errors.py").read_text() + "\n# A change.\n")
    return Contexts(here, elsewhere, prepare(folder / "changed", folder / "home", source))


@pytest.fixture(scope="session")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bill of materials of `image` is written."""
    return tmp_path_factory.mktemp("sbom") / "vitrine.cdx.json"


@pytest.fixture(scope="session")
def image(podman: Podman, image_store: Path, sbom: Path) -> str:
    """The tag of the CPU image, which `make image` has built."""
    options = ["--engine=podman", f"--tag={IMAGE}", f"--sbom={sbom}"]
    settings = environment(image_store) | podman.building
    checked(sys.executable, "-m", "deploy.container.image", *options, env=settings)
    return IMAGE
