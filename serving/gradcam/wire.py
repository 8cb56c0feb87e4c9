"""What crosses between a server and its Grad-CAM process: requests, answers and errors, as pickles or as JSON."""

import base64
from collections.abc import Sequence
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
        targets: the indices of the classes to explain; empty for the predicted one.
        method: a CAM method, or RISE's name, which never goes to the Grad-CAM process.
        output: what to draw, or `map` for the numbers.
        alpha: the opacity of an overlay at its peak, in [0, 1].
        at_input_size: whether to draw at the card's input size instead of the upload's own.
        threshold: used instead of the card's, where it decides what is predicted.
        contrast: the index of the class that the target is set against, or -1 for none.
        samples: how many masks RISE draws.
        top: how many of the most probable classes to explain in place of `targets`; 0 for none.
    """

    data: bytes
    targets: tuple[int, ...]
    method: str
    output: Output
    alpha: float
    at_input_size: bool
    threshold: float | None = None
    contrast: int = NO_CONTRAST
    samples: int = DEFAULT_SAMPLES
    top: int = 0


class Sampling(NamedTuple):
    """What a map that was sampled took, and how sure it is.

    Attributes:
        evaluations: how many masked pictures the network computed, for all targets together.
        standard_error: of the map's peak, in the map's unit.
    """

    evaluations: int
    standard_error: float


class Explanation(NamedTuple):
    """Where the network looked for one class.

    Attributes:
        target: the index of the class that was explained.
        picture: a PNG; None where the map was asked for.
        map: shape (h, w), float32, 0 or more, as the method gave it.
        size: width and height of the picture, in pixels.
        sampling: of a map that was sampled; None of a gradient's.
    """

    target: int
    picture: bytes | None
    map: npt.NDArray[np.float32]
    size: tuple[int, int]
    sampling: Sampling | None = None


class ExplainedPicture(NamedTuple):
    """A prediction and where the network looked for each class that is explained.

    Attributes:
        logits: shape (K,), float32.
        sharpness: the upload's variance of the Laplacian; None where the card does not ask for it.
        explanations: one for each class, in the order in which they were asked for, or of their probability.
    """

    logits: Logits
    sharpness: float | None
    explanations: tuple[Explanation, ...]


def request_to_json(request: ExplanationRequest) -> dict[str, Any]:
    """Return a request as JSON can carry it, for a Grad-CAM process on another machine."""
    return asdict(request) | {"data": base64.b64encode(request.data).decode()}


def request_from_fields(fields: dict[str, Any]) -> ExplanationRequest:
    """Return the request, whether it came as a pickle or as JSON."""
    return ExplanationRequest(**fields | {"data": _to_bytes(fields["data"]), "targets": tuple(fields["targets"])})


def answer_to_fields(answer: "Answer[ExplainedPicture] | VitrineError") -> dict[str, Any]:
    """Return what crosses of an answer, or the name and text of an error."""
    if isinstance(answer, VitrineError):
        retry_after = {"retry_after_s": answer.retry_after_s} if isinstance(answer, QueueFull | Unavailable) else {}
        return {"error": type(answer).__name__, "detail": str(answer), **retry_after}
    explanations = [explanation._asdict() for explanation in answer.value.explanations]
    return {"answer": answer._asdict() | {"value": answer.value._asdict() | {"explanations": explanations}}}


def answers_to_fields(answers: "Sequence[Answer[ExplainedPicture] | VitrineError]") -> dict[str, Any]:
    """Return what crosses of the answers to one call."""
    return {"answers": [answer_to_fields(answer) for answer in answers]}


def answers_from_fields(fields: dict[str, Any]) -> "list[Answer[ExplainedPicture] | VitrineError]":
    """Return the answers to one call, each or the error in its place.

    Raises:
        VitrineError: the error that came in place of all of them.
    """
    if "answers" not in fields:
        raise _error_from_fields(fields)
    return [answer_from_fields(answer) for answer in fields["answers"]]


def fields_to_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return what `answer_to_fields` made as JSON can carry it, to the same last bit of every float32."""
    if "answer" not in fields:
        return fields
    value = fields["answer"]["value"]
    explanations = [
        explanation
        | {
            "map": explanation["map"].tolist(),
            "picture": base64.b64encode(picture).decode() if (picture := explanation["picture"]) is not None else None,
        }
        for explanation in value["explanations"]
    ]
    value = value | {"logits": value["logits"].tolist(), "explanations": explanations}
    return {"answer": fields["answer"] | {"value": value}}


def answer_from_fields(fields: dict[str, Any]) -> "Answer[ExplainedPicture] | VitrineError":
    """Return the answer, whether it came as a pickle or as JSON, or the error in its place as it was raised there."""
    if "answer" in fields:
        answer, value = fields["answer"], fields["answer"]["value"]
        explanations = tuple(
            Explanation(
                **explanation
                | {
                    "picture": _to_bytes(explanation["picture"]),
                    "map": np.asarray(explanation["map"], np.float32),
                    "size": tuple(explanation["size"]),
                }
            )
            for explanation in value["explanations"]
        )
        explained = ExplainedPicture(np.asarray(value["logits"], np.float32), value["sharpness"], explanations)
        return Answer(**answer | {"value": explained})
    return _error_from_fields(fields)


def _error_from_fields(fields: dict[str, Any]) -> VitrineError:
    kind = getattr(errors, str(fields.get("error")), InferenceFailed)
    arguments = [fields["retry_after_s"]] if "retry_after_s" in fields else []
    error: VitrineError = kind(str(fields.get("detail")), *arguments)
    return error


def _to_bytes(data: bytes | str | None) -> bytes | None:
    return base64.b64decode(data) if isinstance(data, str) else data
