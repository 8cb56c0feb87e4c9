"""Explanations that say how far they are, line by line, and that end when their client hangs up."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from starlette.testclient import TestClient

from serving.predictor import Predictor
from tests.api.conftest import client_maker
from tests.api.counted import counted_requests
from tests.api.serving import post, serving
from tests.conftest import encode
from tests.tiny import bright_square, seal, tiny_package

PNG = encode(bright_square())
ACCEPT = {"accept": "application/x-ndjson"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with client_maker() as make:
        yield make(seal(tiny_package(tmp_path_factory.mktemp("progress") / "tiny")))


def test_lines_say_how_far_it_is_and_the_last_is_the_answer(client: TestClient) -> None:
    response = client.post("/explain?output=map&samples=100", content=PNG, headers=ACCEPT)
    assert response.status_code == 200 and response.headers["content-type"] == "application/x-ndjson"
    *lines, last = map(json.loads, response.text.splitlines())
    shares = [line["progress"] for line in lines]
    assert shares and shares == sorted(shares) and all(0 < share <= 1 for share in shares)
    plain_answer = client.post("/explain?output=map&samples=100", content=PNG).json()
    assert set(last) == set(plain_answer) and last["explanation"]["map"] == plain_answer["explanation"]["map"]


@pytest.mark.parametrize(
    ("query", "body", "status", "text"),
    [
        ("samples=1", PNG, 400, "from 20 to 8,000"),
        ("samples=20", b"no picture", 400, "not an image"),
        ("samples=20&contrast=dark", PNG, 400, "the label that is explained"),
    ],
)
def test_what_fails_before_the_first_line_has_its_own_status(
    client: TestClient, query: str, body: bytes, status: int, text: str
) -> None:
    response = client.post(f"/explain?{query}", content=body, headers=ACCEPT)
    assert response.status_code == status and text in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("is_ours", [True, False])
def test_what_fails_later_is_told_in_the_last_line(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_ours: bool
) -> None:
    whole = Predictor.explain_image

    async def fail_at_the_end(*args: Any, **options: Any) -> None:
        await whole(*args, **options)
        if is_ours:
            raise RuntimeError("a mistake")
        client.app_state["repository"].get().check_method("gradcam")

    monkeypatch.setattr(Predictor, "explain_image", fail_at_the_end)
    caplog.set_level(logging.INFO, "vitrine.access")
    response = client.post("/explain?samples=40", content=PNG, headers=ACCEPT)
    (line,) = [json.loads(record.message) for record in caplog.records if record.name == "vitrine.access"]
    assert line["error"] == ("RuntimeError" if is_ours else "NoExplanation")
    last = json.loads(response.text.splitlines()[-1])
    assert response.status_code == 200 and last["status"] == (500 if is_ours else 400)
    assert ("a mistake" in caplog.text) == is_ours and "a mistake" not in response.text


def test_a_picture_is_sent_as_it_is(client: TestClient) -> None:
    response = client.post("/explain?samples=20&format=png", content=PNG, headers=ACCEPT)
    assert response.headers["content-type"] == "image/png"


def test_a_client_that_hangs_up_ends_the_work(tmp_path_factory: pytest.TempPathFactory) -> None:
    stored = seal(tiny_package(tmp_path_factory.mktemp("hang-up") / "tiny", "hanging"))
    with serving(stored) as served:

        def computed() -> int:
            stats = requests.get(f"{served.url}/health/stats", timeout=30).json()
            counted: int = stats["inferences"] + stats["evaluations"]
            return counted

        path = "/models/hanging/explain?samples=8000"
        with served.connect(post(len(PNG), PNG, path, "Accept: application/x-ndjson")) as wire:
            received = b""
            while b'{"progress": ' not in received:
                received += wire.recv(1000)
        while not counted_requests("hanging", "200") and not counted_requests("hanging", "499"):
            computed()
        ended = computed()
        assert 16 <= ended < 8000
        requests.post(f"{served.url}/models/hanging/predict", data=PNG, timeout=30).raise_for_status()
        assert computed() - ended <= 1 + 16  # the chunk that was being computed is finished
