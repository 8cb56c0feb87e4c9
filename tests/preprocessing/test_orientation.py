"""A card may have photographs taken as they are stored, without the turn that their EXIF asks for."""

import io

import numpy as np
import pytest
from PIL import Image

from preprocessing.prepare import prepare
from preprocessing.spec import ImageInput, ImageLimits
from runners.cores import CoreShare
from serving.gradcam.wire import ExplanationRequest
from serving.gradcam.worker import load_explanation
from serving.options import RunnerOptions
from tests.conftest import encode
from tests.tiny import seal, tiny_package

LIMITS = ImageLimits()


def photograph(kind: str) -> bytes:
    """A picture, 40 pixels high and 60 wide as it is stored, that a viewer turns by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    return encode(pixels, kind, exif=exif)


def spec(orientation: str) -> ImageInput:
    values = {"size": (40, 60), "library": "opencv", "kernel": "linear", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return ImageInput.model_validate(values | {"orientation": orientation, "resize": "none"})


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_whose_orientation_is_ignored_is_taken_as_it_is_stored(kind: str) -> None:
    data = photograph(kind)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    ignored, applied = (prepare(data, LIMITS, spec(word), keep="original").pixels for word in ("ignore", "apply"))
    assert ignored is not None and applied is not None
    assert ignored.shape == (40, 60, 3) and applied.shape == (60, 40, 3)
    assert np.abs(ignored.astype(int) - stored).max() <= 2
    assert np.array_equal(np.rot90(ignored, -1), applied)


def test_a_map_of_such_a_picture_has_the_stored_size(tmp_path_factory: pytest.TempPathFactory) -> None:
    request = ExplanationRequest(photograph("JPEG"), (), "layercam", "map", 0.5, at_input_size=False)
    for word, size in (("apply", (40, 60)), ("ignore", (60, 40))):
        folder = tiny_package(tmp_path_factory.mktemp(word) / "tiny", explained=True)
        card = (folder / "card.toml").read_text()
        (folder / "card.toml").write_text(card.replace("[input]\n", f'[input]\norientation = "{word}"\n'))
        pipeline = load_explanation(seal(folder), RunnerOptions(), CoreShare(1)).pipeline
        assert pipeline.preprocess(request).size == size
