"""A card's temperature reaches every answer: routes, the Open Inference Protocol, and the comparison with goldens."""

import base64
from pathlib import Path

import numpy as np
import pytest

from tests.api.conftest import MakeClient
from tests.api.instances import b64
from tests.tiny import logits_of_plain, plain, seal, tiny_package


def test_every_door_gives_the_probabilities_at_the_cards_temperature(make_client: MakeClient, tmp_path: Path) -> None:
    folder = tiny_package(tmp_path / "tiny")
    card = (folder / "card.toml").read_text()
    (folder / "card.toml").write_text(card.replace("threshold = 0.5\n", "threshold = 0.5\ntemperature = 4.0\n"))
    client, data = make_client(seal(folder)), plain(150)
    logits = logits_of_plain(150)
    expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
    answer = client.post("/predict", content=data).json()
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-5)
    assert list(client.post("/predictions/tiny", content=data).json().values()) == pytest.approx(
        sorted(expected, reverse=True), abs=1e-5
    )
    instances = {"instances": [{"b64": b64(data)}]}
    (predicted,) = client.post("/v1/models/tiny:predict", json=instances).json()["predictions"]
    assert predicted == pytest.approx(expected, abs=1e-5)
    inputs = [{"name": "pixels", "datatype": "UINT8", "shape": [1, 16, 16, 3], "data": [150] * (16 * 16 * 3)}]
    request = {"inputs": inputs, "outputs": [{"name": "probabilities"}, {"name": "logits"}]}
    outputs = {
        output["name"]: output["data"]
        for output in client.post("/v2/models/tiny/infer", json=request).json()["outputs"]
    }
    assert outputs["probabilities"] == pytest.approx(expected, abs=1e-5)
    assert outputs["logits"] == pytest.approx(logits, abs=1e-4)
    instances = {"instances": [{"b64": base64.b64encode(data).decode()}]}
    (row,) = client.post("/v1/models/tiny:predict", json=instances).json()["predictions"]
    assert row == pytest.approx(expected, abs=1e-5)
    by_label = client.post("/predictions/tiny", content=data).json()
    assert [by_label["dark"], by_label["bright"]] == pytest.approx(expected, abs=1e-5)
    assert client.get("/models/tiny").json()["temperature"] == 4.0
