"""Reading CIFAR-10 in either layout, and what augmentation does to a picture."""

import hashlib
import pickle
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]

from models.card import read_image_card
from preprocessing.transform import transform
from tests.conftest import ROOT
from training.cifar10.data import SIDE, Pictures, augment, hold_out, normalise, read
from training.cifar10.pictures import LABELS

CARD = read_image_card(ROOT / "models" / "cifar10" / "card.toml")


def test_folders_are_read_in_the_order_of_the_cards_labels(data: Path) -> None:
    training, test = read(data, "train", CARD), read(data, "test", CARD)
    assert training.labels.tolist() == [index for index in range(10) for _ in range(4)]
    assert training.images.shape == (40, 32, 32, 3) and training.images.dtype == torch.uint8
    assert test.labels.tolist() == [index for index in range(10) for _ in range(2)]
    first = np.asarray(Image.open(min((data / "train" / "airplane").glob("*.jpg"))))
    assert np.abs(training.images[0].numpy().astype(int) - first).max() <= 3  # JPEG decoders may differ a little


def test_the_batches_of_the_authors_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rng = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    pixels, labels = rng.integers(0, 256, (8, 3072), dtype=np.uint8), [3, 1, 4, 1, 5, 9, 2, 6]

    def written(name: str, content: dict[str, object]) -> str:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    batch = ("test_batch", written("test_batch", {"data": pixels, "labels": labels}))
    meta = written("batches.meta", {"label_names": list(LABELS)})
    monkeypatch.setattr(CIFAR10, "train_list", [])
    monkeypatch.setattr(CIFAR10, "test_list", [batch])  # torchvision knows the checksums of the real files alone
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": meta})
    pictures = read(tmp_path, "test", CARD)
    assert pictures.labels.tolist() == labels
    assert np.array_equal(pictures.images.permute(0, 3, 1, 2).reshape(8, -1), pixels)


def test_without_cifar10_the_message_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException) as caught:
        read(tmp_path, "train", CARD)
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in caught.value.message
    assert str(tmp_path / "cifar-10-batches-py" / "data_batch_1") in caught.value.message
    assert f"{tmp_path / 'train' / 'LABEL'}/*.jpg" in caught.value.message


def test_a_label_without_pictures_a_damaged_file_and_another_size_are_named(tmp_path: Path) -> None:
    for label in LABELS:
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "train" / label / "0.jpg")
    deer = tmp_path / "train" / "deer" / "0.jpg"
    Image.new("RGB", (33, 32)).save(deer)
    with pytest.raises(click.ClickException, match=r"deer.0\.jpg has 33 x 32 pixels"):
        read(tmp_path, "train", CARD)
    deer.write_bytes(deer.read_bytes()[:200])
    with pytest.raises(click.ClickException, match=r"deer.0\.jpg: "):
        read(tmp_path, "train", CARD)
    deer.unlink()
    with pytest.raises(click.ClickException, match=r"deer holds no \*\.jpg"):
        read(tmp_path, "train", CARD)


def test_no_picture_is_both_trained_on_and_held_out() -> None:
    images = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, SIDE, SIDE, 3)
    pictures = Pictures(images, torch.arange(40))
    training, held = hold_out(pictures, 15, seed=3)
    assert len(training.labels) == 25 and len(held.labels) == 15
    assert set(training.labels.tolist()) | set(held.labels.tolist()) == set(range(40))
    assert torch.equal(training.images[:, 0, 0, 0].long(), training.labels)
    assert torch.equal(hold_out(pictures, 15, seed=3)[1].labels, held.labels)
    assert not torch.equal(hold_out(pictures, 15, seed=4)[1].labels, held.labels)


def test_training_and_serving_normalise_alike(data: Path) -> None:
    pictures = read(data, "test", CARD)
    served = np.stack([transform(image.numpy(), CARD.input).tensor for image in pictures.images])
    assert np.allclose(normalise(pictures.images, CARD.input), served, atol=1e-5)


def test_a_crop_is_a_shifted_or_mirrored_part_of_its_own_picture() -> None:
    batch = torch.arange(20 * 3 * SIDE * SIDE, dtype=torch.float32).reshape(20, 3, SIDE, SIDE)
    crops = augment(batch, SIDE, torch.Generator().manual_seed(0))
    assert crops.shape == batch.shape and crops.is_contiguous(memory_format=torch.channels_last)
    padded = np.pad(batch.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    kinds = set()
    for crop, picture in zip(crops.numpy(), padded, strict=True):
        places = [
            (down, right, mirrored)
            for down in range(9)
            for right in range(9)
            for mirrored in (1, -1)
            if np.array_equal(crop, picture[:, down : down + SIDE, right : right + SIDE][:, :, ::mirrored])
        ]
        assert len(places) == 1
        kinds.add(places[0])
    assert len(kinds) > 15 and {mirrored for _, _, mirrored in kinds} == {1, -1}


def test_a_smaller_side_keeps_what_the_picture_shows() -> None:
    flat = torch.full((2, 3, SIDE, SIDE), 0.25)
    assert torch.allclose(augment(flat, 16, torch.Generator()), torch.full((2, 3, 16, 16), 0.25))
