"""Real slices: both layouts are read, and no study is ever on two sides of a split."""

from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from tests.training.kidney_stone.folder import SCANS, write_download, write_scans
from training.kidney_stone.scans import SIDE_PX, group_scans, shrink, view_of
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import KINDS, LARGEST_HELD_OUT, Slice, View, fold_slices, group_studies, split_slices


def collection() -> list[Slice]:
    """Return slices of made-up scans: 20 studies of each kind, of an axial and a coronal scan, and one that is huge."""
    slices = []
    for kind in KINDS:
        for scan in range(42):
            view: View = "coronal" if scan % 2 else "axial"
            count = LARGEST_HELD_OUT if scan == 40 else 3
            slices += [
                Slice(Path(f"{kind}/{scan}/{index}.jpg"), kind, f"{kind}-{scan:03d}", view) for index in range(count)
            ]
    return slices


def test_a_folder_for_each_scan_is_read_with_kinds_and_views(tmp_path: Path) -> None:
    slices = read_slices(write_scans(tmp_path))
    assert [item.scan for item in slices] == [scan for scan in SCANS for _ in range(2)]
    assert {item.scan for item in slices if item.view == "coronal"} == {f"{kind}-001" for kind in KINDS}
    assert all(item.scan.startswith(item.kind) and item.label == (item.kind == "stone") for item in slices)


def test_the_public_download_is_read_with_its_scans_recovered(tmp_path: Path) -> None:
    slices = read_slices(write_download(tmp_path))
    for kind in KINDS:
        own = [item for item in slices if item.kind == kind]
        assert [int(item.path.stem.split("(")[1][:-1]) for item in own] == list(range(1, 13))  # by number, not by name
        assert [item.scan for item in own] == [f"{kind}-{scan:03d}" for scan in range(4) for _ in range(3)]


def test_an_empty_folder_is_refused_with_where_to_get_the_pictures(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="CT KIDNEY DATASET"):
        read_slices(tmp_path)


def test_runs_that_share_a_picture_are_one_scan() -> None:
    rng = np.random.default_rng(3)
    first, second = (shrink(rng.integers(0, 256, (64, 64), dtype=np.uint8)) for _ in "ab")
    assert group_scans([first, first, second, first]) == [[0, 1, 3], [2]]
    assert group_scans([]) == []
    assert first.shape == (SIDE_PX**2,) and first @ first == pytest.approx(1, abs=1e-3)


def test_a_body_that_reaches_the_edge_above_or_below_is_coronal() -> None:
    axial = cv2.ellipse(np.zeros((200, 200), np.uint8), (100, 100), (80, 55), 0, 0, 360, (120,), -1)
    coronal = cv2.rectangle(np.zeros((200, 200), np.uint8), (50, 0), (150, 199), (120,), -1)
    cut_below = cv2.rectangle(np.zeros((200, 200), np.uint8), (50, 60), (150, 199), (120,), -1)
    assert [view_of(np.asarray(picture, np.uint8)) for picture in (axial, coronal, cut_below)] == [
        "axial",
        "coronal",
        "coronal",
    ]


def test_a_coronal_scan_belongs_to_the_study_of_the_axial_one_before_it() -> None:
    studies = group_studies(collection())
    assert len(studies) == 21 * len(KINDS)
    assert all(study[0].view == "axial" and len({item.scan for item in study}) == 2 for study in studies)


def test_a_split_takes_every_slice_once_and_divides_no_study() -> None:
    slices = collection()
    train, tested = split_slices(slices)
    assert sorted(item.path for item in train + tested) == sorted(item.path for item in slices)
    study_of = {item.scan: number for number, study in enumerate(group_studies(slices)) for item in study}
    assert not {study_of[item.scan] for item in train} & {study_of[item.scan] for item in tested}
    for kind in KINDS:
        assert sum(item.kind == kind for item in tested) == 5 * 6
        assert sum(item.kind == kind for item in train) == 15 * 6 + LARGEST_HELD_OUT + 3
    assert split_slices(slices).held_out == tested != split_slices(slices, seed=1).held_out


def test_folds_hold_out_every_study_once_that_is_neither_tested_on_nor_huge() -> None:
    slices = collection()
    tested = {item.path for item in split_slices(slices).held_out}
    folds = [fold_slices(slices, fold, 3) for fold in range(3)]
    held_out = [item.path for fold in folds for item in fold.held_out]
    assert len(held_out) == len(set(held_out)) == 15 * 6 * len(KINDS) and not tested & set(held_out)
    for fold in folds:
        assert not {item.path for item in fold.train} & ({item.path for item in fold.held_out} | tested)
