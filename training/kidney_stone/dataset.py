"""Phantoms and real slices as PyTorch data sets."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.data import TRAINING_MIX, resize_mask
from training.kidney_stone.phantom import draw
from training.kidney_stone.slice_folders import read_picture
from training.kidney_stone.slices import Slice


class Sample(NamedTuple):
    """One phantom or real slice as tensors, or a batch of them with a leading axis N.

    Attributes:
        image: transformed, shape (3, h, w), float32.
        mask: 1 where a stone is, shape (h, w), float32; NaN everywhere if nobody knows where it is.
        label: 0 or 1, shape (), int64.
    """

    image: Tensor
    mask: Tensor
    label: Tensor


class PhantomDataset(Dataset[Sample]):
    """The phantoms of consecutive seeds.

    Args:
        spec: the card's input section.
        first_seed: seed of item 0.
        length: how many items there are.
        shrink_until: stones are drawn at three times their size in item 0, and shrink to true size by this item; with
            0, all are at true size.
        paired: each seed makes two items, the slice without its stones and then the same slice with them. Contrast
            phases are those of `TRAINING_MIX`.
    """

    def __init__(
        self, spec: ImageInput, first_seed: int, length: int, *, shrink_until: int = 0, paired: bool = False
    ) -> None:
        self.spec, self.first_seed, self.length = spec, first_seed, length
        self.shrink_until, self.paired = shrink_until, paired

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)  # the loader's processes already use all cores
        scale = 1.0 + 2.0 * max(0.0, 1.0 - index / self.shrink_until) if self.shrink_until else 1.0
        if self.paired:
            phantom = draw(self.first_seed + index // 2, label=index % 2, stone_scale=scale, phase_mix=TRAINING_MIX)
        else:
            phantom = draw(self.first_seed + index, stone_scale=scale)
        mask = resize_mask(phantom.mask, self.spec.size).astype(np.float32)
        image = torch.from_numpy(transform(phantom.image, self.spec).tensor)
        return Sample(image, torch.from_numpy(mask), torch.tensor(phantom.label))


class SliceDataset(Dataset[Sample]):
    """Real slices as serving sees them, without augmentation.

    Args:
        slices: the slices, in order.
        spec: the card's input section.
    """

    def __init__(self, slices: Sequence[Slice], spec: ImageInput) -> None:
        self.slices, self.spec = slices, spec

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, index: int) -> Sample:
        item = self.slices[index]
        return real_sample(read_picture(item.path), item.label, self.spec)


def real_sample(grey: UInt8Array, label: int, spec: ImageInput) -> Sample:
    """Transform a grey picture, shape (H, W), uint8, as serving does; where its stones are is not known."""
    image = torch.from_numpy(transform(np.dstack([grey] * 3), spec).tensor)
    return Sample(image, torch.full(spec.size, torch.nan), torch.tensor(label))
