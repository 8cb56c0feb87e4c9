"""What every answer carries, whatever the application behind the middleware is."""

import asyncio
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from api.auth import Authenticator
from api.bodies import Bodies
from api.keys import add_key
from api.limits import ReachedLimits
from api.middleware import Middleware
from api.server import LONGEST_INTEGER_DIGITS
from runners.admission import asked_by
from serving.logs import AccessLines
from tests.api.conftest import MakeClient, keys_of
from tests.api.counted import counted_requests
from tests.tiny import plain, seal, tiny_package


async def app(scope: Scope, _: Receive, send: Send) -> None:
    body = scope["state"]["request_id"].encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


def ask(headers: list[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], str]:
    """Headers of the answer, and the id that the application saw."""
    bodies = Bodies(1000, 10_000, 30, ReachedLimits())
    middleware = Middleware(app, bodies, "tiny", {"tiny": "tiny"}, logs_access=False)
    scope = {"type": "http", "method": "POST", "path": "/predict/", "headers": headers}
    sent = list[Message]()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(middleware(scope, receive, send))
    return list(sent[0]["headers"]), sent[1]["body"].decode()


def test_clients_are_told_apart_by_their_connections_but_not_those_of_a_proxy() -> None:
    seen = list[object]()

    async def note(scope: Scope, _: Receive, send: Send) -> None:
        seen.append(asked_by.get())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    bodies = Bodies(1000, 10_000, 30, ReachedLimits())
    middleware = Middleware(note, bodies, "tiny", {"tiny": "tiny"}, logs_access=False)
    for client, headers in ((("10.0.0.1", 5), {}), (("10.0.0.1", 6), {}), (("10.0.0.1", 6), {"X-Forwarded-For": "1"})):
        TestClient(middleware, client=client).get("/health", headers=headers)
    assert seen == [("10.0.0.1", 5), ("10.0.0.1", 6), None]


def test_an_answer_without_a_sane_id_gets_one_of_its_own() -> None:
    for own_id in (b"", b"two words", b"\xff", b"a" * 129):
        answered, seen = ask([(b"x-request-id", own_id)])
        assert len(seen) == 32 and set(seen) <= set("0123456789abcdef")
        seconds = dict(answered)[b"x-process-time"]
        assert answered == [
            (b"content-type", b"text/plain"),
            (b"x-request-id", seen.encode()),
            (b"x-process-time", seconds),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
        ]
        assert 0 <= float(seconds) < 60
    assert len({ask([])[1] for _ in range(20)}) == 20


def test_of_an_id_that_was_sent_twice_the_first_counts() -> None:
    answered, seen = ask([(b"x-request-id", b"first"), (b"x-request-id", b"second")])
    assert seen == "first" and answered.count((b"x-request-id", b"first")) == 1


@pytest.mark.parametrize("length", [b"1001", b"99999999999999999999", b"0" * 700 + b"1001", b"9" * 700])
def test_a_body_that_is_announced_too_long_never_reaches_the_application(length: bytes) -> None:
    _, body = ask([(b"content-length", length)])
    assert '"status":413' in body


@pytest.mark.parametrize("length", [b"0" * 700 + b"9", b"0" * 700, b"1000"])
def test_a_length_within_the_limit_may_have_zeros_before_it(length: bytes) -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(LONGEST_INTEGER_DIGITS)  # as the server does
    try:
        _, seen = ask([(b"x-request-id", b"mine"), (b"content-length", length)])
    finally:
        sys.set_int_max_str_digits(before)
    assert seen == "mine"


def request_counts(model: str, status: int) -> float:
    """Return how many requests of a model were answered with a status."""
    return counted_requests(model, str(status))


def test_requests_are_counted_by_model_and_status_and_strangers_make_no_series(client: TestClient) -> None:
    predicted, unknown = request_counts("tiny", 200), request_counts("unknown", 404)
    for path in ("/predict", "/models/tiny/predict", "/infer"):
        assert client.post(path, content=plain(200)).status_code == 200
    for index in range(5):
        client.post(f"/models/stranger{index}/predict")
        client.get(f"/{index}/nowhere")
    assert request_counts("tiny", 200) - predicted == 3
    assert request_counts("unknown", 404) - unknown == 5
    text = client.get("/metrics").text
    assert "stranger" not in text and "nowhere" not in text
    names = {(metric.name, *sample.labels.values()) for metric in REGISTRY.collect() for sample in metric.samples}
    assert not [name for name in names if any("stranger" in part or "nowhere" in part for part in name)]
    for name in ("request", "queue", "decode", "infer"):
        assert re.search(rf'^vitrine_{name}_seconds_count{{model="tiny",.*}} [1-9]', text, re.MULTILINE)


def test_each_request_is_one_json_line_in_the_log(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "vitrine.access"):
        client.get("/models", headers={"X-Request-ID": "line-of-my-own"})
        client.post("/models/tiny/predict/", content=b"no picture")
    first, second = (json.loads(record.message) for record in caplog.records if record.name == "vitrine.access")
    assert (first["request_id"], first["method"], first["path"]) == ("line-of-my-own", "GET", "/models")
    assert (first["status"], first["model"], first["client"]) == (200, "", "testclient")
    assert first["bytes"] > 0 and first["ms"] >= 0 and "key" not in first
    assert (second["path"], second["status"], second["model"]) == ("/models/tiny/predict", 400, "tiny")
    assert second["error"] == "InvalidImage" and "tag" not in second and "trace_id" not in second


