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


@pytest.fixture(scope="module")
def reference(pictures: list[bytes]) -> npt.NDArray[np.float64]:
    """P(stone) of each picture by a plain PyTorch forward of the shipped weights, one at a time."""
    network = EfficientNetB4Head(2)
    network.load_state_dict(
        {name: tensor.float() for name, tensor in load_file(SHIPPED / "weights.safetensors").items()}
    )
    network.eval()
    chances = []
    with torch.inference_mode():
        for data in pictures:
            tensor = transform(decode(data, CARD.limits), CARD.input).tensor
            chances.append(float(network(torch.from_numpy(tensor)[None]).double().softmax(1)[0, 1]))
    return np.array(chances)


def post(server: Server, data: bytes, path: str = "/predict", **options: str) -> requests.Response:
    return requests.post(server.url + path, data=data, timeout=60, headers=options)


def test_64_requests_at_once_each_get_their_own_answer_and_it_is_pytorchs(
    server: Server, pictures: list[bytes], reference: npt.NDArray[np.float64]
) -> None:
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda data: post(server, data), pictures))
    assert {answer.status_code for answer in answers} == {200}
    served = np.array([answer.json()["probabilities"]["stone"] for answer in answers])
    assert np.abs(served - reference).max() <= 1e-4
    assert len(np.unique(reference.round(4))) > 30  # the pictures differ, so a mix-up would show


def test_one_corrupt_image_among_32_fails_alone(
    server: Server, pictures: list[bytes], reference: npt.NDArray[np.float64]
) -> None:
    sent = [*pictures[:17], pictures[17][: len(pictures[17]) // 2], *pictures[18:32]]
    files = [("files", (f"{index}.jpg", data)) for index, data in enumerate(sent)]
    answer = requests.post(f"{server.url}/predict/batch", files=files, timeout=60)
    body = answer.json()
    assert answer.status_code == 200
    assert (body["batch_size"], body["errors"]) == (32, 1)
    rows = body["predictions"]
    assert [row["filename"] for row in rows] == [f"{index}.jpg" for index in range(32)]
    assert rows[17]["error"]["status"] == 400
    assert "cut short" in rows[17]["error"]["detail"]
    good = [index for index in range(32) if index != 17]
    served = np.array([rows[index]["probabilities"]["stone"] for index in good])
    assert np.abs(served - reference[good]).max() <= 1e-4


def test_an_answer_has_every_field_of_the_contract(server: Server, pictures: list[bytes]) -> None:
    answer = post(server, pictures[0], "/models/kidney-stone/predict", **{"X-Request-ID": "mine-1"})
    body = answer.json()
    assert set(body) == {
        *("model", "version", "prediction", "predicted_class_id", "confidence", "probabilities", "top", "threshold"),
        *("gradcam_heatmap", "warnings", "device", "inference_time_ms", "request_id", "timestamp"),
    }
    assert list(body["probabilities"]) == ["no_stone", "stone"]
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    assert body["prediction"] == CARD.labels[body["predicted_class_id"]]
    assert body["confidence"] == body["probabilities"][body["prediction"]]
    assert body["request_id"] == answer.headers["X-Request-ID"] == "mine-1"
    assert any("not a medical device" in warning for warning in body["warnings"])
    assert {part.split(";")[0] for part in answer.headers["Server-Timing"].split(", ")} == {"queue", "decode", "infer"}


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


def test_the_threshold_decides_the_label_and_nothing_else(server: Server, pictures: list[bytes]) -> None:
    low, high = (post(server, pictures[2], f"/predict?threshold={value}").json() for value in (0, 1))
    assert (low["prediction"], high["prediction"]) == ("stone", "no_stone")
    assert low["probabilities"] == high["probabilities"]


def test_a_blurry_picture_is_answered_with_a_warning(server: Server) -> None:
    from tests.conftest import encode

    flat = np.full((300, 300, 3), 90, np.uint8)
    warnings = post(server, encode(flat)).json()["warnings"]
    assert any("blurry" in warning for warning in warnings)
