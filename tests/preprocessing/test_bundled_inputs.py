"""The bundled cards give the inputs, to the last bit, that they gave before cards could say more."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from models.card import read_image_card
from models.goldens import golden_inputs
from preprocessing.spec import ImageInput
from serving.self_check import golden_batch
from tests.conftest import ROOT


def plain_tensor(path: Path, spec: ImageInput) -> npt.NDArray[np.float32]:
    """Resize whole, equalise the lightness, and normalise, in the arithmetic of float32."""
    height, width = spec.size
    picture = Image.open(path).convert("RGB")
    if spec.library == "pillow":
        pixels = np.asarray(picture.resize((width, height), Image.Resampling[spec.kernel.upper()]))
    else:
        assert spec.kernel == "linear"
        pixels = np.asarray(cv2.resize(np.asarray(picture), (width, height), interpolation=cv2.INTER_LINEAR))
    if spec.clahe is not None:
        lightness, a, b = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB))
        lightness = cv2.createCLAHE(spec.clahe.clip_limit, spec.clahe.tiles).apply(lightness)
        pixels = cv2.cvtColor(cv2.merge([lightness, a, b]), cv2.COLOR_LAB2RGB)
    scale = (1 / (255 * np.array(spec.std))).astype(np.float32)
    offset = (-np.array(spec.mean) / np.array(spec.std)).astype(np.float32)
    return np.asarray((pixels.astype(np.float32) * scale + offset).transpose(2, 0, 1))


@pytest.mark.parametrize("name", ["kidney_stone", "cifar10", "imagenet"])
def test_the_goldens_of_a_bundled_card_become_the_tensors_they_were(name: str) -> None:
    package = ROOT / "models" / name
    card = read_image_card(package / "card.toml")
    assert card.input.box == card.input.size and card.input.shape == (3, *card.input.size)
    inputs = golden_inputs(package)
    expected = np.stack([plain_tensor(package / "goldens" / file, card.input) for file, _ in inputs])
    assert np.array_equal(golden_batch(card, inputs), expected)
