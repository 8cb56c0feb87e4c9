"""All five models in one server, imported by the command line, against references of their own."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image

from models.architectures.pyramidnet import PyramidNet
from postprocessing.classification import softmax
from tests.api.test_rows import CUSTOMER, READING, churn_probabilities, squared_errors
from tests.conftest import ROOT
from tests.export.graphs import graph_file, labels_file
from tests.live.server import Server, serving, vitrine

BUNDLED = ROOT / "models"
DEER = BUNDLED / "cifar10" / "goldens" / "04-deer.png"


@pytest.fixture(scope="module")
def pyramid() -> PyramidNet:
    torch.manual_seed(8)
    network = PyramidNet()
    with torch.no_grad():
        for _ in range(3):  # statistics under which the answers differ from picture to picture
            network.train()(torch.randn(16, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def five(home: Path, tmp_path_factory: pytest.TempPathFactory, pyramid: PyramidNet) -> Path:
    """A store with all five models: those that are shipped, and two that are brought."""
    files = tmp_path_factory.mktemp("files")
    home = Path(shutil.copytree(home, files / "five"))
    torch.save({"model_state_dict": pyramid.state_dict(), "epoch": 9, "best_val_acc": 0.5}, files / "best.pth")
    vitrine(home, "models", "import", "cifar10", "--weights", files / "best.pth")
    graph_file(files / "g.onnx")
    labels = labels_file(files / "l.txt")
    vitrine(home, "models", "add", files / "g.onnx", "--name", "imagenet", "--labels", labels)
    return home


@pytest.fixture(scope="module")
def server(five: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(five, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running


def post(server: Server, path: str, **options: Any) -> dict[str, Any]:
    response = requests.post(f"{server.url}{path}", timeout=60, **options)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def cifar_probabilities(network: PyramidNet, path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    x = (np.asarray(image, np.float64) / 255 - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(x.transpose(2, 0, 1)[None]).float()).softmax(1)[0])


def test_every_model_is_ready_and_describes_itself(server: Server) -> None:
    listed = requests.get(f"{server.url}/models", timeout=10).json()["models"]
    assert {model["name"]: model["state"] for model in listed} == dict.fromkeys(
        ("churn", "cifar10", "imagenet", "kidney-stone", "machine-anomaly"), "ready"
    )
    details = {model["name"]: model for model in listed}
    assert details["cifar10"]["parity"]["checkpoint"] == {"epoch": 9, "best_val_acc": 0.5}
    assert details["cifar10"]["parity"]["largest_difference"] <= 1e-4
    assert details["churn"]["metrics"]["auc"] > 0.85 and details["imagenet"]["labels"][0] == "crane (0)"


def test_rows_are_answered_as_by_numpy(server: Server) -> None:
    answer = post(server, "/models/churn/predict", json={"features": CUSTOMER})
    assert list(answer["probabilities"].values()) == pytest.approx(churn_probabilities(CUSTOMER)[0], abs=1e-4)
    answer = post(server, "/models/machine-anomaly/predict", json=READING)
    assert list(answer["contributions"].values()) == pytest.approx(squared_errors(READING), abs=1e-4)


def test_cifar10_and_imagenet_answer_as_their_references(server: Server, pyramid: PyramidNet, tmp_path: Path) -> None:
    answer = post(server, "/models/cifar10/predict", files={"file": DEER.read_bytes()})
    assert list(answer["probabilities"].values()) == pytest.approx(cifar_probabilities(pyramid, DEER), abs=1e-4)
    assert len(answer["probabilities"]) == 10
    answer = post(server, "/models/imagenet/predict?top_k=3", files={"image": DEER.read_bytes()})
    weight = graph_file(tmp_path / "again.onnx")
    image = Image.open(DEER).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    x = (np.asarray(image, np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    probabilities = softmax((x.mean(axis=(0, 1)) @ weight).astype(np.float32))
    order = np.argsort(-probabilities)[:3]
    assert [label["probability"] for label in answer["top"]] == pytest.approx(probabilities[order], abs=1e-4)
    assert len(answer["probabilities"]) == 3  # of 30
