"""What crosses between a process and its decoding process: one picture there, one tensor or one error back.

Whatever comes back is checked: a decoder that hostile bytes have taken over must not reach further than its process.
"""

import json
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np

from errors import InvalidImage, InvalidInput, TooLarge
from preprocessing.prepare import Keep, PreparedPicture
from preprocessing.spec import ImageInput, ImageLimits

MOST_HEADER_BYTES = 2**16
_ERRORS: dict[str, type[InvalidInput]] = {"InvalidImage": InvalidImage, "TooLarge": TooLarge}


class Garbled(Exception):
    """What came back is no answer."""


def send_request(to: Connection, data: bytes, limits: ImageLimits, spec: ImageInput, keep: Keep) -> None:
    """Send one picture, and what to do with it."""
    fields = {"limits": limits.model_dump(), "spec": spec.model_dump(), "keep": keep}
    to.send_bytes(json.dumps(fields).encode())
    to.send_bytes(data)


def receive_request(source: Connection) -> tuple[bytes, ImageLimits, ImageInput, Keep]:
    """Return the next picture; EOFError where nobody sends any more."""
    fields = json.loads(source.recv_bytes())
    limits, spec = ImageLimits.model_validate(fields["limits"]), ImageInput.model_validate(fields["spec"])
    return source.recv_bytes(), limits, spec, fields["keep"]


def send_answer(to: Connection, answer: PreparedPicture | InvalidInput) -> None:
    """Send what became of a picture."""
    if isinstance(answer, InvalidInput):
        to.send_bytes(json.dumps({"error": type(answer).__name__, "detail": str(answer)[:2000]}).encode())
        return
    size = answer.pixels.shape[:2] if answer.pixels is not None else None
    to.send_bytes(json.dumps({"sharpness": answer.sharpness, "area": answer.area, "size": size}).encode())
    to.send_bytes(answer.tensor.tobytes())
    if answer.pixels is not None:
        to.send_bytes(answer.pixels.data.cast("B"))


def receive_answer(source: Connection, limits: ImageLimits, spec: ImageInput, keep: Keep) -> PreparedPicture:
    """Return the prepared picture.

    Raises:
        Garbled: it is none, or not of the size that was asked for.
        InvalidInput: the error that came in its place.
    """
    try:
        fields = cast("dict[str, Any]", json.loads(source.recv_bytes(MOST_HEADER_BYTES)))
        if "error" in fields:
            raise _ERRORS[fields["error"]](str(fields["detail"]))
        tensor = np.frombuffer(source.recv_bytes(4 * int(np.prod(spec.shape))), np.float32).reshape(spec.shape)
        sharpness = None if fields["sharpness"] is None else float(fields["sharpness"])
        area = min(int(fields["area"]), limits.max_pixels)
        if keep == "nothing":
            return PreparedPicture(tensor, sharpness, area)
        height, width = map(int, fields["size"])
        pixels = np.frombuffer(source.recv_bytes(3 * max(limits.max_pixels, int(np.prod(spec.size)))), np.uint8)
        return PreparedPicture(tensor, sharpness, area, pixels.reshape(height, width, 3))
    except (KeyError, TypeError, ValueError) as error:
        raise Garbled(str(error)) from error
