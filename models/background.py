"""The background of a model of rows: a sample of usual rows, which explanations compare a row with.

It lies in the package and is part of the version, since other rows would give other explanations.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from errors import StoreError
from preprocessing.row_spec import RowInput
from preprocessing.rows import Row, check_rows

BACKGROUND: Final = "background.json"
USUAL_ROWS, MOST_ROWS = 100, 1000
"""How many rows are chosen where there are more, and how many there may be; the more, the longer explaining takes."""


class Background(NamedTuple):
    """A sample of rows.

    Attributes:
        rows: shape (B, features), float32, transformed as the card says.
        data: what the rows are, for people.
    """

    rows: npt.NDArray[np.float32]
    data: str


def write_background(package: Path, rows: Sequence[Row], data: str) -> None:
    """Write the background of a package.

    Args:
        package: the folder of the package.
        rows: the features of each row by name, as a client would send them.
        data: what the rows are, for people.
    """
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{{"data": {json.dumps(data, ensure_ascii=False)},\n"rows": [\n{lines}\n]}}\n'
    (package / BACKGROUND).write_text(text, "utf-8")


def read_background(package: Path, spec: RowInput) -> Background | None:
    """Return the background of a package, or None where it has none.

    Args:
        package: the folder of the package.
        spec: the card's input section; identifiers are not expected in a background.

    Raises:
        StoreError: the file cannot be read, or it holds no rows, too many, or one that the card refuses.
    """
    path = package / BACKGROUND
    try:
        content = json.loads(path.read_text("utf-8"))
        rows, data = content["rows"], str(content["data"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path}: the background cannot be read ({error!r}). Mend the file, or import the model again."
        ) from error
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_ROWS:
        raise StoreError(f"{path}: `rows` must be a list of 1 to {MOST_ROWS:,} rows.")
    checked = check_rows(rows, spec.model_copy(update={"identifiers": ()}))
    for place, problem in checked.problems.items():
        raise StoreError(f"{path}: row {place + 1} is wrong: {problem}")
    return Background(checked.tensor, data)