def logged_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """Return what was logged of each request."""
    lines = (line for record in caplog.records if isinstance(record.msg, AccessLines) for line in record.msg)
    return [json.loads(line) for line in lines]


def test_the_log_says_what_was_answered_and_holds_nothing_of_what_was_sent(
    client: TestClient, rows_client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    form = {"file": ("patient-meier.png", plain(200))}
    row = {"temperature": 95, "vibration": 3.1, "pressure": 31, "power": 1907.25, "machine_id": "press-secret"}
    row["timestamp"] = "2026-01-15T08:30:00Z"
    with caplog.at_level(logging.INFO, "vitrine.access"):
        answer = client.post("/predict", files=form, headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"}).json()
        files = [("files", ("patient-a.png", plain(10))), ("files", ("patient-b.png", b"no picture"))]
        client.post("/predict/batch", files=files)
        of_row = rows_client.post("/models/machine-anomaly/predict", json=row).json()
        rows_client.post("/models/machine-anomaly/predict/batch", json={"samples": [row, row, {}]})
    one, several, single_row, rows = logged_lines(caplog)
    assert (one["label"], one["confidence"]) == (answer["prediction"], round(answer["confidence"], 4))
    assert one["tag"] == f"{answer['model']}:{answer['version']}" and one["trace_id"] == trace
    assert one["decode_ms"] + one["infer_ms"] == pytest.approx(answer["inference_time_ms"], abs=0.02)
    assert one["queue_ms"] >= 0 and "error" not in one
    assert (several["items"], several["errors"]) == (2, 1) and "label" not in several and several["infer_ms"] > 0
    assert single_row["label"] == ("anomaly" if of_row["is_anomaly"] else "normal")
    assert single_row["confidence"] == pytest.approx(of_row["confidence"], abs=1e-4)
    assert (rows["items"], rows["errors"]) == (3, 1)
    for secret in ("patient", "press-secret", "1907"):
        assert secret not in caplog.text


def test_an_error_of_ours_is_in_the_log_once_with_its_traceback_and_theirs_has_none(
    client: TestClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("serving.pipeline.ImagePipeline.infer_tensors", fail)
    monkeypatch.setattr("serving.masked.ExplainablePipeline.infer", fail)
    assert client.post("/predict", content=plain(77)).status_code == 500
    assert client.post("/predict", content=b"no picture").status_code == 400
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert sum(1 for record in errors if record.exc_info) == 1 and caplog.text.count("a mistake of ours") >= 1
    (of_request,) = (record for record in errors if record.name == "vitrine.api")
    assert of_request.exc_info is None and "InferenceFailed" in of_request.getMessage()
    caplog.clear()
    body = client.post("/predict/batch", files=[("files", ("a.png", plain(78)))]).json()
    assert body["predictions"][0]["error"]["status"] == 500
    ids = [record.fields["request_id"] for record in caplog.records if hasattr(record, "fields")]
    assert ids == [body["predictions"][0]["error"]["request_id"]]


def test_requests_that_end_in_one_turn_have_a_line_and_a_count_each(caplog: pytest.LogCaptureFixture) -> None:
    middleware = Middleware(app, Bodies(1000, 10_000, 30, ReachedLimits()), "tiny", {"tiny": "tiny"}, logs_access=True)
    before = request_counts("tiny", 200)

    async def ask(request_id: str) -> None:
        async def send(message: Message) -> None:
            pass

        headers = [(b"x-request-id", request_id.encode())]
        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers}
        await middleware(scope, receive, send)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def ask_all() -> None:
        await asyncio.gather(*map(ask, ("first", "second", "third")))

    with caplog.at_level(logging.INFO, "vitrine.access"):
        asyncio.run(ask_all())
    lines = "\n".join(record.message for record in caplog.records if record.name == "vitrine.access").split("\n")
    assert [json.loads(line)["request_id"] for line in lines] == ["first", "second", "third"]
    assert request_counts("tiny", 200) - before == 3


def test_the_log_names_whose_key_it_was_and_never_the_key(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key, wrong = add_key(tmp_path / "keys.toml", "reader-7"), "vk_" + "w" * 43
    authenticator = Authenticator(keys_of(tmp_path / "keys.toml"), ())
    client = make_client(seal(tiny_package(tmp_path / "tiny")), authenticator=authenticator, loaded=False)
    with caplog.at_level(logging.INFO, "vitrine.access"):
        for sent in (key, wrong):
            client.get("/models", headers={"X-API-Key": sent})
    lines = [json.loads(record.message) for record in caplog.records if record.name == "vitrine.access"]
    assert [(line["status"], line["key"]) for line in lines] == [(200, "reader-7"), (401, "")]
    assert key not in caplog.text and wrong not in caplog.text


def test_the_access_log_can_be_switched_off(
    make_client: MakeClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), loaded=False, access_log=False)
    with caplog.at_level(logging.INFO, "vitrine.access"):
        assert client.get("/models").status_code == 200
    assert not [record for record in caplog.records if record.name == "vitrine.access"]


def test_every_answer_carries_the_clients_own_id_if_it_is_a_sane_one(client: TestClient) -> None:
    for path in ("/models", "/nowhere", "/static/page.js", "/docs"):
        response = client.get(path, headers={"X-Request-ID": "mine-1"})
        assert response.headers["x-request-id"] == "mine-1"
        assert response.headers["x-content-type-options"] == "nosniff"
    assert client.get("/health", headers={"X-Request-ID": "a b{}"}).headers["x-request-id"] != "a b{}"
