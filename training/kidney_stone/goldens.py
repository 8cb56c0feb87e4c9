"""Draw the model's golden inputs: `python -m training.kidney_stone.goldens`; `export.onnx` adds the references."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import click
import cv2
import numpy as np

from models.goldens import FOLDER
from models.registry import package_of
from training.kidney_stone.data import GOLDEN
from training.kidney_stone.phantom import Phantom, draw

PACKAGE = package_of("kidney-stone")
EACH = 2
"""Goldens of each label in each view: eight in all."""


def golden_images() -> list[tuple[str, bytes]]:
    """File name and PNG bytes of the first phantoms of the golden split, as many of each label in each view.

    Only pictures without colour are taken: a grey PNG is two thirds the size, and every byte ships in git.
    """
    taken: dict[tuple[int, str], int] = {}
    images: list[tuple[str, bytes]] = []
    for index, phantom in _phantoms():
        kind = (phantom.label, phantom.stratum.view)
        grey = phantom.image[..., 0]
        if taken.get(kind, 0) == EACH or not np.array_equal(phantom.image, np.dstack([grey] * 3)):
            continue
        taken[kind] = taken.get(kind, 0) + 1
        encoded = cv2.imencode(".png", grey, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
        images.append((f"{index:02d}-{phantom.stratum.view}-{('no-stone', 'stone')[phantom.label]}.png", encoded))
        if len(images) == 4 * EACH:
            break
    return images


def _phantoms() -> Iterator[tuple[int, Phantom]]:
    for index in count():
        yield index, draw(GOLDEN + index)


@click.command()
@click.option("--out", default=PACKAGE, type=click.Path(path_type=Path, file_okay=False), help="Folder of the package.")
def write(out: Path) -> None:
    """Draw the golden inputs anew, in place of those that are there; export the model again after this."""
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()
    for name, data in golden_images():
        (folder / name).write_bytes(data)
        click.echo(f"{folder / name}  {len(data):,} bytes")


if __name__ == "__main__":
    write()
