"""CIFAR-10 (Krizhevsky 2009) in memory, and its augmentation a whole batch at a time."""

from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.datasets import CIFAR10  # type: ignore[import-untyped]
from tqdm import tqdm

from errors import VitrineError
from models.card import ImageCard
from preprocessing.decode import decode
from preprocessing.spec import ImageInput

SIDE, PADDING = 32, 4
"""Height and width of the pictures, and by how many pixels at most a training crop is shifted."""


class Pictures(NamedTuple):
    """Pictures and what they show.

    Attributes:
        images: RGB, shape (N, 32, 32, 3), uint8.
        labels: indices into the card's labels, shape (N,), int64.
    """

    images: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Pictures":
        """Return the same pictures on a device."""
        return Pictures(self.images.to(device), self.labels.to(device))


def read(data: Path, split: Literal["train", "test"], card: ImageCard) -> Pictures:
    """Read the training or the test pictures into memory.

    Args:
        data: a folder with pictures as `train/LABEL/*.jpg` and `test/LABEL/*.jpg`, or with the authors' own
            `cifar-10-batches-py`.
        split: which of the two is read.
        card: names the labels, and limits what is decoded.

    Raises:
        ClickException: neither is there, a label has no pictures, or a file is damaged.
    """
    folder = data / split
    if not folder.is_dir():
        return _read_batches(data, split)
    images, labels = list[np.ndarray](), list[int]()
    for index, label in enumerate(card.labels):
        files = sorted((folder / label).glob("*.jpg"))
        if not files:
            raise click.ClickException(f"{folder / label} holds no *.jpg. {_where_to_get(data)}")
        for file in tqdm(files, desc=f"{split}/{label}", unit="picture", leave=False):
            try:
                image = decode(file.read_bytes(), card.limits)
            except VitrineError as error:
                raise click.ClickException(f"{file}: {error}") from error
            if image.shape != (SIDE, SIDE, 3):
                raise click.ClickException(f"{file} has {image.shape[1]} x {image.shape[0]} pixels, not 32 x 32.")
            images.append(image)
        labels += [index] * len(files)
    return Pictures(torch.from_numpy(np.stack(images)), torch.tensor(labels))


def _read_batches(data: Path, split: str) -> Pictures:
    try:
        batches = CIFAR10(data, train=split == "train")
    except RuntimeError as error:
        raise click.ClickException(f"CIFAR-10 is not in {data}, or is damaged. {_where_to_get(data)}") from error
    return Pictures(torch.from_numpy(batches.data), torch.tensor(batches.targets))


def _where_to_get(data: Path) -> str:
    batch, folders = (
        data / CIFAR10.base_folder / "data_batch_1",
        [data / split / "LABEL" for split in ("train", "test")],
    )
    return (
        f"Download {CIFAR10.url} (163 MiB) and unpack it there, so that {batch} exists; "
        f"or bring the pictures as {folders[0]}/*.jpg and {folders[1]}/*.jpg."
    )


def hold_out(pictures: Pictures, count: int, seed: int) -> tuple[Pictures, Pictures]:
    """Split pictures at random into those to train on and `count` to choose and calibrate with."""
    order = torch.randperm(len(pictures.labels), generator=torch.Generator().manual_seed(seed))
    chosen, rest = order[:count], order[count:]
    return (
        Pictures(pictures.images[rest], pictures.labels[rest]),
        Pictures(pictures.images[chosen], pictures.labels[chosen]),
    )


def normalise(images: Tensor, spec: ImageInput) -> Tensor:
    """Return uint8 pictures (N, 32, 32, 3) as the network takes them: (N, 3, 32, 32), float32, `channels_last`."""
    mean, std = (torch.tensor(values, device=images.device) for values in (spec.mean, spec.std))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def augment(batch: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Shift each picture by up to `PADDING` pixels either way, mirror half of them, and shrink all to one size.

    What a shift uncovers is the picture's own mirror image.

    Args:
        batch: normalised pictures (N, 3, 32, 32).
        side: height and width of the result; 32 leaves the size as it is.
        generator: on the CPU; decides shifts and mirrors.

    Returns:
        Shape (N, 3, side, side), `channels_last`.
    """
    count, steps = len(batch), torch.arange(SIDE)
    down, right = torch.randint(0, 2 * PADDING + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = (steps + down).to(batch.device)
    columns = (torch.where(mirrored, SIDE - 1 - steps, steps) + right).to(batch.device)
    padded = F.pad(batch, (PADDING,) * 4, mode="reflect").permute(0, 2, 3, 1)
    items = torch.arange(count, device=batch.device)[:, None, None]
    crops = padded[items, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if side != SIDE:
        crops = F.interpolate(crops, size=(side, side), mode="bilinear", antialias=True)
    return crops.contiguous(memory_format=torch.channels_last)
