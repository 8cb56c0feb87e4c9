"""Connections whose clients are silent, endless or too many: each is closed in time, and health is reachable."""

import logging
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from api.connections import MAX_HEADERS, RESERVED, most_connections
from api.keys import add_key
from models.package import StoredModel
from settings import Settings
from tests.api.serving import PATIENCE_S, Served, get, post, read_to_end, serving
from tests.live.server import wait_until
from tests.tiny import plain, seal, tiny_package

MOST = 4
KEEP_ALIVE_S = 5
"""uvicorn's own time for an idle connection, in seconds."""


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    return seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny"))


@pytest.fixture(scope="module")
def hasty(stored: StoredModel) -> Iterator[Served]:
    """A server that waits a second for a request's headers and for a client to take its answer."""
    with serving(stored, header_seconds=1.0, body_seconds=1.0) as served:
        yield served


@pytest.fixture(scope="module")
def narrow(stored: StoredModel) -> Iterator[Served]:
    """A server that takes few connections, and waits for ever."""
    with serving(stored, max_connections=MOST, header_seconds=1e6, body_seconds=1e6) as served:
        yield served


def reached(limit: str) -> float:
    """Return how often the metrics say that a limit was reached."""
    return REGISTRY.get_sample_value("vitrine_limits_reached_total", {"limit": limit}) or 0.0


def is_open(wire: socket.socket) -> bool:
    """Return whether the server has not closed a connection on which it says nothing."""
    return not select.select([wire], [], [], 0)[0]


def is_closed_after(wire: socket.socket, data: bytes) -> bool:
    """Return whether the server has closed a connection; if not, send some more."""
    if is_open(wire):
        wire.sendall(data)
    return not is_open(wire)


def busy(served: Served, stack: ExitStack, count: int) -> list[socket.socket]:
    """Begin so many uploads that do not end, each on a connection of its own, and wait until the server reads them."""
    wires = []
    for _ in range(count):
        wires.append(stack.enter_context(served.connect(post(25_000, b"", "/predict", "Expect: 100-continue"))))
        assert wires[-1].recv(4096).startswith(b"HTTP/1.1 100 ")
    return wires


