"""Pictures of a folder to measure explanations on, with boxes around what they show where somebody drew them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from errors import InvalidInput, StoreError
from export.explanation_quality import Case, Mask
from export.picture_examples import example_pictures
from models.card import ImageCard
from preprocessing.geometry import place
from preprocessing.prepare import prepare
from preprocessing.spec import ImageInput
from preprocessing.transform import resize

BOXES = "boxes.csv"
COLUMNS = ("picture", "x", "y", "width", "height")


class Box(NamedTuple):
    """A box in pixels of the picture as it is shown; (x, y) is its upper left corner."""

    x: float
    y: float
    width: float
    height: float


def read_boxes(folder: Path) -> dict[str, list[Box]]:
    """Return the boxes in a folder's `boxes.csv` by the picture's path in the folder; empty if there is no such file.

    Raises:
        StoreError: the file cannot be read; the message names the line.
    """
    path, boxes = folder / BOXES, dict[str, list[Box]]()
    if not path.exists():
        return boxes
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
            raise StoreError(
                f"{path}: its first line must name the columns {', '.join(COLUMNS)}; no {missing[0]} there."
            )
        for number, row in enumerate(reader, 2):
            try:
                box = Box(*(float(row[column]) for column in COLUMNS[1:]))
            except (TypeError, ValueError) as error:
                raise StoreError(f"{path}, line {number}: x, y, width and height must be numbers of pixels.") from error
            if not (np.isfinite(box).all() and box.width > 0 and box.height > 0):
                raise StoreError(f"{path}, line {number}: width and height must be above 0.")
            if not (folder / row["picture"]).is_file():
                raise StoreError(f"{path}, line {number}: {folder} has no picture {row['picture']!r}.")
            boxes.setdefault(Path(row["picture"]).as_posix(), []).append(box)
    if not boxes:
        raise StoreError(f"{path} has no boxes. Take it away to measure without them.")
    return boxes


def read_cases(folder: Path, card: ImageCard, count: int) -> list[Case]:
    """Return up to `count` pictures of a folder, as the model takes them.

    Where there are boxes, these are the pictures with one that the network sees; otherwise all masks are False.

    Raises:
        StoreError: there are no pictures, one cannot be used, or the boxes cannot be read.
    """
    if card.input.layout != "nchw":
        raise StoreError(f"{card.name} takes pictures as {card.input.layout}; explanations are measured on nchw alone.")
    boxes, cases = read_boxes(folder), list[Case]()
    for path in [folder / name for name in sorted(boxes)] or example_pictures(folder):
        try:
            prepared = prepare(path.read_bytes(), card.limits, card.input, keep="original")
        except InvalidInput as error:
            raise StoreError(f"{path}: {error}") from error
        assert prepared.pixels is not None
        mask = box_mask(boxes.get(path.relative_to(folder).as_posix(), ()), prepared.pixels.shape[:2], card.input)
        if boxes and not mask.any():
            continue
        grey = cv2.cvtColor(resize(prepared.pixels, card.input), cv2.COLOR_RGB2GRAY).astype(np.float32)
        cases.append(Case(prepared.tensor, mask, grey))
        if len(cases) == count:
            break
    if not cases:
        raise StoreError(f"{folder / BOXES}: the network sees none of these boxes.")
    return cases


def box_mask(boxes: Sequence[Box], size: tuple[int, ...], spec: ImageInput) -> Mask:
    """Return where boxes come to lie in the network's input.

    Args:
        boxes: in pixels of the picture.
        size: the picture's height and width.
        spec: the card's input section, which says how the picture is resized, and cut or padded.

    Returns:
        Shape (h, w) = `spec.size`, True on every pixel that a box covers any part of.
    """
    placement = place((size[0], size[1]), spec)
    drawn, mask = np.zeros(placement.resized, bool), np.zeros(spec.size, bool)
    down, across = placement.resized[0] / size[0], placement.resized[1] / size[1]
    for x, y, width, height in boxes:
        left, top = max(0, int(np.floor(x * across))), max(0, int(np.floor(y * down)))
        right, bottom = int(np.ceil((x + width) * across)), int(np.ceil((y + height) * down))
        drawn[top : max(0, bottom), left : max(0, right)] = True
    mask[placement.inside] = drawn[placement.taken]
    return mask
