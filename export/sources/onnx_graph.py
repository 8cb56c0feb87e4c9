"""What an ONNX graph says of itself: the shape of its input, the number of its outputs, and its metadata."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from errors import StoreError
from export.labels import labels_in_metadata
from export.operator_graph import input_shape, load_whole, output_name

_CHANNELS = {"Gray8": "grey", "Rgb8": "rgb", "Bgr8": "bgr"}
_RANGES: Mapping[str, dict[str, Any]] = {
    "NominalRange_0_255": {"scale": "0-255", "mean": 0.0, "std": 1.0},
    "Normalized_0_1": {"mean": 0.0, "std": 1.0},
    "Normalized_1_1": {"mean": 0.5, "std": 0.5},
}
"""What ONNX's standard metadata for images (`Image.BitmapPixelFormat`, `Image.NominalPixelRange`) mean on a card.

Source: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
"""


class GraphFacts(NamedTuple):
    """What a graph says of itself.

    Attributes:
        input: keys of a card's section `input`.
        labels: from its metadata, None where they hold none.
        outputs: how many there are, None where any number is possible.
    """

    input: dict[str, Any]
    labels: list[str] | None
    outputs: int | None


def read_graph(graph: Path) -> GraphFacts:
    """Return what a graph says of itself.

    Raises:
        StoreError: it cannot be loaded, or takes no pictures.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = load_whole(graph, Path(folder) / "graph.onnx", lambda line: None)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    entry = _layout(input_shape(session, graph)[1:], graph)
    entry |= _pixels(metadata, channels=1 if entry.get("channels") == "grey" else 3)
    (shape,) = (node.shape for node in session.get_outputs() if node.name == output_name(session))
    outputs = shape[-1] if len(shape) == 2 and isinstance(shape[-1], int) else None
    return GraphFacts(entry, labels_in_metadata(metadata), outputs)


def _layout(shape: list[int | str | None], graph: Path) -> dict[str, Any]:
    """Return layout, channels and size of an input without its batch, as far as its shape says them."""
    first, last = shape[0], shape[2]
    if first in (1, 3) or (not isinstance(first, int) and last not in (1, 3)):
        layout, channels, sides = "nchw", first, shape[1:]
    elif last in (1, 3):
        layout, channels, sides = "nhwc", last, shape[:2]
    else:
        raise StoreError(f"{graph}: its input is {shape}; a picture has one channel or three, first or last.")
    entry: dict[str, Any] = {"layout": "nhwc"} if layout == "nhwc" else {}
    entry |= {"channels": "grey"} if channels == 1 else {}
    return entry | ({"size": list(sides)} if all(isinstance(side, int) for side in sides) else {})


def _pixels(metadata: Mapping[str, str], channels: int) -> dict[str, Any]:
    """Return channels, scale, mean and standard deviation, as far as a graph's metadata say them."""
    entry: dict[str, Any] = {}
    if (order := _CHANNELS.get(metadata.get("Image.BitmapPixelFormat", ""))) and (order == "grey") == (channels == 1):
        entry["channels"] = order
    stated = _RANGES.get(metadata.get("Image.NominalPixelRange", ""), {})
    entry |= {key: [value] * channels if key in ("mean", "std") else value for key, value in stated.items()}
    for key in ("mean", "std"):
        if (numbers := _numbers(metadata.get(key, ""))) and len(numbers) == channels:
            entry[key] = numbers
    return entry


def _numbers(text: str) -> list[float]:
    """Return the numbers in a text such as `[0.485, 0.456, 0.406]`, none where it holds anything else."""
    try:
        numbers = json.loads(f"[{text.strip('[] ')}]")
        return [float(number) for number in numbers]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []
