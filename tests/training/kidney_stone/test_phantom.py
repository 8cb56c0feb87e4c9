"""Phantoms are reproducible, correctly labelled, and equally hard with and without a stone."""

from collections import Counter

import cv2
import numpy as np
import pytest

from training.kidney_stone.phantom import Phantom, draw


@pytest.fixture(scope="module")
def phantoms() -> list[Phantom]:
    return [draw(900_000_000 + seed) for seed in range(160)]


def test_the_same_seed_draws_the_same_bytes() -> None:
    first, second = draw(7, label=1), draw(7, label=1)
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()
    assert first.stratum == second.stratum
    assert draw(8, label=1).image.tobytes() != first.image.tobytes()


def test_a_picture_is_rgb_bytes_with_a_mask_of_its_size(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert phantom.image.dtype == np.uint8 and phantom.image.ndim == 3 and phantom.image.shape[2] == 3
        assert phantom.mask.shape == phantom.image.shape[:2]
        assert min(phantom.mask.shape) >= 300 and max(phantom.mask.shape) <= 700
        assert set(np.unique(phantom.mask)) <= {0, 1}


def test_the_mask_is_empty_exactly_where_the_label_says_no_stone(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        assert bool(phantom.mask.any()) == bool(phantom.label) == bool(phantom.stratum.stones)


def test_labels_come_half_and_half(phantoms: list[Phantom]) -> None:
    positives = sum(phantom.label for phantom in phantoms)
    assert abs(positives - 80) < 4 * np.sqrt(160 * 0.25)


def test_every_stone_stands_out_of_its_surroundings_at_the_size_the_model_sees(phantoms: list[Phantom]) -> None:
    for phantom in phantoms:
        if not phantom.label:
            continue
        grey = cv2.cvtColor(cv2.resize(phantom.image, (224, 224)), cv2.COLOR_RGB2GRAY).astype(float)
        stone = cv2.resize(phantom.mask.astype(np.float32), (224, 224), interpolation=cv2.INTER_AREA) > 0
        outer = cv2.dilate(stone.astype(np.uint8), np.ones((11, 11), np.uint8)) > 0
        inner = cv2.dilate(stone.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert grey[stone].max() > np.median(grey[outer & ~inner]) + 20


def test_enlarging_stones_changes_neither_the_stratum_nor_the_rest_of_the_picture() -> None:
    true_size, large = draw(3, label=1), draw(3, label=1, stone_scale=3.0)
    assert large.stratum == true_size.stratum
    assert large.image.shape == true_size.image.shape
    assert large.mask.sum() > 3 * true_size.mask.sum()
    background = cv2.dilate(large.mask, np.ones((41, 41), np.uint8)) == 0
    difference = np.abs(large.image.astype(int) - true_size.image.astype(int)).max(axis=2)
    assert np.percentile(difference[background], 99) <= 2


def test_confounders_and_phases_come_at_the_same_rate_with_and_without_a_stone() -> None:
    strata = {label: [draw(910_000_000 + seed, label=label).stratum for seed in range(100)] for label in (0, 1)}
    with_kidneys = {label: [row for row in rows if row.kidneys != "none"] for label, rows in strata.items()}
    for field in ("confounder", "phase", "view", "kernel"):
        counts = {label: Counter(getattr(row, field) for row in rows) for label, rows in with_kidneys.items()}
        for value in counts[0] | counts[1]:
            rates = [counts[label][value] / len(with_kidneys[label]) for label in (0, 1)]
            pooled = sum(counts[label][value] for label in (0, 1)) / sum(map(len, with_kidneys.values()))
            error = np.sqrt(pooled * (1 - pooled) * sum(1 / len(rows) for rows in with_kidneys.values()))
            assert abs(rates[0] - rates[1]) < 4 * error, f"{field}={value}: {rates}"


def test_a_slice_without_kidneys_never_has_a_stone(phantoms: list[Phantom]) -> None:
    assert any(phantom.stratum.kidneys == "none" for phantom in phantoms if not phantom.label)
    assert all(phantom.stratum.kidneys != "none" for phantom in phantoms if phantom.label)
