"""Real CT slices on disk: which there are, which of them belong to one scan and one study, and how they are split."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

Kind = Literal["stone", "normal", "cyst", "tumour"]
KINDS: tuple[Kind, ...] = get_args(Kind)
View = Literal["axial", "coronal"]
VIEWS: tuple[View, ...] = get_args(View)
Part = Literal["train", "validate", "test"]

SHARES: dict[Part, float] = {"test": 0.22, "validate": 0.15}
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


def split_slices(slices: Sequence[Slice], seed: int = 0) -> dict[Part, list[Slice]]:
    """Divide slices by study, kind by kind, into those to train on, to validate on and to test on."""
    rng = np.random.default_rng((0x5C_A5, seed))
    parts: dict[Part, list[Slice]] = {"train": [], "validate": [], "test": []}
    studies = group_studies(slices)
    for kind in KINDS:
        own = [study for study in studies if study[0].kind == kind]
        eligible = [study for study in own if len(study) <= LARGEST_HELD_OUT]
        parts["train"] += [item for study in own if len(study) > LARGEST_HELD_OUT for item in study]
        order = [eligible[index] for index in rng.permutation(len(eligible))]
        at = 0
        for part, share in SHARES.items():
            count = round(share * len(own))
            parts[part] += [item for study in order[at : at + count] for item in study]
            at += count
        parts["train"] += [item for study in order[at:] for item in study]
    return parts