@pytest.mark.parametrize("sent", [b"", b"\r\n\r\n", b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_whole_request_is_closed(hasty: Served, sent: bytes) -> None:
    before = reached("header_seconds")
    assert hasty.ask(sent) == b""
    assert reached("header_seconds") == before + 1


def test_headers_that_come_one_after_the_other_are_cut_off(hasty: Served) -> None:
    with hasty.connect(b"GET /health HTTP/1.1\r\nHost: x\r\n") as wire:
        wait_until(lambda: is_closed_after(wire, b"x-more: and more\r\n"))
        assert read_to_end(wire) == b""


def test_more_headers_than_anyone_needs_are_a_400(hasty: Served) -> None:
    answer = hasty.ask(b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * (MAX_HEADERS + 1))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_an_idle_connection_is_closed_also_if_it_sends_empty_lines(hasty: Served) -> None:
    before = reached("header_seconds")
    with hasty.connect(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") as wire:
        answer = b""
        while not answer.endswith(b'{"status":"alive"}'):
            answer += wire.recv(4096)
        wait_until(lambda: is_closed_after(wire, b"\r\n"))
        assert read_to_end(wire) == b""
    assert reached("header_seconds") == before  # being idle is no offence


def test_a_client_that_does_not_take_its_answers_is_cut_off(hasty: Served) -> None:
    before = reached("body_seconds")
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", hasty.port))
        wire.settimeout(PATIENCE_S)
        wire.sendall(asked * 400)
        wait_until(lambda: reached("body_seconds") > before)


def test_the_newest_connections_take_the_place_of_those_that_are_idle_longest(narrow: Served) -> None:
    with ExitStack() as stack:
        silent = [stack.enter_context(narrow.connect()) for _ in range(3 * MOST)]
        for wire in silent[: 2 * MOST]:
            assert read_to_end(wire) == b""
        assert narrow.ask(get("/health")).startswith(b"HTTP/1.1 200 ")
        assert [is_open(wire) for wire in silent[-MOST:]] == [False] + [True] * (MOST - 1)


def test_the_limit_is_counted_every_time_and_logged_once_a_minute(
    stored: StoredModel, caplog: pytest.LogCaptureFixture
) -> None:
    before = reached("connections")
    with caplog.at_level(logging.WARNING, "vitrine.limits"), ExitStack() as stack:
        with serving(stored, max_connections=MOST) as served:
            silent = [stack.enter_context(served.connect()) for _ in range(3 * MOST)]
            for wire in silent[: 2 * MOST]:
                assert read_to_end(wire) == b""
    assert reached("connections") >= before + 2 * MOST
    lines = [record.message for record in caplog.records if "VITRINE_MAX_CONNECTIONS" in record.message]
    assert len(lines) == 1


def test_beside_connections_that_are_all_busy_health_alone_is_answered(narrow: Served) -> None:
    with ExitStack() as stack:
        busy(narrow, stack, MOST)
        answer = narrow.ask(get("/models"))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer.lower() and b"more connections than this server takes" in answer
        for path in ("/health", "/livez", "/readyz", "/v2/health/live"):
            assert narrow.ask(get(path)).startswith(b"HTTP/1.1 200 ")
        for _ in range(2 * RESERVED):
            stack.enter_context(narrow.connect())
        assert narrow.ask(get("/health")).startswith(b"HTTP/1.1 200 ")
    picture = plain(200)
    whole = post(len(picture), picture, "/predict", "Connection: close")
    wait_until(lambda: narrow.ask(whole).startswith(b"HTTP/1.1 200 "))  # once the server has noticed that they hung up


def test_uploads_never_fill_the_places_for_health(narrow: Served) -> None:
    with ExitStack() as stack:
        busy(narrow, stack, MOST)
        for _ in range(RESERVED + 20):
            wire = stack.enter_context(narrow.connect(post(25_000, b"a few bytes")))
            assert wire.recv(4096).startswith(b"HTTP/1.1 503 ")
        assert narrow.ask(get("/health")).startswith(b"HTTP/1.1 200 ")


def test_a_connection_of_which_there_was_one_too_many_is_answered_once_there_is_room(narrow: Served) -> None:
    asked = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        wires = busy(narrow, stack, MOST)
        late = stack.enter_context(narrow.connect(asked))
        assert late.recv(65_536).startswith(b"HTTP/1.1 503 ")
        wires[0].close()

        def is_answered() -> bool:
            late.sendall(asked)
            return late.recv(65_536).startswith(b"HTTP/1.1 200 ")

        wait_until(is_answered)  # once the server has noticed that one hung up


def test_a_process_without_file_descriptors_closes_idle_connections(stored: StoredModel) -> None:
    before, limits = reached("descriptors"), resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(stored, header_seconds=1e6) as served, served.connect() as wire:
        assert served.ask(get("/health"))  # on a later connection, so the silent one has been accepted
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # all of these are taken
        try:
            assert read_to_end(wire) == b""
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert reached("descriptors") > before
        assert served.ask(get("/health")).startswith(b"HTTP/1.1 200 ")


def test_a_connection_to_grpc_that_says_nothing_is_closed(hasty: Served) -> None:
    with socket.create_connection(("127.0.0.1", hasty.grpc_port), PATIENCE_S) as wire:
        assert read_to_end(wire)  # the server's settings, and its goodbye


def test_grpc_takes_so_many_connections_and_no_more(narrow: Served) -> None:
    request = health_pb2.HealthCheckRequest(service="")
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", narrow.grpc_port), PATIENCE_S))
            for _ in range(MOST)
        ]
        for wire in silent:
            assert wire.recv(4096)
        extra = stack.enter_context(socket.create_connection(("127.0.0.1", narrow.grpc_port), PATIENCE_S))
        assert read_to_end(extra) == b""
        assert narrow.ask(get("/health")).startswith(b"HTTP/1.1 200 ")
    with grpc.insecure_channel(narrow.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        wait_until(lambda: check(request, timeout=PATIENCE_S, wait_for_ready=True).status == 1)


def test_a_connection_to_grpc_that_is_idle_makes_room_in_three_times_what_a_new_one_may_be_silent(
    hasty: Served,
) -> None:
    states = list[grpc.ChannelConnectivity]()
    with grpc.insecure_channel(hasty.grpc) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE_S)
        channel.subscribe(states.append)
        wait_until(lambda: states[-1:] == [grpc.ChannelConnectivity.IDLE])
        assert grpc.ChannelConnectivity.READY in states


def test_that_grpc_takes_no_more_connections_is_logged_and_counted(
    stored: StoredModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("api.oip.occupancy.CHECK_S", 0.05)
    before = reached("grpc_connections")
    with serving(stored, max_connections=MOST, header_seconds=1e6) as served, ExitStack() as stack:
        for count in range(MOST):
            assert reached("grpc_connections") == before, f"{count} are not too many"
            wire = stack.enter_context(socket.create_connection(("127.0.0.1", served.grpc_port), PATIENCE_S))
            assert wire.recv(4096)
        wait_until(lambda: reached("grpc_connections") > before + 1)
    assert len([message for message in caplog.messages if message.startswith("gRPC has 4 connections")]) == 1


def test_a_request_for_a_websocket_is_answered_as_any_other(stored: StoredModel, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.toml", "ci")
    lines = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA=="]
    with serving(stored, api_keys_file=tmp_path / "keys.toml") as served:
        for headers, status in ((lines, 401), ([*lines, f"X-API-Key: {key}"], 404)):
            request = "\r\n".join(["GET /socket HTTP/1.1", "Host: x", "Connection: close, Upgrade", *headers, "", ""])
            assert served.ask(request.encode()).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(("descriptors", "most"), [(300, 73), (64, 1), (2**30, 10_000)])
def test_by_default_there_are_as_many_connections_as_the_file_descriptors_allow(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, most: int
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (descriptors, descriptors))
    assert most_connections(Settings(_env_file=None)) == most
    assert most_connections(Settings(_env_file=None, max_connections=7)) == 7
