"""All five models in one server, by plain requests, against references of their own; and each as the default."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from safetensors.numpy import load_file

from models.architectures.pyramidnet import PyramidNet
from postprocessing.interpret import softmax
from tests.conftest import ROOT
from tests.export.test_importers import graph_file, labels_file
from tests.live.server import Server, environment, serving, vitrine
from training.machine_anomaly import data as sensors

BUNDLED = ROOT / "models"
DEER = BUNDLED / "cifar10" / "goldens" / "04-deer.png"
CUSTOMER = {
    "age": 42,
    "income": 52_000,
    "tenure_days": 420,
    "num_purchases": 9,
    "avg_transaction_value": 63.5,
    "days_since_last_purchase": 95,
}
READING = {
    "temperature": 68.0,
    "vibration": 3.1,
    "pressure": 31.0,
    "power": 1900.0,
    "timestamp": "2026-01-15T08:30:00Z",
    "machine_id": "press-07",
}


@pytest.fixture(scope="module")
def pyramid() -> PyramidNet:
    torch.manual_seed(8)
    network = PyramidNet()
    with torch.no_grad():
        for _ in range(3):  # statistics under which the answers differ from picture to picture
            network.train()(torch.randn(16, 3, 32, 32))
    return network.eval()


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, pyramid: PyramidNet) -> Path:
    """A store with all five models, two of them brought."""
    home, files = tmp_path_factory.mktemp("five"), tmp_path_factory.mktemp("files")
    for name in ("kidney-stone", "churn", "machine-anomaly"):
        vitrine(home, "models", "import", name)
    torch.save({"model_state_dict": pyramid.state_dict(), "epoch": 9, "best_val_acc": 0.5}, files / "best.pth")
    vitrine(home, "models", "import", "cifar10", "--weights", files / "best.pth")
    graph_file(files / "g.onnx")
    vitrine(home, "models", "import", "imagenet", "--onnx", files / "g.onnx", "--labels", labels_file(files / "l.txt"))
    return home


@pytest.fixture(scope="module")
def server(five: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(five, tmp_path_factory.mktemp("log") / "server.log") as running:
        running.wait_ready()
        yield running


def served_version(home: Path, name: str) -> str:
    lock: dict[str, str] = json.loads((home / "vitrine" / "models.lock").read_text())
    return lock[name]


def post(server: Server, path: str, **what: Any) -> dict[str, Any]:
    response = requests.post(f"{server.url}{path}", timeout=60, **what)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def churn_chances(rows: list[list[float]]) -> np.ndarray:
    """P(class) by NumPy alone, from the card's numbers written out here."""
    x = np.array(rows)
    scaled = np.stack(
        [
            (x[:, 0] - 45) / 15,
            (np.log1p(x[:, 1]) - 10.8) / 0.6,
            (np.log1p(np.clip(x[:, 2], 0, 7300)) - 6.3) / 1.0,
            (np.log1p(x[:, 3]) - 2.3) / 1.0,
            (np.log1p(x[:, 4]) - 4.0) / 0.7,
            (np.log1p(np.clip(x[:, 5], 0, 3650)) - 3.9) / 1.2,
        ],
        axis=1,
    )
    weights = load_file(BUNDLED / "churn" / "weights.safetensors")
    for layer in (0, 3):
        scaled = np.maximum(scaled @ weights[f"network.{layer}.weight"].T + weights[f"network.{layer}.bias"], 0)
    return softmax(scaled @ weights["network.6.weight"].T + weights["network.6.bias"])


def anomaly_errors(row: dict[str, Any]) -> np.ndarray:
    """Squared error by sensor, by NumPy alone."""
    weights = load_file(BUNDLED / "machine_anomaly" / "weights.safetensors")
    x = (np.array([row[key] for key in list(READING)[:4]]) - (65, 3.2, 30, 1800)) / (12, 1.1, 7, 700)
    code = np.maximum(weights["encoder.0.weight"] @ x + weights["encoder.0.bias"], 0)
    code = weights["encoder.2.weight"] @ code + weights["encoder.2.bias"]
    again = np.maximum(weights["decoder.0.weight"] @ code + weights["decoder.0.bias"], 0)
    return np.asarray((x - weights["decoder.2.weight"] @ again - weights["decoder.2.bias"]) ** 2)


def cifar_chances(network: PyramidNet, path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR)
    x = (np.asarray(image, np.float64) / 255 - (0.4914, 0.4822, 0.4465)) / (0.2023, 0.1994, 0.2010)
    with torch.inference_mode():
        return np.asarray(network(torch.from_numpy(x.transpose(2, 0, 1)[None]).float()).softmax(1)[0])


def test_every_model_is_ready_and_describes_itself(server: Server) -> None:
    listed = requests.get(f"{server.url}/models", timeout=10).json()["models"]
    assert {each["name"]: each["state"] for each in listed} == dict.fromkeys(
        ("churn", "cifar10", "imagenet", "kidney-stone", "machine-anomaly"), "ready"
    )
    facts = {each["name"]: each for each in listed}
    assert facts["cifar10"]["parity"]["checkpoint"] == {"epoch": 9, "best_val_acc": 0.5}
    assert facts["cifar10"]["parity"]["largest_difference"] <= 1e-4
    assert facts["churn"]["metrics"]["auc"] > 0.85 and facts["imagenet"]["labels"][0] == "crane (0)"


