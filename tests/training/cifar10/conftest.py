"""A small CIFAR-10: drawings of the ten classes, in the layout of the real pictures."""

from pathlib import Path

import pytest
from PIL import Image

from training.cifar10.pictures import LABELS, draw

TRAINING, TEST = 4, 2
"""Pictures of each label."""


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar10")
    for split, first, count in (("train", 0, TRAINING), ("test", 1000, TEST)):
        for seed in range(first, first + 10 * count):
            image, label = draw(seed, side=32)
            file = folder / split / LABELS[label] / f"{seed:04d}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file, quality=95)
    return folder
