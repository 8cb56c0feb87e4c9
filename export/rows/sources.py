"""What kind of file a model of rows is in, and what reading and converting it needs beyond the serving environment."""

import importlib.util
from pathlib import Path
from typing import Literal

from errors import StoreError

Kind = Literal["lightgbm", "pickle", "xgboost"]

_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x78\x01", b"\x78\x9c", b"\x78\xda", b"\x04\x22\x4d\x18")
"""How files begin that joblib compressed: gzip, bzip2, xz, zlib of three levels, lz4."""
_CONVERTERS = ("onnx", "skl2onnx")
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "pickle": ("joblib", "pandas", "sklearn"),
    "xgboost": ("onnxmltools", "xgboost"),
    "lightgbm": ("onnxmltools", "lightgbm"),
}
INSTALL = "pip install --require-hashes -r requirements/convert.txt"
"""Installs the extra `convert` beside what serving needs."""


def source_kind(file: Path) -> Kind:
    """Return the kind of a model file by how it begins, whatever its name is.

    Raises:
        StoreError: the file cannot be read, or is of no kind that can be imported.
    """
    try:
        with file.open("rb") as stream:
            beginning = stream.read(64)
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror}).") from error
    if beginning.startswith(b"tree") and beginning[4:5] in b"\r\n":
        return "lightgbm"
    if beginning.startswith(b"{L") or (beginning.startswith(b"{") and b'"' in beginning):
        return "xgboost"  # UBJSON and JSON; any other JSON is refused when it is read
    if beginning.startswith((b"\x80", *_COMPRESSED)):
        return "pickle"
    raise StoreError(
        f"{file}: is no model of rows that can be imported. Bring a model of scikit-learn as pickle or joblib file, of "
        "XGBoost as JSON or UBJSON (`save_model('model.json')`), or of LightGBM as text (`save_model('model.txt')`)."
    )


def check_environment(kind: Kind) -> None:
    """Return if this environment holds what the import of a kind of file needs.

    Raises:
        StoreError: something is missing; the message says what, and how it is installed.
    """
    missing = [name for name in (*_CONVERTERS, *_NEEDED[kind]) if importlib.util.find_spec(name) is None]
    if missing:
        raise StoreError(
            f"To import this model takes {', '.join(missing)}, which serving does not need and is missing here. "
            f"Install the extra `convert` first: {INSTALL}"
        )


def check_trust(file: Path, kind: Kind, *, trust_pickle: bool) -> None:
    """Return if a file may be read.

    Raises:
        StoreError: it is a pickle, which runs code when it is read, and nobody said that it is trusted.
    """
    if kind == "pickle" and not trust_pickle:
        raise StoreError(
            f"{file}: is a pickle, and whoever wrote it can run any code on this machine when it is read. If you made "
            "it yourself, or trust who did, bring it with --trust-pickle. XGBoost's JSON and LightGBM's text need none."
        )
