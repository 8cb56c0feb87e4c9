"""The image that BentoML makes by itself: it works too."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.conftest import ROOT
from tests.deploy.engine import START_S, Podman, checked
from tests.deploy.test_image import STONE, worker
from tests.live.server import environment, vitrine

pytestmark = pytest.mark.slow
PLAIN = "localhost/vitrine:plain"


def test_plain_bentoml_containerize_serves_without_a_compiler_and_replaces_a_dead_worker(
    podman: Podman, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    vitrine(home, "models", "import", "kidney-stone")
    bentoml = str(Path(sys.executable).with_name("bentoml"))
    settings = environment(home) | podman.building | {"BUILDAH_LAYERS": "true"}
    built = subprocess.run(
        [bentoml, "build", "-o", "tag"], cwd=ROOT, env=settings, capture_output=True, text=True, check=True
    )
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    recipe = (home / "bentos" / tag.replace(":", "/") / "env" / "docker" / "Dockerfile").read_text()
    assert "FROM python:3.11-slim" in recipe and "apt-get" not in recipe
    checked(bentoml, "containerize", tag, "--backend", "buildah", "--image-tag", PLAIN, env=settings)
    with podman.serving(PLAIN, "--memory=1536m", BENTOML_HOME="/tmp/bentoml") as container:
        container.wait_ready()
        assert container.run("id", "-u").strip() == "1034"
        killed = worker(container, "vitrine")
        container.run("sh", "-c", f"kill -9 {killed}")
        deadline = time.monotonic() + START_S
        while worker(container, "vitrine") in (killed, None):
            assert time.monotonic() < deadline, container.logs()
            time.sleep(0.3)
        container.wait_ready()
        assert requests.post(f"{container.url}/predict", data=STONE, timeout=60).json()["prediction"] == "stone"
        podman("kill", "--signal=TERM", container.id)
        assert container.wait_ended(60) == 0
