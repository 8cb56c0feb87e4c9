"""Explanations of a model that sees the middle of a picture: where they lie in the upload, through all layers."""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from starlette.testclient import TestClient

from explain.overlay import grey, heatmap
from tests.api.conftest import client_maker
from tests.conftest import encode
from tests.local_gradcam import local_gradcam
from tests.tiny import bright_square, map_of, seal, tiny_package

SQUARE = bright_square()
PICTURE = encode(np.concatenate([np.full((16, 16, 3), 255, np.uint8), SQUARE, np.zeros((16, 16, 3), np.uint8)], axis=1))
"""16 pixels high and 48 wide, of which the network sees the 16 in the middle."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tiny_package(tmp_path_factory.mktemp("cropped") / "tiny", explained=True)
    card = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(card.replace("[input]\n", '[input]\nresize = "short_side"\n'))
    stored = seal(folder)
    with local_gradcam(stored) as (explainer, _), client_maker() as make:
        yield make(stored, explainer=explainer)


def explain(client: TestClient, query: str) -> Any:
    return client.post(f"/explain?target=bright&{query}", content=PICTURE)


def decoded(data: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), np.uint8)


def test_the_heat_lies_on_the_part_of_the_upload_that_the_network_saw(client: TestClient) -> None:
    drawn = decoded(explain(client, "format=png&output=heatmap").content)
    assert drawn.shape == (16, 48)
    assert not drawn[:, :16].any() and not drawn[:, 32:].any()
    expected = grey(heatmap(map_of(SQUARE, 1, "layercam"), (16, 16)))
    assert np.abs(drawn[:, 16:32].astype(int) - expected).max() <= 2


def test_an_answer_says_what_of_the_picture_the_map_covers(client: TestClient) -> None:
    details = explain(client, "output=map").json()["explanation"]
    assert (details["size"], details["input_box"]) == ([48, 16], [16, 0, 32, 16])
    assert np.array(details["map"]) == pytest.approx(map_of(SQUARE, 1, "layercam"), abs=1e-5)
    assert "input_box" not in explain(client, "output=map&size=input").json()["explanation"]
    prediction = client.post("/predict", content=PICTURE).json()
    assert prediction["probabilities"] == pytest.approx(
        client.post("/predict", content=encode(SQUARE)).json()["probabilities"]
    )
