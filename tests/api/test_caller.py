"""What the headers say of the time that an answer took, and of where it came from."""

from collections.abc import Iterator

import pytest
from httpx2 import Response
from prometheus_client import REGISTRY
from starlette.testclient import TestClient

from api.caller import timing_headers
from runners.runner import Answer
from serving.cache import ResponseCache
from tests.api.conftest import client_maker
from tests.tiny import plain, seal, tiny_package


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """An application with a cache."""
    with client_maker() as make:
        stored = seal(tiny_package(tmp_path_factory.mktemp("cache") / "tiny", "tiny-cached"))
        yield make(stored, cache=ResponseCache(2**20))


def predict(client: TestClient, query: str = "") -> Response:
    return client.post(f"/predict{query}", content=plain(77))


def predict_batch(client: TestClient, *levels: int) -> Response:
    files = [("files", (f"{level}.png", plain(level), "image/png")) for level in levels]
    return client.post("/predict/batch", files=files)


def test_the_second_time_an_answer_comes_from_the_cache_and_says_so(client: TestClient) -> None:
    first, second, other = predict(client), predict(client), predict(client, "?threshold=0.999")
    assert "cache-status" not in first.headers
    assert second.headers["cache-status"] == other.headers["cache-status"] == "vitrine; hit"
    assert first.json()["probabilities"] == second.json()["probabilities"] == other.json()["probabilities"]
    assert first.json()["request_id"] != second.json()["request_id"]
    assert other.json()["threshold"] == 0.999
    series = {"model": "tiny-cached", "version": first.json()["version"], "outcome": "hit"}
    hits = REGISTRY.get_sample_value("vitrine_cache_requests_total", series)
    assert hits is not None and hits >= 2


def test_a_batch_is_a_hit_when_all_of_it_is_and_an_error_is_told_anew(client: TestClient) -> None:
    assert "cache-status" not in predict_batch(client, 10, 20).headers
    assert "cache-status" not in predict_batch(client, 20, 30).headers
    assert predict_batch(client, 10, 20, 30).headers["cache-status"] == "vitrine; hit"
    for _ in range(2):
        assert client.post("/predict", content=b"no picture").status_code == 400


def test_server_timing_has_the_longest_wait_and_the_sums_of_the_work() -> None:
    answers = [Answer(None, 1.0, 2.0, 3.0, 1), Answer(None, 4.0, 0.5, 0.25, 1, cached=True)]
    assert timing_headers(answers) == {"Server-Timing": "queue;dur=4.00, decode;dur=2.50, infer;dur=3.25"}
    assert timing_headers([]) == {"Server-Timing": "queue;dur=0.00, decode;dur=0.00, infer;dur=0.00"}
