"""Batches of real slices and phantoms: balanced, reproducible from their seeds, and never of an unknown mask."""

from collections import Counter

import numpy as np
import pytest
import torch

from models.card import read_image_card
from models.registry import package_folder
from preprocessing.spec import ImageInput
from tests.training.kidney_stone.folder import write_scans
from training.kidney_stone.augmentation import augment
from training.kidney_stone.dataset import Sample
from training.kidney_stone.mixture import BATCH, PHANTOMS, REAL, Mixture
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.trainee import loss_of


@pytest.fixture(scope="module")
def spec() -> ImageInput:
    return read_image_card(package_folder("kidney-stone") / "card.toml").input


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory, spec: ImageInput) -> Mixture:
    return Mixture(read_slices(write_scans(tmp_path_factory.mktemp("slices"))), spec, seed=0, steps=4)


def test_half_of_a_batch_has_stones_and_only_phantoms_have_masks(mixture: Mixture) -> None:
    assert len(mixture) == 4 * BATCH and PHANTOMS + len(REAL) == BATCH
    samples = [mixture[3 * BATCH + place] for place in range(BATCH)]
    assert sum(int(sample.label) for sample in samples) == BATCH // 2
    assert [bool(sample.mask.isnan().all()) for sample in samples] == [False] * PHANTOMS + [True] * len(REAL)
    for sample in samples[:PHANTOMS]:
        assert bool(sample.mask.any()) == bool(sample.label)


def test_cysts_come_as_often_as_all_other_kinds_without_stones() -> None:
    counts = Counter(REAL)
    assert counts["stone"] == len(REAL) / 2 and counts["cyst"] == counts["normal"] + counts["tumour"]


def test_the_same_seed_gives_the_same_items_and_another_gives_others(mixture: Mixture) -> None:
    for place in (0, PHANTOMS):
        again = Mixture(mixture.slices, mixture.spec, 0, 4)[place]
        assert torch.equal(mixture[place].image, again.image)
        other = Mixture(mixture.slices, mixture.spec, 1, 4)[place]
        assert not torch.equal(mixture[place].image, other.image)


def test_augmentation_keeps_shape_and_range_and_is_reproducible() -> None:
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (224, 224), dtype=np.uint8)
    pictures = [augment(grey, "coronal", np.random.default_rng(seed)) for seed in (7, 7, 8)]
    assert all(picture.shape == grey.shape and picture.dtype == np.uint8 for picture in pictures)
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_an_item_without_a_known_mask_counts_with_its_label_alone() -> None:
    torch.manual_seed(1)
    logits, maps = torch.randn(2, 2), [torch.randn(2, 1, 4, 4)]
    mask = torch.zeros(2, 16, 16)
    mask[0, 3:6, 3:6] = 1.0
    mask[1] = torch.nan
    label = torch.tensor([1, 0])
    first = Sample(torch.zeros(0), mask[:1], label[:1])
    cross_entropy = torch.nn.functional.cross_entropy
    of_mask = loss_of(logits[:1], [maps[0][:1]], first) - cross_entropy(logits[:1], label[:1])
    both = loss_of(logits, maps, Sample(torch.zeros(0), mask, label))
    assert both == pytest.approx(float(cross_entropy(logits, label) + of_mask), abs=1e-6)
    unknown = Sample(torch.zeros(0), torch.full((2, 16, 16), torch.nan), label)
    assert torch.equal(loss_of(logits, maps, unknown), cross_entropy(logits, label))
