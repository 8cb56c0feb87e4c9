"""A figure of one explained prediction: the picture, its overlay and the answer, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from explain.overlay import UInt8Array

HEIGHT, PANEL, GAP = 300, 300, 12
"""Height of a picture, width of the text panel and width of the gaps between them, in pixels."""
INK, FAINT, FILL, TRACK = (30, 34, 40), (100, 108, 118), (11, 110, 153), (222, 227, 233)
"""Colours of the text, of the small text, of the bars and of their background."""


class Caption(NamedTuple):
    """The text beside the pictures.

    Attributes:
        label: the predicted label.
        probabilities: label → probability, in the order to list them.
        lines: lines of small text below them.
    """

    label: str
    probabilities: dict[str, float]
    lines: Sequence[str]


def draw_figure(image: UInt8Array, overlaid: UInt8Array, caption: Caption) -> UInt8Array:
    """Draw two pictures of the same size, and the caption beside them, on white.

    Args:
        image: RGB, shape (H, W, 3), uint8.
        overlaid: the same picture with the heatmap laid over it.
        caption: the text.

    Returns:
        RGB, shape (HEIGHT + 2 GAP, W, 3), uint8, where W follows from the pictures' shape.
    """
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    sheet = Image.new("RGB", (2 * width + PANEL + 4 * GAP, HEIGHT + 2 * GAP), "white")
    for index, picture in enumerate((image, overlaid)):
        resized = Image.fromarray(picture).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        sheet.paste(resized, (GAP + index * (width + GAP), GAP))
    draw, left, top = ImageDraw.Draw(sheet), 2 * width + 3 * GAP, GAP + 4
    draw.text((left, top), caption.label, INK, ImageFont.load_default(30))
    top += 52
    for label, probability in caption.probabilities.items():
        draw.text((left, top), label, INK, ImageFont.load_default(15))
        draw.text((left + PANEL, top), f"{probability:.4f}", INK, ImageFont.load_default(15), anchor="ra")
        draw.rectangle((left, top + 22, left + PANEL, top + 30), TRACK)
        if probability * PANEL >= 1:
            draw.rectangle((left, top + 22, left + round(probability * PANEL), top + 30), FILL)
        top += 44
    small = ImageFont.load_default(13)
    rows = [part for line in caption.lines for part in [*_wrap(draw, line, small), ""]][:-1]
    for index, part in enumerate(rows):
        draw.text((left, GAP + HEIGHT - 18 * (len(rows) - index)), part, FAINT, small)
    return np.asarray(sheet)


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """Split a text between words into lines that are no wider than the panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > PANEL:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
