"""KServe's protocol V1 and TensorFlow Serving's REST interface over the real application."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from serving.options import RunnerOptions
from tests.api.conftest import MakeClient
from tests.api.instances import b64, explaining_client, probabilities
from tests.api.test_rows import CUSTOMER, READING, SENSORS, churn_probabilities
from tests.conftest import encode
from tests.tiny import bright_square, map_of, plain, seal, tiny_package

LEVELS = (30, 220)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with explaining_client(tmp_path_factory.mktemp("v1")) as client:
        yield client


def predicted(client: TestClient, name: str, *instances: Any) -> Any:
    answer = client.post(f"/v1/models/{name}:predict", json={"instances": list(instances)})
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == ["predictions"]
    return answer.json()["predictions"]


@pytest.mark.parametrize("wrap", [lambda text: {"b64": text}, lambda text: {"data": {"b64": text}}, str])
def test_pictures_in_base64_get_their_probabilities_in_label_order(client: TestClient, wrap: Any) -> None:
    rows = predicted(client, "tiny", *(wrap(b64(plain(level))) for level in LEVELS))
    assert rows == [pytest.approx(probabilities(level), abs=1e-6) for level in LEVELS]


def test_numbers_are_pixels_or_what_the_network_gets(client: TestClient) -> None:
    pixels = np.full((16, 16, 3), 220)
    larger = np.full((40, 20, 3), 220)
    normalised = pixels.transpose(2, 0, 1) / 127.5 - 1
    rows = predicted(client, "tiny", pixels.tolist(), larger.tolist(), normalised.tolist())
    assert rows == [pytest.approx(probabilities(220), abs=1e-6)] * 3


def test_rows_are_named_values_or_lists_in_the_cards_order(client: TestClient) -> None:
    expected = churn_probabilities(CUSTOMER)[0]
    assert predicted(client, "churn", CUSTOMER, {"features": CUSTOMER})[1] == pytest.approx(expected, abs=1e-5)
    assert predicted(client, "churn", list(CUSTOMER.values()))[0] == pytest.approx(expected, abs=1e-5)
    assert predicted(client, "churn", [str(value) for value in CUSTOMER.values()])[0] == pytest.approx(
        expected, abs=1e-5
    )


def test_a_detector_says_what_it_says_elsewhere(client: TestClient) -> None:
    own = client.post("/models/machine-anomaly/predict", json=READING).json()
    for row in (READING, [READING[name] for name in SENSORS]):
        (answer,) = predicted(client, "machine-anomaly", row)
        for name, value in answer.items():
            assert value == pytest.approx(own[name], rel=1e-8), name
        assert set(answer) == {"is_anomaly", "anomaly_score", "threshold", "confidence", "contributions"}


def test_a_version_may_be_named(client: TestClient) -> None:
    version = client.get("/models/tiny").json()["version"]
    body = {"instances": [{"b64": b64(plain(30))}]}
    assert client.post(f"/v1/models/tiny/versions/{version[:8]}:predict", json=body).status_code == 200
    assert client.post("/v1/models/tiny/versions/g:predict", json=body).status_code == 404


def test_an_explanation_is_the_map_beside_the_prediction(client: TestClient) -> None:
    picture = bright_square()
    answer = client.post("/v1/models/tiny:explain", json={"instances": [{"b64": b64(encode(picture))}]}).json()
    (prediction,), (rows,) = answer["predictions"], answer["explanations"]
    expected = map_of(picture, int(np.argmax(prediction)), "layercam")
    assert np.array(rows) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_models_are_listed_and_ready_in_both_protocols_words(client: TestClient) -> None:
    assert client.get("/v1/models").json() == {"models": ["churn", "machine-anomaly", "tiny"]}
    version = client.get("/models/tiny").json()["version"]
    state = {"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/tiny", f"/v1/models/tiny/versions/{version}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {"name": "tiny", "ready": True, "model_version_status": [state]}


def test_a_model_that_is_not_loaded_is_a_503_everywhere(make_client: MakeClient, tmp_path: Any) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), loaded=False)
    answer = client.get("/v1/models/tiny")
    assert answer.status_code == 503
    assert (answer.json()["ready"], answer.json()["model_version_status"][0]["state"]) == (False, "LOADING")
    assert client.post("/v1/models/tiny:predict", json={"instances": []}).status_code == 503
    assert client.get("/ping").status_code == 503
    assert client.get("/ping").json() == {"status": "Unhealthy"}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("tiny:predict", {}, 400, '{"instances": […]}'),
        ("tiny:predict", [1], 400, '{"instances": […]}'),
        ("tiny:predict", {"inputs": [[1.0]]}, 400, '{"instances": […]}'),
        ("tiny:predict", {"instances": []}, 400, "takes 1 to 4 instances"),
        ("tiny:predict", {"instances": [{"b64": "AAAA"}] * 5}, 400, "takes 1 to 4 instances"),
        ("tiny:predict", {"instances": [{"b64": "!"}]}, 400, "instances[0] is not base64"),
        (
            "tiny:predict",
            {"instances": [{"b64": b64(plain(1))}, {"b64": "AAAA"}]},
            400,
            "instances[1]: The file is not",
        ),
        ("tiny:predict", {"instances": [[[1.5]]]}, 400, "nested as 3, 16, 16"),
        ("tiny:predict", {"instances": [[[1], [1, 2]]]}, 400, "nested as 3, 16, 16"),
        ("tiny:predict", {"instances": [[[[256, 0, 0]] * 8] * 8]}, 400, "whole numbers from 0 to 255"),
        ("tiny:predict", {"instances": [np.full((3, 16, 16), 1e39).tolist()]}, 400, "instances[0]: The tensor has"),
        ("tiny:predict", {"instances": [7, None]}, 400, "instances[0] must be"),
        ("tiny:predict", {"instances": [["x" * 100_000, *[""] * 10_000]]}, 400, "instances[0] must be"),
        ("tiny:predict", {"instances": [[["a", "b"]]]}, 400, "instances[0] must be"),
        ("tiny:predict", {"instances": [[[[True, False, True]] * 8] * 8]}, 400, "instances[0] must be"),
        ("tiny:predict", {"instances": [[[10**400, 1.5]]]}, 400, "instances[0] must be"),
        ("tiny:predict", {"instances": [[[]]]}, 400, "instances[0] must be"),
        ("churn:predict", {"instances": [{**CUSTOMER, "age": 7}]}, 400, "instances[0]: age must be a number from 16"),
        ("churn:predict", {"instances": [[1, 2]]}, 400, "instances[0] must be a list of 6 numbers: age, income"),
        ("churn:predict", {"instances": [CUSTOMER, [1, 2, 3, 4, 5, 6]]}, 400, "instances[0] must be a list of 6"),
        ("churn:predict", {"instances": [[10**400, 2, 3, 4, 5, 6]]}, 400, "too large"),
        ("churn:predict", {"instances": ["x"]}, 400, "instances[0]: A row is an object"),
        ("churn:explain", {"instances": [CUSTOMER, 7]}, 400, "instances[1]: A row is an object"),
        ("churn:explain", {"instances": [CUSTOMER] * 65}, 400, "At most 64 rows"),
        ("nope:predict", {"instances": []}, 404, "Known models: churn"),
        ("tiny:classify", {"instances": []}, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_said_in_error(client: TestClient, path: str, body: Any, status: int, message: str) -> None:
    answer = client.post(f"/v1/models/{path}", json=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_a_form_is_answered_with_what_to_send_instead(client: TestClient) -> None:
    for name in ("tiny", "churn"):
        answer = client.post(f"/v1/models/{name}:predict", files={"file": ("ct.png", plain(1))})
        assert answer.status_code == 400 and answer.json()["error"].startswith('Send JSON: {"instances": […]}')


def test_a_million_values_are_too_many(client: TestClient) -> None:
    answer = client.post("/v1/models/tiny:predict", content=b'{"instances": [' + b"0," * 1_000_001 + b"0]}")
    assert answer.status_code == 400 and "1,000,000 values" in answer.json()["error"]


def test_the_queue_and_the_deadline_are_those_of_every_route(make_client: MakeClient, tmp_path: Any) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny")), options=RunnerOptions(queue_size=2))
    body = {"instances": [{"b64": b64(plain(1))}] * 5}
    answer = client.post("/v1/models/tiny:predict", json=body)
    assert answer.status_code == 400 and "takes 1 to 4 instances" in answer.json()["error"]
    body = {"instances": [{"b64": b64(plain(1))}] * 3}
    answer = client.post("/v1/models/tiny:predict", json=body)  # an idle model takes every request
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 3
    late = client.post("/v1/models/tiny:predict?timeout_ms=0", json=body)
    assert late.status_code == 400 and late.json()["error"].startswith("timeout_ms='0'")
