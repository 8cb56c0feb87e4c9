"""Phantoms as a data set: drawn from their seeds and put through the very transform that serving uses."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from models.kidney_stone.phantom import draw
from preprocessing.spec import ImageInput
from preprocessing.transform import transform

TRAIN, VALIDATE, TEST, GOLDEN, CALIBRATE = (split * 10_000_000 for split in range(5))
"""First seed of each split. The splits share no seed, so no phantom is in two of them."""


class Sample(NamedTuple):
    """image: (3, h, w) float32, transformed; mask: (h, w) float32, 1 where a stone is; label: 0 or 1, int64."""

    image: Tensor
    mask: Tensor
    label: Tensor


class Phantoms(Dataset[Sample]):
    """Item `i` is the phantom of seed `first_seed + i`; `big_until` items long, stones shrink from 3x to true size."""

    def __init__(self, spec: ImageInput, first_seed: int, length: int, big_until: int = 0) -> None:
        self.spec, self.first_seed, self.length, self.big_until = spec, first_seed, length, big_until

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)  # the loader's own processes are the parallelism
        scale = 1.0 + 2.0 * max(0.0, 1.0 - index / self.big_until) if self.big_until else 1.0
        phantom = draw(self.first_seed + index, stone_scale=scale)
        height, width = self.spec.size
        area = cv2.resize(phantom.mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        image = torch.from_numpy(transform(phantom.image, self.spec).tensor)
        return Sample(image, torch.from_numpy((area > 0).astype(np.float32)), torch.tensor(phantom.label))
