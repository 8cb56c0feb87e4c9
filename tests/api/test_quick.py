"""Requests that came whole: answered without the application, byte for byte as it answers them, and counted alike."""

import json
import logging
import math
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Scope

from api.keys import add_key
from api.quick import QuickRequests, Reply
from tests.api.conftest import bundled
from tests.api.serving import PATIENCE_S, Served, chunk, post, read_to_end, serving
from tests.api.test_rows import CUSTOMER
from tests.conftest import encode
from tests.live.server import wait_until
from tests.tiny import plain, seal, tiny_package

CLOSE = "Connection: close"
PICTURE = plain(200)
_CHANGING = (
    (rb"(?i)date: [^\r]+", b"date"),
    (rb"dur=\d+\.\d\d", b"dur"),
    (rb"x-process-time: \d+\.\d{6}", b"process-time"),
    (rb'"inference_time_ms":[\d.e-]+', b"time"),
    (rb'"timestamp":"[\d-]+T[\d:]+\.\d{3}Z"', b"timestamp"),
    (rb"\b[0-9a-f]{32}\b", b"id"),
    (rb"content-length: \d+", b"length"),
)
"""What differs between two answers to the same request, and what is written in its place to compare them."""

taken = list[bool]()
"""Whether each request that came whole was answered without the application."""