def test_churn_by_features_samples_and_bare_rows(server: Server) -> None:
    chances = churn_chances([list(map(float, CUSTOMER.values()))])[0]
    for body in ({"features": CUSTOMER}, CUSTOMER):
        said = post(server, "/models/churn/predict", json=body)
        assert list(said["probabilities"].values()) == pytest.approx(chances, abs=1e-4)
        assert said["prediction"] == ("class_1" if chances[1] >= 0.5 else "class_0")
        assert said["confidence"] == pytest.approx(chances.max(), abs=1e-4)
        assert said["version"] and said["timestamp"].endswith("Z")
    young = CUSTOMER | {"age": 19, "days_since_last_purchase": 4000}
    said = post(server, "/models/churn/predict/batch", json={"samples": [young, {"age": 3}, CUSTOMER]})
    assert (said["batch_size"], said["total_samples"], said["errors"]) == (3, 3, 1)
    wanted = churn_chances([list(map(float, row.values())) for row in (young, CUSTOMER)])
    got = [list(said["predictions"][place]["probabilities"].values()) for place in (0, 2)]
    assert np.allclose(got, wanted, atol=1e-4)
    assert said["predictions"][1]["error"]["status"] == 400


def test_a_thousand_rows_are_one_request_and_one_more_is_refused(server: Server) -> None:
    rows = [CUSTOMER | {"age": 18 + place % 80, "num_purchases": place} for place in range(1000)]
    said = post(server, "/models/churn/predict/batch", json={"samples": rows})
    wanted = churn_chances([list(map(float, row.values())) for row in rows])
    assert np.allclose([list(each["probabilities"].values()) for each in said["predictions"]], wanted, atol=1e-4)
    more = requests.post(f"{server.url}/models/churn/predict/batch", json={"samples": [*rows, CUSTOMER]}, timeout=10)
    assert more.status_code == 400 and "at most 1,000" in more.json()["detail"]


def test_an_anomaly_says_which_sensor(server: Server) -> None:
    said = post(server, "/models/machine-anomaly/predict", json=READING)
    errors = anomaly_errors(READING)
    assert list(said["contributions"].values()) == pytest.approx(errors, abs=1e-4)
    assert said["anomaly_score"] == pytest.approx(errors.mean(), abs=1e-4)
    assert said["is_anomaly"] == bool(errors.mean() > said["threshold"] == 0.011)
    assert (said["machine_id"], said["timestamp"]) == ("press-07", READING["timestamp"])
    asked = post(server, "/models/machine-anomaly/predict?include_gradcam=true", json=READING)
    assert asked["gradcam_heatmap"] is None and "contributions" in asked["explanation_error"]
    worn = [
        READING | dict(zip(list(READING)[:4], map(float, row), strict=True))
        for row in sensors.faulty(8, 5, "worn bearing")
    ]
    said = post(
        server, "/models/machine-anomaly/predict/batch", json={"readings": [*worn, READING | {"machine_id": ""}]}
    )
    for row, each in zip(worn, said["predictions"], strict=False):
        assert each["is_anomaly"] and each["anomaly_score"] == pytest.approx(anomaly_errors(row).mean(), rel=1e-3)
    assert "machine_id" in said["predictions"][8]["error"]["detail"] and said["errors"] == 1


