"""Requests that a client sends without waiting for the answers to those before them, whoever answers these."""

import math
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from api.keys import add_key
from api.quick import QuickRequests
from api.restrictions import Restrictions
from tests.api.serving import PATIENCE_S, Served, get, post, serving
from tests.live.server import wait_until
from tests.tiny import plain, seal, tiny_package

PICTURE = plain(200)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a model that counts as cheap, which waits a second for bodies and for clients to take answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("serving.loading.CHEAP_RUN_S", math.inf)
        patch.setattr("runners.plan.CHEAP_ITEM_S", 3600.0)
        stored = seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny"))
        with serving(stored, header_seconds=1.0, body_seconds=1.0) as served:
            yield served


def test_any_number_that_came_at_once_is_answered(hasty: Served) -> None:
    wrong = 700  # more than there can be calls within calls
    data = (
        post(len(PICTURE), PICTURE)
        + post(1, b"x") * wrong
        + post(len(PICTURE), PICTURE, "/predict", "Connection: close")
    )
    answer = hasty.ask(data)
    assert (answer.count(b"HTTP/1.1 200 "), answer.count(b"HTTP/1.1 400 ")) == (2, wrong)


def test_one_whose_body_does_not_come_is_given_up_as_any_other(hasty: Served) -> None:
    answer = hasty.ask(post(len(PICTURE), PICTURE) + post(len(PICTURE), PICTURE[:-3]))
    assert (answer.count(b"HTTP/1.1 200 "), answer.count(b"HTTP/1.1 408 ")) == (1, 1)


def test_a_client_that_takes_no_answers_is_left_to_the_application_which_waits(
    hasty: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, takes = list[bool](), QuickRequests.takes

    def noted(*arguments: object) -> bool:
        taken.append(takes(*arguments))  # type: ignore[arg-type]
        return taken[-1]

    monkeypatch.setattr(QuickRequests, "takes", noted)
    request = post(len(PICTURE), PICTURE, "/predict", "Connection: close")
    assert hasty.ask(request).startswith(b"HTTP/1.1 200 ") and taken == [True]
    with monkeypatch.context() as patch:
        patch.setattr(FlowControl, "write_paused", property(lambda _: True, lambda *_: None), raising=False)
        assert hasty.ask(request).startswith(b"HTTP/1.1 200 ") and taken == [True]


def test_who_sends_more_but_takes_no_answers_is_cut_off(hasty: Served) -> None:
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", hasty.port))
        wire.settimeout(PATIENCE_S)
        poll = select.poll()
        poll.register(wire, 0)  # errors and the end alone

        def is_closed_after_one_more() -> bool:
            if not poll.poll(0):
                wire.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
            return bool(poll.poll(0))

        wait_until(is_closed_after_one_more)


def test_none_has_the_scope_of_the_key_before(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    other, own = add_key(keys, "other", restrictions=Restrictions(models=("other",))), add_key(keys, "own")
    with serving(seal(tiny_package(tmp_path / "tiny")), api_keys_file=keys) as served:
        first = get("/v2", f"X-API-Key: {other}").replace(b"Connection: close\r\n", b"")
        second = post(len(PICTURE), PICTURE, "/predict", "Connection: close", f"X-API-Key: {own}")
        assert served.ask(first + second).count(b"HTTP/1.1 200 ") == 2
