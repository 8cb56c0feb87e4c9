"""Folders of real CT slices, in either of two layouts: a folder for each scan, or the public download as it comes."""

import csv
import re
from pathlib import Path

import click
import cv2
import numpy as np

from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.scans import group_scans, majority, shrink, view_of
from training.kidney_stone.slices import KINDS, Kind, Slice

WHERE = (
    'Real slices are the "CT KIDNEY DATASET: Normal-Cyst-Tumor and Stone" (Islam et al. 2022, Scientific Reports '
    "12:11440), on Kaggle under nazmul0087/ct-kidney-dataset-normal-cyst-tumor-and-stone. Unpack it, and give the "
    "folder with Cyst, Normal, Stone and Tumor in it as --data."
)
FOLDERS: dict[Kind, str] = {"stone": "Stone", "normal": "Normal", "cyst": "Cyst", "tumour": "Tumor"}


def read_slices(folder: Path) -> list[Slice]:
    """List the slices in a folder, in the order of kind, scan and name.

    Args:
        folder: holds `KIND/SCAN/NAME.jpg` for the kinds in `KINDS`, with the table `views.csv` in it or beside it; or
            the public download as it comes, see `read_download`.

    Raises:
        ClickException: the folder holds neither; the message says where the download is.
    """
    table = next((path for path in (folder / "views.csv", folder.parent / "views.csv") if path.exists()), None)
    if table is None or not (folder / "stone").is_dir():
        return read_download(folder)
    with table.open(newline="") as file:
        views = {row["file"]: row["view"] for row in csv.DictReader(file)}
    return [
        Slice(path, kind, path.parent.name, "coronal" if views[name] == "coronal" else "axial")
        for kind in KINDS
        for path in sorted((folder / kind).glob("*/*.jpg"))
        if (name := path.relative_to(folder).as_posix()) in views
    ]


def read_download(folder: Path) -> list[Slice]:
    """List the slices of the public download, in the order of kind and number, with the scans and views recovered.

    Args:
        folder: holds `Stone/Stone- (1).jpg` and so on for `FOLDERS`, itself or in a folder of it.

    Raises:
        ClickException: it does not; the message says where to get the pictures.
    """
    root = next((path.parent for path in sorted(folder.glob("**/Stone")) if path.is_dir()), None)
    if root is None:
        raise click.ClickException(f"{folder}: no real slices there. {WHERE}")
    slices: list[Slice] = []
    for kind, name in FOLDERS.items():
        paths = sorted((root / name).glob("*.jpg"), key=_number)
        pictures = [read_picture(path) for path in paths]
        for scan, members in enumerate(group_scans([shrink(picture) for picture in pictures])):
            view = majority([view_of(pictures[index]) for index in members])
            slices += [Slice(paths[index], kind, f"{kind}-{scan:03d}", view) for index in members]
    return slices


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or 0)


def read_picture(path: Path) -> UInt8Array:
    """Read a picture as grey levels, shape (H, W), uint8.

    Raises:
        ClickException: the file cannot be read as a picture.
    """
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise click.ClickException(f"{path}: cannot be read as a picture")
    return np.asarray(grey, np.uint8)
