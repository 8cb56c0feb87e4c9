"""What hostile clients must not do to the real server, in small: hold its memory, its connections, its event loop."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from api.keys import add_key
from tests.live.server import Server, install, serving, wait_until
from tests.tiny import plain, tiny_package

DESCRIPTORS, CONNECTIONS = "128", 200
UPLOADS, UPLOAD_BYTES = 8, 16 * 2**20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    install(tiny_package(folder / "package"), folder / "home")
    return folder / "home"


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Server]:
    """A server with few file descriptors, for HTTP and gRPC, that waits for a body no longer than a few seconds."""
    with serving(
        home,
        home.parent / "server.log",
        descriptors=DESCRIPTORS,
        VITRINE_DEFAULT_MODEL="tiny",
        VITRINE_BODY_SECONDS="6",
        VITRINE_HEADER_SECONDS="60",
    ) as running:
        running.wait_ready()
        yield running


def place(server: Server) -> tuple[str, int]:
    parts = urlsplit(server.url)
    return parts.hostname or "", parts.port or 0


def test_health_answers_beside_more_silent_connections_than_there_are_file_descriptors(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            with suppress(ConnectionError):
                stack.enter_context(socket.create_connection(place(server), timeout=60))
        for path in ("/health", "/readyz") * 10:
            assert requests.get(server.url + path, timeout=60).status_code == 200
        assert requests.post(f"{server.url}/predict", data=plain(200), timeout=60).status_code == 200
    log = server.log.read_text()
    assert log.count("VITRINE_MAX_CONNECTIONS allows") == 1 and "Traceback" not in log
    metrics = requests.get(f"{server.url}/metrics", timeout=60).text
    assert 'vitrine_limits_reached_total{limit="connections"}' in metrics


def test_the_memory_of_uploads_that_never_end_goes_back_to_the_system(server: Server) -> None:
    process = server.process_of("vitrine")
    rest = process.memory_info().rss
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n".encode()
    with ExitStack() as stack:
        wires = [stack.enter_context(socket.create_connection(place(server), timeout=60)) for _ in range(UPLOADS)]
        for wire in wires:
            wire.sendall(head + bytes(UPLOAD_BYTES - 1))
        assert process.memory_info().rss > rest + UPLOADS * UPLOAD_BYTES // 2
        for wire in wires:
            assert wire.recv(4096).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: process.memory_info().rss < rest + 2 * UPLOAD_BYTES)


def test_a_pipe_in_place_of_the_keys_stops_nobody(home: Path) -> None:
    file = home.parent / "keys.toml"
    headers = {"X-API-Key": add_key(file, "ci")}
    with serving(
        home, home.parent / "keys.log", VITRINE_DEFAULT_MODEL="tiny", VITRINE_API_KEYS_FILE=str(file)
    ) as running:
        running.wait_ready()
        pipe = file.with_name("pipe")
        os.mkfifo(pipe)
        pipe.replace(file)
        wait_until(lambda: "The keys stay as they were" in running.log.read_text())
        assert "It is a pipe, not a regular file" in running.log.read_text()
        assert requests.get(f"{running.url}/health", timeout=60).status_code == 200
        answer = requests.post(f"{running.url}/predict", data=plain(200), headers=headers, timeout=60)
        assert answer.status_code == 200 and json.loads(answer.text)["prediction"] == "bright"


def test_a_server_does_not_start_with_a_pipe_for_its_keys(home: Path) -> None:
    pipe = home.parent / "pipe"
    os.mkfifo(pipe)
    with serving(home, home.parent / "pipe.log", VITRINE_API_KEYS_FILE=str(pipe)) as running:
        assert running.process.wait(60) != 0
    assert "It is a pipe, not a regular file" in running.log.read_text()
