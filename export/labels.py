"""The labels of a model, in the order of its outputs, from the forms in which other tools write them."""

import ast
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from errors import StoreError
from preprocessing.rows import is_unicode

METADATA_KEYS = ("labels", "names", "classes", "class_names", "label_names", "id2label")
"""Under which of a graph's metadata exporters write the labels; `names` is Ultralytics', `id2label` Hugging Face's."""


def read_labels(path: Path) -> list[str]:
    """Return the labels in a file, in the order of the outputs: one a line, a JSON list, or a JSON object by index.

    A label that occurs more than once (ImageNet has two cranes) gets its index behind it.

    Raises:
        StoreError: the file cannot be read, or holds fewer than two labels.
    """
    try:
        text = path.read_text("utf-8-sig")
        content: Any = json.loads(text) if path.suffix == ".json" else text.rstrip().splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path}: the labels cannot be read ({error}).") from error
    return checked_labels(content, str(path))


def checked_labels(content: Any, origin: str) -> list[str]:
    """Return labels as a card can hold them, each distinct.

    Args:
        content: a list of texts, or an object whose keys are the indices; an entry may be a list whose last part is the
            label, as TorchServe's `index_to_name.json` has it.
        origin: what messages call their source.

    Raises:
        StoreError: they are none, or fewer than two; the message says what is wrong.
    """
    entries = _entries(content)
    if entries is None:
        raise StoreError(f"{origin}: labels must be a list of texts, or an object with one for each index from 0.")
    labels = [entry.strip() for entry in entries]
    if not all(map(is_unicode, labels)):
        raise StoreError(f"{origin}: a label holds half of a surrogate pair, which is no text.")
    if len(labels) < 2 or not all(labels):
        raise StoreError(f"{origin}: there must be two labels or more, one a line and no line empty.")
    return _distinct(labels)


def labels_in_metadata(metadata: Mapping[str, str]) -> list[str] | None:
    """Return the labels that an ONNX graph's metadata hold, None where they hold none that can be read."""
    for key in METADATA_KEYS:
        if key in metadata:
            try:
                return checked_labels(_parsed(metadata[key]), key)
            except StoreError:
                continue
    return None


def imagenet_labels(subset: str = "imagenet-1k") -> list[str]:
    """Return the names of the classes of ImageNet, or what timm calls a part of it, in their order. Needs timm."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo(subset)
    return _distinct([info.index_to_description(index) for index in range(info.num_classes())])


def _parsed(text: str) -> Any:
    """Return a text as JSON, as a literal of Python, or split at its lines, else at its commas."""
    parsers: tuple[Callable[[str], Any], ...] = (json.loads, ast.literal_eval)
    for parse in parsers:
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text.splitlines() if "\n" in text.strip() else text.split(",")


def _entries(content: Any) -> list[str] | None:
    """Return a list of texts, or an object's texts by index, None where it is neither."""
    if isinstance(content, Mapping):
        content = {str(key): value for key, value in content.items()}
        if set(content) != {str(index) for index in range(len(content))}:
            return None
        content = [content[str(index)] for index in range(len(content))]
    if not isinstance(content, Sequence) or isinstance(content, str):
        return None
    last = [entry[-1] if isinstance(entry, list | tuple) and entry else entry for entry in content]
    return last if all(isinstance(entry, str) for entry in last) else None


def _distinct(labels: list[str]) -> list[str]:
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels)]
