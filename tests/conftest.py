"""What all tests share: encoded pictures, an empty model store, and the paths of the source and of a shipped model."""

import io
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from training.kidney_stone.data import CALIBRATE
from training.kidney_stone.phantom import draw

hypothesis.settings.register_profile("vitrine", deadline=None)  # the speed of this machine is not under test
hypothesis.settings.load_profile("vitrine")

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "models" / "kidney_stone"


def encode(image: npt.NDArray[np.uint8] | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Encode a picture in a format that Pillow writes, and return the bytes of the file."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """The bytes of 24 different phantoms, alternately PNG and JPEG files."""
    images = [draw(CALIBRATE + 1000 + seed).image for seed in range(24)]
    return [
        encode(image, "JPEG", quality=90) if index % 2 else encode(image, "PNG", compress_level=1)
        for index, image in enumerate(images)
    ]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty BENTOML_HOME for this process and the processes that it starts; nothing measures what it installs."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models.model import ModelStore

    folder = tmp_path / "bentoml"
    (folder / "models").mkdir(parents=True)
    (folder / "bentos").mkdir()
    monkeypatch.setenv("BENTOML_HOME", str(folder))
    monkeypatch.setenv("BENTOML_DO_NOT_TRACK", "True")
    monkeypatch.setattr("export.explanation_cost.measure_cost", lambda stored: "")  # it takes seconds
    BentoMLContainer.model_store.set(ModelStore(folder / "models"))
    yield folder
    BentoMLContainer.model_store.reset()
