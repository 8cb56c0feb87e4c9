"""The numbers and the contract, over the wire, against PyTorch."""

from concurrent.futures import ThreadPoolExecutor

import bentoml
import numpy as np
import numpy.typing as npt
import pytest
import requests
import torch
from safetensors.torch import load_file

from models.architectures.efficientnet import EfficientNetB4Head
from models.card import read_image_card
from preprocessing.decode import decode
from preprocessing.transform import transform
from tests.conftest import SHIPPED
from tests.live.server import Server

CARD = read_image_card(SHIPPED / "card.toml")
DISTINCT, REPEATS = 16, 4
"""How many pictures differ, and how often each is sent."""


@pytest.fixture(scope="module")
def reference(pictures: list[bytes]) -> npt.NDArray[np.float64]:
    """P(stone) of each distinct picture by a plain PyTorch forward of the shipped weights, one at a time."""
    network = EfficientNetB4Head(2)
    network.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(SHIPPED / "weights.safetensors").items()}
    )
    network.eval()
    probabilities = []
    with torch.inference_mode():
        for data in pictures[:DISTINCT]:
            tensor = transform(decode(data, CARD.limits), CARD.input).tensor
            probabilities.append(float(network(torch.from_numpy(tensor)[None]).double().softmax(1)[0, 1]))
    return np.array(probabilities)


def post(server: Server, data: bytes, path: str = "/predict", **options: str) -> requests.Response:
    return requests.post(server.url + path, data=data, timeout=60, headers=options)


def test_64_requests_at_once_each_get_their_own_answer_and_it_is_pytorchs(
    server: Server, pictures: list[bytes], reference: npt.NDArray[np.float64]
) -> None:
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda data: post(server, data), pictures[:DISTINCT] * REPEATS))
    assert {answer.status_code for answer in answers} == {200}
    served = np.array([answer.json()["probabilities"]["stone"] for answer in answers])
    assert np.abs(served - np.tile(reference, REPEATS)).max() <= 1e-4
    assert any("not a medical device" in warning for warning in answers[0].json()["warnings"])
    assert len(np.unique(reference.round(4))) > DISTINCT / 2  # the pictures differ, so a mix-up would show


def test_every_way_to_send_a_picture_gives_the_same_probabilities(server: Server, pictures: list[bytes]) -> None:
    data = pictures[1]
    answers = [
        post(server, data),
        post(server, data, "/infer/"),
        post(server, data, "/models/kidney-stone/predict", **{"Content-Type": "text/plain"}),
        requests.post(f"{server.url}/predict", files={"file": data}, timeout=60),
        requests.post(f"{server.url}/predict", files={"image": ("x.bin", data, "application/pdf")}, timeout=60),
        requests.post(f"{server.url}/predict", data=iter([data[:1000], data[1000:]]), timeout=60),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert len({str(answer.json()["probabilities"]) for answer in answers}) == 1
    with bentoml.SyncHTTPClient(server.url) as client:
        assert client.predict(data)["probabilities"] == answers[0].json()["probabilities"]
