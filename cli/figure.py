"""One prediction as a picture: the input, its overlay, and what the model says, side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from explain.overlay import UInt8Array

HEIGHT, PANEL, GAP = 300, 300, 12
"""Pixels: of a picture, the width of the words beside them, between them."""
INK, FAINT, FILL, TRACK = (30, 34, 40), (100, 108, 118), (11, 110, 153), (222, 227, 233)


class Words(NamedTuple):
    """What stands beside the pictures: the label given, probabilities by label, and lines below them."""

    label: str
    probabilities: dict[str, float]
    lines: Sequence[str]


def figure(image: UInt8Array, overlaid: UInt8Array, words: Words) -> UInt8Array:
    """Draw two pictures of one size and the words beside them, on white.

    Args:
        image: RGB, shape (H, W, 3), uint8.
        overlaid: the same with the heatmap on it.
        words: what the model says.

    Returns:
        RGB, shape (HEIGHT + 2 GAP, …, 3), uint8.
    """
    width = round(image.shape[1] * HEIGHT / image.shape[0])
    sheet = Image.new("RGB", (2 * width + PANEL + 4 * GAP, HEIGHT + 2 * GAP), "white")
    for place, picture in enumerate((image, overlaid)):
        shown = Image.fromarray(picture).resize((width, HEIGHT), Image.Resampling.LANCZOS)
        sheet.paste(shown, (GAP + place * (width + GAP), GAP))
    draw, left, top = ImageDraw.Draw(sheet), 2 * width + 3 * GAP, GAP + 4
    draw.text((left, top), words.label, INK, ImageFont.load_default(30))
    top += 52
    for label, chance in words.probabilities.items():
        draw.text((left, top), label, INK, ImageFont.load_default(15))
        draw.text((left + PANEL, top), f"{chance:.4f}", INK, ImageFont.load_default(15), anchor="ra")
        draw.rectangle((left, top + 22, left + PANEL, top + 30), TRACK)
        if chance * PANEL >= 1:
            draw.rectangle((left, top + 22, left + round(chance * PANEL), top + 30), FILL)
        top += 44
    small = ImageFont.load_default(13)
    wrapped = [part for line in words.lines for part in [*_wrapped(draw, line, small), ""]][:-1]
    for row, part in enumerate(wrapped):
        draw.text((left, GAP + HEIGHT - 18 * (len(wrapped) - row)), part, FAINT, small)
    return np.asarray(sheet)


def _wrapped(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """A line cut between words where it would be wider than the panel."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and draw.textlength(longer, font) > PANEL:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
