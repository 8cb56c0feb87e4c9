"""Explanations by RISE over HTTP: of a model without a gradient, and of every other where they are asked for."""

import base64
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient

import serving.rise
from explain.overlay import heatmap, overlay
from tests.api.conftest import MakeClient, client_maker
from tests.api.instances import b64
from tests.conftest import encode
from tests.tiny import bright_square, plain, seal, tiny_package

SQUARE = bright_square()
PNG = encode(SQUARE)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application over a model without a gradient; there is no Grad-CAM process."""
    with client_maker() as make:
        yield make(seal(tiny_package(tmp_path_factory.mktemp("rise") / "tiny")))


def computed(client: TestClient) -> tuple[int, int]:
    """How many pictures were predicted for clients, and how many for explanations."""
    stats = client.get("/models/tiny/stats").json()
    return stats["inferences"], stats["evaluations"]


def test_a_model_without_a_gradient_is_explained_by_many_predictions(client: TestClient) -> None:
    predicted_before, evaluated_before = computed(client)
    answer = client.post("/explain?output=map", content=PNG).json()
    assert computed(client) == (predicted_before + 1, evaluated_before + 300)
    details = answer["explanation"]
    values = np.array(details["map"])
    assert values.shape == (16, 16) and values.min() >= 0 and details["peak"] == values.max()
    assert 0 < details["standard_error"] < 0.2 * details["peak"] and details["time_ms"] > 0
    others = ("map", "peak", "standard_error", "time_ms")
    assert {name: details[name] for name in details if name not in others} == {
        **{"method": "rise", "target": answer["prediction"], "target_class_id": answer["predicted_class_id"]},
        **{"layer": None, "output": "map", "alpha": None, "size": [16, 16]},
        **{"cost": "many predictions", "evaluations": 300},
    }
    predicted = client.post("/predict", content=PNG).json()
    assert set(answer) == set(predicted) | {"explanation"}
    assert answer["probabilities"] == predicted["probabilities"]


def test_any_model_is_explained_so_where_that_is_asked_for(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(seal(tiny_package(tmp_path / "tiny", explained=True)))  # there is no Grad-CAM process
    answer = client.post("/explain?method=rise&samples=50&target=bright&output=map", content=PNG).json()
    details = answer["explanation"]
    assert (details["method"], details["layer"], details["evaluations"]) == ("rise", None, 50)
    row, column = np.unravel_index(np.argmax(details["map"]), (16, 16))
    assert max(row, column) < 5  # the red square
    facts = client.get("/models/tiny").json()["explain"]
    assert facts["method"] == "layercam" and facts["methods"][-1] == "rise" and facts["way"] == "compiled"


def test_the_model_says_how_it_is_explained(client: TestClient) -> None:
    facts = client.get("/models/tiny").json()["explain"]
    assert (facts["method"], facts["methods"], facts["way"], facts["layer"]) == ("rise", ["rise"], "rise", None)
    assert "names no layer" in facts["no_gradient"]
    assert client.get("/health").json()["explanations"]["tiny"] == "ready"


def test_several_classes_share_the_same_predictions(client: TestClient) -> None:
    predicted_before, evaluated_before = computed(client)
    response = client.post("/explain?output=map&target=dark&target=bright&samples=40", content=PNG)
    assert computed(client) == (predicted_before + 1, evaluated_before + 40)
    answer = response.json()
    dark, bright = answer["explanations"]
    assert (dark["target"], bright["target"], bright["evaluations"]) == ("dark", "bright", 40)
    # What raises one probability lowers the other.
    assert not (np.array(dark["map"]) * np.array(bright["map"])).any()
    infer_ms = float(response.headers["server-timing"].split("infer;dur=")[1])
    assert infer_ms <= dark["time_ms"] + 0.1


def test_a_contrast_is_explained_on_the_logarithm_of_the_ratio(client: TestClient) -> None:
    query = "output=map&samples=40&target=bright"
    alone = client.post(f"/explain?{query}", content=PNG).json()["explanation"]
    against = client.post(f"/explain?{query}&contrast=dark", content=PNG).json()["explanation"]
    assert against["contrast"] == "dark"
    assert np.corrcoef(np.ravel(alone["map"]), np.ravel(against["map"]))[0, 1] > 0.99
    assert against["peak"] > 2 * alone["peak"]  # d ln(p / (1 - p)) = dp / (p (1 - p)), which is at least 4 dp


def test_the_map_is_laid_over_the_picture(client: TestClient) -> None:
    query = "target=bright&samples=40"
    values = np.array(client.post(f"/explain?{query}&output=map", content=PNG).json()["explanation"]["map"])
    drawn = client.post(f"/explain?{query}&format=png", content=PNG).content
    expected = overlay(SQUARE, heatmap(values.astype(np.float32), (16, 16)), 0.5)
    pixels = np.asarray(cv2.imdecode(np.frombuffer(drawn, np.uint8), cv2.IMREAD_UNCHANGED))[..., ::-1]
    assert np.abs(pixels.astype(int) - expected).max() <= 2
    answer = client.post(f"/explain?{query}", content=PNG).json()
    assert base64.b64decode(answer["gradcam_heatmap"]) == drawn


def test_a_batch_is_explained_and_a_wrong_picture_fails_alone(client: TestClient) -> None:
    files = [("files", (f"{index}.png", data)) for index, data in enumerate((PNG, b"no picture", plain(240)))]
    answer = client.post("/explain/batch?output=map&samples=30", files=files).json()
    first, second, third = answer["predictions"]
    assert (answer["errors"], second["error"]["status"]) == (1, 400)
    for entry, data in ((first, PNG), (third, plain(240))):
        alone = client.post("/explain?output=map&samples=30", content=data).json()["explanation"]
        assert entry["explanation"]["map"] == alone["map"]


def test_a_prediction_brings_its_map_if_there_is_time(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.post("/predict?include_explanation=true", content=plain(240)).json()
    assert answer["prediction"] == "bright" and answer["explanation_error"] is None
    assert base64.b64decode(answer["gradcam_heatmap"]).startswith(b"\x89PNG")
    monkeypatch.setattr(serving.rise, "EXPLAINED_SHARE", 0.0)
    answer = client.post("/predict?include_explanation=true", content=plain(240)).json()
    assert answer["prediction"] == "bright" and answer["gradcam_heatmap"] is None
    assert "takes 300 predictions" in answer["explanation_error"] and "Ask /explain" in answer["explanation_error"]


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("samples=19", 400, "samples='19': must be a whole number from 20 to 8,000"),
        ("samples=8001", 400, "from 20 to 8,000"),
        ("method=score-cam", 400, "must be one of gradcam, gradcam++, layercam, hirescam, rise"),
        ("method=gradcam", 400, "method='gradcam' takes a gradient, and there is none: the card of tiny names no"),
        ("samples=8000&timeout_ms=20", 504, "Fewer samples than 8,000 take less time"),
    ],
)
def test_what_cannot_be_explained_says_why(client: TestClient, query: str, status: int, text: str) -> None:
    response = client.post(f"/explain?{query}", content=PNG)
    assert response.status_code == status and text in response.json()["detail"]


def test_other_protocols_bring_the_map_too(client: TestClient) -> None:
    expected = client.post("/explain?output=map", content=PNG).json()["explanation"]["map"]
    body = {"instances": [{"b64": b64(PNG)}, SQUARE.tolist()]}
    assert client.post("/v1/models/tiny:explain", json=body).json()["explanations"] == [expected, expected]
    assert client.post("/explanations/tiny", content=PNG).json() == [expected]
    pixels = {"name": "pixels", "shape": [1, 16, 16, 3], "datatype": "UINT8", "data": SQUARE.ravel().tolist()}
    asked = {"inputs": [pixels], "outputs": [{"name": "map"}]}
    (output,) = client.post("/v2/models/tiny/infer", json=asked).json()["outputs"]
    assert output["shape"] == [1, 16, 16] and output["data"] == pytest.approx(np.ravel(expected).tolist(), rel=1e-5)
