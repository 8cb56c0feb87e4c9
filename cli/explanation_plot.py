"""The figure of a report on explanations: pointing game, insertion and deletion curves, and six explained pictures."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from explain.overlay import overlay
from export import explanation_quality as quality
from export.explanation_quality import TOLERANCE_PX
from export.explanation_report import ExplanationReport

EXAMPLES = 6


def plot(cases: Sequence[quality.Case], report: ExplanationReport, title: str, label: str, path: Path) -> None:
    """Draw a report into a PNG file.

    Args:
        cases: the cases that were measured.
        report: what was measured.
        title: the title of the figure.
        label: the explained label.
        path: the file; its folder is created if it does not exist.
    """
    figures = report.figures
    sheet = Figure(figsize=(12, 7), layout="constrained")
    grid = sheet.add_gridspec(2, EXAMPLES, height_ratios=[1.4, 1])
    left, right = sheet.add_subplot(grid[0, :3]), sheet.add_subplot(grid[0, 3:])
    randomised = figures["randomised"]
    bars = {
        "model": figures["pointing_game"],
        "random head": randomised["head"]["pointing_game"],
        "random after the layer": randomised["after_layer"]["pointing_game"],
        "random weights": randomised["all"]["pointing_game"],
        **{name.replace("_", " "): share for name, share in figures["baselines"].items()},
    }
    left.barh(list(bars)[::-1], list(bars.values())[::-1], color="#0b6e99")
    left.set(xlim=(0, 1), xlabel=f"pointing game, {TOLERANCE_PX} px", title=f"{figures['n']} {figures['data']}")
    for kind, curve in report.curves.items():
        right.plot(np.linspace(0, 1, len(curve)), curve, label=f"{kind}, area {quality.area_under(curve):.3f}")
    right.set(xlabel="share of pixels, hottest first", ylabel=f"P({label})", ylim=(0, 1))
    right.legend()
    for column, index in enumerate(np.linspace(0, len(cases) - 1, EXAMPLES).astype(int)):
        axes = sheet.add_subplot(grid[1, column])
        picture = cv2.cvtColor(cases[index].grey.astype(np.uint8), cv2.COLOR_GRAY2RGB)
        axes.imshow(overlay(np.asarray(picture, np.uint8), report.heatmaps[index], 0.6))
        axes.contour(quality.dilate(cases[index].mask, 5), [0.5], colors="cyan", linewidths=0.8)
        axes.set_axis_off()
    sheet.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=90, metadata={"Software": None})
