"""Keys on the real server: over HTTP and gRPC, with every client, in every worker."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bentoml
import grpc
import numpy as np
import psutil
import pytest
import requests
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from api.keys import add_key, remove_key
from api.restrictions import Restrictions
from tests.conftest import ROOT
from tests.live.server import Server, environment, free_ports, install, serving, wait_until
from tests.tiny import logits_of_plain, plain, tiny_package


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    install(tiny_package(folder / "package"), folder / "home")
    return folder / "home"


@pytest.fixture(scope="module")
def file(home: Path) -> Path:
    return home.parent / "keys.toml"


@pytest.fixture(scope="module")
def key(file: Path) -> str:
    return add_key(file, "reader-7")


@pytest.fixture(scope="module")
def server(home: Path, file: Path, key: str) -> Iterator[Server]:
    """Two workers and the Grad-CAM runner, with keys."""
    with serving(
        home,
        home.parent / "server.log",
        VITRINE_DEFAULT_MODEL="tiny",
        VITRINE_WORKERS="2",
        VITRINE_API_KEYS_FILE=str(file),
    ) as running:
        running.wait_ready()  # which has no key
        yield running


def predict(server: Server, key: str) -> int:
    """One picture over a connection of its own, which any worker may take."""
    return requests.post(f"{server.url}/predict", data=plain(200), headers={"X-API-Key": key}, timeout=30).status_code


def test_all_workers_let_through_as_many_requests_together_as_the_quota_says(server: Server, file: Path) -> None:
    size, most = len(plain(200)), 12
    added = add_key(file, "limited", restrictions=Restrictions(models=("tiny",), bytes_per_day=most * size))
    wait_until(lambda: is_known(server, added))
    statuses = [predict(server, added) for _ in range(3 * most)]
    assert statuses.count(200) == most and statuses.count(429) == 2 * most


def is_known(server: Server, key: str) -> bool:
    """Return whether a key was known over each of many connections, which reach all workers."""
    answers = [requests.get(f"{server.url}/models", headers={"X-API-Key": key}, timeout=30) for _ in range(16)]
    return all(answer.status_code == 200 for answer in answers)


def test_only_probes_are_answered_without_a_key(server: Server) -> None:
    for path in ("/health", "/readyz", "/v2/health/live"):
        assert requests.get(server.url + path, timeout=30).status_code == 200
    for path in ("/models", "/metrics", "/schema.json", "/nothing"):  # ours, and BentoML's behind them
        answer = requests.get(server.url + path, timeout=30)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert answer.json()["detail"].startswith("A key is needed here") and "tiny" not in answer.text


@pytest.mark.parametrize("name", ["Authorization", "X-API-Key"])
def test_a_key_opens_our_routes_and_bentomls(server: Server, key: str, name: str) -> None:
    headers = {name: f"BEARER {key}" if name == "Authorization" else key}
    for path in ("/models", "/metrics", "/schema.json"):
        assert requests.get(server.url + path, headers=headers, timeout=30).status_code == 200
    answer = requests.post(f"{server.url}/predict", data=plain(200), headers=headers, timeout=30)
    assert answer.json()["prediction"] == "bright"


def test_a_large_upload_without_a_key_is_refused_before_it_is_sent(server: Server) -> None:
    place = urlsplit(server.url)
    head = f"POST /predict HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Length: {32 * 2**20}\r\n"
    with socket.create_connection((place.hostname, place.port), timeout=30) as wire:
        wire.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert wire.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_connection_goes_on_after_a_refusal(server: Server, key: str) -> None:
    with requests.Session() as session:
        assert session.post(f"{server.url}/predict", data=bytes(8 * 2**20), timeout=60).status_code == 401
        answer = session.post(f"{server.url}/predict", data=plain(200), headers={"X-API-Key": key}, timeout=30)
        assert answer.status_code == 200


def test_bentomls_client_takes_the_key_as_its_token(server: Server, key: str) -> None:
    with bentoml.SyncHTTPClient(server.url, token=key) as client:
        assert client.predict(plain(200))["prediction"] == "bright"


def test_tritons_clients_send_it_as_a_header_and_as_metadata(server: Server, key: str) -> None:
    place = server.url.removeprefix("http://")
    for module, where in ((triton_http, place), (triton_grpc, server.grpc)):
        sent = module.InferInput("image", [1], "BYTES")
        sent.set_data_from_numpy(np.array([plain(200)], object))
        with module.InferenceServerClient(where) as client:
            assert client.is_server_live() and client.is_server_ready()
            for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key}):
                logits = client.infer("tiny", [sent], headers=headers).as_numpy("logits")
                assert logits[0] == pytest.approx(logits_of_plain(200), abs=1e-5)
            with pytest.raises(InferenceServerException, match="needed"):
                client.infer("tiny", [sent])


def test_no_call_of_grpc_but_health_is_answered_without_a_key(server: Server, key: str) -> None:
    def raw(channel: grpc.Channel, method: str, *metadata: tuple[str, str]) -> grpc.StatusCode:
        call: Any = channel.stream_stream(method)(iter(()), metadata=metadata, timeout=30)
        with pytest.raises(grpc.RpcError):
            list(call)
        code: grpc.StatusCode = call.code()
        if code is grpc.StatusCode.UNAUTHENTICATED and ("x-request-id", "mine-7") in metadata:
            assert ("x-request-id", "mine-7") in [tuple(entry) for entry in call.trailing_metadata()]
        return code

    wrong = (("x-api-key", "vk_wrong"), ("x-request-id", "mine-7"))
    with grpc.insecure_channel(server.grpc) as channel:
        for method in (
            "/inference.GRPCInferenceService/ModelInfer",
            "/inference.GRPCInferenceService/ModelStreamInfer",
            "/inference.GRPCInferenceService/RepositoryIndex",
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            "/nobody.has/This",
            "/grpc.health.v1.Health/Nothing",
        ):
            assert raw(channel, method) is grpc.StatusCode.UNAUTHENTICATED
            assert raw(channel, method, *wrong) is grpc.StatusCode.UNAUTHENTICATED
        assert raw(channel, "/nobody.has/This", ("x-api-key", key)) is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError):
            ProtoReflectionDescriptorDatabase(channel).get_services()
        request = health_pb2.HealthCheckRequest(service="")
        assert health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status == 1


def test_a_stream_needs_the_key_once(server: Server, key: str) -> None:
    answers: list[Any] = []
    sent = triton_grpc.InferInput("image", [1], "BYTES")
    sent.set_data_from_numpy(np.array([plain(200)], object))
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.append((result, error)), headers={"x-api-key": key})
        client.async_stream_infer("tiny", [sent])
        client.async_stream_infer("tiny", [sent])
        wait_until(lambda: len(answers) == 2)
    assert [error for _, error in answers] == [None, None]


def test_every_worker_takes_a_new_key_and_drops_a_removed_one(server: Server, file: Path, key: str) -> None:
    new = add_key(file, "late")
    wait_until(lambda: all(predict(server, new) == 200 for _ in range(12)))
    remove_key(file, "late")
    wait_until(lambda: all(predict(server, new) == 401 for _ in range(12)))
    good = file.read_text()
    file.write_text("damaged")

    def is_logged() -> bool:
        assert all(predict(server, key) == 200 for _ in range(12))
        return "The keys stay as they were" in server.log.read_text()

    wait_until(is_logged)
    file.write_text(good)


def test_the_log_names_whose_key_it_was_and_never_the_key(server: Server, key: str) -> None:
    wrong = "vk_" + "w" * 43
    assert (predict(server, key), predict(server, wrong)) == (200, 401)
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        assert client.get_server_metadata(headers={"x-api-key": key}).name
        with pytest.raises(InferenceServerException):
            client.get_server_metadata(headers={"x-api-key": wrong})

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]

    def seen() -> set[tuple[str, Any, str]]:
        return {(line["method"], line["status"], line["key"]) for line in lines()}

    expected = {
        ("POST", 200, "reader-7"),
        ("POST", 401, ""),
        ("gRPC", "OK", "reader-7"),
        ("gRPC", "UNAUTHENTICATED", ""),
    }
    wait_until(lambda: expected <= seen())
    log = server.log.read_text()
    assert key not in log and wrong not in log
    counted = requests.get(f"{server.url}/metrics", headers={"X-API-Key": key}, timeout=30).text
    assert 'status="401"' in counted and 'status="UNAUTHENTICATED"' in counted and "reader-7" not in counted


def test_the_grad_cam_runner_and_bentomls_own_ports_are_closed_to_other_machines(server: Server) -> None:
    public = {urlsplit(server.url).port, int(server.grpc.split(":")[1])}
    processes = [(top := psutil.Process(server.process.pid)), *top.children(recursive=True)]
    assert any("gradcam" in process.cmdline() for process in processes)
    connections = [connection for process in processes for connection in process.net_connections("tcp")]
    places = [connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN]
    assert public <= {place.port for place in places}
    assert {place.ip for place in places if place.port not in public} <= {"127.0.0.1", "::1"}


def test_a_server_for_other_machines_does_not_start_without_keys(home: Path) -> None:
    port, grpc_port = free_ports(2)
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "--host", "0.0.0.0", "--port", str(port)]
    settings = {"VITRINE_DEFAULT_MODEL": "tiny", "VITRINE_GRPC_PORT": str(grpc_port)}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment(home, **settings), capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 1
    (line,) = [line for line in ran.stderr.splitlines() if "Error" in line]
    assert line.startswith("Error: Other machines reach 0.0.0.0, so keys are needed: make one with `vitrine keys add")
    assert "Traceback" not in ran.stderr
