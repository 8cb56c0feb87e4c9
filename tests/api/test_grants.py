"""What a key that is restricted is answered, over HTTP and gRPC: scopes, quotas, and what the answers say of them."""

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from prometheus_client import REGISTRY
from starlette.testclient import TestClient
from tritonclient.utils import InferenceServerException

import api.shared_counters
from api.auth import Authenticator
from api.keys import add_key
from api.quotas import Quotas
from api.restrictions import Restrictions
from api.shared_counters import SharedCounters
from tests.api.conftest import bundled, client_maker, keys_of
from tests.api.serving import Served, serving
from tests.tiny import plain, seal, tiny_package

NOW = 1_800_000_000.0 + 15  # of a minute, whose rest is 45 seconds
PICTURE = plain(200)
NUMBER = count()
NUMBERS = {"age": 40.0, "income": 50_000.0, "tenure_days": 365.0, "num_purchases": 10.0}
ROW = NUMBERS | {"avg_transaction_value": 50.0, "days_since_last_purchase": 30.0}


class Asking(NamedTuple):
    """A client, and a function that makes a key and returns its header."""

    client: TestClient
    key: Callable[..., dict[str, str]]


class Clock(SimpleNamespace):
    """The time as the counters see it, which stands still."""

    now = NOW
    monotonic, sleep = staticmethod(time.monotonic), staticmethod(time.sleep)

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    chosen = Clock()
    monkeypatch.setattr(api.shared_counters, "time", chosen)
    return chosen


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, Authenticator, Path]]:
    folder = tmp_path_factory.mktemp("grants")
    path = folder / "keys.toml"
    add_key(path, "first")
    authenticator = Authenticator(keys_of(path), ("health",), Quotas(SharedCounters(folder / "counters")))
    with client_maker() as make:
        stored = [seal(tiny_package(folder / "tiny")), bundled(folder, "churn")]
        yield make(*stored, authenticator=authenticator, max_body_bytes=100_000), authenticator, path


@pytest.fixture
def asking(served: tuple[TestClient, Authenticator, Path], clock: Clock) -> Asking:
    client, authenticator, path = served

    def key(admin: bool = False, **restrictions: Any) -> dict[str, str]:
        name = f"key-{next(NUMBER)}"
        made = add_key(path, name, admin=admin, restrictions=Restrictions(**restrictions))
        authenticator.keys.reload()
        return {"x-api-key": made}

    return Asking(client, key)


def test_requests_are_refused_with_the_quota_that_is_used_up_and_when_to_come_back(
    asking: Asking, clock: Clock
) -> None:
    client, key = asking.client, asking.key(requests_per_minute=2)
    first = client.post("/predict", content=PICTURE, headers=key)
    assert first.status_code == 200
    assert first.headers["RateLimit-Policy"] == '"requests";q=2;w=60'
    assert first.headers["RateLimit"] == '"requests";r=1;t=45'
    assert client.post("/predict", content=PICTURE, headers=key).headers["RateLimit"] == '"requests";r=0;t=45'
    refused = client.post("/predict", content=PICTURE, headers=key)
    problem = refused.json()
    assert refused.status_code == problem["status"] == 429
    assert problem["type"] == "https://iana.org/assignments/http-problem-types#quota-exceeded"
    assert problem["violated-policies"] == ["requests"] and problem["title"] == "Quota Exceeded"
    assert "may send 2 requests a minute" in problem["detail"] == problem["error"]
    # After 45 seconds this minute's two still count; after 30 more, one and a half of them.
    assert refused.headers["Retry-After"] == "46" and refused.headers["RateLimit"] == '"requests";r=0;t=46'
    clock.now += 45
    assert client.post("/predict", content=PICTURE, headers=key).status_code == 429
    clock.now += 1
    assert client.post("/predict", content=PICTURE, headers=key).status_code == 200


def test_what_has_no_restrictions_is_answered_without_a_word_of_them(asking: Asking) -> None:
    answer = asking.client.post("/predict", content=PICTURE, headers=asking.key())
    assert answer.status_code == 200 and not [name for name in answer.headers if name.startswith("ratelimit")]
    assert asking.client.post("/predict", content=PICTURE).status_code == 401


def test_health_costs_nothing_and_everything_else_a_request(asking: Asking) -> None:
    key = asking.key(requests_per_minute=2)
    for _ in range(5):
        for path in ("/readyz", "/health/stats", "/models/tiny/stats"):  # of which the web page asks again and again
            assert asking.client.get(path, headers=key).status_code == 200
    assert asking.client.get("/models", headers=key).status_code == 200
    assert asking.client.get("/nothing", headers=key).status_code == 404
    assert asking.client.get("/models", headers=key).status_code == 429


