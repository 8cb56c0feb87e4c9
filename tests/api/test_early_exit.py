"""Over HTTP and the Open Inference Protocol, a model with an early exit says which part of the network answered."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.api.conftest import client_maker
from tests.serving.test_early_exit import LATER, SOONER
from tests.tiny import plain, seal, tiny_package


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("exits")
    with client_maker() as make:
        exits = seal(tiny_package(folder / "exits", "tiny-exits", 1, exits=True))
        yield make(exits, seal(tiny_package(folder / "tiny")))


def test_an_answer_names_the_part_that_gave_it(client: TestClient) -> None:
    for level in (*SOONER, *LATER):
        answer = client.post("/predict", content=plain(level)).json()
        assert answer["answered_by"] == ("early_exit" if level in SOONER else "network")
    files = [("files", (f"{level}.png", plain(level), "image/png")) for level in (SOONER[0], LATER[0])]
    batch = client.post("/predict/batch", files=files).json()
    assert [prediction["answered_by"] for prediction in batch["predictions"]] == ["early_exit", "network"]
    assert "answered_by" not in client.post("/models/tiny/predict", content=plain(0)).json()
    assert client.get("/models/tiny-exits").json()["variant"] == "early-exit"


@pytest.mark.parametrize(
    ("level", "threshold", "warned"),
    [(SOONER[0], 0.99, True), (SOONER[-1], 0.01, True), (SOONER[0], 0.98, False), (LATER[0], 0.99, False)],
)
def test_an_early_answer_warns_of_a_threshold_that_its_exit_was_not_chosen_for(
    client: TestClient, level: int, threshold: float, warned: bool
) -> None:
    answer = client.post(f"/predict?threshold={threshold}", content=plain(level)).json()
    text = f"meant for thresholds from 0.02 to 0.98: at {threshold:g}"
    assert (text in " ".join(answer["warnings"])) == warned


def test_so_does_the_open_inference_protocol(client: TestClient) -> None:
    levels = (SOONER[0], LATER[0], SOONER[1])
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(plain(level))).convert("RGB")) for level in levels])
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8", "data": pixels.ravel().tolist()}

    def infer(model: str, **parameters: Any) -> dict[str, Any]:
        response = client.post(f"/v2/models/{model}/infer", json={"inputs": [tensor], "parameters": parameters})
        assert response.status_code == 200, response.text
        answered: dict[str, Any] = response.json()["parameters"]
        return answered

    assert infer("tiny-exits")["answered_by"] == "early_exit,network,early_exit"
    assert "thresholds from" not in infer("tiny-exits")["warnings"]
    assert infer("tiny-exits", threshold=0.99)["warnings"].count("meant for thresholds from 0.02 to 0.98: at 0.99") == 1
    assert "answered_by" not in infer("tiny")
