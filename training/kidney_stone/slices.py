"""Real CT slices on disk: which there are, which of them belong to one scan and one study, and how they are split."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Kind = Literal["stone", "normal", "cyst", "tumour"]
KINDS: tuple[Kind, ...] = get_args(Kind)
View = Literal["axial", "coronal"]
VIEWS: tuple[View, ...] = get_args(View)
Part = Literal["train", "validate", "test"]
Parts = dict[Part, list["Slice"]]

SHARES: dict[Part, float] = {"test": 0.22, "validate": 0.2}
"""Share of a kind's studies that are held out for each purpose; the others are trained on."""
LARGEST_HELD_OUT = 100
"""Studies with more slices than this are only trained on, since one of them would decide every figure by itself."""


@dataclass(frozen=True)
class Slice:
    """One picture of a scan.

    Attributes:
        path: of the picture.
        kind: what its scan was labelled as, which need not show in every slice.
        scan: name of the run of neighbouring slices that it belongs to, unique among all kinds.
        view: plane of the slice.
    """

    path: Path
    kind: Kind
    scan: str
    view: View

    @property
    def label(self) -> int:
        """1 if the scan is of a kidney with a stone, else 0."""
        return int(self.kind == "stone")


def group_studies(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Group scans that may show one patient: an axial scan with the coronal ones that follow it in the numbering.

    The collection names no patient. Axial and coronal scans alternate in its numbering as a study's series do, so that
    a split by scan alone could put two views of one kidney on both sides.
    """
    scans: dict[str, list[Slice]] = defaultdict(list)
    for item in slices:
        scans[item.scan].append(item)
    studies: list[list[Slice]] = []
    for scan in scans.values():
        follows = studies and studies[-1][-1].kind == scan[0].kind and scan[0].view == "coronal"
        if follows:
            studies[-1] += scan
        else:
            studies.append(list(scan))
    return studies


def split_slices(slices: Sequence[Slice], seed: int = 0) -> Parts:
    """Divide slices by study, kind by kind, into those to train on, to validate on and to test on."""
    parts: Parts = {"train": [], "validate": [], "test": []}
    for shuffled, large, count in _studies_by_kind(slices, seed):
        first, second = count["test"], count["test"] + count["validate"]
        parts["test"] += _slices_of(shuffled[:first])
        parts["validate"] += _slices_of(shuffled[first:second])
        parts["train"] += _slices_of(shuffled[second:] + large)
    return parts


def fold_slices(slices: Sequence[Slice], fold: int, folds: int, seed: int = 0) -> Parts:
    """Divide slices for one fold of a cross-validation; the test set is that of `split_slices`, and in every fold.

    Args:
        slices: all slices.
        fold: number of the fold, from 0.
        folds: how many folds there are.
        seed: of the split.

    Returns:
        The studies that are no part of the test set: one in `folds` to validate on, the others to train on.
    """
    parts: Parts = {"train": [], "validate": [], "test": []}
    for shuffled, large, count in _studies_by_kind(slices, seed):
        parts["test"] += _slices_of(shuffled[: count["test"]])
        for index, study in enumerate(shuffled[count["test"] :]):
            parts["validate" if index % folds == fold else "train"] += study
        parts["train"] += _slices_of(large)
    return parts


def _studies_by_kind(
    slices: Sequence[Slice], seed: int
) -> Iterator[tuple[list[list[Slice]], list[list[Slice]], dict[Part, int]]]:
    """Yield the shuffled studies of each kind, those too large to be held out, and how many are held out for what."""
    rng = np.random.default_rng((0x5C_A5, seed))
    studies = group_studies(slices)
    for kind in KINDS:
        own = [study for study in studies if study[0].kind == kind]
        eligible = [study for study in own if len(study) <= LARGEST_HELD_OUT]
        large = [study for study in own if len(study) > LARGEST_HELD_OUT]
        shuffled = [eligible[index] for index in rng.permutation(len(eligible))]
        yield shuffled, large, {part: round(share * len(own)) for part, share in SHARES.items()}


def _slices_of(studies: Sequence[list[Slice]]) -> list[Slice]:
    return [item for study in studies for item in study]
