"""The gRPC port of a real server: taken, off, shared by its workers, and at the end.

TLS, streams and health watchers are tested in tests/api/oip.
"""

import contextlib
import queue
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import tritonclient.grpc as triton

from tests.api.oip.served import images, until
from tests.conftest import ROOT
from tests.live.server import Server, install, serving
from tests.tiny import logits_of_plain, plain, tiny_package


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing but the tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    install(tiny_package(folder / "package"), folder / "home")
    return folder / "home"


@contextlib.contextmanager
def tiny_server(home: Path, **settings: str) -> Iterator[Server]:
    """Run a server of the tiny model, ready, without explanations."""
    log = home.parent / f"{'-'.join(settings)}.log"
    with serving(home, log, cwd=ROOT, VITRINE_DEFAULT_MODEL="tiny", VITRINE_EXPLAIN="false", **settings) as server:
        server.wait_ready()
        yield server


def listening_workers(server: Server, port: int) -> set[int]:
    """Return the ids of the server's processes that listen on a port."""
    workers = set[int]()
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            listening = [place for place in process.net_connections("tcp") if place.status == psutil.CONN_LISTEN]
            if any(place.laddr and place.laddr.port == port for place in listening):
                workers.add(process.pid)
    return workers


def test_a_port_that_is_taken_is_logged_and_http_goes_on(home: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another gRPC server holds it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with tiny_server(home, VITRINE_GRPC_PORT=port) as server:
            assert requests.post(f"{server.url}/predict", data=plain(200), timeout=30).status_code == 200
            assert f"gRPC is off: port {port} of 127.0.0.1 cannot be had" in server.log.read_text()


def test_port_zero_turns_grpc_off(home: Path) -> None:
    with tiny_server(home, VITRINE_GRPC_PORT="0") as server:
        assert "gRPC" not in server.log.read_text()
        assert requests.get(f"{server.url}/v2/health/ready", timeout=10).status_code == 200


def test_calls_in_flight_are_answered_after_sigterm(home: Path) -> None:
    # A batch that is not full is held back for a second, so that the calls are surely in flight.
    with tiny_server(home, VITRINE_LINGER_MS="1000", VITRINE_MAX_BATCH="64") as server:
        answers = queue.Queue[Any]()
        with triton.InferenceServerClient(server.grpc) as client:
            for _ in range(8):
                client.async_infer(
                    "tiny", [images(triton, plain(200))], lambda result, error: answers.put((result, error))
                )
            until(lambda: requests.get(f"{server.url}/models/tiny/stats", timeout=10).json()["waiting"] == 8)
            server.terminate()
            for _ in range(8):
                result, error = answers.get(timeout=30)
                assert error is None
                assert result.as_numpy("logits")[0] == pytest.approx(logits_of_plain(200), abs=1e-5)
        assert server.process.wait(30) is not None
        assert "Traceback" not in server.log.read_text()


def test_workers_share_the_port_and_a_killed_one_comes_back_to_it(home: Path) -> None:
    with tiny_server(home, BENTOML_CONFIG_OPTIONS="services.vitrine.workers=2") as server:
        port = int(server.grpc.split(":")[1])
        until(lambda: len(listening_workers(server, port)) == 2)
        killed, other = listening_workers(server, port)
        psutil.Process(killed).kill()
        until(lambda: len(listening_workers(server, port) - {killed}) == 2)
        assert other in listening_workers(server, port)
