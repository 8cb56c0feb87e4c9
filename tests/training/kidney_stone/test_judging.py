"""Figures of real slices, against cases solved on paper."""

from pathlib import Path

import click
import numpy as np
import pytest

from training import metrics
from training.kidney_stone.boxed import box_mask, read_boxed
from training.kidney_stone.judging import ScoredSlices, auc_without_each_scan, measure, rates, strata
from training.kidney_stone.shortcuts import histogram_auc, neighbour_auc
from training.kidney_stone.slices import Kind, Slice, View


def scored(*rows: tuple[Kind, str, View, float]) -> ScoredSlices:
    slices = [Slice(Path(f"{index}.jpg"), kind, scan, view) for index, (kind, scan, view, _) in enumerate(rows)]
    return ScoredSlices(slices, np.array([score for *_, score in rows]))


FOUR_SCANS = scored(
    ("stone", "stone-000", "axial", 0.9),
    ("stone", "stone-000", "axial", 0.8),
    ("stone", "stone-001", "coronal", 0.2),
    ("normal", "normal-000", "axial", 0.1),
    ("normal", "normal-000", "coronal", 0.1),
    ("cyst", "cyst-000", "axial", 0.85),
)


def test_strata_compare_stones_with_one_kind_and_slices_of_one_view() -> None:
    figures = strata(FOUR_SCANS, 0.5, resamples=50)
    assert set(figures) == {"against=normal", "against=cyst", "view=axial", "view=coronal"}  # there is no tumour
    assert figures["against=normal"]["auc"] == 1.0
    assert figures["against=cyst"]["auc"] == pytest.approx(1 / 3, abs=1e-4)
    assert figures["view=axial"]["auc"] == pytest.approx(3 / 4)
    assert figures["view=coronal"]["sensitivity"] == 0.0 and figures["view=coronal"]["specificity"] == 1.0
    assert figures["against=cyst"]["scans"] == 3 and figures["against=cyst"]["positive_scans"] == 2


def test_figures_say_how_many_slices_and_scans_they_are_of() -> None:
    figures = measure(rates(0.5), FOUR_SCANS, resamples=50)
    assert (figures["n"], figures["positives"], figures["scans"], figures["positive_scans"]) == (6, 3, 4, 2)
    assert figures["sensitivity"] == pytest.approx(2 / 3, abs=1e-4)


def test_leaving_out_the_scan_that_is_missed_shows_what_it_costs() -> None:
    without = auc_without_each_scan(FOUR_SCANS)
    assert without["stone-001"] == pytest.approx(5 / 6, abs=1e-4) and without["stone-000"] == pytest.approx(
        2 / 3, abs=1e-4
    )


def test_an_interval_by_scan_is_wider_than_one_that_takes_equal_slices_as_independent() -> None:
    rng = np.random.default_rng(5)
    groups = np.repeat([f"scan-{index}" for index in range(20)], 30)
    labels = np.repeat(np.arange(20) % 2, 30)
    scores = np.repeat(rng.normal(np.arange(20) % 2, 1.0), 30)  # thirty copies of each scan's one score
    by_slice = metrics.bootstrap_interval(metrics.auc, labels, scores, resamples=200)
    by_scan = metrics.bootstrap_interval(metrics.auc, labels, scores, groups=groups, resamples=200)
    once = metrics.bootstrap_interval(metrics.auc, labels[::30], scores[::30], resamples=2000)
    assert by_scan[1] - by_scan[0] > 3 * (by_slice[1] - by_slice[0])
    assert by_scan == pytest.approx(once, abs=0.08)  # as wide as if each scan had one slice


def test_the_highest_threshold_still_finds_the_share_that_is_asked_for() -> None:
    labels, scores = np.array([0] * 3 + [1] * 10), np.array([0.9, 0.9, 0.9, *np.arange(1, 11) / 10])
    threshold = metrics.highest_threshold(labels, scores, 0.9)
    assert threshold == pytest.approx(0.2) and metrics.sensitivity(labels, scores, threshold) == pytest.approx(0.9)
    assert metrics.highest_threshold(labels, scores, 1.0) == pytest.approx(0.1)


def test_copying_the_nearest_picture_is_perfect_by_picture_and_worthless_by_scan() -> None:
    rng = np.random.default_rng(2)
    scans = rng.normal(size=(40, 50))
    vectors = np.repeat(scans, 8, axis=0) + rng.normal(0, 0.05, (320, 50))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels, groups = np.repeat(np.arange(40) % 2, 8), np.repeat([f"scan-{index}" for index in range(40)], 8)
    assert neighbour_auc(vectors.astype(np.float32), labels, groups, by_group=False) > 0.99
    assert 0.2 < neighbour_auc(vectors.astype(np.float32), labels, groups, by_group=True) < 0.8


def test_the_histogram_alone_tells_pictures_apart_that_differ_in_brightness() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(60) % 2
    pictures = [np.clip(rng.normal(90 + 40 * label, 20, (32, 32)), 0, 255).astype(np.uint8) for label in labels]
    shuffled = [rng.permutation(picture.ravel()).reshape(32, 32) for picture in pictures]
    assert histogram_auc(pictures[:40], labels[:40], pictures[40:], labels[40:]) == 1.0
    assert (
        histogram_auc(pictures[:40], labels[:40], shuffled[40:], labels[40:]) == 1.0
    )  # where a pixel is plays no role


def test_boxes_become_a_mask_at_the_size_of_the_input(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in ("000", "001"):
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"")
    (tmp_path / "labels" / "000.txt").write_text("0 0.5 0.25 0.2 0.1\n0 0.1 0.9 0.001 0.001\n")
    (tmp_path / "labels" / "001.txt").write_text("")
    (item,) = read_boxed(tmp_path)  # the second has no box
    mask = box_mask(item.boxes, (100, 200))
    assert mask[20:30, 80:120].all() and 0 < mask.sum() - 10 * 40 <= 4 and mask[89:91, 19:21].any()
    with pytest.raises(click.ClickException, match="boxed"):
        read_boxed(tmp_path / "images")
