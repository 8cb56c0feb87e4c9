"""Goldens: the reference inputs packed with a model, and the logits that the reference gave for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from errors import StoreError

FOLDER, INDEX = "goldens", "goldens.json"
TOLERANCE = 1e-3
"""Largest |Δ| in probability (of a detector: in squared error) between a golden's reference and its replay."""


class Golden(NamedTuple):
    """One reference input and what the model should give for it.

    Attributes:
        name: the file's name in the package's `goldens` folder.
        data: the input as a client would send it: an encoded picture, or a row as JSON.
        logits: the reference logits, shape (K,), float32.
    """

    name: str
    data: bytes
    logits: npt.NDArray[np.float32]


def write_goldens(
    package: Path,
    inputs: Sequence[tuple[str, bytes]],
    logits: npt.NDArray[np.float32],
    reference: str,
    tolerance: float = TOLERANCE,
) -> None:
    """Replace the goldens of a package.

    Args:
        package: the folder of the package.
        inputs: file name and encoded bytes of each golden, at least one.
        logits: what the reference gave for them, shape (N, K), float32.
        reference: what computed the logits, for whoever reads the index.
        tolerance: the largest difference at a start, as of `TOLERANCE`.
    """
    folder = package / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*"):
        stale.unlink()  # every file in this folder is part of the version
    rows = []
    for (name, data), row in zip(inputs, logits, strict=True):
        (folder / name).write_bytes(data)
        rows.append({"file": name, "logits": row.astype(np.float32).tolist()})
    _write_index(package, {"reference": reference, "tolerance": tolerance, "goldens": rows})


def mark_as_variant(package: Path, variant: str, tolerance: float) -> None:
    """Note beside the goldens of a package that its graph is a variant; the references stay the plain graph's.

    Args:
        package: the folder of the package.
        variant: `fp16`, `int8` or `early-exit`.
        tolerance: largest difference from the references, in probability; takes the place of `TOLERANCE`.
    """
    index = json.loads((package / FOLDER / INDEX).read_text("utf-8"))
    _write_index(package, index | {"tolerance": tolerance, "variant": variant})


def read_variant(package: Path) -> str:
    """Return which variant the graph of a package is: `fp16`, `int8` or `early-exit`, or `fp32` for the plain graph.

    The note stands beside the goldens so that it is part of the version.
    """
    try:
        index = json.loads((package / FOLDER / INDEX).read_text("utf-8"))
        return str(index.get("variant", index.get("precision", "fp32")))  # older packages call it `precision`
    except (OSError, ValueError, AttributeError):
        return "fp32"  # `read_goldens` reports what is wrong with the index


def golden_inputs(package: Path) -> list[tuple[str, bytes]]:
    """Return name and encoded bytes of a package's golden inputs, whether or not it has references for them yet.

    Raises:
        StoreError: the folder has none.
    """
    folder = package / FOLDER
    files = [path for path in sorted(folder.glob("*")) if not path.name.startswith(".") and path.name != INDEX]
    if not files:
        raise StoreError(f"{folder}: there are no golden inputs. Put a few there, as a client would send them.")
    return [(path.name, path.read_bytes()) for path in files]


def read_goldens(package: Path) -> tuple[tuple[Golden, ...], float]:
    """Return the goldens of a package, and their tolerance in probability.

    Raises:
        StoreError: the package has none, or they cannot be read.
    """
    folder = package / FOLDER
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        goldens = tuple(
            Golden(row["file"], (folder / row["file"]).read_bytes(), np.array(row["logits"], np.float32))
            for row in index["goldens"]
        )
        tolerance = float(index["tolerance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: the goldens cannot be read ({error}). Import the model again.") from error
    if not goldens:
        raise StoreError(f"{folder}: there are no goldens, so nothing could be checked. Import the model again.")
    return goldens, tolerance


def _write_index(package: Path, index: dict[str, object]) -> None:
    (package / FOLDER / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")
