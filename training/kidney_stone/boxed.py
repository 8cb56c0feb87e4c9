"""Slices of another hospital with a box around every stone: to judge a finished model with, never to train on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from explain.onnx import OnnxExplainer
from explain.overlay import heatmap
from export import explanation_quality as quality
from export.explanation_quality import TOLERANCE_PX, Case
from export.explanation_report import pointing_figures
from models.card import Explain, ImageCard
from postprocessing.classification import card_probabilities
from preprocessing.spec import ImageInput
from preprocessing.transform import resize, transform
from training import metrics
from training.kidney_stone.slice_folders import read_picture

BATCH = 8


@dataclass(frozen=True)
class BoxedSlice:
    """One slice with stones.

    Attributes:
        path: of the picture.
        boxes: centre x, centre y, width and height of each stone's box, as shares of the picture's width and height;
            shape (n, 4).
    """

    path: Path
    boxes: npt.NDArray[np.float64]


def read_boxed(folder: Path) -> list[BoxedSlice]:
    """List the slices of a folder with `images/NAME.jpg` and `labels/NAME.txt`; one without a box is left out.

    A line of a label file is `0 cx cy w h`, the format of YOLO.

    Raises:
        ClickException: there are none.
    """
    slices = []
    for path in sorted((folder / "images").glob("*.jpg")):
        label = folder / "labels" / f"{path.stem}.txt"
        rows = [line.split()[1:5] for line in label.read_text().splitlines() if line.strip()] if label.exists() else []
        if rows:
            slices.append(BoxedSlice(path, np.array(rows, np.float64)))
    if not slices:
        raise click.ClickException(f"{folder}: no boxed slices there, images/NAME.jpg with labels/NAME.txt")
    return slices


def box_mask(boxes: npt.NDArray[np.float64], size: tuple[int, int]) -> quality.Mask:
    """Return a mask of shape (h, w) = `size` that is True inside the boxes, each of at least one pixel."""
    height, width = size
    mask = np.zeros(size, bool)
    for cx, cy, w, h in boxes:
        left, top = int((cx - w / 2) * width), int((cy - h / 2) * height)
        right, bottom = int(np.ceil((cx + w / 2) * width)), int(np.ceil((cy + h / 2) * height))
        mask[max(top, 0) : max(bottom, top + 1), max(left, 0) : max(right, left + 1)] = True
    return mask


def boxed_case(item: BoxedSlice, spec: ImageInput) -> Case:
    """Read a slice, transform it as serving does, and draw its boxes at the size of the model's input."""
    picture = np.dstack([read_picture(item.path)] * 3)
    grey = cv2.cvtColor(resize(picture, spec), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return Case(transform(picture, spec).tensor, box_mask(item.boxes, spec.size), grey)


def boxed_figures(
    explainer: OnnxExplainer, explain: Explain, slices: list[BoxedSlice], card: ImageCard, threshold: float
) -> dict[str, Any]:
    """Return how many boxed stones are called, and how often the heatmap of a stone peaks on one.

    Slices follow one another in scans that nobody named, so that intervals, which take them as independent, are too
    narrow.

    Args:
        explainer: runs the explain graph.
        explain: the card's section, with the method.
        slices: slices of which all show stones.
        card: the model's card.
        threshold: the card's.
    """
    cases = [boxed_case(item, card.input) for item in slices]
    scores, heats = list[float](), []
    for first in range(0, len(cases), BATCH):
        tensors = np.stack([case.tensor for case in cases[first : first + BATCH]])
        outputs = explainer.run(tensors, np.ones(len(tensors), np.int64), frozenset([explain.method]))
        scores += card_probabilities(outputs.logits, card)[:, 1].tolist()
        heats += [heatmap(cam, card.input.size) for cam in outputs.maps[explain.method]]
    is_called = np.array(scores) >= threshold
    labels = np.ones(len(cases), np.int64)
    hits = [
        quality.is_hit(quality.peak(heat), case.mask, TOLERANCE_PX) for case, heat in zip(cases, heats, strict=True)
    ]
    true_positives, pointed = int(is_called.sum()), int((np.array(hits) & is_called).sum())
    low, high = binomtest(true_positives, len(cases)).proportion_ci(method="wilson")
    return {
        "sensitivity": round(metrics.sensitivity(labels, np.array(scores), threshold), 4),
        "sensitivity_ci95": [round(float(low), 4), round(float(high), 4)],
        "true_positives_pointing_at_a_stone": round(pointed / true_positives, 4) if true_positives else None,
        **pointing_figures(cases, np.stack(heats), data="boxed slices of another hospital"),
    }
