"""The example pictures of an operator's model, some of which become its goldens; drawings where there are none."""

import re
from collections.abc import Sequence
from pathlib import Path

from errors import StoreError
from models.goldens import golden_inputs
from models.registry import package_folder

ENDINGS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
MOST_GOLDENS = 8
DRAWINGS = "imagenet"
"""The bundled model whose golden pictures, drawings of animals, take the place of examples."""


def example_pictures(folder: Path) -> list[Path]:
    """Return the pictures in a folder and the folders below it, in the order of their paths.

    Raises:
        StoreError: it is no folder, or has no pictures.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder}: the examples of a model of pictures are a folder of pictures.")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in ENDINGS and path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise StoreError(f"{folder}: there are no pictures in it ({', '.join(sorted(ENDINGS))}).")
    return paths


def golden_pictures(folder: Path | None) -> list[tuple[str, bytes]]:
    """Return name and encoded bytes of up to `MOST_GOLDENS` golden inputs.

    Args:
        folder: of the examples, from which they are taken at even distances; None for drawings that ship.

    Raises:
        StoreError: as `example_pictures`.
    """
    if folder is None:
        return golden_inputs(package_folder(DRAWINGS))
    chosen = _evenly_spaced(example_pictures(folder))
    return [(f"{number:02}-{_plain_name(path)}", path.read_bytes()) for number, path in enumerate(chosen, 1)]


def _plain_name(path: Path) -> str:
    """Return a file's name in letters, digits and hyphens, as a name in a package should be."""
    return (re.sub(r"[^A-Za-z0-9_]+", "-", path.stem).strip("-")[:40] or "picture") + path.suffix.lower()


def _evenly_spaced(paths: Sequence[Path]) -> list[Path]:
    count = min(len(paths), MOST_GOLDENS)
    return [paths[index * len(paths) // count] for index in range(count)]
