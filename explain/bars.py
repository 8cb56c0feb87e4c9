"""A bar plot of attributions: which features moved an output away from its base value, the strongest first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from explain.overlay import UInt8Array
from explain.shapley import Attributions

MOST_BARS = 20
"""Weaker features share one bar."""
NAMES, BARS, NUMBERS, GAP, LINE, HEAD = 240, 360, 90, 16, 30, 74
"""Widths of the columns, the gap around them, the height of a bar's line and of the text above, in pixels."""
INK, FAINT, TRACK = (30, 34, 40), (100, 108, 118), (222, 227, 233)
UP, DOWN = (178, 54, 36), (11, 110, 153)
"""Colours of a bar that raises the output, and of one that lowers it; colour-blind readers tell them apart, too."""


class BarText(NamedTuple):
    """The words of a plot.

    Attributes:
        title: what is explained.
        features: the name of each feature, with its value.
        note: a line below the title.
    """

    title: str
    features: Sequence[str]
    note: str


def draw_bars(attributions: Attributions, text: BarText) -> UInt8Array:
    """Draw a bar for each feature: to the right where it raises the output, to the left where it lowers it.

    A thin line at the end of a bar spans one standard error to either side, where there are any.

    Args:
        attributions: of F features.
        text: the words, with F names.

    Returns:
        RGB, shape (H, W, 3), uint8; the height follows from the number of bars, of which there are `MOST_BARS` at most.
    """
    bars = _bars(attributions, text.features)
    size = (NAMES + BARS + NUMBERS + 4 * GAP, HEAD + LINE * len(bars) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(20), ImageFont.load_default(14)
    draw.text((GAP, GAP), _fitted(draw, text.title, size[0] - 2 * GAP, large), INK, large)
    draw.text((GAP, GAP + 30), _fitted(draw, text.note, size[0] - 2 * GAP, small), FAINT, small)
    longest = max(max(abs(bar.value) + bar.error for bar in bars), 1e-12)
    middle, half = 2 * GAP + NAMES + BARS // 2, BARS / 2
    for place, bar in enumerate(bars):
        top = HEAD + LINE * place
        draw.text((GAP + NAMES, top + 6), _fitted(draw, bar.name, NAMES, small), INK, small, anchor="ra")
        end = middle + round(bar.value / longest * half)
        if end != middle:
            draw.rectangle((min(middle, end), top + 4, max(middle, end), top + LINE - 6), UP if bar.value > 0 else DOWN)
        if bar.error:
            reach, height = bar.error / longest * half, top + LINE // 2 - 1
            draw.line((round(end - reach), height, round(end + reach), height), INK)
        draw.text((size[0] - GAP, top + 6), f"{bar.value:+.4g}", INK, small, anchor="ra")
    draw.line((middle, HEAD, middle, HEAD + LINE * len(bars) - 2), TRACK)
    return np.asarray(sheet)


class _Bar(NamedTuple):
    name: str
    value: float
    error: float


def _bars(attributions: Attributions, names: Sequence[str]) -> list[_Bar]:
    """Return the bars, the longest first; where there are too many, the last is all of the rest together."""
    errors = attributions.standard_errors
    order = np.argsort(-np.abs(attributions.values), kind="stable").tolist()
    shown = order if len(order) <= MOST_BARS else order[: MOST_BARS - 1]
    bars = [
        _Bar(names[place], float(attributions.values[place]), float(errors[place]) if errors is not None else 0.0)
        for place in shown
    ]
    if rest := order[len(shown) :]:
        bars.append(_Bar(f"{len(rest)} more features", float(attributions.values[rest].sum()), 0.0))
    return bars


def _fitted(
    draw: ImageDraw.ImageDraw, text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """Return a text in one line, cut at its end where it is wider than there is room."""
    text = " ".join(text.split())[:500]
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text}…"
