"""TorchServe's routes over the real application, with what its clients send."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from httpx2 import Response
from onnx import numpy_helper
from starlette.testclient import TestClient

from api.auth import Authenticator
from api.keys import add_key
from tests.api.conftest import MakeClient, keys_of
from tests.api.counted import counted_requests
from tests.api.instances import b64, explaining_client, probabilities
from tests.api.test_rows import CUSTOMER, READING, churn_probabilities
from tests.conftest import encode
from tests.tiny import bright_square, map_of, plain, seal, tiny_package

LABELS = ("dark", "bright")
SEVEN = [f"label-{index}" for index in range(7)]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with explaining_client(tmp_path_factory.mktemp("torchserve")) as client:
        yield client


def with_seven_labels(folder: Path) -> Path:
    """Write the tiny package with seven labels, whose probabilities grow with their index for a bright picture."""
    weight = np.tile(np.arange(7, dtype=np.float32), (3, 1))
    package = tiny_package(folder, "seven")
    card, graph, goldens = package / "card.toml", package / "predict.onnx", package / "goldens" / "goldens.json"
    two = 'labels = ["dark", "bright"]\npositive_label = "bright"\nthreshold = 0.5'
    card.write_text(card.read_text().replace(two, f"labels = {json.dumps(SEVEN)}"))
    model = onnx.load(graph)
    for tensor in model.graph.initializer:
        if tensor.name == "weight":
            tensor.CopyFrom(numpy_helper.from_array(weight, "weight"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 7
    onnx.save(model, graph)
    rows = json.loads(goldens.read_text())
    for row in rows["goldens"]:
        level = int(row["file"].removesuffix(".png"))
        row["logits"] = (np.full(3, (level / 255 - 0.5) / 0.5) @ weight).tolist()
    goldens.write_text(json.dumps(rows))
    return package


def check(answer: Response, level: int) -> None:
    """Check that an answer is an object of labels and probabilities, the most probable label first."""
    assert answer.status_code == 200, answer.text
    expected = dict(zip(LABELS, probabilities(level), strict=True))
    assert answer.json() == pytest.approx(expected, abs=1e-6)
    assert list(answer.json()) == sorted(LABELS, key=lambda label: -expected[label])


def test_a_picture_comes_raw_by_post_or_put_in_a_form_or_in_json(client: TestClient) -> None:
    path, data = "/predictions/tiny", plain(200)
    check(client.post(path, content=data), 200)
    check(client.put(path, content=data), 200)  # as `curl -T` sends it
    for field in ("data", "body"):
        check(client.post(path, files={field: ("ct.png", data)}), 200)
    for body in ({"data": b64(data)}, {"b64": b64(data)}, {"body": {"b64": b64(data)}}, b64(data)):
        check(client.post(path, json=body), 200)
    check(client.post(path, json=(np.full((3, 16, 16), 200) / 127.5 - 1).tolist()), 200)
    version = client.get("/models/tiny").json()["version"]
    check(client.post(f"{path}/{version}", content=data), 200)


def test_instances_are_answered_as_its_json_envelope_does(client: TestClient) -> None:
    body = {"instances": [{"data": b64(plain(level))} for level in (10, 250)]}
    answer = client.post("/predictions/tiny", json=body).json()
    assert answer == {
        "predictions": [
            pytest.approx(dict(zip(LABELS, probabilities(level), strict=True)), abs=1e-6) for level in (10, 250)
        ]
    }


def test_five_labels_are_given_unless_another_number_is_asked_for(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(with_seven_labels(tmp_path / "seven")))
    for query, count in (("", 5), ("?top_k=2", 2), ("?top_k=7", 7)):
        answer = client.post(f"/predictions/seven{query}", content=plain(250)).json()
        assert list(answer) == SEVEN[::-1][:count]
        assert list(answer.values()) == sorted(answer.values(), reverse=True)


def test_rows_are_json(client: TestClient) -> None:
    expected = dict(zip(("class_0", "class_1"), churn_probabilities(CUSTOMER)[0], strict=True))
    for body in (CUSTOMER, {"data": CUSTOMER}, {"features": CUSTOMER}, list(CUSTOMER.values())):
        answer = client.post("/predictions/churn", content=json.dumps(body))
        assert answer.json() == pytest.approx(expected, abs=1e-5)
    own = client.post("/models/machine-anomaly/predict", json=READING).json()
    answer = client.post("/predictions/machine-anomaly", json=READING)
    assert answer.json()["is_anomaly"] == own["is_anomaly"]
    assert answer.json()["anomaly_score"] == pytest.approx(own["anomaly_score"], rel=1e-8)


def test_an_explanation_is_one_channel_of_numbers(client: TestClient) -> None:
    picture = bright_square()
    predicted = client.post("/predictions/tiny", content=encode(picture)).json()
    expected = map_of(picture, LABELS.index(next(iter(predicted))), "layercam")[None]
    single = client.post("/explanations/tiny", content=encode(picture))
    listed = client.post("/explanations/tiny", json={"instances": [b64(encode(picture))]})
    for rows in (single.json(), listed.json()["explanations"][0]):
        assert np.array(rows) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ping_is_healthy_and_needs_no_key(client: TestClient, make_client: MakeClient, tmp_path: Path) -> None:
    assert client.get("/ping").json() == {"status": "Healthy"}
    key = add_key(tmp_path / "keys.toml", "ci")
    guard = Authenticator(keys_of(tmp_path / "keys.toml"), ("health",))
    guarded = make_client(seal(tiny_package(tmp_path / "tiny")), authenticator=guard)
    assert guarded.get("/ping").status_code == 200
    for path in ("/predictions/tiny", "/explanations/tiny", "/v1/models/tiny:predict"):
        assert guarded.post(path, content=plain(1)).status_code == 401
    check(guarded.post("/predictions/tiny", content=plain(1), headers={"X-API-Key": key}), 1)


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("/predictions/tiny", {"content": b""}, 400, "a form with one `data`"),
        ("/predictions/tiny", {"content": b"no picture"}, 400, "The file is not an image"),
        ("/predictions/tiny", {"files": {"file": ("a.png", plain(1))}}, 400, "Name the field `data`"),
        ("/predictions/tiny", {"json": {"data": "!"}}, 400, "The body is not base64"),
        ("/predictions/tiny", {"json": {"picture": 1}}, 400, "The body must be"),
        ("/predictions/tiny", {"json": {"instances": {}}}, 400, '{"instances": […]}'),
        ("/predictions/churn", {"files": {"data": ("a.json", b"{}")}}, 400, "send JSON, not a form"),
        ("/predictions/churn", {"json": {**CUSTOMER, "age": 7}}, 400, "age must be a number from 16"),
        ("/explanations/churn", {"json": {**CUSTOMER, "age": 7}}, 400, "age must be a number from 16"),
        ("/predictions/nope", {"content": plain(1)}, 404, "Known models: churn"),
        ("/predictions/tiny/9.9", {"content": plain(1)}, 404, "is not served here"),
        ("/predictions", {"content": plain(1)}, 404, "nothing at /predictions"),
    ],
)
def test_what_is_wrong_keeps_its_status_and_says_what_to_do(
    client: TestClient, path: str, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post(path, **request_)
    assert answer.status_code == status
    assert message in answer.json()["detail"] and message in answer.json()["error"]
    assert not answer.json()["detail"].startswith("instances[")


def test_requests_count_under_their_model(client: TestClient) -> None:
    before, refused = counted_requests("tiny", "200"), counted_requests("tiny", "400")
    body = {"instances": [{"b64": b64(plain(1))}]}
    assert client.post("/v1/models/tiny:predict", json=body).status_code == 200
    assert client.post("/predictions/tiny", content=plain(1)).status_code == 200
    assert client.post("/explanations/tiny", content=b"x").status_code == 400
    assert (counted_requests("tiny", "200") - before, counted_requests("tiny", "400") - refused) == (2, 1)
