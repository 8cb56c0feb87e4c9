import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from backends.onnx import OnnxBackend
from loadtests.compare import cheapest
from loadtests.compare.work import Work
from loadtests.server import ROOT
from models.card import read_image_card
from postprocessing.classification import classify, softmax
from serving.pipeline import ImagePipeline


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "cheapest"
    cheapest.build(folder)
    return folder


def test_the_work_of_the_peers_is_what_vitrine_does(package: Path) -> None:
    card = read_image_card(package / "card.toml")
    backend, work = OnnxBackend(package / "predict.onnx"), Work(package, 1)
    pipeline = ImagePipeline(card, backend)
    pictures = cheapest.pictures()
    together = work.batch(pictures)
    for picture, batched in zip(pictures, together, strict=True):
        (result,) = pipeline.infer([pipeline.preprocess(picture)])
        served, alone = classify(result.logits, card), work(picture)
        assert alone["label"] == batched["label"] == served.label
        for answer in (alone, batched):
            assert answer["probabilities"] == pytest.approx(served.probabilities, abs=1e-6)
    backend.close()
    assert len({answer["label"] for answer in together}) > 1  # or the check of answers would check little


def test_kidney_stone_answers_what_pytorch_did() -> None:
    folder = ROOT / "models" / "kidney_stone"
    goldens = json.loads((folder / "goldens" / "goldens.json").read_text("utf-8"))["goldens"]
    work, stones = Work(folder, 1), list[float]()
    for golden in goldens:
        answer = work((folder / "goldens" / golden["file"]).read_bytes())
        expected = softmax(np.array(golden["logits"], np.float32)).tolist()
        assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-3)
        assert answer["label"] == ("stone" if expected[1] >= 0.1029 else "no_stone") and answer["sharpness"] > 0
        stones += [expected[1]] if answer["label"] == "stone" else []
    assert min(stones) < 0.5  # so the card's threshold decided, not the larger probability


def test_the_cheapest_model_is_the_same_everywhere() -> None:
    once, again = (cheapest.graph().SerializeToString(deterministic=True) for _ in range(2))
    assert once == again
    session = ort.InferenceSession(once, providers=["CPUExecutionProvider"])
    batch = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    assert session.run(["logits"], {"image": batch})[0].shape == (2, 10)
