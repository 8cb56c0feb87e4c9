"""What only sockets can show: clients that hang up, send without an end, or go on after an error."""

import contextlib
import http.client
import json
import socket
from urllib.parse import urlparse

import numpy as np
import pytest
import requests

from api.connections import MAX_HEADER_BYTES
from tests.conftest import encode
from tests.live.server import Server

PNG = encode(np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8))


def address(server: Server) -> tuple[str, int]:
    place = urlparse(server.url)
    return place.hostname or "", place.port or 0


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
def test_a_body_of_too_many_bytes_is_refused_whether_it_is_announced_or_not(server: Server, chunked: bool) -> None:
    data = b"\0" * 50_000_000
    body = (data[at : at + 2**20] for at in range(0, len(data), 2**20)) if chunked else data
    answer = requests.post(f"{server.url}/predict", data=body, timeout=60)
    assert answer.status_code == 413 and "33,554,432" in answer.json()["detail"]


def test_clients_that_hang_up_cost_the_others_nothing(server: Server) -> None:
    for sent in (len(PNG) // 2, len(PNG)):
        for _ in range(8):
            with socket.create_connection(address(server)) as wire:
                head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
                wire.sendall(head + PNG[:sent])
    answers = [requests.post(f"{server.url}/predict", data=PNG, timeout=60).status_code for _ in range(4)]
    assert answers == [200] * 4
    assert "Traceback" not in server.log.read_text()


def test_one_connection_goes_on_after_an_error(server: Server) -> None:
    host, port = address(server)
    connection = http.client.HTTPConnection(host, port, timeout=60)
    for data, status in ((b"no picture at all", 400), (PNG, 200), (b"", 400), (PNG, 200)):
        connection.request("POST", "/predict", data)
        response = connection.getresponse()
        json.loads(response.read())
        assert response.status == status
    connection.close()


def test_headers_without_an_end_are_cut_off(server: Server) -> None:
    with socket.create_connection(address(server), timeout=60) as wire:
        received = b""
        with contextlib.suppress(ConnectionError):  # closed with bytes unread, which may come back as a reset
            wire.sendall(b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * (8 * MAX_HEADER_BYTES))
        with contextlib.suppress(ConnectionError):
            while part := wire.recv(4096):
                received += part
    assert not received or received.startswith(b"HTTP/1.1 400 ")
    assert requests.get(f"{server.url}/health", headers={"X-Long": "a" * 60_000}, timeout=60).status_code == 200


def test_a_deadline_that_cannot_be_met_is_a_504(server: Server) -> None:
    answer = requests.post(f"{server.url}/predict?timeout_ms=1", data=PNG, timeout=60)
    assert answer.status_code == 504 and "deadline" in answer.json()["detail"]
