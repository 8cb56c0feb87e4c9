"""Goldens: the reference inputs packed with a model, and the logits that PyTorch gave for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from errors import StoreError

FOLDER, INDEX = "goldens", "goldens.json"
TOLERANCE = 1e-3
"""Largest |Δ| in probability (of a detector: in squared error) of a golden from its replay, on any machine."""


class Golden(NamedTuple):
    """One reference: the input as a client would send it, and the reference logits, shape (K,), float32."""

    name: str
    data: bytes
    logits: npt.NDArray[np.float32]


def write_goldens(package: Path, goldens: Sequence[Golden], reference: str) -> None:
    """Write goldens into a package folder, in place of those there; `reference` says what computed them."""
    folder = package / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*"):
        old.unlink()  # every file in here is part of the version
    rows = []
    for golden in goldens:
        (folder / golden.name).write_bytes(golden.data)
        rows.append({"file": golden.name, "logits": [float(np.float32(value)) for value in golden.logits]})
    written = {"reference": reference, "tolerance": TOLERANCE, "goldens": rows}
    (folder / INDEX).write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def loosen(package: Path, tolerance: float, variant: str) -> None:
    """Note beside the goldens of a package that its graph is a variant, and by what that may differ.

    Args:
        package: the folder; the references in it stay as they are.
        tolerance: in probability, instead of `TOLERANCE`.
        variant: which.
    """
    index = package / FOLDER / INDEX
    written = json.loads(index.read_text("utf-8")) | {"tolerance": tolerance, "variant": variant}
    index.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def variant_of(package: Path) -> str:
    """Which variant the graph of a package is: `fp16`, `int8` or `early-exit`; `fp32` where it is the plain one.

    It stands beside the goldens, so that it is part of the version.
    """
    try:
        written = json.loads((package / FOLDER / INDEX).read_text("utf-8"))
        return str(written.get("variant", written.get("precision", "fp32")))  # `precision` was its name at first
    except (OSError, ValueError, AttributeError):
        return "fp32"  # `read_goldens` says what is wrong with them


def golden_inputs(package: Path) -> list[tuple[str, bytes]]:
    """Name and encoded bytes of the golden inputs of a package folder, whether or not their references are there yet.

    Raises:
        StoreError: the folder has none.
    """
    files = [path for path in sorted((package / FOLDER).glob("*")) if path.name[0] != "." and path.name != INDEX]
    if not files:
        raise StoreError(
            f"{package / FOLDER}: there are no golden inputs. Put a few there, as a client would send them."
        )
    return [(path.name, path.read_bytes()) for path in files]


def read_goldens(package: Path) -> tuple[tuple[Golden, ...], float]:
    """The goldens of a package folder and their tolerance, in probability.

    Raises:
        StoreError: the folder has none, or they cannot be read.
    """
    folder = package / FOLDER
    try:
        written = json.loads((folder / INDEX).read_text("utf-8"))
        goldens = tuple(
            Golden(row["file"], (folder / row["file"]).read_bytes(), np.array(row["logits"], np.float32))
            for row in written["goldens"]
        )
        tolerance = float(written["tolerance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{folder}: the goldens cannot be read ({error}). Import the model again.") from error
    if not goldens:
        raise StoreError(f"{folder}: there are no goldens, so nothing could be checked. Import the model again.")
    return goldens, tolerance
