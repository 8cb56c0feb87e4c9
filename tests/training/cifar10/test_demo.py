"""Procedural pictures follow from their seeds, show ten classes, and are never called CIFAR-10."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from models.architectures.pyramidnet import PyramidNet
from models.card import read_image_card
from training.cifar10.demo import CARD_FILE, DATA, demo, draw_batch
from training.cifar10.pictures import LABELS, draw, golden_images

GOLDENS = Path(__file__).resolve().parents[3] / "models" / "cifar10" / "goldens"


def test_a_picture_is_fixed_by_its_seed() -> None:
    for seed in range(20):
        (first, label), (second, second_label) = draw(seed), draw(seed)
        assert np.array_equal(first, second) and label == second_label
        assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
        assert 32 <= first.shape[0] == first.shape[1] <= 96
    assert len({draw(seed)[0].tobytes() for seed in range(100)}) == 100


def test_ten_seeds_in_a_row_are_ten_classes() -> None:
    assert [draw(seed)[1] for seed in range(30, 40)] == list(range(10))


def test_each_class_has_an_outline_of_its_own() -> None:
    """The mean edges of a class's pictures are closer to those of its other pictures than to any other class's."""
    spec = read_image_card(CARD_FILE).input

    def edges(first: int) -> np.ndarray:
        images, _ = draw_batch(spec, first, 300)
        brightness = images.mean(1)
        across, down = brightness.diff(dim=2)[:, 1:], brightness.diff(dim=1)[:, :, 1:]
        gradient = torch.sqrt(across**2 + down**2)
        mean = torch.nn.functional.avg_pool2d(gradient[:, None], 2)[:, 0].reshape(30, 10, -1).mean(0)
        return np.asarray(mean / mean.norm(dim=1, keepdim=True))

    similarity = edges(50_000) @ edges(60_000).T
    assert similarity.argmax(axis=1).tolist() == list(range(10))


def test_the_goldens_in_the_folder_are_those_that_are_drawn() -> None:
    assert read_image_card(CARD_FILE).labels == LABELS
    images = golden_images()
    assert [name for name, _ in images] == [f"{index:02d}-{label}.png" for index, label in enumerate(LABELS)]
    for name, data in images:
        picture, stored = (np.asarray(Image.open(file)) for file in (io.BytesIO(data), GOLDENS / name))
        assert picture.shape == (64, 64, 3)
        assert len(data) < 12_000
        assert np.abs(picture.astype(int) - stored.astype(int)).max() <= 1  # PNGs of another zlib, other bytes


def test_goldens_are_written_into_the_folder_that_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--goldens", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("*.png"))) == 10


def test_demonstration_weights_say_that_they_are_not_of_cifar10(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.cifar10.demo.HELD_OUT", 100)
    monkeypatch.setattr("training.cifar10.demo.BATCH", 8)
    threads = torch.get_num_threads()
    result = CliRunner().invoke(demo, ["--steps", "2", "--threads", "1", "--out", str(tmp_path)])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert result.output.count("not CIFAR-10") == 2
    state = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert state["data"] == DATA == "procedural pictures, not CIFAR-10"
    assert isinstance(state["best_val_acc"], float) and isinstance(state["epoch"], int)
    PyramidNet().load_state_dict(state["model_state_dict"])
    assert "not CIFAR-10" in CliRunner().invoke(demo, ["--help"]).output
