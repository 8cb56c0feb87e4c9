"""Models of one's own are added to a volume, and the container that runs takes them: nothing is built again."""

import io
import json
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import requests
import timm
import torch
from PIL import Image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torchvision import models  # type: ignore[import-untyped]

from tests.conftest import ROOT
from tests.deploy.engine import START_S, Container, Podman
from tests.explain.grad_cam_package import package_maps
from tests.explain.orders import mean_over_orders
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


def explain(container: Container, name: str, query: str, **body: object) -> Any:
    """Return what a model answers to the question why, in a container that has no PyTorch."""
    answer = requests.post(f"{container.url}/models/{name}/explain?{query}", timeout=60, **body)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return answer.json()["explanation"]


def tokens_as_map(tokens: Tensor) -> Tensor:
    """Return the tokens of a transformer behind its class token, as a square map."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def test_models_are_added_by_a_command_each_while_the_container_runs_and_say_why(
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
        picture = Image.open(io.BytesIO(DEER)).convert("RGB")
        tensor = transform(picture)[None]
        with torch.inference_mode():
            logits = network(tensor)[0]
        expected = dict(zip(("cat", "dog", "fox"), softmax(logits.double().numpy()), strict=True))
        assert post(container, "fish", data=DEER) == pytest.approx(expected, abs=1e-3)
        why = explain(container, "fish", "output=map&target=dog&method=layercam", data=DEER)
        of_the_package = package_maps(network, "layer4", "layercam", tensor, [ClassifierOutputTarget(1)])[0]
        assert np.array(why["map"]) == pytest.approx(of_the_package, abs=0.01 * float(of_the_package.max()))

        torch.manual_seed(1)
        transformer = timm.create_model("test_vit", num_classes=3).eval()
        torch.save(transformer.state_dict(), tmp_path / "birds.pth")
        add("timm:test_vit", "--weights", tmp_path / "birds.pth", "--labels", labels, "--name", "birds")
        tensor = create_transform(**resolve_data_config({}, model=transformer))(picture)[None]  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            expected = dict(zip(("cat", "dog", "fox"), softmax(transformer(tensor)[0].double().numpy()), strict=True))
        assert post(container, "birds", data=DEER) == pytest.approx(expected, abs=1e-3)
        why = explain(container, "birds", "output=map&target=fox&method=gradcam", data=DEER)
        target = [ClassifierOutputTarget(2)]
        of_the_package = package_maps(transformer, "blocks.5.norm1", "gradcam", tensor, target, tokens_as_map)[0]
        assert np.array(why["map"]) == pytest.approx(of_the_package, abs=0.01 * float(of_the_package.max()))

        graph, pictures = package(tmp_path / "zoo") / "predict.onnx", examples(tmp_path / "pictures", 2)
        original = original_logits(pictures, lambda data: normalised(by_pillow(data)))
        (tmp_path / "expected.json").write_text(json.dumps({name: row.tolist() for name, row in original.items()}))
        stretched = ("--resize", "stretch", "--examples", pictures, "--expected", tmp_path / "expected.json")
        add(graph, "--labels", labels, "--name", "zoo", *stretched)
        expected = dict(zip(("cat", "dog", "fox"), softmax(original["1.png"]), strict=True))
        assert post(container, "zoo", data=(pictures / "1.png").read_bytes()) == pytest.approx(expected, abs=1e-3)

        rows = np.random.default_rng(0).normal(size=(50, 2))
        fitted = make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0))
        fitted.fit(rows, rows[:, 0] > rows[:, 1])
        joblib.dump(fitted, tmp_path / "pipeline.joblib")
        (tmp_path / "rows.csv").write_text("first,second\n" + "\n".join(f"{a},{b}" for a, b in rows))
        add(tmp_path / "pipeline.joblib", "--trust-pickle", "--examples", tmp_path / "rows.csv", "--name", "larger")
        answered = post(container, "larger", json={"first": 0.4, "second": -0.2})
        chance = fitted.predict_proba([[0.4, -0.2]])[0]
        assert sorted(answered.values()) == pytest.approx(sorted(chance), abs=1e-5)

        def worth(members: frozenset[int]) -> float:
            mixed = rows.copy()
            for member in members:
                mixed[:, member] = (0.4, -0.2)[member]
            return float(fitted.predict_proba(mixed)[:, 1].mean())

        why = explain(container, "larger", "target=1", json={"first": 0.4, "second": -0.2})
        assert list(why["attributions"].values()) == pytest.approx(mean_over_orders(worth, 2), abs=1e-5)
