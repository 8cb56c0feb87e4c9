"""Batches of real slices and phantoms: half of the real ones with stones, views balanced, every item from its seed."""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from training.kidney_stone.augmentation import augment
from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.data import TRAIN, TRAINING_MIX, resize_mask
from training.kidney_stone.dataset import Sample, real_sample
from training.kidney_stone.phantom import draw
from training.kidney_stone.slice_folders import read_picture
from training.kidney_stone.slices import VIEWS, Kind, Slice, View

REAL: tuple[Kind, ...] = (*("stone", "cyst") * 3, *("stone", "normal", "stone", "tumour", "stone", "normal"))
"""Kinds of the real slices of one batch: half with stones, and cysts, the hardest, twice as often as other kinds."""
PHANTOMS = 4
"""Phantoms in a batch, two scenes without and with stones each; the second is close in, as `draw` describes it."""
BATCH = len(REAL) + PHANTOMS
FIRST_SEED = TRAIN + 5_000_000
"""First seed of the phantoms that are mixed with real slices."""
_FAMILY = 0x3A_17


class Mixture(Dataset[Sample]):
    """The items of consecutive batches, each drawn from the seed, the batch and the place in it.

    Args:
        slices: real slices to train on; all kinds are needed.
        spec: the card's input section.
        seed: of the random choices.
        steps: how many batches there are.
    """

    def __init__(self, slices: Sequence[Slice], spec: ImageInput, seed: int, steps: int) -> None:
        self.slices, self.spec, self.seed, self.steps = slices, spec, seed, steps
        scans: dict[tuple[Kind, View], dict[str, list[Slice]]] = defaultdict(lambda: defaultdict(list))
        for item in slices:
            scans[item.kind, item.view][item.scan].append(item)
        self._scans = {stratum: list(by_name.values()) for stratum, by_name in scans.items()}

    def __len__(self) -> int:
        return self.steps * BATCH

    def __getitem__(self, index: int) -> Sample:
        cv2.setNumThreads(1)  # the loader's processes already use all cores
        step, place = divmod(index, BATCH)
        return self._phantom(step, place) if place < PHANTOMS else self._real(step, place)

    def _phantom(self, step: int, place: int) -> Sample:
        seed = FIRST_SEED + self.seed * 1_000_000 + step * PHANTOMS + place // 2
        phantom = draw(seed, label=place % 2, phase_mix=TRAINING_MIX, close=place >= 2)
        mask = resize_mask(phantom.mask, self.spec.size).astype(np.float32)
        image = torch.from_numpy(transform(phantom.image, self.spec).tensor)
        return Sample(image, torch.from_numpy(mask), torch.tensor(phantom.label))

    def _real(self, step: int, place: int) -> Sample:
        """Draw a slice of the kind and view that are due: large scans more often, but less than by their size."""
        rng = np.random.default_rng((_FAMILY, self.seed, step, place))
        kind = REAL[place - PHANTOMS]
        if kind == "normal" and step % 2:
            kind = "tumour"
        views = [view for view in VIEWS if (kind, view) in self._scans]
        scans = self._scans[kind, views[int(rng.integers(len(views)))]]
        weights = np.sqrt([len(scan) for scan in scans])
        scan = scans[int(rng.choice(len(scans), p=weights / weights.sum()))]
        chosen = scan[int(rng.integers(len(scan)))]
        grey = augment(read_grey(chosen, self.spec), chosen.view, rng)
        return real_sample(grey, chosen.label, self.spec)


def read_grey(item: Slice, spec: ImageInput) -> UInt8Array:
    """Read a slice as grey levels, shape `spec.size`, uint8."""
    height, width = spec.size
    return np.asarray(cv2.resize(read_picture(item.path), (width, height), interpolation=cv2.INTER_AREA), np.uint8)
