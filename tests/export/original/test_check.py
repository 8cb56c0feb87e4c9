"""A package is held against what an original gave, which is written here by hand and reads pictures in its own way."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
import tomlkit
from PIL import Image

from errors import StoreError
from export.original import search
from export.original.check import check_answers
from models.card import ImageCard, read_card
from serving.self_check import golden_batch
from tests.conftest import ROOT, SHIPPED
from tests.export.original.pictures import (
    CARD,
    LABELS,
    SIZE,
    Read,
    by_opencv,
    by_pillow,
    examples,
    normalised,
    original_logits,
    package,
    softmax,
)


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def check(folder: Path, pictures: Path, answers: Any, **options: Any) -> Any:
    expected = write_json(folder.parent / "expected.json", answers)
    return check_answers(folder, pictures, expected, print, **options)


def test_a_model_that_answers_as_the_original_passes_and_its_report_says_so(tmp_path: Path) -> None:
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures")
    (folder / "parity.json").write_text('{"limit": 0.0001}')
    answers = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    report = check(folder, pictures, {name: softmax(logits).tolist() for name, logits in answers.items()})
    assert report.kind == "probabilities" and report.examples == 6 and report.label_flips == 0
    assert report.largest_difference < 1e-4
    written = json.loads((folder / "parity.json").read_text())
    assert written["limit"] == 0.0001 and written["original"]["largest_difference"] == report.largest_difference


def cut_from_the_middle(data: bytes) -> np.ndarray:
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    image = cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    image = cv2.resize(image, (int(40 * width / height), 40))
    left = round((image.shape[1] - SIZE) / 2)
    return np.asarray(image[4 : 4 + SIZE, left : left + SIZE], np.uint8)


def equalised(pixels: np.ndarray) -> np.ndarray:
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


ORIGINALS: dict[str, tuple[Read, dict[str, Any]]] = {
    "another library": (
        lambda data: normalised(by_pillow(data)),
        {"library": "pillow", "kernel": "bilinear"},
    ),
    "another kernel": (lambda data: normalised(by_opencv(data, cv2.INTER_AREA)), {"kernel": "area"}),
    "the other order of channels": (lambda data: normalised(by_opencv(data)[..., ::-1]), {"channels": "bgr"}),
    "another normalisation": (
        lambda data: normalised(by_opencv(data), np.full(3, 0.5), np.full(3, 0.5)),
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ),
    "0 to 1": (lambda data: by_opencv(data) / 255, {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
    "a cut": (lambda data: normalised(cut_from_the_middle(data)), {"resize": "short_side"}),
    "CLAHE": (lambda data: normalised(equalised(by_opencv(data))), {"clahe": {"clip_limit": 2.0}}),
    "two things": (
        lambda data: normalised(by_pillow(data, Image.Resampling.BICUBIC)[..., ::-1]),
        {"library": "pillow", "kernel": "bicubic", "channels": "bgr"},
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_lines_that_a_refusal_names_make_the_model_agree(tmp_path: Path, name: str) -> None:
    read, lines = ORIGINALS[name]
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures")
    answers = {name: softmax(logits).tolist() for name, logits in original_logits(pictures, read).items()}
    with pytest.raises(StoreError) as refused:
        check(folder, pictures, answers)
    message = str(refused.value)
    assert re.search(r"[1-6] of 6 examples differ by more than 0.001.* The farthest is \d\.png, by 0\.\d", message)
    named = tomllib.loads(toml_of(message))["input"]
    assert {key: named[key] for key in lines if key != "clahe"} == {k: v for k, v in lines.items() if k != "clahe"}
    assert named.get("clahe", {}).get("clip_limit") == lines.get("clahe", {}).get("clip_limit")
    (folder / "card.toml").write_text(with_lines(CARD, toml_of(message)))
    assert check(folder, pictures, answers).examples == 6


def toml_of(message: str) -> str:
    """The lines of a card in a message."""
    return message.split("\n\n", 1)[1].partition("\nThey would")[0]


def with_lines(card: str, lines: str) -> str:
    """A card with some of its lines replaced, as a person would do it."""
    document: Any = tomlkit.parse(card)
    for key, value in tomllib.loads(lines).items():
        if isinstance(value, dict):
            document[key].update(value)
        else:
            document[key] = value
    return str(tomlkit.dumps(document))


def labels_in_another_order(logits: np.ndarray) -> dict[str, float]:
    return dict(zip(("fox", "cat", "dog"), softmax(logits).tolist(), strict=True))


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (labels_in_another_order, 'labels = ["fox", "cat", "dog"]'),
        (lambda logits: softmax(logits / 2.5).tolist(), "temperature = 2.5"),
        (lambda logits: ("fox", "cat", "dog")[int(logits.argmax())], 'labels = ["fox", "cat", "dog"]'),
    ],
    ids=["labels of probabilities", "temperature", "labels alone"],
)
def test_what_the_card_makes_of_the_outputs_is_found_too(
    tmp_path: Path, answer: Callable[[np.ndarray], Any], lines: str
) -> None:
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures", 12)
    logits = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    assert {int(row.argmax()) for row in logits.values()} == {0, 1, 2}
    with pytest.raises(StoreError) as refused:
        check(folder, pictures, {name: answer(row) for name, row in logits.items()})
    assert toml_of(str(refused.value)).strip() == lines


def test_labels_alone_are_enough_to_pass_or_to_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAIRS_S", 0.0)
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures")
    logits = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    names = {name: LABELS[int(row.argmax())] for name, row in logits.items()}
    assert check(folder, pictures, names).kind == "labels"
    places = {name: int(row.argmax()) for name, row in logits.items()}
    assert check(folder, pictures, places).kind == "labels"
    names["3.png"] = next(label for label in LABELS if label != names["3.png"])
    with pytest.raises(
        StoreError, match=r"1 of 6 examples get another label\. The farthest is 3\.png.* there, .* here"
    ):
        check(folder, pictures, names)


def test_what_no_card_can_say_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "PAIRS_S", 0.0)
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures")
    logits = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    with pytest.raises(StoreError, match="The original takes softmax twice"):
        check(folder, pictures, {name: softmax(softmax(row)).tolist() for name, row in logits.items()})
    with pytest.raises(
        StoreError, match=r"in the time, and none makes all agree.* What else it usually is: other weights"
    ):
        check(folder, pictures, {name: softmax(-3 * row[[1, 1, 2]]).tolist() for name, row in logits.items()})


def test_rounded_answers_are_allowed_what_they_lost(tmp_path: Path) -> None:
    folder, pictures = package(tmp_path / "zoo"), examples(tmp_path / "pictures")
    logits = original_logits(pictures, lambda data: normalised(by_opencv(data)))
    rounded = {name: softmax(row).round(2).tolist() for name, row in logits.items()}
    report = check(folder, pictures, rounded)
    assert 0.001 < report.largest_difference <= report.tolerance == pytest.approx(0.006)


def test_rows_are_held_against_the_original_too(tmp_path: Path) -> None:
    source, folder = ROOT / "models" / "churn", tmp_path / "churn"
    folder.mkdir()
    for name in ("card.toml", "predict.onnx", "weights.safetensors"):
        shutil.copy(source / name, folder / name)
    names = [feature["name"] for feature in tomllib.loads((source / "card.toml").read_text())["input"]["features"]]
    rows = np.random.default_rng(0).uniform([20, 9, 4, 1, 3, 2], [70, 12.5, 8.5, 4, 5.5, 6], (20, 6)).round(2)
    lines = [",".join(["customer", *names]), *(f"K{at},{','.join(map(str, row))}" for at, row in enumerate(rows))]
    (tmp_path / "rows.csv").write_text("\n".join(lines))

    session = onnxruntime.InferenceSession(folder / "predict.onnx")
    mean, std = np.array([45, 10.8, 6.3, 2.3, 4.0, 3.9]), np.array([15, 0.6, 1.0, 1.0, 0.7, 1.2])

    def original(transformed: np.ndarray) -> dict[str, Any]:
        batch = ((transformed - mean) / std).astype(np.float32)
        (logits,) = session.run(["logits"], {session.get_inputs()[0].name: batch})
        answers = [{"customer": f"K{at}", "probabilities": softmax(row).tolist()} for at, row in enumerate(logits)]
        return {"predictions": answers[::-1]}

    usual = np.column_stack([rows[:, 0], np.log1p(rows[:, 1:])])
    assert check(folder, tmp_path / "rows.csv", original(usual)).examples == 20
    with pytest.raises(StoreError, match=r"(?s)farthest is row \d+, by .*no steps of the kind log1p"):
        check(folder, tmp_path / "rows.csv", original(rows))


@pytest.mark.slow
def test_a_head_that_was_trained_with_another_activation_is_named(tmp_path: Path) -> None:
    import torch

    from models.checkpoint import load_network, read_checkpoint

    card = read_card(SHIPPED / "card.toml")
    assert isinstance(card, ImageCard)
    files = sorted(SHIPPED.glob("goldens/*.png"))
    trained = ImageCard.model_validate(card.model_dump() | {"head_activation": "relu"})
    network = load_network(trained, read_checkpoint(SHIPPED / "weights.safetensors").weights)
    with torch.inference_mode():
        logits = network(torch.from_numpy(golden_batch(card, [(path.name, path.read_bytes()) for path in files])))
    least_sure = logits.diff(dim=1)[:, 0].abs().argsort()[:2].tolist()  # of the others the activation changes little
    files, logits = [files[index] for index in least_sure], logits[least_sure]
    folder = tmp_path / "package"
    folder.mkdir()
    for name in ("card.toml", "predict.onnx", "weights.safetensors"):
        shutil.copy(SHIPPED / name, folder / name)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for path in files:
        (pictures / path.name).write_bytes(path.read_bytes())
    answers = {path.name: softmax(row).tolist() for path, row in zip(files, logits.double().numpy(), strict=True)}
    with pytest.raises(StoreError) as refused:
        check(folder, pictures, answers)
    assert toml_of(str(refused.value)).strip() == 'head_activation = "relu"'
