"""The gRPC port: with TLS, taken, off, and while the server stops."""

import contextlib
import queue
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc as triton
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.live.server import install, serving
from tests.tiny import logits_of_plain, plain, tiny_package


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing but the tiny model."""
    folder = tmp_path_factory.mktemp("tiny")
    install(tiny_package(folder / "package"), folder / "home")
    return folder / "home"


def grey(level: int) -> Any:
    sent = triton.InferInput("image", [1], "BYTES")
    sent.set_data_from_numpy(np.array([plain(level)], object))
    return sent


def test_tls_from_files(home: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with serving(
        home,
        tmp_path / "log",
        VITRINE_DEFAULT_MODEL="tiny",
        VITRINE_GRPC_TLS_CERT=str(tmp_path / "cert.pem"),
        VITRINE_GRPC_TLS_KEY=str(tmp_path / "key.pem"),
    ) as server:
        server.wait_ready()
        with triton.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(tmp_path / "ca.pem")) as client:
            found = client.infer("tiny", [grey(200)]).as_numpy("logits")[0]
            assert found == pytest.approx(logits_of_plain(200), abs=1e-5)
        with triton.InferenceServerClient(server.grpc) as client, pytest.raises(InferenceServerException):
            client.is_server_live(client_timeout=5)


def test_a_port_that_is_taken_is_logged_and_http_goes_on(home: Path, tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as another gRPC server holds it
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with serving(home, tmp_path / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_GRPC_PORT=port) as server:
            server.wait_ready()
            assert requests.post(f"{server.url}/predict", data=plain(200), timeout=30).status_code == 200
            assert f"gRPC is off: port {port} of 127.0.0.1 cannot be had" in server.log.read_text()


def test_what_is_in_flight_is_answered_at_the_end_and_the_port_is_free_again(home: Path, tmp_path: Path) -> None:
    # A full batch is held back for a second, so that the calls are surely in flight.
    with serving(
        home, tmp_path / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_LINGER_MS="1000", VITRINE_MAX_BATCH="64"
    ) as server:
        server.wait_ready()
        answers = queue.Queue[Any]()
        with triton.InferenceServerClient(server.grpc) as client:
            for _ in range(8):
                client.async_infer("tiny", [grey(200)], lambda result, error: answers.put(error or result))
            deadline = time.monotonic() + 30
            while requests.get(f"{server.url}/models/tiny/stats", timeout=10).json()["waiting"] < 8:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            server.terminate()
            for _ in range(8):
                assert answers.get(timeout=30).as_numpy("logits")[0] == pytest.approx(logits_of_plain(200), abs=1e-5)
        assert server.process.wait(30) is not None
        host, port = server.grpc.split(":")
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections linger for a minute
            free.bind((host, int(port)))


def test_zero_turns_it_off(home: Path, tmp_path: Path) -> None:
    with serving(home, tmp_path / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_GRPC_PORT="0") as server:
        server.wait_ready()
        assert "gRPC" not in server.log.read_text()
        assert requests.get(f"{server.url}/v2/health/ready", timeout=10).status_code == 200


def test_open_streams_and_watchers_do_not_hold_up_the_end(home: Path, tmp_path: Path) -> None:
    # What is in flight would be given half a minute.
    with serving(home, tmp_path / "log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_DRAIN_SECONDS="60") as server:
        server.wait_ready()
        with grpc.insecure_channel(server.grpc) as channel, triton.InferenceServerClient(server.grpc) as client:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))
            assert next(watch).status in (0, 1, 2)
            answers = queue.Queue[Any]()
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("tiny", [grey(200)])
            assert answers.get(timeout=30)[0].as_numpy("logits")[0] == pytest.approx(logits_of_plain(200), abs=1e-5)
            server.terminate()
            server.process.wait(20)
        assert "Traceback" not in server.log.read_text()


def test_workers_share_the_port_and_a_killed_one_comes_back_to_it(home: Path, tmp_path: Path) -> None:
    def listening(port: int) -> set[int]:
        found = set()
        for each in psutil.Process(server.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                places = [place.laddr for place in each.net_connections("tcp") if place.status == psutil.CONN_LISTEN]
                found |= {each.pid} if port in [place.port for place in places if place] else set()
        return found

    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, server.log.read_text()
            time.sleep(0.1)

    with serving(
        home,
        tmp_path / "log",
        VITRINE_DEFAULT_MODEL="tiny",
        VITRINE_EXPLAIN="false",
        BENTOML_CONFIG_OPTIONS="services.vitrine.workers=2",
    ) as server:
        server.wait_ready()
        port = int(server.grpc.split(":")[1])
        until(lambda: len(listening(port)) == 2)
        first, second = listening(port)
        psutil.Process(first).kill()
        until(lambda: len(listening(port) - {first}) == 2)
        assert second in listening(port)
