"""The Grad-CAM runner started by itself, as deploy/kubernetes/components/gradcam does it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import requests

from tests.conftest import ROOT, encode
from tests.live.server import Server, environment, free_ports, install, serving
from tests.live.test_predictions import post
from tests.tiny import bright_square, tiny_package

GRADCAM = ["-m", "bentoml_cli._internal.start", "start-http-server", ".", "--service-name", "gradcam"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """One that was given the address of a runner, and one that started its own; the runner ends with the block."""
    folder = tmp_path_factory.mktemp("apart")
    home = folder / "home"
    install(tiny_package(folder / "tiny", explained=True), home)
    (port,) = free_ports(1)
    with runner(home, port, folder / "runner.log"):
        there = f"http://127.0.0.1:{port}"
        with serving(home, folder / "apart.log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_EXPLAIN_URL=there) as apart:
            with serving(home, folder / "own.log", VITRINE_DEFAULT_MODEL="tiny") as own:
                for server in (apart, own):
                    server.wait_ready()
                    server.wait_explaining("tiny")
                for probe in ("livez", "readyz"):
                    assert requests.get(f"{there}/{probe}", timeout=10).status_code == 200
                yield apart, own


@contextmanager
def runner(home: Path, port: int, log: Path) -> Iterator[None]:
    """Run the service `gradcam` alone until the block ends."""
    command = [sys.executable, *GRADCAM, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        settings = environment(home, VITRINE_GRPC_PORT="0")
        process = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=file, stderr=file)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text()


@pytest.mark.parametrize("query", ["output=overlay", "output=map&method=gradcam%2B%2B", "output=heatmap&size=input"])
def test_explanations_from_elsewhere_are_those_from_here(servers: tuple[Server, Server], query: str) -> None:
    there, here = (post(server, encode(bright_square()), f"/explain?{query}").json() for server in servers)
    times = [answer["explanation"].pop("time_ms") for answer in (there, here)]
    assert min(times) > 0 and there["explanation"] == here["explanation"]
    assert (there["gradcam_heatmap"], there["probabilities"]) == (here["gradcam_heatmap"], here["probabilities"])


def test_an_error_from_elsewhere_is_the_clients_own(servers: tuple[Server, Server]) -> None:
    there, here = (post(server, b"no picture", "/explain") for server in servers)
    assert there.status_code == here.status_code == 400
    assert there.json()["detail"] == here.json()["detail"]


def test_a_server_that_was_given_an_address_starts_no_runner_of_its_own(servers: tuple[Server, Server]) -> None:
    assert [len(psutil.Process(server.process.pid).children()) for server in servers] == [1, 2]
