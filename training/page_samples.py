"""The sample pictures of the web page: phantoms, and drawings of four things that CIFAR-10 has labels for.

Run with `python -m training.page_samples`. They show no patient and no real thing, and the same code gives the same
pictures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import click
from PIL import Image, ImageDraw

from training.kidney_stone.phantom import draw

FOLDER = Path("api/static/samples")
PHANTOMS = {
    "axial-stone": (200_327, 1),
    "axial-no-stone": (200_327, 0),
    "coronal-stones": (200_320, 1),
    "contrast-no-stone": (200_308, 0),
}
"""The seed and the label of each phantom, by the name of its file."""
PHANTOM_SIDE, DRAWN_SIDE = 320, 192
FINENESS = 4
"""Drawings are drawn this many times larger, and made smaller, so that their edges are smooth."""
Points = Sequence[tuple[float, float]]


class Sheet:
    """A square sheet on which is drawn in hundredths of its side."""

    def __init__(self, sky: str, ground: str, horizon: float) -> None:
        self._unit = DRAWN_SIDE * FINENESS / 100
        self._image = Image.new("RGB", (DRAWN_SIDE * FINENESS,) * 2, sky)
        self._draw = ImageDraw.Draw(self._image)
        self._draw.rectangle(self._scaled([(0, horizon), (100, 100)]), ground)

    def _scaled(self, points: Points) -> list[tuple[float, float]]:
        return [(x * self._unit, y * self._unit) for x, y in points]

    def polygon(self, colour: str, *points: tuple[float, float]) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._scaled(points), colour)

    def circle(self, colour: str, x: float, y: float, radius: float, flat: float = 1.0) -> None:
        """Fill a circle, or an ellipse whose height is `flat` times its width."""
        box = [(x - radius, y - radius * flat), (x + radius, y + radius * flat)]
        self._draw.ellipse(self._scaled(box), colour)

    def line(self, colour: str, width: float, *points: tuple[float, float]) -> None:
        """Draw a line of a width."""
        self._draw.line(self._scaled(points), colour, round(width * self._unit), "curve")

    def picture(self) -> Image.Image:
        """Return the drawing at its size, RGB."""
        return self._image.resize((DRAWN_SIDE, DRAWN_SIDE), Image.Resampling.LANCZOS)


def ship() -> Image.Image:
    """Return a drawn ship: RGB, square."""
    sheet = Sheet("#a9cfe3", "#2f6f93", 66)
    sheet.circle("#f5e6b8", 80, 18, 8)
    sheet.line("#5b4636", 1.6, (50, 18), (50, 62))
    sheet.polygon("#f6f2e9", (48, 20), (48, 57), (22, 57))
    sheet.polygon("#e2dccd", (52, 26), (52, 57), (74, 57))
    sheet.polygon("#9c3b2e", (14, 60), (86, 60), (74, 76), (26, 76))
    sheet.polygon("#7c2c22", (18, 66), (82, 66), (80, 69), (20, 69))
    sheet.polygon("#3b82a8", (0, 76), (100, 73), (100, 80), (0, 83))
    return sheet.picture()


def airplane() -> Image.Image:
    """Return a drawn airplane: RGB, square."""
    sheet = Sheet("#9cc7e8", "#c9e0ef", 78)
    for x, y in ((20, 24), (29, 22), (78, 70), (86, 69)):
        sheet.circle("#eef6fb", x, y, 10, 0.5)
    sheet.polygon("#c8d0d6", (38, 46), (56, 46), (40, 22), (32, 22))
    sheet.polygon("#f3f5f7", (10, 47), (78, 40), (90, 46), (88, 52), (74, 56), (20, 56))
    sheet.polygon("#aab5bd", (36, 52), (58, 51), (40, 80), (31, 80))
    sheet.polygon("#27618c", (8, 30), (16, 30), (26, 48), (12, 50))
    for x in range(32, 76, 6):
        sheet.circle("#27618c", x, 48, 1.3)
    return sheet.picture()


def car() -> Image.Image:
    """Return a drawn car: RGB, square."""
    sheet = Sheet("#d7e3e0", "#6f7679", 70)
    sheet.polygon("#8aa98e", (0, 70), (24, 50), (50, 64), (76, 46), (100, 62), (100, 70))
    sheet.polygon("#bf3f2f", (24, 56), (36, 40), (66, 40), (78, 56))
    sheet.polygon("#cfe6ee", (31, 55), (39, 43), (50, 43), (50, 55))
    sheet.polygon("#cfe6ee", (53, 55), (53, 43), (64, 43), (72, 55))
    sheet.polygon("#d14b39", (10, 60), (16, 55), (86, 55), (92, 62), (91, 74), (11, 74))
    sheet.polygon("#f5e7a9", (86, 59), (91, 62), (91, 66), (86, 66))
    for x in (28, 73):
        sheet.circle("#23282b", x, 74, 9)
        sheet.circle("#b9c0c4", x, 74, 4)
    return sheet.picture()


def cat() -> Image.Image:
    """Return the drawn head of a cat: RGB, square."""
    sheet = Sheet("#e9ddc9", "#b98f6a", 84)
    for ear in (((22, 44), (26, 12), (48, 30)), ((78, 44), (74, 12), (52, 30))):
        sheet.polygon("#7d6b5d", *ear)
    sheet.polygon("#d9a5a0", (27, 34), (29, 19), (40, 28))
    sheet.polygon("#d9a5a0", (73, 34), (71, 19), (60, 28))
    sheet.circle("#8b7868", 50, 54, 31, 0.92)
    sheet.circle("#c9b9a8", 50, 68, 15, 0.75)
    for x in (37, 63):
        sheet.circle("#d7d36a", x, 50, 7)
        sheet.circle("#1d1f20", x, 50, 2.6, 2.2)
    for x in (44, 50, 56):
        sheet.line("#6b5a4d", 1.6, (x, 25), (x, 34))
    sheet.polygon("#c06a66", (46, 61), (54, 61), (50, 66))
    sheet.line("#4a3d35", 1.2, (42, 70), (46, 73), (50, 70), (54, 73), (58, 70))
    for y in (64, 69):
        sheet.line("#f2ede6", 0.7, (36, y), (14, y + (y - 66)))
        sheet.line("#f2ede6", 0.7, (64, y), (86, y + (y - 66)))
    return sheet.picture()


DRAWINGS: dict[str, Callable[[], Image.Image]] = {"ship": ship, "airplane": airplane, "car": car, "cat": cat}


def pictures() -> dict[str, Image.Image]:
    """Return every sample, RGB, by the name of its file."""
    drawn = {name: draw_it() for name, draw_it in DRAWINGS.items()}
    for name, (seed, label) in PHANTOMS.items():
        drawn[name] = Image.fromarray(draw(seed, label=label).image)
        drawn[name].thumbnail((PHANTOM_SIDE, PHANTOM_SIDE), Image.Resampling.LANCZOS)
    return drawn


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="The folder to fill.")
def main(out: Path) -> None:
    """Draw the sample pictures of the web page."""
    out.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures().items():
        picture.save(out / f"{name}.webp", quality=64, method=6)
        click.echo(f"{out / f'{name}.webp'}: {(out / f'{name}.webp').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
