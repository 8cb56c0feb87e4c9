"""Scans and views, recovered from pictures that are numbered through without naming either.

Neighbouring slices of a scan are all but the same picture, so that a split by picture puts copies of the training set
into the test set.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.slices import View

SIDE_PX = 32
"""Side to which pictures are shrunk before they are compared."""
NEIGHBOURS = 0.85
"""Correlation of the grey values from which a picture belongs to the same scan as the one numbered before it."""
SAME = 0.98
"""Correlation from which two pictures are one, so that their runs of numbers are parts of one scan."""
BORDER = 0.03
"""Share of the height in which a body that reaches it is cut by the picture's edge."""


def shrink(grey: UInt8Array) -> npt.NDArray[np.float32]:
    """Return a picture of `SIDE_PX` pixels a side as a vector of mean 0 and length 1, (SIDE_PX²,), float32."""
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    centred = small - small.mean()
    return np.asarray(centred / (np.linalg.norm(centred) + 1e-6), np.float32)


def group_scans(pictures: Sequence[npt.NDArray[np.float32]]) -> list[list[int]]:
    """Group pictures, in the order of their numbers, into scans.

    A scan is a run of pictures that each resemble the one before; runs with a picture in common are one scan.

    Args:
        pictures: vectors whose dot products are correlations, each of shape (SIDE_PX²,).

    Returns:
        The indices of each scan's pictures, ascending; scans in the order of their first picture.
    """
    if not pictures:
        return []
    matrix = np.stack(pictures)
    starts = np.concatenate([[True], (matrix[1:] * matrix[:-1]).sum(axis=1) < NEIGHBOURS])
    run_of = np.cumsum(starts) - 1
    scan_of = np.arange(run_of[-1] + 1)
    for first, second in _same_pairs(matrix):
        low, high = sorted((scan_of[run_of[first]], scan_of[run_of[second]]))
        scan_of[scan_of == high] = low
    of_picture = scan_of[run_of]
    return [np.flatnonzero(of_picture == scan).tolist() for scan in np.unique(of_picture)]


def _same_pairs(matrix: npt.NDArray[np.float32], block: int = 512) -> Iterator[tuple[int, int]]:
    for first in range(0, len(matrix), block):
        rows, columns = np.nonzero(matrix[first : first + block] @ matrix.T >= SAME)
        yield from zip((rows + first).tolist(), columns.tolist(), strict=True)


def view_of(grey: UInt8Array) -> View:
    """Return the plane of a slice: in a coronal one the body reaches the picture's upper or lower edge."""
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    body = cv2.morphologyEx((small > 24).astype(np.uint8), cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    count, _, stats, _ = cv2.connectedComponentsWithStats(body)
    if count < 2:
        return "axial"
    largest = stats[1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    top, bottom = largest[cv2.CC_STAT_TOP], largest[cv2.CC_STAT_TOP] + largest[cv2.CC_STAT_HEIGHT]
    margin = BORDER * 64
    return "coronal" if top <= margin or bottom >= 64 - margin else "axial"


def majority(views: Sequence[View]) -> View:
    """Return the more frequent view; axial where both are equally so."""
    return "coronal" if 2 * views.count("coronal") > len(views) else "axial"
