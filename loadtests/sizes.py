"""`make check-sizes`: what our readers say of a picture beside what Pillow says, for ten thousand files and mutants.

A file that either of the two refuses is not compared.
"""

import io
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click
import numpy as np
from PIL import Image

from errors import InvalidInput
from loadtests.fuzz.files import encode, seeds
from loadtests.fuzz.mutants import mutants
from preprocessing.structure.read import read_structure

SIZES = ((37, 23), (64, 64), (200, 3), (1, 150))


class Said(NamedTuple):
    """What a reader says of a file."""

    format: str
    width: int
    height: int


class Comparison(NamedTuple):
    """The files that both accept, by format, and those of which they say different things."""

    compared: Counter[str]
    different: list[tuple[bytes, Said, Said]]


def files(count: int, seed: int) -> Iterator[bytes]:
    """Yield so many files, the same for the same seed: plain ones of several sizes, and mutants of all formats."""
    rng, number = np.random.default_rng(seed), 0
    images = [rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for width, height in SIZES]
    for image in images:
        for mode in ("L", "P", "RGB"):
            for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"):
                if number < count and not (mode == "P" and kind in ("JPEG", "WEBP")):
                    number += 1
                    yield encode(Image.fromarray(image).convert(mode), kind)
    ordinary = [ordinary for image in images for ordinary in seeds(image)]
    for _, data in mutants(ordinary, max(0, count - number), seed):
        yield data


def by_pillow(data: bytes) -> Said | None:
    """Return what Pillow says; None where it refuses the file."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return Said(picture.format or "", *picture.size)
    except Exception:  # decoders raise whatever they like on hostile bytes
        return None


def by_us(data: bytes) -> Said | None:
    """Return what our readers say; None where they refuse the file."""
    try:
        structure = read_structure(data)
    except InvalidInput:
        return None
    if structure is None:
        return None
    if structure.format == "TIFF" and structure.orientation >= 5:  # Pillow has turned these already
        return Said("TIFF", structure.height, structure.width)
    return Said(structure.format, structure.width, structure.height)


def compare(several: Iterable[bytes]) -> Comparison:
    """Compare what both say of files."""
    compared, different = Counter[str](), list[tuple[bytes, Said, Said]]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for data in several:
            ours, pillows = by_us(data), by_pillow(data)
            if ours is not None and pillows is not None:
                compared[ours.format] += 1
                if ours != pillows:
                    different.append((data, ours, pillows))
    return Comparison(compared, different)


@click.command()
@click.option("--count", default=10_000, show_default=True, help="Files and mutants.")
@click.option("--seed", default=0, show_default=True, help="Of the pictures and of the mutations.")
def main(count: int, seed: int) -> None:
    """Compare the sizes of pictures as our readers and as Pillow read them."""
    compared, different = compare(files(count, seed))
    click.echo(f"{sum(compared.values()):,} of {count:,} files accepted by both: {dict(compared)}")
    for data, ours, pillows in different[:10]:
        click.echo(f"{len(data):,} bytes: {ours} by us, {pillows} by Pillow")
    click.echo(f"{len(different)} differences")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
