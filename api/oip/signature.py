"""What a model takes and gives as tensors of the Open Inference Protocol; made from its card."""

from typing import NamedTuple

from api.oip.tensors import BYTES
from models.card import Card, ImageCard

IMAGE, PIXELS, TENSOR, ROWS = "image", "pixels", "tensor", "rows"
ANY = -1
"""A size that may vary, as the protocol writes it."""


class TensorSpec(NamedTuple):
    """A tensor's name, datatype and shape with its batch axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs_of(card: Card) -> list[TensorSpec]:
    """The ways in, each for itself: encoded pictures, their pixels or the transformed; rows, or a column a feature."""
    if isinstance(card, ImageCard):
        return [
            TensorSpec(IMAGE, BYTES, (ANY,)),
            TensorSpec(PIXELS, "UINT8", (ANY, ANY, ANY, 3)),
            TensorSpec(TENSOR, "FP32", (ANY, 3, *card.input.size)),
        ]
    features = card.input.features
    return [
        TensorSpec(ROWS, "FP32", (ANY, len(features))),
        *(TensorSpec(each.name, "FP32", (ANY,)) for each in features),
    ]


def outputs_of(card: Card, *, explained: bool) -> list[TensorSpec]:
    """What comes out; `map` only if asked for."""
    if not isinstance(card, ImageCard) and card.task == "anomaly-detection":
        return [
            TensorSpec("score", "FP32", (ANY,)),
            TensorSpec("is_anomaly", "BOOL", (ANY,)),
            TensorSpec("contributions", "FP32", (ANY, len(card.input.features))),
        ]
    usual = [
        TensorSpec("probabilities", "FP32", (ANY, len(card.labels))),
        TensorSpec("logits", "FP32", (ANY, len(card.labels))),
        TensorSpec("label", BYTES, (ANY,)),
    ]
    return [*usual, TensorSpec("map", "FP32", (ANY, ANY, ANY))] if explained else usual
