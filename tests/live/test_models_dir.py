"""Models of VITRINE_MODELS_DIR on the real server, beside those of the store."""

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from models.store import Store
from tests.conftest import ROOT
from tests.live.server import environment, free_ports, install, serving
from tests.tiny import logits_of_plain, plain, tiny_package


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with the model `tiny`."""
    install(tiny_package(tmp_path / "tiny"), tmp_path / "home")
    return tmp_path / "home"


def test_a_read_only_folder_is_served_beside_the_store(home: Path, tmp_path: Path) -> None:
    own = Store.own(tmp_path / "own")
    version = own.import_package(tiny_package(tmp_path / "mine", "mine", explained=True))[0].version
    for folder in [own.models, *own.models.rglob("*")]:
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    chosen = {"VITRINE_MODELS_DIR": str(own.models), "VITRINE_DEFAULT_MODEL": "tiny"}
    with serving(home, tmp_path / "server.log", cwd=ROOT, **chosen) as server:
        server.wait_ready()
        for name in ("tiny", "mine"):
            answer = requests.post(f"{server.url}/models/{name}/predict", data=plain(200), timeout=30).json()
            logit = float(logits_of_plain(200)[1] - logits_of_plain(200)[0])
            assert answer["probabilities"]["bright"] == pytest.approx(1 / (1 + 2.718281828**-logit), abs=1e-4)
        assert answer["version"] == version
        server.wait_explaining("mine")
        assert requests.post(f"{server.url}/models/mine/explain", data=plain(200), timeout=30).status_code == 200
    for folder in [own.models, *own.models.rglob("*")]:
        folder.chmod(0o755)


def test_a_name_in_both_places_is_refused_at_the_start(home: Path, tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "again")
    (package / "weights.safetensors").write_bytes(b"mine")
    Store.own(tmp_path / "own").import_package(package)
    port, grpc_port = free_ports(2)
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "--port", str(port)]
    settings = {"VITRINE_MODELS_DIR": str(tmp_path / "own"), "VITRINE_GRPC_PORT": str(grpc_port)}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(home, **settings), capture_output=True, text=True, timeout=120
    )
    (line,) = [line for line in ran.stderr.splitlines() if "Error" in line]
    assert (
        ran.returncode == 1 and line.startswith("Error: There are two models tiny: ") and "Traceback" not in ran.stderr
    )
