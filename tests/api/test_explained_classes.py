"""Explanations of pictures for several classes, of one class against another, and of several pictures at once."""

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.api.conftest import client_maker
from tests.conftest import encode
from tests.local_gradcam import LocalGradCam, local_gradcam
from tests.tiny import WEIGHT, bright_square, map_of, plain, seal, tiny_package

SQUARE = bright_square()
PNG = encode(SQUARE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, LocalGradCam]]:
    stored = seal(tiny_package(tmp_path_factory.mktemp("explained") / "tiny", explained=True))
    with local_gradcam(stored) as (explainer, process), client_maker() as make:
        yield make(stored, explainer=explainer), process


@pytest.fixture
def client(served: tuple[TestClient, LocalGradCam]) -> TestClient:
    return served[0]


@pytest.mark.parametrize("query", ["target=bright&target=dark", "explain_top=2"])
def test_all_classes_of_a_picture_are_one_call_to_the_grad_cam_process(
    served: tuple[TestClient, LocalGradCam], query: str
) -> None:
    client, process = served
    calls = process.calls
    assert len(client.post(f"/explain?{query}", content=PNG).json()["explanations"]) == 2
    assert process.calls == calls + 1


@pytest.mark.parametrize(
    ("query", "classes"), [("target=bright&target=0", [1, 0]), ("explain_top=2", [0, 1]), ("explain_top=1", [0])]
)
def test_each_class_has_its_map(client: TestClient, query: str, classes: list[int]) -> None:
    answer = client.post(f"/explain?output=map&{query}", content=PNG).json()
    explanations = answer.get("explanations", [answer["explanation"]])
    assert [each["target_class_id"] for each in explanations] == classes
    assert answer["explanation"]["map"] == explanations[0]["map"]
    for each, class_id in zip(explanations, classes, strict=True):
        assert np.array(each["map"]) == pytest.approx(map_of(SQUARE, class_id, "layercam"), rel=1e-4)


def test_each_class_has_its_overlay(client: TestClient) -> None:
    answer = client.post("/explain?target=0&target=1", content=PNG).json()
    first, second = (base64.b64decode(each["gradcam_heatmap"]) for each in answer["explanations"])
    assert base64.b64decode(answer["gradcam_heatmap"]) == first != second
    assert second == client.post("/explain?target=1&format=png", content=PNG).content


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_where_a_threshold_decides_the_most_probable_classes_are_the_same(client: TestClient, threshold: float) -> None:
    answer = client.post(f"/explain?output=map&explain_top=2&threshold={threshold}", content=PNG).json()
    assert answer["prediction"] == ("bright" if threshold == 0 else "dark")
    assert [each["target"] for each in answer["explanations"]] == ["dark", "bright"]


def test_a_contrast_explains_the_difference_of_two_logits(client: TestClient) -> None:
    answer = client.post("/explain?output=map&target=bright&contrast=dark", content=PNG).json()
    scaled = (SQUARE / 255 - 0.5) / 0.5
    squares = scaled.reshape(4, 4, 4, 4, 3).mean(axis=(1, 3))
    alone, against = map_of(SQUARE, 1, "layercam"), np.maximum(squares @ (WEIGHT[:, 1] - WEIGHT[:, 0]), 0)
    assert answer["explanation"]["contrast"] == "dark"
    gain = alone.max() / np.maximum(squares @ WEIGHT[:, 1], 0).max()
    assert np.array(answer["explanation"]["map"]) == pytest.approx(gain * against, rel=1e-4)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("target=bright&target=2", "target='2': must be a label (dark, bright) or its index, 0 to 1"),
        ("&".join(["target=0"] * 11), "at most 10"),
        ("explain_top=3", "explain_top='3': the model has 2 labels"),
        ("explain_top=0", "a whole number from 1 to 10"),
        ("explain_top=2&target=0", "goes without target"),
        ("contrast=grey", "contrast='grey': must be a label"),
        ("target=1&contrast=bright", "contrast='bright': is the target itself"),
        ("contrast=dark", "contrast='dark': that is the label that is explained"),
        ("format=png&explain_top=2", "a picture is of one class"),
    ],
)
def test_classes_that_cannot_be_explained_are_a_400(client: TestClient, query: str, text: str) -> None:
    response = client.post(f"/explain?{query}", content=PNG)
    assert response.status_code == 400 and text in response.json()["detail"]


def test_a_batch_is_explained_and_a_wrong_picture_fails_alone(client: TestClient) -> None:
    pictures = (PNG, b"no picture", plain(240))
    files = [("files", (f"{index}.png", data)) for index, data in enumerate(pictures)]
    answer = client.post("/models/tiny/explain/batch?output=map&target=bright&target=dark", files=files).json()
    first, second, third = answer["predictions"]
    assert (answer["batch_size"], answer["errors"], second["error"]["status"]) == (3, 1, 400)
    for entry, name, data in ((first, "0.png", PNG), (third, "2.png", plain(240))):
        alone = client.post("/explain?output=map&target=bright&target=dark", content=data).json()
        assert entry["filename"] == name and entry["probabilities"] == pytest.approx(alone["probabilities"])
        assert [each["map"] for each in entry["explanations"]] == [each["map"] for each in alone["explanations"]]
    drawn = client.post("/explain/batch", files=files[:1]).json()["predictions"][0]
    assert base64.b64decode(drawn["gradcam_heatmap"]) == client.post("/explain?format=png", content=PNG).content
    refused = client.post("/explain/batch?format=png", files=files)
    assert refused.status_code == 400 and "a batch is answered in JSON" in refused.json()["detail"]
    assert client.post("/explain/batch", content=PNG).status_code == 400
