"""A model's package: the folder that is shipped, stored and served, and the check of its every byte.

`card.toml`, `predict.onnx`, `weights.safetensors` (unless it came as a graph), `goldens/`, `explain.onnx` where the
card names a layer, `exit.safetensors` where a head stands for an early exit, and the reports beside them. The version
is the first 16 hex digits of the sha256 over all of them but the reports, so the same content is the same tag. Once
stored, a `manifest.json` says the sha256 of each file, and `tuning.json`, where there is one, how it runs best on which
machine.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from errors import StoreError
from models.card import Card, read_card
from models.goldens import FOLDER as GOLDENS
from models.goldens import variant_of

Kind = Literal["fp16", "int8", "early-exit"]
"""A variant of a model."""
EARLY_EXIT: Final = "early-exit"
MANIFEST, REPORT, EXPLANATIONS, PARITY = "manifest.json", "report.json", "explanations.json", "parity.json"
TUNING = "tuning.json"
GRAPH, EXPLAIN, WEIGHTS = "predict.onnx", "explain.onnx", "weights.safetensors"
EXIT = "exit.safetensors"
_FILES = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class StoredModel:
    """One version of one model in the store."""

    card: Card
    version: str
    path: Path

    @property
    def tag(self) -> str:
        """`name:version`."""
        return f"{self.card.name}:{self.version}"

    @property
    def graph(self) -> Path:
        """The ONNX graph; its weights lie beside it."""
        return self.path / GRAPH

    @property
    def variant(self) -> str:
        """Which variant the graph is: `fp16`, `int8` or `early-exit`; `fp32` where it is the plain one."""
        return variant_of(self.path)

    @property
    def explain_graph(self) -> Path | None:
        """The compiled explain graph, if the model has one."""
        path = self.path / EXPLAIN
        return path if path.exists() else None

    def report(self) -> dict[str, Any]:
        """The quality report, empty if there is none."""
        return _read(self.path / REPORT)

    def explanations(self) -> dict[str, Any]:
        """The quality report of explanations, empty if there is none."""
        return _read(self.path / EXPLANATIONS)

    def parity(self) -> dict[str, Any]:
        """What the parity gate measured at import, empty if nobody did."""
        return _read(self.path / PARITY)

    def tuning(self) -> dict[str, Any]:
        """What `vitrine tune` found, by machine; empty if nobody ran it, or the file is damaged."""
        found = _read(self.path / TUNING)
        return found if isinstance(found, dict) and all(isinstance(each, dict) for each in found.values()) else {}

    def manifest(self) -> dict[str, str]:
        """sha256 by file, relative to `path`."""
        try:
            return _FILES.validate_python(json.loads((self.path / MANIFEST).read_text("utf-8"))["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.tag}: {MANIFEST} is missing or damaged. {_repair(self.tag)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return report


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_stored(path: Path) -> StoredModel:
    """The stored model in a folder of the store (or of a Bento).

    Raises:
        StoreError: the folder holds no Vitrine model, or its card is damaged.
    """
    try:
        written = json.loads((path / MANIFEST).read_text("utf-8"))
        return StoredModel(read_card(path / "card.toml"), str(written["version"]), path)
    except Exception as error:
        tag = f"{path.parent.name}:{path.name}"
        raise StoreError(f"{tag}: damaged ({error}). {_repair(tag)}") from error


def verify(stored: StoredModel) -> None:
    """Compare the sha256 of every file with the manifest.

    Raises:
        StoreError: a file is missing or differs; the message names it and says what to do.
    """
    for name, expected in stored.manifest().items():
        path = stored.path / name
        if not path.exists():
            raise StoreError(f"{stored.tag}: {name} is missing. {_repair(stored.tag)}")
        if (actual := sha256(path)) != expected:
            raise StoreError(
                f"{stored.tag}: {name} is damaged (sha256 {actual[:12]}…, expected {expected[:12]}…). "
                f"{_repair(stored.tag)}"
            )


def files_of(package: Path) -> dict[str, str]:
    """sha256 of every file that makes the version, by its path in the package; StoreError if one is missing."""
    names = ["card.toml", GRAPH, f"{GOLDENS}/goldens.json"]
    names += [each for each in (EXPLAIN, EXIT) if (package / each).exists()]
    came_as_graph = read_card(package / "card.toml").architecture == "onnx"
    names += [WEIGHTS] * (not came_as_graph or (package / WEIGHTS).exists())
    names += [path.relative_to(package).as_posix() for path in (package / GOLDENS).glob("*") if path.name[0] != "."]
    try:
        return {name: sha256(package / name) for name in sorted(set(names))}
    except OSError as error:
        raise StoreError(
            f"{package}: {Path(str(error.filename)).name} is missing, so this is no model package."
        ) from error


def version_of(files: dict[str, str]) -> str:
    """The content-derived version, 16 hex digits."""
    return hashlib.sha256("".join(f"{name}\0{digest}\n" for name, digest in files.items()).encode()).hexdigest()[:16]


def _repair(tag: str) -> str:
    name = tag.partition(":")[0]
    return (
        f"Run `vitrine models import {name}` again, with the options of the first time, which repairs it; "
        f"or `vitrine models remove {tag}`."
    )
