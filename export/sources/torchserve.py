"""What a `.mar` of TorchServe says of its model: the manifest, the weights and the labels. No code in it is run."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from errors import StoreError
from export.labels import checked_labels
from export.sources.archive import Archive, open_archive
from export.sources.picture_card import Input

MANIFEST, LABELS = "MAR-INF/MANIFEST.json", "index_to_name.json"
MOST_JSON_BYTES = 16 * 2**20
CLASSIFIER = "image_classifier"
OTHER_HANDLERS = ("image_segmenter", "object_detector", "text_classifier")
CLASSIFIER_INPUT: Input = {
    "size": [224, 224],
    "resize": "short_side",
    "resize_to": [256, 256],
    "kernel": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""How TorchServe's own handler for classifiers transforms a picture.

Source: https://github.com/pytorch/serve/blob/master/ts/torch_handler/image_classifier.py
"""


class ArchivedModel(NamedTuple):
    """What an archive holds.

    Attributes:
        weights: the file of the weights, taken out of the archive.
        name: what the archive calls it.
        labels: None where the archive has none.
    """

    weights: Path
    name: str
    labels: list[str] | None


def read_mar(file: Path, folder: Path) -> ArchivedModel:
    """Take the weights and labels of a classifier of pictures out of an archive.

    Args:
        file: the `.mar`, a zip or a tar.gz.
        folder: where to write the weights, under a name of ours.

    Raises:
        StoreError: it is no such archive, or its handler is another than TorchServe's own for classifiers; the message
            says what to do instead.
    """
    with open_archive(file) as archive:
        manifest = _json(archive, MANIFEST, file)
        model = manifest.get("model") if isinstance(manifest, dict) else None
        if not isinstance(model, dict):
            raise StoreError(f"{file}: {MANIFEST} describes no model.")
        serialized = str(model.get("serializedFile") or "")
        _check_handler(str(model.get("handler") or ""), serialized, archive, file)
        if not serialized:
            raise StoreError(f"{file}: the archive names no file of weights (serializedFile).")
        weights = folder / f"weights{Path(serialized).suffix if Path(serialized).suffix in _SUFFIXES else ''}"
        archive.copy(serialized, weights)
        content = _json(archive, LABELS, file) if LABELS in archive.names else None
    if isinstance(content, dict) and isinstance(content.get("object_type_names"), list):
        content = content["object_type_names"]
    labels = None if content is None else checked_labels(content, f"{file}: {LABELS}")
    return ArchivedModel(weights, Path(serialized).name, labels)


_SUFFIXES = (".onnx", ".pt", ".pth", ".safetensors")


def _check_handler(handler: str, serialized: str, archive: Archive, file: Path) -> None:
    module = handler.partition(":")[0].removesuffix(".py")
    if module in OTHER_HANDLERS and f"{module}.py" not in archive.names:
        raise StoreError(f"{file}: its handler is {module}; Vitrine serves models that classify pictures or rows.")
    if module != CLASSIFIER or f"{module}.py" in archive.names:
        raise StoreError(
            f"{file}: its handler {handler or 'without a name'} is code of its own, which is not run here. Take "
            f"the weights out (`unzip -j {file.name} {serialized or 'WEIGHTS'}`), add them with --architecture, and "
            "say what it does to a picture with --size, --resize, --resize-to, --mean and --std, or on a card."
        )


def _json(archive: Archive, name: str, file: Path) -> Any:
    try:
        return json.loads(archive.read(name, MOST_JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file}: {name} in it is no JSON ({str(error)[:100]}).") from error
