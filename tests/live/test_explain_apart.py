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

from tests.conftest import ROOT
from tests.explain.package import coloured, small_package
from tests.live.server import Server, environment, free_ports, install, serving
from tests.live.test_explain import explaining
from tests.live.test_predictions import post

GRADCAM = ["-m", "bentoml_cli._internal.start", "start-http-server", ".", "--service-name", "gradcam"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """One that was given the address of a runner, and one that started its own; the runner ends with the block."""
    folder = tmp_path_factory.mktemp("apart")
    home = folder / "home"
    install(small_package(folder / "small"), home)
    (port,) = free_ports(1)
    with runner(home, port, folder / "runner.log"):
        there = f"http://127.0.0.1:{port}"
        with serving(home, folder / "apart.log", VITRINE_DEFAULT_MODEL="small", VITRINE_EXPLAIN_URL=there) as apart:
            with serving(home, folder / "own.log", VITRINE_DEFAULT_MODEL="small") as own:
                for each in (apart, own):
                    each.wait_ready()
                    explaining(each, "small")
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
    there, here = (post(each, coloured(4), f"/explain?{query}").json() for each in servers)
    times = [each["explanation"].pop("time_ms") for each in (there, here)]
    assert min(times) > 0 and there["explanation"] == here["explanation"]
    assert (there["gradcam_heatmap"], there["probabilities"]) == (here["gradcam_heatmap"], here["probabilities"])


def test_an_error_from_elsewhere_is_the_clients_own(servers: tuple[Server, Server]) -> None:
    there, here = (post(each, b"no picture", "/explain") for each in servers)
    assert there.status_code == here.status_code == 400
    assert there.json()["detail"] == here.json()["detail"]


def test_a_server_that_was_given_an_address_starts_no_runner_of_its_own(servers: tuple[Server, Server]) -> None:
    assert [len(psutil.Process(each.process.pid).children()) for each in servers] == [1, 2]
