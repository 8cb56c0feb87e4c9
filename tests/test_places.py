"""Paths that the code computes from its own place hold in a clone, in an installed package and in a built Bento."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.live.server import environment
from tests.source import copy_of_the_source

IN_THE_CLONE = {"deploy/container/image.py", "deploy/haproxy/balancer.py", "loadtests/server.py"}
IN_THE_CLONE_AND_THE_PACKAGE = {"cli/serve.py", "export/explanation_cost.py", "export/rows/importing.py"}
IN_THE_PACKAGE = (
    ("cli.serve", "HOME"),
    ("export.explanation_cost", "CODE_FOLDER"),
    ("export.rows.importing", "CODE_FOLDER"),
)
"""The module and the name of each of these paths."""
EVERYWHERE = {"api/page.py", "models/registry.py", "models/served_versions.py", "preprocessing/sandbox/process.py"}
IN_THE_IMAGE = {"deploy/container/entrypoint.py"}
"""Run by the tests of the image."""

ALONE = "import sys; sys.meta_path = [finder for finder in sys.meta_path if '_EditableFinder' not in str(finder)]\n"
"""Takes away what would find a module in the clone that this environment's own Vitrine is installed from."""
PROBE = """
import json
from importlib import import_module
from api.app import DOCUMENTATION
from api.page import STATIC
from models import registry, served_versions
from preprocessing.sandbox import process

places = {"code": str(served_versions.CODE_FOLDER), "decoding": str(process.CODE_FOLDER)}
places["static"] = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.*"))
places["documentation"] = sorted(path.name for path in DOCUMENTATION.iterdir())
places["cards"] = sorted(registry.bundled_cards())
places["shipped"] = [name for name in registry.bundled_cards() if registry.has_weights(name)]
places["served"] = [name for name, version in served_versions.served_tags()]
for module, attribute in OTHERS:
    places[f"{module}.{attribute}"] = str(getattr(import_module(module), attribute))
print(json.dumps(places))
"""
CARDS = ["churn", "cifar10", "imagenet", "kidney-stone", "machine-anomaly"]
SHIPPED = ["churn", "kidney-stone", "machine-anomaly"]
PAGE = sorted(path.relative_to(ROOT / "api/static").as_posix() for path in (ROOT / "api/static").rglob("*.*"))


def python(program: str, code: Path, home: Path, cwd: Path) -> str:
    """Run a program with the code of one folder and no other; return what it printed."""
    command = [sys.executable, "-P", "-c", ALONE + program]
    settings = environment(home) | {"PYTHONPATH": str(code)}
    ran = subprocess.run(command, cwd=cwd, env=settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def probe(code: Path, home: Path, cwd: Path, *others: tuple[str, str]) -> dict[str, Any]:
    """Return what the code in a folder finds by the paths that it computes from its own place."""
    places: dict[str, Any] = json.loads(python(PROBE.replace("OTHERS", str(others)), code, home, cwd))
    assert places["code"] == places["decoding"] == str(code)
    assert places["static"] == PAGE and places["documentation"] == ["redoc.html", "swagger.html"]
    assert places["cards"] == CARDS
    return places


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the project into, without what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    install += ["--no-build-isolation", "--target", str(folder / "site"), "."]
    ran = subprocess.run(install, cwd=copy_of_the_source(folder / "source"), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def home(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store into which the installed package has imported a model that it ships."""
    folder = tmp_path_factory.mktemp("home")
    program = "from cli.main import main; main(['models', 'import', 'kidney-stone'])"
    assert "kidney-stone:" in python(program, installed, folder, folder)
    return folder


def test_every_path_that_is_computed_from_a_files_place_is_tried_here() -> None:
    listed = subprocess.run(
        ["git", "grep", "-lF", "Path(__file__)", "--", "*.py", ":!tests"], cwd=ROOT, capture_output=True
    )
    assert set(listed.stdout.decode().split()) == (
        IN_THE_CLONE | IN_THE_CLONE_AND_THE_PACKAGE | EVERYWHERE | IN_THE_IMAGE
    )


def test_a_clone_finds_its_files(home: Path, tmp_path: Path) -> None:
    others = (*IN_THE_PACKAGE, ("loadtests.server", "ROOT"), ("deploy.container.image", "ROOT"))
    balancer = ("deploy.haproxy.balancer", "CONFIGURATION")
    places = probe(ROOT, home, tmp_path, *others, ("deploy.container.image", "HERE"), balancer)
    assert places["shipped"] == SHIPPED and places["served"] == ["kidney-stone"]
    assert {places[f"{module}.{attribute}"] for module, attribute in others} == {str(ROOT)}
    assert (Path(places["deploy.container.image.HERE"]) / "Dockerfile").exists()
    assert Path(places["deploy.haproxy.balancer.CONFIGURATION"]).exists()


def test_an_installed_package_finds_its_files_and_imports_a_model_that_it_ships(
    installed: Path, home: Path, tmp_path: Path
) -> None:
    places = probe(installed, home, tmp_path, *IN_THE_PACKAGE)
    assert places["shipped"] == SHIPPED and places["served"] == ["kidney-stone"]
    assert places["export.rows.importing.CODE_FOLDER"] == str(installed)
    assert (Path(places["cli.serve.HOME"]) / "service.py").exists()  # what `vitrine serve` starts


def test_a_built_bento_finds_its_files_and_serves_what_it_packed(home: Path, tmp_path: Path) -> None:
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    settings = environment(home) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    built = subprocess.run([bentoml, "build"], cwd=ROOT, env=settings, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (description,) = home.glob("bentos/*/*/bento.yaml")
    places = probe(description.parent / "src", tmp_path / "another-home", tmp_path)
    assert places["shipped"] == [] and places["served"] == ["kidney-stone"]
    packed = {path.name for path in (description.parent / "src").iterdir()}
    assert not packed & {"cli", "deploy", "docs", "export", "loadtests", "tests", "training", "tuning"}