def test_cifar10_and_imagenet_answer_as_their_references(server: Server, pyramid: PyramidNet, tmp_path: Path) -> None:
    said = post(server, "/models/cifar10/predict", files={"file": DEER.read_bytes()})
    assert list(said["probabilities"].values()) == pytest.approx(cifar_chances(pyramid, DEER), abs=1e-4)
    assert len(said["probabilities"]) == 10
    said = post(server, "/models/imagenet/predict?top_k=3", files={"image": DEER.read_bytes()})
    weight = graph_file(tmp_path / "again.onnx")
    image = Image.open(DEER).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    x = (np.asarray(image, np.float64) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    chances = softmax((x.mean(axis=(0, 1)) @ weight).astype(np.float32))
    order = np.argsort(-chances)[:3]
    assert [each["probability"] for each in said["top"]] == pytest.approx(chances[order], abs=1e-4)
    assert len(said["probabilities"]) == 3  # of 30


@pytest.mark.parametrize(
    ("path", "what", "says"),
    [
        ("/models/churn/predict", {"data": b"{"}, "not JSON"),
        ("/models/churn/predict", {"data": b"[" * 100_000}, "not JSON"),
        ("/models/churn/predict", {"json": [1]}, "must be a JSON object"),
        ("/models/churn/predict", {"files": {"file": b"x"}}, "not a form with files"),
        ("/models/machine-anomaly/predict", {"json": READING | {"machine_id": "\ud800"}}, "machine_id must be a text"),
        ("/models/churn/predict/batch", {"json": {"rows": []}}, '"samples"'),
        ("/models/churn/predict/batch", {"json": {"samples": []}}, "one row or more"),
        ("/models/churn/predict", {"json": {"features": {**CUSTOMER, "agee": 4}}}, "'agee' is unknown"),
        ("/models/churn/explain", {"json": CUSTOMER}, "rows, which have no picture"),
        ("/models/machine-anomaly/explain", {"json": READING}, "contributions"),
        ("/models/imagenet/explain", {"data": b"x"}, "names no layer"),
        ("/models/cifar10/predict", {"json": CUSTOMER}, "takes pictures, not JSON"),
        ("/models/cifar10/predict/batch", {"files": [("files", b"x")] * 11}, "at most 10"),
        ("/models/churn/predict?threshold=2", {"json": CUSTOMER}, "threshold='2'"),
    ],
)
def test_what_does_not_fit_a_model_is_a_400_that_says_what_does(
    server: Server, path: str, what: dict[str, Any], says: str
) -> None:
    response = requests.post(f"{server.url}{path}", timeout=30, **what)
    assert response.status_code == 400, response.text
    assert says in response.json()["detail"]


def test_openapi_has_a_working_example_of_every_model_of_rows(server: Server) -> None:
    paths = requests.get(f"{server.url}/openapi.json", timeout=10).json()["paths"]
    tried = 0
    for path, operations in paths.items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in body:
            post(server, path, json=body["application/json"]["example"])
            tried += 1
    assert tried == 4
    schema = paths["/models/machine-anomaly/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["temperature"]["maximum"] == 200 and schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("default", "single", "several", "field"),
    [
        ("churn", {"json": {"features": CUSTOMER}}, {"json": {"samples": [CUSTOMER] * 2}}, "prediction"),
        ("machine-anomaly", {"json": READING}, {"json": {"readings": [READING] * 2}}, "is_anomaly"),
        ("cifar10", {"files": {"image": DEER.read_bytes()}}, {"files": [("files", DEER.read_bytes())] * 2}, "top"),
        ("imagenet", {"data": DEER.read_bytes()}, {"files": [("files", DEER.read_bytes())] * 2}, "top"),
    ],
)
def test_any_model_can_be_the_default(
    five: Path, tmp_path: Path, default: str, single: dict[str, Any], several: dict[str, Any], field: str
) -> None:
    settings: dict[str, Any] = {"VITRINE_DEFAULT_MODEL": default, "VITRINE_MODELS": default, "VITRINE_EXPLAIN": "false"}
    with serving(five, tmp_path / "log", **settings) as running:
        running.wait_ready()
        for path in ("/predict", "/infer", "/predict/"):
            said = post(running, path, **single)
            assert said["model"] == default and field in said
        said = post(running, "/predict/batch", **several)
        assert (said["batch_size"], said["errors"]) == (2, 0)
        assert requests.get(f"{running.url}/model-info", timeout=5).json()["name"] == default


def test_two_versions_of_a_model_are_served_side_by_side(five: Path, tmp_path: Path) -> None:
    card = (BUNDLED / "churn" / "card.toml").read_text().replace("threshold = 0.5", "threshold = 0.01")
    card = card.replace(
        "[limits]", '[[input.identifiers]]\nname = "customer"\nkind = "text"\nexample = "c-1"\n\n[limits]'
    )
    (tmp_path / "card.toml").write_text(card)
    weights = BUNDLED / "churn" / "weights.safetensors"
    first = served_version(five, "churn")
    vitrine(five, "models", "import", "churn", "--weights", weights, "--card", tmp_path / "card.toml")
    second = served_version(five, "churn")
    assert first != second
    chosen = f"churn:{first[:6]},churn:{second[:6]},churn:ffff"
    settings: dict[str, Any] = {"VITRINE_MODELS": chosen, "VITRINE_DEFAULT_MODEL": "churn", "VITRINE_EXPLAIN": "false"}
    with serving(five, tmp_path / "log", **settings) as running:
        running.wait_ready()
        assert post(running, "/predict", json=CUSTOMER)["version"] == first
        for version, threshold in ((first, 0.5), (second, 0.01)):
            row = CUSTOMER if version == first else CUSTOMER | {"customer": "c-77"}
            said = post(running, f"/models/churn/versions/{version[:5]}/predict", json=row)
            assert (said["version"], said["threshold"]) == (version, threshold)
            assert said.get("customer") == row.get("customer")
            facts = requests.get(f"{running.url}/models/churn/versions/{version}", timeout=5).json()
            assert facts["version"] == version and facts["versions"] == [first, second]
        unknown = requests.post(f"{running.url}/models/churn/versions/0000/predict", json=CUSTOMER, timeout=5)
        assert unknown.status_code == 404 and first in unknown.json()["detail"]
        assert "churn:ffff is not there" in running.log.read_text()


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model_state_dict": Evil()}, tmp_path / "evil.pth")
    command = [str(Path(sys.executable).with_name("vitrine")), "models", "import", "churn", "--weights"]
    ran = subprocess.run(
        [*command, str(tmp_path / "evil.pth")], cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True
    )
    assert ran.returncode == 1 and "not a checkpoint that can be read safely" in ran.stderr
    assert not (tmp_path / "ran").exists()
