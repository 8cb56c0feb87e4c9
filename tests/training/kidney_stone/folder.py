"""A few phantoms written as real slices are: in the layout of folders by scan, and in that of the public download."""

import csv
from pathlib import Path

import cv2
import numpy as np

from training.kidney_stone.phantom import draw
from training.kidney_stone.slices import KINDS

SCANS = tuple(f"{kind}-{number:03d}" for kind in KINDS for number in range(5))
"""Five scans of each kind, of which number 1 is coronal and of the study of number 0; of each kind, one study is tested
on, and each fold holds out one."""


def write_scans(folder: Path) -> Path:
    """Write phantoms as `KIND/SCAN/NAME.jpg`, each as two slices, with the table of views, and return the folder."""
    rows = []
    for number, scan in enumerate(SCANS):
        kind = scan.split("-")[0]
        picture = draw(930_000_000 + number, label=int(kind == "stone")).image
        for name in ("000.jpg", "001.jpg"):
            path = folder / kind / scan / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(picture, (224, 224)))
            rows.append((path.relative_to(folder).as_posix(), "coronal" if scan.endswith("-001") else "axial"))
    with (folder / "views.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "view"), *rows])
    return folder


def write_download(folder: Path) -> Path:
    """Write phantoms as the public download has them, numbered through: four runs of three neighbours of one kind.

    Neighbours differ by a little noise, as slices of one scan do.
    """
    rng = np.random.default_rng(0)
    for kind in ("Stone", "Normal", "Cyst", "Tumor"):
        root = folder / "CT-KIDNEY-DATASET" / kind
        root.mkdir(parents=True)
        for number in range(12):
            picture = draw(940_000_000 + number // 3, label=int(kind == "Stone")).image.astype(float)
            grain = rng.normal(0, 6, picture.shape[:2])[..., None]
            path = root / f"{kind}- ({number + 1}).jpg"
            cv2.imwrite(str(path), np.clip(picture + grain, 0, 255).astype(np.uint8))
    return folder
