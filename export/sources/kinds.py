"""What kind of source a model comes from, told by how its file begins, and what bringing it needs beyond serving."""

import importlib.util
import zipfile
from pathlib import Path
from typing import Literal, NamedTuple

from errors import StoreError
from export.rows.sources import source_kind

Kind = Literal["checkpoint", "mar", "onnx", "rows", "timm", "torchscript", "torchvision"]

HUBS: tuple[Literal["timm", "torchvision"], ...] = ("timm", "torchvision")
_LEGACY_CHECKPOINT = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch.save began before they were zip files."""
_MANIFEST = "MAR-INF/MANIFEST.json"
_PYTORCH = ("onnx", "onnxscript", "safetensors", "timm", "torch", "torchvision")
INSTALL = "pip install --require-hashes -r requirements/cuda.txt"
"""Installs the extra `torch` beside what serving needs."""
_TO_ONNX = "Convert it to ONNX, and add that:"
_OTHERS = (
    (0, b"\x89HDF", f"is a model of Keras. {_TO_ONNX} `python -m tf2onnx.convert --keras FILE --output model.onnx`."),
    (4, b"TFL3", f"is a model of TensorFlow Lite. {_TO_ONNX} `python -m tf2onnx.convert --tflite FILE …`."),
)


class Source(NamedTuple):
    """Where a model comes from.

    Attributes:
        kind: what it is.
        text: as it was given.
        file: the file; None for a name of timm's or torchvision's.
        name: what timm or torchvision call the model; empty for a file.
    """

    kind: Kind
    text: str
    file: Path | None
    name: str

    @property
    def stem(self) -> str:
        """What the model would be called if nobody says it."""
        return self.file.stem.removesuffix(".tar") if self.file else self.name


def recognise(text: str) -> Source:
    """Return what kind of source is meant.

    Args:
        text: a file, or `timm:NAME`, or `torchvision:NAME`.

    Raises:
        StoreError: there is no such file, or it is of no kind that can be added.
    """
    hub, _, name = text.partition(":")
    for known in HUBS:
        if hub == known and name:
            return Source(known, text, None, name)
    file = Path(text)
    try:
        is_file = file.is_file()
    except OSError as error:
        raise StoreError(f"{text:.80}: is no file ({error.strerror}).") from error
    if not is_file:
        raise StoreError(
            f"{text}: there is no such file. A model is a file (ONNX, a PyTorch checkpoint, a model of scikit-learn, "
            "XGBoost or LightGBM, a .mar of TorchServe), or timm:NAME, or torchvision:NAME."
        )
    return Source(file_kind(file), text, file, "")


def check_requirements(kind: Kind) -> None:
    """Return if this environment holds what bringing a kind of source needs; rows are checked when they are read.

    Raises:
        StoreError: something is missing; the message says what, and how it is installed.
    """
    needed = () if kind in ("onnx", "rows") else _PYTORCH
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise StoreError(
            f"To add this model takes {', '.join(missing)}, which serving does not need and is missing here. Install "
            f"the extra `torch` first: {INSTALL} (about 6 GB); or use .venv-dev/bin/vitrine, which `make test` makes."
        )


def file_kind(file: Path) -> Kind:
    """Return what kind of source a file is, by how it begins.

    Raises:
        StoreError: it cannot be read, or is of no kind that can be added.
    """
    try:
        with file.open("rb") as stream:
            beginning = stream.read(64)
    except OSError as error:
        raise StoreError(f"{file}: cannot be read ({error.strerror}).") from error
    for place, mark, message in _OTHERS:
        if beginning[place:].startswith(mark):
            raise StoreError(f"{file}: {message}")
    name = file.name.lower()
    if beginning.startswith(b"PK"):
        return _zip_kind(file)
    if name.endswith((".mar", ".tgz", ".tar.gz")):
        return "mar"
    if beginning.startswith(_LEGACY_CHECKPOINT) or beginning[8:10] == b'{"':
        return "checkpoint"
    if name.endswith(".onnx") or beginning.startswith(b"\x08"):  # its version is a graph's first field
        return "onnx"
    if name.endswith((".pth", ".safetensors", ".ckpt")):
        return "checkpoint"
    source_kind(file)  # raises for any other kind
    return "rows"


def _zip_kind(file: Path) -> Kind:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise StoreError(f"{file}: is a damaged archive ({error}).") from error
    if _MANIFEST in names:
        return "mar"
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside and "data.pkl" in inside:
        return "torchscript"
    if "data.pkl" in inside:
        return "checkpoint"
    raise StoreError(f"{file}: is an archive, but neither of PyTorch nor a .mar of TorchServe (no {_MANIFEST}).")
