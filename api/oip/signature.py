"""The inputs and outputs of a model as tensors of the Open Inference Protocol, derived from its card."""

from typing import NamedTuple

from api.oip.tensors import BYTES
from models.card import Card, ImageCard, is_detector, is_regressor
from preprocessing.spec import Feature

IMAGE, PIXELS, TENSOR, ROWS = "image", "pixels", "tensor", "rows"
PROBABILITIES, LOGITS, LABEL, MAP = "probabilities", "logits", "label", "map"
SCORE, IS_ANOMALY, CONTRIBUTIONS, VALUES = "score", "is_anomaly", "contributions", "values"
ANY = -1
"""A size that may vary, as the protocol writes it."""


class TensorSpec(NamedTuple):
    """A tensor's name, datatype and shape, the batch axis included."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def input_specs(card: Card) -> list[TensorSpec]:
    """Return the tensors that a request may bring.

    For a model of pictures these are three alternatives: encoded pictures, their pixels, or transformed pictures. For
    a model of rows they are two: all rows in one tensor, categories by their places, or one tensor for each feature.
    """
    if isinstance(card, ImageCard):
        return [
            TensorSpec(IMAGE, BYTES, (ANY,)),
            TensorSpec(PIXELS, "UINT8", (ANY, ANY, ANY, 3)),
            TensorSpec(TENSOR, "FP32", (ANY, 3, *card.input.size)),
        ]
    features = card.input.features
    columns = [TensorSpec(feature.name, BYTES if _is_text(feature) else "FP32", (ANY,)) for feature in features]
    return [TensorSpec(ROWS, "FP32", (ANY, len(features))), *columns]


def output_specs(card: Card, *, has_map: bool) -> list[TensorSpec]:
    """Return the tensors that a response may bring; `map` comes only where it was asked for."""
    if is_detector(card):
        return [
            TensorSpec(SCORE, "FP32", (ANY,)),
            TensorSpec(IS_ANOMALY, "BOOL", (ANY,)),
            TensorSpec(CONTRIBUTIONS, "FP32", (ANY, len(card.input.features))),
        ]
    if is_regressor(card):
        return [TensorSpec(VALUES, "FP32", (ANY, len(card.outputs)))]
    specs = [
        TensorSpec(PROBABILITIES, "FP32", (ANY, len(card.labels))),
        TensorSpec(LOGITS, "FP32", (ANY, len(card.labels))),
        TensorSpec(LABEL, BYTES, (ANY,)),
    ]
    return [*specs, TensorSpec(MAP, "FP32", (ANY, ANY, ANY))] if has_map else specs


def _is_text(feature: Feature) -> bool:
    """Return whether the values of a feature are texts."""
    return feature.categories is not None and all(isinstance(category, str) for category in feature.categories)
