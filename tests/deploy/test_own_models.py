"""Models of one's own are added to a volume, and the container that runs takes them: nothing is built again."""

import io
import json
from pathlib import Path

import joblib
import numpy as np
import pytest
import requests
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision import models  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.deploy.engine import START_S, Container, Podman
from tests.export.original.pictures import by_pillow, examples, normalised, original_logits, package, softmax
from tests.live.server import vitrine, wait_until

pytestmark = pytest.mark.slow
DEER = (ROOT / "models" / "cifar10" / "goldens" / "04-deer.png").read_bytes()


def post(container: Container, name: str, **body: object) -> dict[str, float]:
    """Return the probabilities that a model answers as soon as it is served."""
    url = f"{container.url}/models/{name}"
    wait_until(lambda: requests.get(url, timeout=30).status_code == 200, START_S)
    assert requests.get(url, timeout=30).json()["parity"]["largest_difference"] <= 1e-4
    answer = requests.post(f"{url}/predict", timeout=60, **body)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    probabilities: dict[str, float] = answer.json()["probabilities"]
    return probabilities


def test_a_resnet_a_graph_and_a_pipeline_are_added_by_a_command_each_while_the_container_runs(
    podman: Podman, image: str, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    labels = tmp_path / "labels.txt"

    def add(*arguments: object) -> None:
        vitrine(tmp_path, "models", "add", *arguments, VITRINE_MODELS_DIR=str(own))

    volume = f"--volume={own}:/models:ro"
    with podman.serving(image, "--user=54321:0", volume, VITRINE_MODELS_DIR="/models") as container:
        container.wait_ready()

        torch.manual_seed(0)
        network = models.resnet18(num_classes=3).eval()
        torch.save(network.state_dict(), tmp_path / "fish.pth")
        labels.write_text("cat\ndog\nfox\n")
        add("torchvision:resnet18", "--weights", tmp_path / "fish.pth", "--labels", labels, "--name", "fish")
        transform = models.ResNet18_Weights.DEFAULT.transforms()
        with torch.inference_mode():
            logits = network(transform(Image.open(io.BytesIO(DEER)).convert("RGB"))[None])[0]
        expected = dict(zip(("cat", "dog", "fox"), softmax(logits.double().numpy()), strict=True))
        assert post(container, "fish", data=DEER) == pytest.approx(expected, abs=1e-3)

        graph, pictures = package(tmp_path / "zoo") / "predict.onnx", examples(tmp_path / "pictures", 2)
        original = original_logits(pictures, lambda data: normalised(by_pillow(data)))
        (tmp_path / "expected.json").write_text(json.dumps({name: row.tolist() for name, row in original.items()}))
        stretched = ("--resize", "stretch", "--examples", pictures, "--expected", tmp_path / "expected.json")
        add(graph, "--labels", labels, "--name", "zoo", *stretched)
        expected = dict(zip(("cat", "dog", "fox"), softmax(original["1.png"]), strict=True))
        assert post(container, "zoo", data=(pictures / "1.png").read_bytes()) == pytest.approx(expected, abs=1e-3)

        rows = np.random.default_rng(0).normal(size=(50, 2))
        fitted = make_pipeline(StandardScaler(), LogisticRegression()).fit(rows, rows[:, 0] > rows[:, 1])
        joblib.dump(fitted, tmp_path / "pipeline.joblib")
        (tmp_path / "rows.csv").write_text("first,second\n" + "\n".join(f"{a},{b}" for a, b in rows))
        add(tmp_path / "pipeline.joblib", "--trust-pickle", "--examples", tmp_path / "rows.csv", "--name", "larger")
        answered = post(container, "larger", json={"first": 0.4, "second": -0.2})
        chance = fitted.predict_proba([[0.4, -0.2]])[0]
        assert sorted(answered.values()) == pytest.approx(sorted(chance), abs=1e-5)