@pytest.fixture(autouse=True, scope="module")
def _spied_on() -> Iterator[None]:
    """Note of each request that came whole whether it is taken; count every network as cheap, however slow it is."""
    takes = QuickRequests.takes

    def noted(requests: QuickRequests, scope: Scope, body: bytes, reply: Reply) -> bool:
        taken.append(takes(requests, scope, body, reply))
        return taken[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(QuickRequests, "takes", noted)
        patch.setattr("serving.loading.CHEAP_RUN_S", math.inf)
        patch.setattr("runners.plan.CHEAP_ITEM_S", 3600.0)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(seal(tiny_package(tmp_path_factory.mktemp("tiny") / "tiny"))) as served:
        yield served


@pytest.fixture(scope="module")
def churn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(bundled(tmp_path_factory.mktemp("rows"), "churn")) as served:
        yield served


def request(body: bytes, path: str = "/predict", *headers: str) -> bytes:
    """Return a request whose answer closes the connection."""
    return post(len(body), body, path, CLOSE, *headers)


def compared(answer: bytes) -> bytes:
    """Return an answer without what differs between two answers to the same request; its length must be right."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    lengths = re.findall(rb"content-length: (\d+)", head)
    assert not body or int(lengths[-1]) == len(body)
    for pattern, name in _CHANGING:
        answer = re.sub(pattern, name, answer)
    return answer


def counts(served: Served) -> dict[str, float]:
    """Return how many requests to models a server has counted, by model, version, route and status."""
    answer = served.ask(f"GET /metrics HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n\r\n".encode())
    families = text_string_to_metric_families(answer.partition(b"\r\n\r\n")[2].decode())
    samples = [sample for family in families for sample in family.samples]
    of_requests = [sample for sample in samples if sample.name == "vitrine_requests_total"]
    return {str(sample.labels): sample.value for sample in of_requests if sample.labels["model"]}


def answered(served: Served, data: bytes, count: int = 1) -> tuple[bytes, dict[str, float]]:
    """Return what a server answers to some requests, and what it counts for them."""
    before = counts(served)
    answer = served.ask(data)
    wait_until(lambda: sum(counts(served).values()) >= sum(before.values()) + count)
    changed = {labels: value - before.get(labels, 0) for labels, value in counts(served).items()}
    return compared(answer), {labels: change for labels, change in changed.items() if change}


def check(served: Served, monkeypatch: pytest.MonkeyPatch, data: bytes, *, is_taken: bool) -> bytes:
    """Return the answer to a request, for which the application would give, and count, the same; drop its counts."""
    taken.clear()
    answer = answered(served, data)
    assert any(taken) == is_taken
    with monkeypatch.context() as patch:
        patch.setattr(QuickRequests, "takes", lambda *_: False)
        assert answered(served, data) == answer
    return answer[0]


PICTURES: dict[str, tuple[bytes, bool, int]] = {
    "default model": (request(PICTURE), True, 200),
    "named model": (request(PICTURE, "/models/tiny/predict"), True, 200),
    "infer": (request(PICTURE, "/infer", "Content-Type: image/png"), True, 200),
    "JPEG": (request(encode(np.full((16, 16, 3), 9, np.uint8), "JPEG")), True, 200),
    "own id": (request(PICTURE, "/predict", "X-Request-ID: my.own_id-1"), True, 200),
    "two ids": (request(PICTURE, "/predict", "X-Request-ID: first", "X-Request-ID: second"), True, 200),
    "no sane id": (request(PICTURE, "/predict", "X-Request-ID: <b>"), True, 200),
    "chunked": (post(None, PICTURE, "/predict", CLOSE) + chunk(b"") + b"0\r\n\r\n", True, 200),
    "HTTP/1.0": (request(PICTURE).replace(b"HTTP/1.1", b"HTTP/1.0"), True, 200),
    "damaged": (request(PICTURE[:60]), True, 400),
    "cut short": (request(PICTURE[:-30]), True, 400),
    "text": (request(b"no picture"), True, 400),
    "too small": (request(encode(np.zeros((1, 1, 3), np.uint8))), True, 400),
    "empty": (request(b""), False, 400),
    "JSON": (request(b'{"a": 1}', "/predict", "Content-Type: application/json"), False, 400),
    "no form": (request(PICTURE, "/predict", "Content-Type: multipart/form-data; boundary=x"), False, 400),
    "query": (request(PICTURE, "/predict?top_k=2"), False, 200),
    "wrong query": (request(PICTURE, "/predict?top_k=x"), False, 400),
    "slash": (request(PICTURE, "/predict/"), False, 200),
    "unknown model": (request(PICTURE, "/models/nothing/predict"), False, 404),
    "wrong method": (request(PICTURE).replace(b"POST", b"PUT"), False, 405),
    "HEAD": (f"HEAD /predict HTTP/1.1\r\nHost: x\r\n{CLOSE}\r\n\r\n".encode(), False, 405),
    "forwarded": (request(PICTURE, "/predict", "X-Forwarded-For: 192.0.2.7"), False, 200),
    "too long": (post(10**9, PICTURE, "/predict", CLOSE), False, 413),
}

ROWS: dict[str, tuple[bytes, bool, int]] = {
    "row": (json.dumps(CUSTOMER).encode(), True, 200),
    "features": (json.dumps({"features": CUSTOMER}).encode(), True, 200),
    "numbers as text": (json.dumps({name: str(value) for name, value in CUSTOMER.items()}).encode(), True, 200),
    "UTF-16": (json.dumps(CUSTOMER).encode("utf-16"), True, 200),
    "out of range": (json.dumps(CUSTOMER | {"age": 3}).encode(), True, 400),
    "missing": (json.dumps({"age": 42}).encode(), True, 400),
    "unknown": (json.dumps(CUSTOMER | {"colour": "red"}).encode(), True, 400),
    "not finite": (json.dumps(CUSTOMER | {"age": math.nan}).encode(), True, 400),
    "no JSON": (b"{", False, 400),
    "list": (b"[1]", False, 400),
    "deep": (b"[" * 10_000, False, 400),
    "samples": (json.dumps({"samples": [CUSTOMER]}).encode(), False, 200),
    "nested": (json.dumps(CUSTOMER | {"more": [1]}).encode(), False, 400),
    "long": (json.dumps(CUSTOMER).encode() + b" " * 40_000, False, 200),
}


@pytest.mark.parametrize("case", PICTURES)
def test_a_picture_is_answered_and_counted_as_the_application_does(
    tiny: Served, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    data, is_taken, status = PICTURES[case]
    assert check(tiny, monkeypatch, data, is_taken=is_taken).startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("case", ROWS)
def test_a_row_is_answered_and_counted_as_the_application_does(
    churn: Served, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    body, is_taken, status = ROWS[case]
    data = request(body, "/models/churn/predict", "Content-Type: application/json")
    assert check(churn, monkeypatch, data, is_taken=is_taken).startswith(b"HTTP/1.1 %d " % status)


def test_pipelined_requests_are_answered_in_their_order(tiny: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [f"number-{index}" for index in range(40)]
    pictures = [plain(level) if level % 5 else b"no picture" for level in range(40)]
    pairs = zip(ids, pictures, strict=True)
    requests = [post(len(data), data, "/predict", f"X-Request-ID: {own}") for own, data in pairs]
    requests[7] = requests[7].replace(b"/predict", b"/predict?top_k=2")
    requests.append(request(PICTURE))
    answer = answered(tiny, b"".join(requests), len(requests))
    assert re.findall(rb"x-request-id: (number-\d+)", answer[0]) == [own.encode() for own in ids]
    monkeypatch.setattr(QuickRequests, "takes", lambda *_: False)
    assert answered(tiny, b"".join(requests), len(requests)) == answer


def test_a_connection_stays_open_for_requests_that_come_in_parts(tiny: Served) -> None:
    data = post(len(PICTURE), PICTURE)
    before = counts(tiny)
    with tiny.connect() as wire:
        for end in (len(data), len(data) - 1, data.index(b"\r\n\r\n") + 4, 20):
            wire.sendall(data[:end])
            if end < len(data):
                wire.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    wire.recv(1)
                wire.settimeout(PATIENCE_S)
                wire.sendall(data[end:])
            answer = b""
            while not answer.endswith(b"}"):
                answer += wire.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: sum(counts(tiny).values()) >= sum(before.values()) + 4)


def test_who_expects_to_be_asked_for_the_body_is_asked(tiny: Served) -> None:
    data = post(len(PICTURE), PICTURE, "/predict", CLOSE, "Expect: 100-continue")
    assert answered(tiny, data)[0].startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


def test_what_comes_after_a_broken_body_costs_the_connection_alone(tiny: Served) -> None:
    assert b"HTTP/1.1 400 " in answered(tiny, post(None, b"", "/predict") + b"no size\r\n")[0]
    assert answered(tiny, request(PICTURE))[0].startswith(b"HTTP/1.1 200 ")


def test_requests_are_logged_as_the_application_logs_them(
    tiny: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "vitrine.access")

    def lines() -> list[dict[str, Any]]:
        """Return the lines of the log for two requests, which must have other ids."""
        caplog.clear()
        tiny.ask(request(PICTURE, "/predict", "X-Request-ID: mine"))
        tiny.ask(request(b"no picture", "/models/tiny/predict", "X-Request-ID: mine"))
        wait_until(lambda: len(caplog.messages) == 2)
        parsed = [json.loads(line) for line in caplog.messages]
        assert all(line.pop("bytes") > 100 for line in parsed)  # some more or fewer, by the digits of times
        times = [{name for name in line if name.endswith("ms")} for line in parsed]
        assert times == [{"ms", "queue_ms", "decode_ms", "infer_ms"}, {"ms"}]
        return [{name: line[name] for name in line.keys() - own} for line, own in zip(parsed, times, strict=True)]

    taken.clear()
    quick = lines()
    assert taken == [True, True]
    monkeypatch.setattr(QuickRequests, "takes", lambda *_: False)
    assert lines() == quick


def test_a_client_that_hangs_up_at_once_costs_nobody_anything(tiny: Served) -> None:
    before = counts(tiny)
    for _ in range(20):
        wire = tiny.connect(post(len(PICTURE), PICTURE))
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # its end is a reset
        wire.close()
    assert tiny.ask(request(PICTURE)).startswith(b"HTTP/1.1 200 ")
    wait_until(lambda: sum(counts(tiny).values()) >= sum(before.values()) + 21)


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (("api.images.prediction_json", lambda *_: 1 / 0), 500),
        (("serving.predictor.Predictor.deadline", lambda *_: 0.0), 504),
        (("serving.gathered_pictures.GatheredPictures.infer", lambda *_: 1 / 0), 500),
        (("serving.gathered_pictures.GatheredPictures.preprocess", lambda *_: 1 / 0), 500),
        (("api.bodies.Bodies.have_room", lambda *_: False), 200),
    ],
)
def test_what_goes_wrong_is_answered_as_the_application_does(
    tiny: Served, monkeypatch: pytest.MonkeyPatch, broken: tuple[str, Any], status: int
) -> None:
    monkeypatch.setattr(*broken)
    answer = check(tiny, monkeypatch, request(PICTURE), is_taken=status != 200)
    assert answer.startswith(b"HTTP/1.1 %d " % status)


def test_bodies_are_let_go_of(tiny: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    held = list[int]()
    monkeypatch.setattr("api.bodies.Bodies.hold", lambda bodies, size: held.append(size))
    monkeypatch.setattr("api.bodies.Bodies.release", lambda bodies, size: held.append(-size))
    for body in (PICTURE, b"no picture"):
        tiny.ask(request(body))
    wait_until(lambda: held == [len(PICTURE), -len(PICTURE), 10, -10])


def test_keys_and_pages_of_other_origins_are_the_applications(tmp_path: Path) -> None:
    stored, key = seal(tiny_package(tmp_path / "tiny")), add_key(tmp_path / "keys.toml", "ci")
    taken.clear()
    with serving(stored, api_keys_file=tmp_path / "keys.toml") as served:
        assert served.ask(request(PICTURE)).startswith(b"HTTP/1.1 401 ")
        assert served.ask(request(PICTURE, "/predict", f"X-API-Key: {key}")).startswith(b"HTTP/1.1 200 ")
        assert not taken
    with serving(stored, cors_origins="https://page.example") as served:
        answer = served.ask(request(PICTURE, "/predict", "Origin: https://page.example"))
        assert b"access-control-allow-origin: https://page.example\r\n" in answer and not any(taken)
        assert served.ask(request(PICTURE)).startswith(b"HTTP/1.1 200 ") and taken[-1]


def test_a_connection_too_many_is_answered_about_health_alone(tmp_path: Path) -> None:
    with serving(seal(tiny_package(tmp_path / "tiny")), max_connections=1, header_seconds=1e6) as served:
        with served.connect(post(len(PICTURE), b"", "/predict", "Expect: 100-continue")) as wire:
            assert wire.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert served.ask(request(PICTURE)).startswith(b"HTTP/1.1 503 ")
        wait_until(lambda: served.ask(request(PICTURE)).startswith(b"HTTP/1.1 200 "))


def test_an_idle_connection_is_closed_once_its_time_is_over(tiny: Served) -> None:
    with tiny.connect(post(len(PICTURE), PICTURE)) as wire:
        assert read_to_end(wire).count(b"HTTP/1.1 200 ") == 1
