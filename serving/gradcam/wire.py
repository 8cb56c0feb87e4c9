"""What crosses between a server and its Grad-CAM process: requests, answers and errors, as pickles or as JSON."""

import base64
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import errors
from backends.base import Logits
from errors import InferenceFailed, QueueFull, Unavailable, VitrineError
from explain.base import NO_CONTRAST
from explain.overlay import Output
from explain.rise import DEFAULT_SAMPLES
from runners.runner import Answer


@dataclass(frozen=True)
class ExplanationRequest:
    """One picture to be explained.

    Attributes:
        data: the encoded picture.
        target: the index of the class to explain, or -1 for the predicted one.
        method: a CAM method, or RISE's name, which never goes to the Grad-CAM process.
        output: what to draw, or `map` for the numbers.
        alpha: the opacity of an overlay at its peak, in [0, 1].
        at_input_size: whether to draw at the card's input size instead of the upload's own.
        threshold: used instead of the card's, where it decides what is predicted.
        contrast: the index of the class that the target is set against, or -1 for none.
        samples: how many masks RISE draws.
    """

    data: bytes
    target: int
    method: str
    output: Output
    alpha: float
    at_input_size: bool
    threshold: float | None = None
    contrast: int = NO_CONTRAST
    samples: int = DEFAULT_SAMPLES


class Sampling(NamedTuple):
    """What a map that was sampled took, and how sure it is.

    Attributes:
        evaluations: how many masked pictures the network computed, for all targets together.
        standard_error: of the map's peak, in the map's unit.
    """

    evaluations: int
    standard_error: float


class Explanation(NamedTuple):
    """A prediction and where the network looked for it.

    Attributes:
        logits: shape (K,), float32.
        target: the index of the class that was explained.
        picture: a PNG; None where the map was asked for.
        map: shape (h, w), float32, 0 or more, as the method gave it.
        size: width and height of the picture, in pixels.
        sharpness: the upload's variance of the Laplacian; None where the card does not ask for it.
        sampling: of a map that was sampled; None of a gradient's.
    """

    logits: Logits
    target: int
    picture: bytes | None
    map: npt.NDArray[np.float32]
    size: tuple[int, int]
    sharpness: float | None
    sampling: Sampling | None = None


def request_to_json(request: ExplanationRequest) -> dict[str, Any]:
    """Return a request as JSON can carry it, for a Grad-CAM process on another machine."""
    return asdict(request) | {"data": base64.b64encode(request.data).decode()}


def request_from_fields(fields: dict[str, Any]) -> ExplanationRequest:
    """Return the request, whether it came as a pickle or as JSON."""
    return ExplanationRequest(**fields | {"data": _to_bytes(fields["data"])})


def answer_to_fields(answer: "Answer[Explanation] | VitrineError") -> dict[str, Any]:
    """Return what crosses of an answer, or the name and text of an error."""
    if isinstance(answer, VitrineError):
        retry_after = {"retry_after_s": answer.retry_after_s} if isinstance(answer, QueueFull | Unavailable) else {}
        return {"error": type(answer).__name__, "detail": str(answer), **retry_after}
    return {"answer": answer._replace(value=answer.value._asdict())._asdict()}  # type: ignore[arg-type]


def fields_to_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `answer_to_fields` made as JSON can carry it, to the same last bit of every float32."""
    if "answer" not in fields:
        return fields
    value = dict(fields["answer"]["value"])
    value |= {name: value[name].tolist() for name in ("logits", "map")}
    value["picture"] = base64.b64encode(value["picture"]).decode() if value["picture"] is not None else None
    return {"answer": fields["answer"] | {"value": value}}


def answer_from_fields(fields: dict[str, Any]) -> "Answer[Explanation]":
    """Return the answer, whether it came as a pickle or as JSON.

    Raises:
        VitrineError: the error that came in its place, as it was raised there.
    """
    if "answer" in fields:
        answer = dict(fields["answer"])
        value = dict(answer["value"])
        value |= {name: np.asarray(value[name], np.float32) for name in ("logits", "map")}
        value |= {"size": tuple(value["size"]), "picture": _to_bytes(value["picture"])}
        return Answer(**{**answer, "value": Explanation(**value)})
    kind = getattr(errors, str(fields.get("error")), InferenceFailed)
    arguments = [fields["retry_after_s"]] if "retry_after_s" in fields else []
    raise kind(str(fields.get("detail")), *arguments)


def _to_bytes(data: bytes | str | None) -> bytes | None:
    return base64.b64decode(data) if isinstance(data, str) else data