def test_items_are_charged_for_what_was_sent_and_a_refusal_charges_none(asking: Asking) -> None:
    client, key = asking.client, asking.key(items_per_minute=6)

    def batch(size: int, path: str = "/predict/batch") -> int:
        files = [("files", (f"{place}.png", PICTURE)) for place in range(size)]
        return client.post(path, files=files, headers=key).status_code

    assert [batch(4), batch(3), batch(2), batch(1)] == [200, 429, 200, 429]
    few = asking.key(items_per_minute=2)
    answer = client.post("/predict/batch", files=[("files", ("a.png", PICTURE))] * 3, headers=few)
    assert answer.status_code == 400 and "this key may send 2 a minute" in answer.json()["detail"]
    assert "Retry-After" not in answer.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/models/churn/predict/batch", "samples"),
        ("/models/churn/explain/batch", "samples"),
        ("/v1/models/churn:predict", "instances"),
        ("/v1/models/churn:explain", "instances"),
        ("/predictions/churn", "instances"),
        ("/explanations/churn", "instances"),
    ],
)
def test_rows_are_items_on_every_route(asking: Asking, path: str, body: str) -> None:
    key = asking.key(items_per_minute=3)
    rows: dict[str, Any] = {body: [{}, {}]}  # rows that are wrong cost what others do
    first, second = (asking.client.post(path, json=rows, headers=key) for _ in range(2))
    assert first.status_code in (200, 400)
    assert second.status_code == 429 and second.json()["violated-policies"] == ["items"]


@pytest.mark.parametrize("path", ["/models/tiny/predict", "/v1/models/tiny:predict", "/predictions/tiny"])
def test_pictures_are_items_on_every_route(asking: Asking, path: str) -> None:
    key = asking.key(items_per_minute=1)
    sent: dict[str, Any] = {"json": {"instances": [{"b64": "AA=="}]}} if "v1" in path else {"content": PICTURE}
    first, second = (asking.client.post(path, headers=key, **sent) for _ in range(2))
    assert first.status_code in (200, 400)
    assert second.status_code == 429 and second.json()["violated-policies"] == ["items"]


def test_bytes_are_refused_before_the_body_is_read_and_charged_as_they_come_where_no_length_is_told(
    asking: Asking,
) -> None:
    client, key = asking.client, asking.key(bytes_per_day=50_000)

    def parts(number: int) -> Iterator[bytes]:
        for _ in range(number):
            yield b"\0" * 10_000

    assert client.post("/predict", content=b"\0" * 15_000, headers=key).status_code == 400  # no picture, but charged
    refused = client.post("/predict", content=b"\0" * 40_000, headers=key)
    assert refused.status_code == 429 and refused.json()["violated-policies"] == ["bytes"]
    assert refused.headers["RateLimit-Policy"] == '"bytes";q=50000;w=86400;qu="content-bytes"'
    assert refused.headers["RateLimit"].startswith('"bytes";r=35000;t=')
    assert client.post("/predict", content=b"\0" * 60_000, headers=key).status_code == 413
    assert client.post("/predict", content=parts(3), headers=key).status_code == 400
    assert client.post("/predict", content=parts(1), headers=key).status_code == 429
    assert client.post("/predict", content=b"\0" * 5_000, headers=key).status_code == 400
    assert client.get("/models", headers=key).status_code == 200  # which has no body


def test_a_scope_is_kept_on_every_route(asking: Asking) -> None:
    key = asking.key(models=("churn",), actions=("predict",), admin=True)
    forbidden: list[tuple[str, dict[str, Any]]] = [
        ("/predict", {"content": PICTURE}),
        ("/infer", {"content": PICTURE}),
        ("/explain", {"content": PICTURE}),
        ("/models/tiny/predict", {"content": PICTURE}),
        ("/models/tiny/predict/batch", {"files": [("files", ("a.png", PICTURE))]}),
        ("/models/churn/explain", {"json": ROW}),
        ("/models/churn/explain/batch", {"json": {"samples": [ROW]}}),
        ("/models/churn/predict?include_explanation=true", {"json": ROW}),
        ("/models/churn/predict/batch?include_explanation=true", {"json": {"samples": [ROW]}}),
        ("/v1/models/tiny:predict", {"json": {"instances": [{"b64": "AA=="}]}}),
        ("/v1/models/churn:explain", {"json": {"instances": [ROW]}}),
        ("/predictions/tiny", {"content": PICTURE}),
        ("/explanations/churn", {"json": {"instances": [ROW]}}),
        ("/v2/models/tiny/infer", {"json": {}}),
        ("/v2/models/churn/infer", {"json": v2_row(("attributions",))}),
        ("/v2/repository/models/tiny/unload", {"json": {}}),
        ("/v2/repository/models/tiny/load", {"json": {}}),
    ]
    for path, body in forbidden:
        answer = asking.client.post(path, headers=key, **body)
        assert answer.status_code == 403, (path, answer.text)
        assert "may not" in answer.json()["detail"]
    answer = asking.client.post("/v2/models/churn/infer", json=v2_row(()), headers=key)
    assert answer.status_code == 200, answer.text
    answer = asking.client.post("/models/tiny/predict", content=PICTURE, headers=asking.key(actions=("explain",)))
    assert answer.status_code == 403 and "may not predict; it may explain" in answer.json()["detail"]


