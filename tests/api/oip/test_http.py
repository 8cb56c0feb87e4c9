"""The operations over HTTP: hostile bodies and headers, compression, routes and their order."""

import json
import struct
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.http as triton_http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.oip.served import Served, tensor

CUSTOMER = [42.0, 52_000.0, 420.0, 9.0, 63.5, 95.0]
ROW = struct.pack("<6f", *CUSTOMER)
JSON_PART = json.dumps(
    {"inputs": [{"name": "rows", "datatype": "FP32", "shape": [1, 6], "parameters": {"binary_data_size": 24}}]}
).encode()


def infer(served: Served, model: str, **request: Any) -> requests.Response:
    return requests.post(f"{served.url}/v2/models/{model}/infer", timeout=30, **request)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"name": "pixels", "datatype": "UINT8", "shape": [0, 10**20, 1, 3], "data": []}, "shape must be"),
        ({"name": "pixels", "datatype": "UINT8", "shape": [0, 2**62, 2**62, 3], "data": []}, "shape must be"),
        ({"name": "tensor", "datatype": "FP32", "shape": [10**600, 10**600], "data": []}, "shape must be"),
        ({"name": "x" * 5000, "datatype": "FP32", "shape": [1], "data": [1]}, "has no name"),
        ({"name": "\ud800", "datatype": "FP32", "shape": [1], "data": [1]}, "has no name"),
        ({"name": "image", "datatype": "\ud800" * 100_000, "shape": [1], "data": [1]}, "is not one of BOOL"),
        ({"name": "image", "datatype": "BYTES", "shape": list(range(5000)), "data": [1]}, "shape must be"),
        ({"name": "image", "datatype": "BYTES", "shape": [5], "data": [""] * 5}, "takes 1 to 4"),
    ],
)
def test_a_hostile_tensor_is_a_short_400(served: Served, entry: dict[str, Any], message: str) -> None:
    answer = infer(served, "tiny", json={"inputs": [entry]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.content) < 6000


@pytest.mark.parametrize(
    ("headers", "parameters"),
    [
        ({"Inference-Header-Content-Length": b"\xb2"}, {}),
        ({"Inference-Header-Content-Length": b"\xb9\xb2"}, {}),
        ({}, {"timeout": 10**400}),
        ({}, {"timeout": True}),
        ({}, {"timeout": "1_000"}),
        ({}, {"timeout": -1}),
        ({}, {"threshold": 1.5}),
        ({}, {"threshold": "high"}),
        ({}, {"partial": 1}),
    ],
)
def test_hostile_headers_and_parameters_are_a_400(
    served: Served, headers: dict[str, bytes], parameters: dict[str, Any]
) -> None:
    entry = {"name": "rows", "datatype": "FP32", "shape": [1, 6], "data": CUSTOMER}
    body = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    answer = infer(served, "churn", data=body, headers=headers)
    assert answer.status_code == 400
    assert next(iter(parameters), "Inference-Header") in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_bodies_are_compressed_both_ways(served: Served, encoding: str) -> None:
    rows = np.tile(np.array(CUSTOMER, np.float32), (500, 1))
    with triton_http.InferenceServerClient(served.http) as client:
        plain = client.infer("churn", [tensor(triton_http, "rows", rows, "FP32")])
        packed = client.infer(
            "churn",
            [tensor(triton_http, "rows", rows, "FP32")],
            request_compression_algorithm=encoding,
            response_compression_algorithm=encoding,
        )
    np.testing.assert_array_equal(packed.as_numpy("logits"), plain.as_numpy("logits"))
    body = {"inputs": [{"name": "rows", "datatype": "FP32", "shape": list(rows.shape), "data": rows.tolist()}]}
    answer = infer(served, "churn", json=body, headers={"Accept-Encoding": encoding})
    assert answer.headers["Content-Encoding"] == encoding and answer.headers["Vary"] == "Accept-Encoding"
    assert answer.json()["outputs"][1]["data"] == plain.as_numpy("logits").ravel().tolist()


def test_an_answer_tells_where_its_time_went(served: Served) -> None:
    answer = infer(served, "churn", data=ROW, headers={"Inference-Header-Content-Length": "0"})
    assert [entry.partition(";")[0] for entry in answer.headers["Server-Timing"].split(", ")] == [
        "queue",
        "decode",
        "infer",
    ]


def test_a_version_stands_in_the_path_or_in_the_query(served: Served) -> None:
    version = served.repository.get("tiny").version or ""
    for path, status in (
        (f"/v2/models/tiny/versions/{version[:6]}/ready", 200),
        (f"/v2/models/tiny/ready?version={version}", 200),
        ("/v2/models/tiny/ready", 200),
        ("/v2/models/tiny/versions/zzz/ready", 404),
        ("/v2/models/tiny/ready?version=zzz", 404),
    ):
        assert requests.get(served.url + path, timeout=30).status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nope", 404),
        ("GET", "/v2/models/nope/ready", 404),
        ("POST", "/v2/models/nope/infer", 404),
        ("POST", "/v2/models/tiny/infer", 400),
        ("POST", "/v2/repository/models/churn/load", 403),
        ("POST", "/v2/repository/models/churn/unload", 403),
        ("GET", "/v2/models/tiny/infer", 405),
    ],
)
def test_errors_have_the_protocols_field(served: Served, method: str, path: str, status: int) -> None:
    answer = requests.request(method, served.url + path, timeout=10)
    assert answer.status_code == status
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b'{"ready": true, "x": "' + b"x" * 2000 + b'"}'])
def test_the_index_takes_nothing_but_its_one_option(served: Served, body: bytes) -> None:
    assert requests.post(f"{served.url}/v2/repository/index", data=body, timeout=10).status_code == 400


def test_a_large_request_is_read_as_a_small_one_is(served: Served) -> None:
    rows = np.tile(np.array(CUSTOMER), (1000, 1)).tolist()
    body = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1000, 6], "data": rows}]}
    large = infer(served, "churn", json=body).json()["outputs"][1]
    small = infer(served, "churn", data=ROW, headers={"Inference-Header-Content-Length": "0"}).json()["outputs"][1]
    assert large["shape"] == [1000, 2]
    assert large["data"][-2:] == pytest.approx(small["data"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, len(JSON_PART) + len(ROW)),
    insert=st.binary(max_size=12),
    length=st.one_of(
        st.just(len(JSON_PART)),
        st.integers(-5, len(JSON_PART) + 40),
        st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=4),
    ),
    encoding=st.sampled_from(["", "", "", "gzip", "deflate", "br"]),
)
def test_no_body_gets_a_500_or_no_answer(
    served: Served, cut: int, insert: bytes, length: object, encoding: str
) -> None:
    whole = JSON_PART + ROW
    headers = {"Inference-Header-Content-Length": str(length), "Content-Encoding": encoding}
    answer = infer(served, "churn", data=whole[:cut] + insert + whole[cut:], headers=headers)
    assert answer.status_code in (200, 400)
    assert "error" in answer.json() or answer.json()["outputs"]
