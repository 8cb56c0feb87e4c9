"""From the file of a model of rows to its package: what the command line calls, and nothing else of `export.rows`.

This module imports none of the libraries that read a model. They run in a process of their own.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from errors import StoreError
from export.parity import ParityReport
from export.rows.sources import check_environment, check_trust, source_kind

CODE_FOLDER = Path(__file__).resolve().parents[2]
OUTCOME = "outcome.json"
"""The file in the package in which the process leaves its notes, and its report or error."""
_KEPT_VARIABLES = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV"),
    *("OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"),
)
"""What the process gets of this one's environment: no keys, no settings of the server."""


def package_from_model(
    name: str,
    file: Path,
    package: Path,
    notify: Callable[[str], None],
    *,
    examples: Path | None = None,
    labels: Sequence[str] = (),
    outputs: Sequence[tuple[str, str]] = (),
    trust_pickle: bool = False,
) -> ParityReport:
    """Make a package of a model of scikit-learn, XGBoost or LightGBM, and compare its graph with the original.

    Names of features, classes and categories are the model's own, where it knows them; else the examples' header, or
    the library's names (`x0`, `f0`, `Column_0`). Whether a value may be missing is tried on both.

    Args:
        name: the card's name.
        file: a pickle or joblib file, XGBoost's JSON or UBJSON, or LightGBM's text.
        package: the folder to write into; it is created if it does not exist.
        notify: is called with what is unusual about the model.
        examples: a CSV file whose header names the features, or a JSON file of rows. They become goldens.
        labels: in the order of the model's classes; none for its own.
        outputs: name and unit (it may be empty) of each value of a regressor; none for `value`.
        trust_pickle: whether a pickle may be read, which runs whatever code is in it.

    Raises:
        CardError: the model's names make no valid card.
        StoreError: something that the import needs is not installed, the file cannot be read or is not trusted, or the
            model cannot be carried over; the message says what to do instead. Nothing is written then.
    """
    kind = source_kind(file)
    check_trust(file, kind, trust_pickle=trust_pickle)
    check_environment(kind)
    package.mkdir(parents=True, exist_ok=True)
    request = {
        "file": str(file.resolve()),
        "kind": kind,
        "name": name,
        "package": str(package.resolve()),
        "examples": str(examples.resolve()) if examples else None,
        "labels": list(labels),
        "outputs": [list(output) for output in outputs],
    }
    environment = {variable: os.environ[variable] for variable in _KEPT_VARIABLES if variable in os.environ}
    finished = subprocess.run(
        [sys.executable, "-m", "export.rows.child"],
        input=json.dumps(request),
        cwd=CODE_FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return _report(file, package / OUTCOME, finished, notify)


def _report(
    file: Path, outcome: Path, finished: "subprocess.CompletedProcess[str]", notify: Callable[[str], None]
) -> ParityReport:
    try:
        content = json.loads(outcome.read_text("utf-8"))
        outcome.unlink()
    except (OSError, ValueError) as error:
        last = (finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"])[-1][:500]
        raise StoreError(f"{file}: the process that converts it failed ({last}). Nothing was imported.") from error
    for note in content["notes"]:
        notify(note)
    if "error" in content:
        raise StoreError(content["error"])
    report = content["report"]
    return ParityReport(**report | {"batches": tuple(report["batches"])})
