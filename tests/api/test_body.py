"""Bodies that are not what a model takes: each is a 4xx that says what to do, and the next request is served."""

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from httpx2 import Response
from PIL import Image
from starlette.testclient import TestClient

from tests.api.conftest import MAX_BODY_BYTES
from tests.conftest import encode
from tests.preprocessing.test_decode import png_of
from tests.tiny import plain

PICTURE = np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8)
PNG = encode(PICTURE)
GIF = encode(Image.fromarray(PICTURE), "GIF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])])


@pytest.fixture(autouse=True)
def _next_request_is_served(client: TestClient) -> Iterator[None]:
    yield
    assert client.post("/predict", content=PNG).status_code == 200


def check(response: Response, status: int, text: str) -> None:
    """Check that a response is problem details of this status, and that its detail holds the text."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["error"] == body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert text in body["detail"]


def send_raw(client: TestClient, data: bytes) -> Response:
    return client.post("/predict", content=data)


def send_form(client: TestClient, data: bytes) -> Response:
    return client.post("/predict", files={"file": ("scan.jpg", data, "image/jpeg")})


def send_chunked(client: TestClient, data: bytes) -> Response:
    """Send a body whose length is not announced."""
    return client.post("/predict", content=(data[at : at + 2**20] for at in range(0, len(data), 2**20)))


@pytest.mark.parametrize(
    ("data", "status", "text"),
    [
        (b"", 400, "empty"),
        (b"These are words, not a scan.", 400, "looks like text"),
        (PNG[:500], 400, "cut short"),
        (encode(PICTURE[:1, :1]), 400, "1 x 1"),
        (png_of(30_000, 30_000), 413, "50,000,000"),
        (GIF, 400, "2 pictures"),
        (b"\0" * (MAX_BODY_BYTES + 1), 413, f"more than {MAX_BODY_BYTES:,} bytes"),
    ],
    ids=["empty", "text", "truncated", "1x1", "bomb", "animated", "too many bytes"],
)
@pytest.mark.parametrize("send", [send_raw, send_form, send_chunked])
def test_a_body_that_is_no_picture_is_refused_however_it_is_sent(
    client: TestClient, data: bytes, status: int, text: str, send: Callable[[TestClient, bytes], Response]
) -> None:
    check(send(client, data), status, text)


def test_a_picture_may_come_in_parts_of_unannounced_length(client: TestClient) -> None:
    assert send_chunked(client, PNG).json()["probabilities"] == send_raw(client, PNG).json()["probabilities"]


def test_a_wrong_field_name_is_told_the_right_one(client: TestClient) -> None:
    check(client.post("/predict", files={"picture": PNG}), 400, "the form has `picture`. Name the field `file`")
    check(client.post("/predict/batch", files={"picture": PNG}), 400, "Name the field `files`")


@pytest.mark.parametrize("count", [2, 3])
def test_two_files_where_one_is_due_are_refused(client: TestClient, count: int) -> None:
    check(client.post("/predict", files=[("file", ("a.png", PNG))] * count), 400, "at most 1")


@pytest.mark.parametrize("count", [5, 6])
def test_more_files_than_the_card_takes_are_refused(client: TestClient, count: int) -> None:
    check(client.post("/predict/batch", files=[("files", ("a.png", PNG))] * count), 400, "at most 4")


def test_a_batch_is_a_form(client: TestClient) -> None:
    check(client.post("/predict/batch", content=PNG), 400, "one field `files` for each picture")


def test_text_in_a_file_field_and_json_for_a_picture_are_refused(client: TestClient) -> None:
    check(client.post("/predict", files={"file": (None, "hello")}), 400, "holds text")
    check(client.post("/predict", json={"image": "x"}), 400, "takes pictures, not JSON")


@pytest.mark.parametrize(
    ("content_type", "data"), [("multipart/form-data; boundary=b", b"nonsense"), ("multipart/form-data", PNG)]
)
def test_a_form_that_cannot_be_read_is_refused(client: TestClient, content_type: str, data: bytes) -> None:
    check(client.post("/predict", content=data, headers={"Content-Type": content_type}), 400, "form")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "image/jpeg", ""])
def test_the_content_type_of_a_bare_picture_does_not_matter(client: TestClient, content_type: str) -> None:
    assert client.post("/predict", content=plain(200), headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize(
    ("path", "request_body", "text"),
    [
        ("/models/churn/predict", {"content": b"{"}, "not JSON"),
        ("/models/churn/predict", {"content": b"[" * 100_000}, "not JSON"),
        ("/models/churn/predict", {"content": b"\xff{}"}, "not JSON"),
        ("/models/churn/predict", {"content": b""}, "not JSON"),
        ("/models/churn/predict", {"json": [1]}, "must be a JSON object"),
        ("/models/churn/predict", {"files": {"file": b"x"}}, "not a form with files"),
        ("/models/churn/predict/batch", {"files": {"files": b"x"}}, "not a form with files"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_by_a_model_of_rows(
    rows_client: TestClient, path: str, request_body: dict[str, object], text: str
) -> None:
    check(rows_client.post(path, **request_body), 400, text)  # type: ignore[arg-type]


def test_json_of_more_bytes_than_the_card_takes_is_refused(rows_client: TestClient) -> None:
    limit = rows_client.get("/models/churn").json()["limits"]["max_bytes"]
    response = rows_client.post("/models/churn/predict", content=json.dumps({"text": "x" * limit}))
    check(response, 413, f"at most {limit:,}")
