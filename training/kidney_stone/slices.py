"""Real CT slices on disk: which there are, which of them belong to one scan and one study, and how they are split."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

Kind = Literal["stone", "normal", "cyst", "tumour"]
KINDS: tuple[Kind, ...] = get_args(Kind)
View = Literal["axial", "coronal"]
VIEWS: tuple[View, ...] = get_args(View)

TESTED = 0.22
"""Share of a kind's studies that no training and no choice sees."""
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


class Split(NamedTuple):
    """Slices to train on, and slices of other studies that are held out."""

    train: list[Slice]
    held_out: list[Slice]


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


def split_slices(slices: Sequence[Slice], seed: int = 0) -> Split:
    """Divide slices by study, kind by kind, into those to train on and those to test on."""
    train, tested = list[Slice](), list[Slice]()
    for shuffled, large, count in _studies_by_kind(slices, seed):
        tested += _slices_of(shuffled[:count])
        train += _slices_of(shuffled[count:] + large)
    return Split(train, tested)


def fold_slices(slices: Sequence[Slice], fold: int, folds: int, seed: int = 0) -> Split:
    """Divide slices for one fold of a cross-validation, which leaves out the test slices of `split_slices`.

    Args:
        slices: all slices.
        fold: number of the fold, from 0.
        folds: how many folds there are.
        seed: of the split.

    Returns:
        One in `folds` of the studies to validate on, the others to train on.
    """
    train, validated = list[Slice](), list[Slice]()
    for shuffled, large, count in _studies_by_kind(slices, seed):
        for index, study in enumerate(shuffled[count:]):
            (validated if index % folds == fold else train).extend(study)
        train += _slices_of(large)
    return Split(train, validated)


def _studies_by_kind(slices: Sequence[Slice], seed: int) -> Iterator[tuple[list[list[Slice]], list[list[Slice]], int]]:
    """Yield the shuffled studies of each kind, those too large to be held out, and how many are tested on."""
    rng = np.random.default_rng((0x5C_A5, seed))
    studies = group_studies(slices)
    for kind in KINDS:
        own = [study for study in studies if study[0].kind == kind]
        eligible = [study for study in own if len(study) <= LARGEST_HELD_OUT]
        large = [study for study in own if len(study) > LARGEST_HELD_OUT]
        yield [eligible[index] for index in rng.permutation(len(eligible))], large, round(TESTED * len(own))


def _slices_of(studies: Sequence[list[Slice]]) -> list[Slice]:
    return [item for study in studies for item in study]
