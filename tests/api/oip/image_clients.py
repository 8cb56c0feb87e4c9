"""What Triton's example programs for pictures check of a model and then send, in our own words.

`image_client.py` and `grpc_image_client.py` bring pixels to the size that the metadata list and take what the
configuration calls the order of axes; `ensemble_image_client.py` sends the files as they are.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import MessageToDict
from PIL import Image
from tritonclient.utils import triton_to_np_dtype


class Listed(NamedTuple):
    """What the programs learn of a model that takes pixels: its input and output, and the largest batch."""

    input: str
    datatype: str
    shape: tuple[int, ...]
    format: str
    output: str
    max_batch_size: int


def described(client: Any, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a model's metadata and configuration by Triton's client, of either protocol, as dictionaries."""
    metadata, config = client.get_model_metadata(model), client.get_model_config(model)
    if isinstance(metadata, dict):
        return metadata, config
    return as_dictionary(metadata), as_dictionary(config.config)


def as_dictionary(message: Any) -> dict[str, Any]:
    """Return a gRPC message with the field names that HTTP has."""
    fields: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return fields


def check_image_model(metadata: dict[str, Any], config: dict[str, Any]) -> Listed:
    """Check what a model's metadata and configuration say, as the programs do before they send pixels."""
    assert (len(metadata["inputs"]), len(metadata["outputs"]), len(config["input"])) == (1, 1, 1)
    (listed,), (output,), (configured,) = metadata["inputs"], metadata["outputs"], config["input"]
    assert output["datatype"] == "FP32"
    batch_axes = 1 if config.get("max_batch_size", 0) > 0 else 0
    assert sum(int(size) > 1 for size in output["shape"][batch_axes:]) <= 1, "the output is no vector"
    shape = tuple(int(size) for size in listed["shape"][batch_axes:])
    assert len(shape) == 3
    assert configured["format"] in ("FORMAT_NCHW", "FORMAT_NHWC")
    return Listed(
        listed["name"], listed["datatype"], shape, configured["format"], output["name"], config["max_batch_size"]
    )


def prepared(data: bytes, listed: Listed, *, inception: bool) -> npt.NDArray[Any]:
    """Return a picture as the programs prepare it, with the scaling that they call INCEPTION or with none."""
    is_nhwc = listed.format == "FORMAT_NHWC"
    height, width = listed.shape[:2] if is_nhwc else listed.shape[1:]
    picture = Image.open(io.BytesIO(data)).convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture).astype(triton_to_np_dtype(listed.datatype))
    pixels = pixels / np.float32(127.5) - np.float32(1) if inception else pixels
    return pixels if is_nhwc else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def batches(pictures: Sequence[bytes], size: int) -> list[list[bytes]]:
    """Return the pictures in batches of one size; the last one is filled up with the first pictures."""
    count = -(-len(pictures) // size)
    repeated = [pictures[index % len(pictures)] for index in range(count * size)]
    return [repeated[start : start + size] for start in range(0, len(repeated), size)]


def request(triton: Any, listed: Listed, batch: npt.NDArray[Any], classes: int) -> dict[str, Any]:
    """Return the inputs and outputs of one request for Triton's client, whose library is given as a module."""
    sent = triton.InferInput(listed.input, list(batch.shape), listed.datatype)
    sent.set_data_from_numpy(batch)
    return {"inputs": [sent], "outputs": [triton.InferRequestedOutput(listed.output, class_count=classes)]}


def ranked(output: npt.NDArray[Any]) -> list[list[tuple[float, int, str]]]:
    """Read the classes of every picture from an output, as value, index and label."""
    assert output.dtype.type is np.object_
    rows = [[bytes(text).decode().split(":") for text in row] for row in output]
    return [[(float(value), int(index), label) for value, index, label in row] for row in rows]