def v2_row(outputs: tuple[str, ...]) -> dict[str, Any]:
    """One row for churn as the Open Inference Protocol has it."""
    tensor = {"name": "rows", "datatype": "FP64", "shape": [1, 6], "data": [list(ROW.values())]}
    return {"inputs": [tensor]} | ({"outputs": [{"name": name} for name in outputs]} if outputs else {})


def test_refusals_are_counted_by_key_and_quota(asking: Asking) -> None:
    key = asking.key(requests_per_minute=1)
    statuses = [asking.client.get("/models", headers=key).status_code for _ in range(3)]
    assert statuses == [200, 429, 429]
    labels = {"key": f"key-{next(NUMBER) - 1}", "quota": "requests"}
    assert REGISTRY.get_sample_value("vitrine_quota_refusals_total", labels) == 2.0


@pytest.fixture
def grpc_server(tmp_path: Path, clock: Clock) -> Iterator[tuple[Served, dict[str, str]]]:
    path = tmp_path / "keys.toml"
    limits = {
        "requests": Restrictions(requests_per_minute=3),
        "items": Restrictions(items_per_minute=3),
        "bytes": Restrictions(bytes_per_day=700),
        "scope": Restrictions(models=("other",)),
        "explain": Restrictions(actions=("explain",)),
    }
    keys = {name: add_key(path, name, restrictions=chosen) for name, chosen in limits.items()}
    with serving(seal(tiny_package(tmp_path / "tiny")), api_keys_file=path) as running:
        yield running, keys


def test_the_same_holds_over_grpc_for_calls_and_for_the_messages_of_a_stream(
    grpc_server: tuple[Served, dict[str, str]],
) -> None:
    running, keys = grpc_server
    tensor = triton_grpc.InferInput("image", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([PICTURE], np.object_))
    with triton_grpc.InferenceServerClient(running.grpc) as client:

        def ask(name: str) -> str:
            try:
                client.infer("tiny", [tensor], headers={"x-api-key": keys[name]})
            except InferenceServerException as error:
                return f"{error.status()} {error.message()}"
            return "answered"

        assert [ask("requests") for _ in range(3)] == ["answered"] * 3
        assert "RESOURCE_EXHAUSTED" in ask("requests") and "3 requests a minute" in ask("requests")
        assert client.is_server_live(headers={"x-api-key": keys["requests"]})
        assert [ask("items") for _ in range(3)] == ["answered"] * 3
        assert "RESOURCE_EXHAUSTED" in ask("items") and "3 items a minute" in ask("items")
        answers = [ask("bytes") for _ in range(8)]
        before = answers.index(next(answer for answer in answers if "bytes a day" in answer))
        assert before > 0 and answers[:before] == ["answered"] * before
        assert "PERMISSION_DENIED" in ask("scope") and "may not use tiny" in ask("scope")
        assert "PERMISSION_DENIED" in ask("explain") and "may not predict" in ask("explain")

        results = list[str]()
        client.start_stream(
            lambda result, error: results.append(str(error) if error else "answered"),
            headers={"x-api-key": keys["items"]},
        )
        client.async_stream_infer("tiny", [tensor])
        client.stop_stream()
        assert len(results) == 1 and "3 items a minute" in results[0]


def test_a_refused_call_says_in_its_metadata_when_to_come_back(grpc_server: tuple[Served, dict[str, str]]) -> None:
    running, keys = grpc_server
    sent = (("x-api-key", keys["requests"]),)
    with grpc.insecure_channel(running.grpc) as channel:
        call: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelReady")
        for _ in range(3):
            call(b"", metadata=sent)
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", metadata=sent)
    error: Any = refused.value
    trailing = dict(error.trailing_metadata())
    assert trailing["retry-after"] == "46"
    assert trailing["ratelimit-policy"] == '"requests";q=3;w=60' and trailing["ratelimit"] == '"requests";r=0;t=46'
