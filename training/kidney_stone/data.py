"""Phantoms as a data set: drawn from their seeds and put through the very transform that serving uses."""

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from export.explanation_quality import Case
from export.labelled import Items, Split
from models.card import Card, ImageCard
from preprocessing.spec import ImageInput
from preprocessing.transform import resize, transform
from training.kidney_stone.phantom import draw

TRAIN, VALIDATE, TEST, GOLDEN, CALIBRATE, EXPLAIN = (split * 10_000_000 for split in range(6))
"""First seed of each split. The splits share no seed, so no phantom is in two of them."""

NAME, POSITIVE = "synthetic CT phantoms", "stone"

TRAINING_MIX = (0.3, 0.32, 0.38)
"""Contrast phases in training; see `training.kidney_stone.phantom.PHASES`."""


class Sample(NamedTuple):
    """image: (3, h, w) float32, transformed; mask: (h, w) float32, 1 where a stone is; label: 0 or 1, int64."""

    image: Tensor
    mask: Tensor
    label: Tensor


class Phantoms(Dataset[Sample]):
    """Item `i` is the phantom of seed `first_seed + i`; `big_until` items long, stones shrink from 3x to true size.

    `paired` gives one seed to every two items, the slice without its stones and then the same slice with them, and
    more of the contrast phases, in which stones are harder to tell.
    """

    def __init__(
        self, spec: ImageInput, first_seed: int, length: int, *, big_until: int = 0, paired: bool = False
    ) -> None:
        self.spec, self.first_seed, self.length = spec, first_seed, length
        self.big_until, self.paired = big_until, paired

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)  # the loader's own processes are the parallelism
        scale = 1.0 + 2.0 * max(0.0, 1.0 - index / self.big_until) if self.big_until else 1.0
        if self.paired:
            phantom = draw(self.first_seed + index // 2, label=index % 2, stone_scale=scale, phase_mix=TRAINING_MIX)
        else:
            phantom = draw(self.first_seed + index, stone_scale=scale)
        height, width = self.spec.size
        area = cv2.resize(phantom.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(transform(phantom.image, self.spec).tensor)
        return Sample(image, torch.from_numpy((area > 0).astype(np.float32)), torch.tensor(phantom.label))


def explained_cases(spec: ImageInput, count: int) -> Iterator[Case]:
    """Held-out phantoms with one stone or two, and where these are."""
    for index in range(count):
        phantom = draw(EXPLAIN + index, label=1)
        height, width = spec.size
        area = cv2.resize(phantom.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        grey = cv2.cvtColor(resize(phantom.image, spec), cv2.COLOR_RGB2GRAY).astype(np.float32)
        yield Case(transform(phantom.image, spec).tensor, area > 0, grey)


def labelled(card: Card, split: Split, count: int) -> Iterator[Items] | None:
    """Phantoms, one at a time, positive where there is a stone; see `export.labelled.Source`."""
    if not isinstance(card, ImageCard) or POSITIVE not in card.labels:
        return None
    first = VALIDATE if split == "validate" else CALIBRATE
    drawn = (draw(first + index) for index in range(count))
    return (Items(transform(each.image, card.input).tensor[None], np.array([each.label], np.int64)) for each in drawn)
