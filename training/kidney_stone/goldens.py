"""Draw the golden inputs of kidney-stone: `python -m training.kidney_stone.goldens`. `export.onnx` adds the logits."""

from collections import Counter
from itertools import count
from pathlib import Path

import click
import cv2
import numpy as np

from models.goldens import FOLDER
from models.registry import package_folder
from training.kidney_stone.data import GOLDEN
from training.kidney_stone.phantom import draw

PACKAGE = package_folder("kidney-stone")
PER_KIND = 2
"""Goldens of each label in each view; there are eight in all."""


def golden_images() -> list[tuple[str, bytes]]:
    """Return the file name and PNG bytes of the first phantoms of the golden split, `PER_KIND` of each kind.

    Only pictures without colour are taken: a grey PNG has two thirds of the size, and every byte is kept in git.
    """
    counts: Counter[tuple[int, str]] = Counter()
    images: list[tuple[str, bytes]] = []
    for index in count():
        phantom = draw(GOLDEN + index)
        kind = (phantom.label, phantom.stratum.view)
        grey = phantom.image[..., 0]
        if counts[kind] == PER_KIND or not np.array_equal(phantom.image, np.dstack([grey] * 3)):
            continue
        counts[kind] += 1
        encoded = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        images.append((f"{index:02d}-{phantom.stratum.view}-{('no-stone', 'stone')[phantom.label]}.png", encoded))
        if len(images) == 4 * PER_KIND:
            break
    return images


@click.command()
@click.option("--out", default=PACKAGE, type=click.Path(path_type=Path, file_okay=False), help="Folder of the package.")
def write(out: Path) -> None:
    """Draw the golden inputs and replace those in the package; export the model again afterwards."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    for name, data in golden_images():
        (folder / name).write_bytes(data)
        click.echo(f"{folder / name}  {len(data):,} bytes")


if __name__ == "__main__":
    write()
