"""Bad input: each a 4xx that says what to do, and the next request is served as ever."""

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from urllib.parse import urlparse

import numpy as np
import pytest
import requests
from PIL import Image

from api.header_limit import LIMIT
from tests.conftest import encode
from tests.live.server import Server
from tests.preprocessing.test_decode import png_of

PICTURE = np.random.default_rng(3).integers(0, 256, (64, 64, 3)).astype(np.uint8)
PNG = encode(PICTURE)
GIF = encode(Image.fromarray(PICTURE), "GIF", save_all=True, append_images=[Image.fromarray(PICTURE[::-1])])


@pytest.fixture(autouse=True)
def _served_as_ever(server: Server) -> Iterator[None]:
    yield
    assert requests.post(f"{server.url}/predict", data=PNG, timeout=60).status_code == 200


def check(answer: requests.Response, status: int, says: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["error"] == body["detail"]
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert says in body["detail"]


@pytest.mark.parametrize(
    ("data", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"These are words, not a scan.", 400, "looks like text"),
        (PNG[:500], 400, "cut short"),
        (encode(PICTURE[:1, :1]), 400, "1 x 1"),
        (png_of(30_000, 30_000), 413, "50,000,000"),
        (GIF, 400, "2 pictures"),
        (b"\0" * 50_000_000, 413, "33,554,432"),
    ],
    ids=["empty", "text", "truncated", "1x1", "bomb", "animated", "50MB"],
)
@pytest.mark.parametrize("how", ["raw", "form", "chunked"])
def test_a_body_that_is_no_picture(server: Server, data: bytes, status: int, says: str, how: str) -> None:
    url = f"{server.url}/predict"
    if how == "raw":
        answer = requests.post(url, data=data, timeout=60)
    elif how == "form":
        answer = requests.post(url, files={"file": ("scan.jpg", data, "image/jpeg")}, timeout=60)
    else:
        answer = requests.post(url, data=(data[at : at + 2**20] for at in range(0, len(data), 2**20)), timeout=60)
    check(answer, status, says)


def test_a_wrong_field_name_is_told_the_right_one(server: Server) -> None:
    check(requests.post(f"{server.url}/predict", files={"picture": PNG}, timeout=60), 400, "Name the field `file`")
    check(
        requests.post(f"{server.url}/predict/batch", files={"picture": PNG}, timeout=60), 400, "Name the field `files`"
    )


@pytest.mark.parametrize("count", [2, 3])
def test_two_files_where_one_is_due(server: Server, count: int) -> None:
    files = [("file", ("a.png", PNG))] * count
    check(requests.post(f"{server.url}/predict", files=files, timeout=60), 400, "at most 1")


def test_text_in_a_file_field_and_json_for_a_picture(server: Server) -> None:
    form = requests.post(f"{server.url}/predict", files={"file": (None, "hello")}, timeout=60)
    check(form, 400, "holds text")
    check(requests.post(f"{server.url}/predict", json={"image": "x"}, timeout=60), 400, "not JSON")
    broken = {"Content-Type": "multipart/form-data; boundary=b"}
    check(requests.post(f"{server.url}/predict", data=b"nonsense", headers=broken, timeout=60), 400, "form")
    unbound = {"Content-Type": "multipart/form-data"}
    check(requests.post(f"{server.url}/predict", data=PNG, headers=unbound, timeout=60), 400, "form")


def test_more_than_64_in_a_batch(server: Server) -> None:
    for count in (65, 66):
        files = [("files", (f"{index}.png", PNG)) for index in range(count)]
        check(requests.post(f"{server.url}/predict/batch", files=files, timeout=60), 400, "at most 64")


@pytest.mark.parametrize(
    "query",
    ["threshold=2", "threshold=nan", "threshold=x", "top_k=0", "top_k=1.5", "timeout_ms=-1", "include_gradcam=maybe"],
)
def test_a_parameter_out_of_range_is_named(server: Server, query: str) -> None:
    check(requests.post(f"{server.url}/predict?{query}", data=PNG, timeout=60), 400, query.split("=")[0])


def test_an_unknown_model_lists_the_known(server: Server) -> None:
    check(requests.post(f"{server.url}/models/nope/predict", data=PNG, timeout=60), 404, "kidney-stone")
    check(requests.get(f"{server.url}/nowhere", timeout=60), 404, "GET / lists")


def test_a_method_that_is_not_there_names_those_that_are(server: Server) -> None:
    answer = requests.delete(f"{server.url}/predict", timeout=60)
    check(answer, 405, "")
    assert "POST" in answer.headers["Allow"]


def test_a_deadline_that_cannot_be_met_is_a_504(server: Server) -> None:
    check(requests.post(f"{server.url}/predict?timeout_ms=1", data=PNG, timeout=60), 504, "deadline")


def test_a_request_id_that_is_not_sane_is_replaced(server: Server) -> None:
    answer = requests.get(f"{server.url}/health", headers={"X-Request-ID": "a b{}"}, timeout=60)
    assert answer.headers["X-Request-ID"] != "a b{}"


def test_clients_that_hang_up_cost_the_others_nothing(server: Server) -> None:
    place = urlparse(server.url)
    for sent in (len(PNG) // 2, len(PNG)):
        for _ in range(8):
            with socket.create_connection((place.hostname or "", place.port or 0)) as wire:
                head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(PNG)}\r\n\r\n".encode()
                wire.sendall(head + PNG[:sent])
    answers = [requests.post(f"{server.url}/predict", data=PNG, timeout=60).status_code for _ in range(4)]
    assert answers == [200] * 4
    assert "Traceback" not in server.log.read_text()


def test_one_connection_goes_on_after_an_error(server: Server) -> None:
    place = urlparse(server.url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    for data, status in ((b"no picture at all", 400), (PNG, 200), (b"", 400), (PNG, 200)):
        connection.request("POST", "/predict", data)
        response = connection.getresponse()
        json.loads(response.read())
        assert response.status == status
    connection.close()


def test_headers_without_an_end_are_cut_off(server: Server) -> None:
    place = urlparse(server.url)
    with socket.create_connection((place.hostname or "", place.port or 0), timeout=60) as wire:
        said = b""
        with contextlib.suppress(ConnectionError):  # closed with bytes unread, which may come back as a reset
            wire.sendall(b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * (8 * LIMIT))
        with contextlib.suppress(ConnectionError):
            while part := wire.recv(4096):
                said += part
    assert not said or said.startswith(b"HTTP/1.1 400 ")
    assert requests.get(f"{server.url}/health", headers={"X-Long": "a" * 60_000}, timeout=60).status_code == 200
