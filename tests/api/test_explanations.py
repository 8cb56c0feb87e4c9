"""Explanations over HTTP: the real application, client, wire format and pipeline, over a graph worked out by NumPy."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from httpx2 import Response
from PIL import Image
from starlette.testclient import TestClient

from explain.overlay import grey, heatmap, overlay
from serving.gradcam.client import ExplainerClient
from tests.api.conftest import MakeClient, client_maker
from tests.conftest import encode
from tests.local_gradcam import LocalGradCam, local_gradcam, tell_state
from tests.tiny import bright_square, map_of, plain, seal, tiny_package

SQUARE = bright_square()
PNG = encode(SQUARE)


@pytest.fixture(scope="module")
def gradcam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, ExplainerClient, LocalGradCam]]:
    """The application over an explained tiny model, with the client and the process of its explanations."""
    stored = seal(tiny_package(tmp_path_factory.mktemp("explained") / "tiny", explained=True))
    with local_gradcam(stored) as (explainer, process), client_maker() as make:
        yield make(stored, explainer=explainer), explainer, process


@pytest.fixture
def client(gradcam: tuple[TestClient, ExplainerClient, LocalGradCam]) -> TestClient:
    return gradcam[0]


@pytest.fixture
def broken(gradcam: tuple[TestClient, ExplainerClient, LocalGradCam]) -> Iterator[TestClient]:
    """The application while every call to the Grad-CAM process loses its connection."""
    client, explainer, process = gradcam
    process.failure = ConnectionResetError()
    yield client
    process.failure = None
    tell_state(explainer, process)


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a PNG's pixels as they are stored: grey, or BGR."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def explain(client: TestClient, query: str = "", data: bytes = PNG) -> Response:
    return client.post(f"/explain?{query}", content=data)


@pytest.mark.parametrize(("target", "class_id"), [("bright", 1), ("0", 0), (None, 0)])
@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "hirescam"])
def test_the_map_is_what_numpy_works_out(client: TestClient, target: str | None, class_id: int, method: str) -> None:
    query = {"output": "map", "method": method} | ({"target": target} if target else {})
    response = client.post("/explain", params=query, content=PNG)
    answer = response.json()
    expected = map_of(SQUARE, class_id, method)
    assert np.abs(np.array(answer["explanation"]["map"]) - expected).max() <= 1e-4 * expected.max()
    details = answer["explanation"]
    assert details["time_ms"] >= 0
    assert {name: details[name] for name in details if name not in ("map", "time_ms")} == {
        "method": method,
        "target": ("dark", "bright")[class_id],
        "target_class_id": class_id,
        "layer": "none of this graph's",
        "output": "map",
        "alpha": None,
        "size": [16, 16],
        "cost": "one pass",
    }
    assert answer["gradcam_heatmap"] is None and "explanation_error" not in answer
    assert {part.split(";")[0].strip() for part in response.headers["server-timing"].split(",")} == {
        *("queue", "decode", "infer")
    }


def test_an_explanation_predicts_what_a_prediction_does(client: TestClient) -> None:
    predicted, explained = client.post("/predict", content=PNG).json(), explain(client, "output=map").json()
    assert explained["probabilities"] == pytest.approx(predicted["probabilities"], abs=1e-5)
    for name in ("model", "version", "prediction", "predicted_class_id", "threshold", "warnings", "device"):
        assert explained[name] == predicted[name]
    assert set(explained) == set(predicted) | {"explanation"}


def test_where_a_threshold_decides_the_label_that_label_is_explained(client: TestClient) -> None:
    for threshold, label in ((0.0, "bright"), (1.0, "dark")):
        answer = explain(client, f"output=map&threshold={threshold}").json()
        assert (answer["prediction"], answer["explanation"]["target"]) == (label, label)


def test_the_overlay_has_the_uploads_size_and_is_where_the_map_is(client: TestClient) -> None:
    image = np.ascontiguousarray(np.kron(SQUARE, np.ones((3, 2, 1), np.uint8)))
    heat = heatmap(map_of(SQUARE, 1, "layercam"), image.shape[:2])
    response = explain(client, "target=bright", encode(image))
    answer = response.json()
    drawn = decoded(base64.b64decode(answer["gradcam_heatmap"]))[..., ::-1]
    expected = overlay(image, heat, 0.5)
    assert drawn.shape == image.shape == expected.shape
    assert np.abs(drawn.astype(int) - expected).max() <= 2
    details = answer["explanation"]
    assert (details["method"], details["size"], details["alpha"]) == ("layercam", [32, 48], 0.5)
    response = explain(client, "target=bright&format=png", encode(image))
    assert response.headers["content-type"] == "image/png" and "server-timing" in response.headers
    assert np.array_equal(decoded(response.content)[..., ::-1], drawn)
    bare = decoded(explain(client, "target=bright&format=png&output=heatmap", encode(image)).content)
    assert np.abs(bare.astype(int) - grey(heat)).max() <= 2
    assert decoded(explain(client, "format=png&size=input", encode(image)).content).shape == (16, 16, 3)


def test_a_turned_photograph_gets_its_overlay_upright(client: TestClient) -> None:
    upright = np.zeros((40, 90, 3), np.uint8)
    upright[:, 60:, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by 90 degrees: a viewer turns it back clockwise
    photograph = encode(Image.fromarray(np.rot90(upright).copy()), "JPEG", exif=exif.tobytes(), quality=95)
    drawn = decoded(explain(client, "format=png&alpha=0", photograph).content)[..., ::-1]
    assert drawn.shape == upright.shape
    assert np.abs(drawn.astype(int) - upright).mean() < 8


def test_a_prediction_with_a_heatmap_is_one_answer_with_both(client: TestClient) -> None:
    predicted = client.post("/predict", content=PNG).json()
    answer = client.post("/predict?include_gradcam=true", content=PNG).json()
    assert answer["explanation_error"] is None
    assert decoded(base64.b64decode(answer["gradcam_heatmap"])).shape == SQUARE.shape
    assert answer["probabilities"] == pytest.approx(predicted["probabilities"], abs=1e-5)


def test_a_batch_with_heatmaps_fails_only_where_it_must(client: TestClient) -> None:
    files = [("files", (f"{index}.png", data)) for index, data in enumerate((PNG, b"\x89PNG\r\n\x1a\n no more", PNG))]
    response = client.post("/predict/batch?include_gradcam=1", files=files)
    first, second, third = response.json()["predictions"]
    assert (response.status_code, response.json()["errors"]) == (200, 1)
    assert second["error"]["status"] == 400
    assert first["gradcam_heatmap"] and third["gradcam_heatmap"] and first["explanation_error"] is None


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("target=kidney", "dark, bright"),
        ("target=2", "0 to 1"),
        ("method=magic", "gradcam, gradcam++, layercam, hirescam"),
        ("format=gif", "json, png"),
        ("output=mask", "overlay, heatmap, map"),
        ("size=huge", "original, input"),
        ("alpha=1.5", "0 to 1"),
        ("alpha=nan", "0 to 1"),
        ("format=png&output=map", "numbers"),
    ],
)
def test_a_parameter_that_is_not_allowed_lists_what_is(client: TestClient, query: str, text: str) -> None:
    response = explain(client, query)
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert text in response.json()["detail"]


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff\xd8\xff\xe0 truncated"])
def test_what_is_no_picture_is_refused_as_by_predict(client: TestClient, data: bytes) -> None:
    details = set[str]()
    for path in ("/predict", "/explain", "/predict?include_gradcam=1"):
        response = client.post(path, content=data)
        assert response.status_code == 400
        details.add(response.json()["detail"])
    assert len(details) == 1


def test_without_the_grad_cam_process_a_prediction_says_why_it_has_no_heatmap(broken: TestClient) -> None:
    response = explain(broken)
    assert response.status_code == 503 and response.headers["retry-after"] == "2"
    assert "Grad-CAM runner" in response.json()["detail"]
    answer = broken.post("/predict?include_gradcam=true", content=PNG).json()
    assert answer["prediction"] == "dark" and answer["gradcam_heatmap"] is None
    assert "Grad-CAM runner" in answer["explanation_error"]
    assert broken.get("/health").json()["explanations"]["tiny"] != "ready"
    assert broken.get("/models/tiny/stats").json()["explain"] is None


def test_health_and_statistics_tell_of_explanations(
    gradcam: tuple[TestClient, ExplainerClient, LocalGradCam],
) -> None:
    client, explainer, process = gradcam

    def succeeded() -> int:
        tell_state(explainer, process)
        counts: dict[str, Any] = client.get("/models/tiny/stats").json()["explain"]
        return int(counts["succeeded"])

    before = succeeded()
    assert explain(client).status_code == 200
    assert succeeded() == before + 1
    assert client.get("/health").json()["explanations"] == {"tiny": "ready"}
    details = client.get("/models/tiny").json()["explain"]
    assert details["method"] == "layercam" and details["method"] in details["methods"]


def test_explanations_that_are_switched_off_say_so(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny", explained=True)))
    response = explain(client)
    assert response.status_code == 503 and "VITRINE_EXPLAIN=false" in response.json()["detail"]
    assert "VITRINE_EXPLAIN=false" in client.get("/health").json()["explanations"]["tiny"]
    answer = client.post("/predict?include_gradcam=1", content=plain(240)).json()
    assert answer["prediction"] == "bright" and "VITRINE_EXPLAIN=false" in answer["explanation_error"]


def test_a_card_may_ask_for_a_heatmap_by_default(tmp_path: Path) -> None:
    package = tiny_package(tmp_path / "tiny", explained=True)
    card = package / "card.toml"
    card.write_text(f"{card.read_text('utf-8')}\n[answer]\nheatmap = true\n")
    stored = seal(package)
    with local_gradcam(stored) as (explainer, process), client_maker() as make:
        client = make(stored, explainer=explainer)
        answer = client.post("/predict", content=PNG).json()
        assert decoded(base64.b64decode(answer["gradcam_heatmap"])).shape == SQUARE.shape
        batch = client.post("/predict/batch", files=[("files", ("a.png", PNG))]).json()
        assert batch["predictions"][0]["gradcam_heatmap"] and batch["predictions"][0]["explanation_error"] is None
        without = client.post("/predict?include_gradcam=false", content=PNG).json()
        assert without["gradcam_heatmap"] is None and "explanation_error" not in without
        process.failure = ConnectionResetError()
        broken = client.post("/predict", content=PNG).json()
        assert broken["gradcam_heatmap"] is None and broken["explanation_error"]
