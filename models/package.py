"""A model's package: the folder that is shipped, stored and served.

A package holds `card.toml`, `predict.onnx`, `goldens/`, and where the model has them `weights.safetensors` (unless it
came as a graph), `explain.onnx` (if the card names a layer), `exit.safetensors` (the head of an early exit) and
`background.json` (the rows that explanations compare a row with). Reports lie beside them. The version is the first 16
hex digits of the SHA-256 over everything but the reports, so the same content always has the same tag. In the store,
`manifest.json` holds the SHA-256 of each file; `tuning.json`, if there is one, how the model runs best on which
machine; and `cost.json` what its explanations cost where it was imported.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from errors import StoreError
from models.background import BACKGROUND
from models.card import Card, read_card
from models.goldens import FOLDER as GOLDENS
from models.goldens import read_variant
from regular_file import read_regular_file

VariantName = Literal["fp16", "int8", "early-exit"]
"""What a graph that is not the plain one is called."""
ExplanationWay = Literal["compiled", "graph-gradient", "autograd"]
"""The way to a gradient's heatmap: PyTorch traced it into a graph at import; or it was written into an ONNX graph,
without PyTorch; or there is no explain graph, and a server with PyTorch differentiates for each request."""
EARLY_EXIT_VARIANT: Final = "early-exit"
MANIFEST, REPORT, EXPLANATIONS, PARITY = "manifest.json", "report.json", "explanations.json", "parity.json"
GRAPH, EXPLAIN, WEIGHTS = "predict.onnx", "explain.onnx", "weights.safetensors"
EXIT = "exit.safetensors"
_DIGESTS = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class StoredModel:
    """One version of one model in the store or in a Bento.

    Attributes:
        card: the model's card.
        version: 16 hex digits, derived from the content.
        path: the folder.
    """

    card: Card
    version: str
    path: Path

    @property
    def tag(self) -> str:
        """The model's name and version, as `name:version`."""
        return f"{self.card.name}:{self.version}"

    @property
    def graph(self) -> Path:
        """The ONNX graph; its weights lie beside it."""
        return self.path / GRAPH

    @property
    def variant(self) -> str:
        """Which variant the graph is: `fp16`, `int8` or `early-exit`, or `fp32` for the plain graph."""
        return read_variant(self.path)

    @property
    def explain_graph(self) -> Path | None:
        """The compiled explain graph, if the model has one."""
        path = self.path / EXPLAIN
        return path if path.exists() else None

    @property
    def explained_by(self) -> ExplanationWay:
        """How the model is explained, if it has a gradient: see `ExplanationWay`."""
        if self.explain_graph is None:
            return "autograd"
        return "graph-gradient" if self.card.architecture == "onnx" else "compiled"

    def report(self) -> dict[str, Any]:
        """Return the quality report, empty if there is none."""
        return _read_json(self.path / REPORT)

    def explanations(self) -> dict[str, Any]:
        """Return the quality report of the model's explanations, empty if there is none."""
        return _read_json(self.path / EXPLANATIONS)

    def parity(self) -> dict[str, Any]:
        """Return the parity report that was written at import, empty if there is none."""
        return _read_json(self.path / PARITY)

    def manifest(self) -> dict[str, str]:
        """Return the SHA-256 of each file by its path relative to the package.

        Raises:
            StoreError: the manifest is missing or damaged.
        """
        try:
            return _DIGESTS.validate_python(json.loads((self.path / MANIFEST).read_text("utf-8"))["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.tag}: {MANIFEST} is missing or damaged. {_repair_advice(self.tag)}") from error


def open_stored(path: Path) -> StoredModel:
    """Return the stored model in a folder of the store or of a Bento.

    Raises:
        StoreError: the folder holds no Vitrine model, or its card or manifest is damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        return StoredModel(read_card(path / "card.toml"), str(manifest["version"]), path)
    except Exception as error:
        tag = f"{path.parent.name}:{path.name}"
        raise StoreError(f"{tag}: damaged ({error}). {_repair_advice(tag)}") from error


def verify(stored: StoredModel) -> None:
    """Compare the SHA-256 of every file with the manifest.

    Raises:
        StoreError: a file is missing or differs; the message names it and says what to do.
    """
    if damage := damage_of(stored):
        raise StoreError(f"{stored.tag}: {damage}. {_repair_advice(stored.tag)}")


def damage_of(stored: StoredModel) -> str:
    """Return which file of a stored model is missing or differs from the manifest, and how; empty where none does.

    Raises:
        StoreError: the manifest itself is missing or damaged.
    """
    for name, expected in stored.manifest().items():
        path = stored.path / name
        if not path.exists():
            return f"{name} is missing"
        if (actual := sha256(path)) != expected:
            return f"{name} is damaged (sha256 {actual[:12]}…, expected {expected[:12]}…)"
    return ""


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(package: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that makes a package's version, by its path relative to the package.

    Raises:
        CardError: the card is missing or not valid.
        StoreError: another file is missing.
    """
    names = {"card.toml", GRAPH, f"{GOLDENS}/goldens.json"}
    names |= {name for name in (EXPLAIN, EXIT, WEIGHTS, BACKGROUND) if (package / name).exists()}
    if read_card(package / "card.toml").architecture != "onnx":
        names.add(WEIGHTS)
    goldens = (path for path in (package / GOLDENS).glob("*") if not path.name.startswith("."))
    names |= {path.relative_to(package).as_posix() for path in goldens}
    try:
        return {name: sha256(package / name) for name in sorted(names)}
    except OSError as error:
        raise StoreError(
            f"{package}: {Path(str(error.filename)).name} is missing, so this is no model package."
        ) from error


def content_version(digests: dict[str, str]) -> str:
    """Return the version that follows from the digests of a package's files, 16 hex digits."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(read_regular_file(path))
    except (OSError, ValueError):
        return {}
    return content


def _repair_advice(tag: str) -> str:
    name = tag.partition(":")[0]
    return (
        f"Run `vitrine models import {name}` again, or `vitrine models add` for a model of your own, with the options "
        f"of the first time, which repairs it; or `vitrine models remove {tag}`."
    )
