"""Procedural pictures: the same from the same seed, ten classes, and never called CIFAR-10."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from models.architectures.pyramidnet import PyramidNet
from training.cifar10.demo import CARD, DATA, batch_of, demo, draw, golden_images

ROOT = Path(__file__).resolve().parents[3]


def test_a_picture_is_fixed_by_its_seed() -> None:
    for seed in range(20):
        (first, label), (second, again) = draw(seed), draw(seed)
        assert np.array_equal(first, second) and label == again
        assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
        assert 32 <= first.shape[0] == first.shape[1] <= 96
    assert len({draw(seed)[0].tobytes() for seed in range(100)}) == 100


def test_ten_seeds_in_a_row_are_ten_classes() -> None:
    assert [draw(seed)[1] for seed in range(30, 40)] == list(range(10))


def test_each_class_has_an_outline_of_its_own() -> None:
    """Mean edges of many pictures of a class are closer to those of its other pictures than to any other class's."""

    def edges(first: int) -> np.ndarray:
        images, _ = batch_of(first, 300)
        brightness = images.mean(1)
        across, down = brightness.diff(dim=2)[:, 1:], brightness.diff(dim=1)[:, :, 1:]
        steep = torch.sqrt(across**2 + down**2)
        mean = torch.nn.functional.avg_pool2d(steep[:, None], 2)[:, 0].reshape(30, 10, -1).mean(0)
        return np.asarray(mean / mean.norm(dim=1, keepdim=True))

    alike = edges(50_000) @ edges(60_000).T
    assert alike.argmax(axis=1).tolist() == list(range(10))


def test_the_goldens_in_the_folder_are_those_that_are_drawn() -> None:
    drawn = golden_images()
    assert [name for name, _ in drawn] == [f"{index:02d}-{label}.png" for index, label in enumerate(CARD.labels)]
    for name, data in drawn:
        picture, kept = (np.asarray(Image.open(each)) for each in (io.BytesIO(data), _golden(name)))
        assert picture.shape == (64, 64, 3)
        assert len(data) < 12_000
        assert np.abs(picture.astype(int) - kept.astype(int)).max() <= 1  # PNGs of another zlib, other bytes


def _golden(name: str) -> Path:
    return ROOT / "models" / "cifar10" / "goldens" / name


def test_goldens_are_written_where_one_says(tmp_path: Path) -> None:
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
    kept = torch.load(tmp_path / "best_model.pth", weights_only=True)
    assert kept["data"] == DATA == "procedural pictures, not CIFAR-10"
    assert isinstance(kept["best_val_acc"], float) and isinstance(kept["epoch"], int)
    PyramidNet().load_state_dict(kept["model_state_dict"])
    assert "not CIFAR-10" in CliRunner().invoke(demo, ["--help"]).output
