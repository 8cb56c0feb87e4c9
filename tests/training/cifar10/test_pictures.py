"""Procedural pictures follow from their seeds, and the goldens are such pictures."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from models.card import read_image_card
from training.cifar10.pictures import LABELS, draw, golden_images

PACKAGE = Path(__file__).resolve().parents[3] / "models" / "cifar10"


def test_a_picture_is_fixed_by_its_seed() -> None:
    for seed in range(20):
        (first, label), (second, second_label) = draw(seed), draw(seed)
        assert np.array_equal(first, second) and label == second_label
        assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
        assert 32 <= first.shape[0] == first.shape[1] <= 96
    assert len({draw(seed)[0].tobytes() for seed in range(100)}) == 100


def test_ten_seeds_in_a_row_are_ten_classes() -> None:
    assert [draw(seed)[1] for seed in range(30, 40)] == list(range(10))


def test_the_goldens_in_the_folder_are_those_that_are_drawn() -> None:
    assert read_image_card(PACKAGE / "card.toml").labels == LABELS
    images = golden_images()
    assert [name for name, _ in images] == [f"{index:02d}-{label}.png" for index, label in enumerate(LABELS)]
    for name, data in images:
        picture, stored = (np.asarray(Image.open(file)) for file in (io.BytesIO(data), PACKAGE / "goldens" / name))
        assert picture.shape == (64, 64, 3)
        assert len(data) < 12_000
        assert np.abs(picture.astype(int) - stored.astype(int)).max() <= 1  # PNGs of another zlib, other bytes
