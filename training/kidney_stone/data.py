"""Data sets of phantoms, drawn from their seeds and put through the transform that serving uses. Needs no PyTorch."""

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

from export.explanation_quality import Case
from export.labelled_data import LabelledBatch, Split
from models.card import Card, ImageCard
from preprocessing.spec import ImageInput
from preprocessing.transform import resize, transform
from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.phantom import draw

TRAIN, VALIDATE, TEST, GOLDEN, CALIBRATE, EXPLAIN = (split * 10_000_000 for split in range(6))
"""First seed of each data split. The splits share no seed, so no phantom is in two of them."""

NAME, POSITIVE = "synthetic CT phantoms", "stone"
"""What the pictures are, and the label of those with a stone."""

TRAINING_MIX = (0.3, 0.32, 0.38)
"""Probability in training of each contrast phase in `training.kidney_stone.kidney.PHASES`.

Phases in which stones are harder to tell are more frequent than in held-out phantoms.
"""


def resize_mask(mask: UInt8Array, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Resize a stone mask to (height, width); a pixel is True if a stone covers any part of it."""
    height, width = size
    return np.asarray(cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA) > 0)


def explained_cases(spec: ImageInput, count: int) -> Iterator[Case]:
    """Yield held-out phantoms with one or two stones, and the masks of these."""
    for index in range(count):
        phantom = draw(EXPLAIN + index, label=1)
        grey = cv2.cvtColor(resize(phantom.image, spec), cv2.COLOR_RGB2GRAY).astype(np.float32)
        yield Case(transform(phantom.image, spec).tensor, resize_mask(phantom.mask, spec.size), grey)


def labelled(card: Card, split: Split, count: int) -> Iterator[LabelledBatch] | None:
    """Return phantoms, one at a time, for `export.labelled.Source.labelled`; those with a stone are positive."""
    if not isinstance(card, ImageCard) or POSITIVE not in card.labels:
        return None
    first_seed = VALIDATE if split == "validate" else CALIBRATE
    phantoms = (draw(first_seed + index) for index in range(count))
    return (
        LabelledBatch(transform(phantom.image, card.input).tensor[None], np.array([phantom.label], np.int64))
        for phantom in phantoms
    )
