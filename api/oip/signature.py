"""The inputs and outputs of a model as tensors of the Open Inference Protocol, derived from its card.

A model can be asked in several ways. Clients that read metadata, such as Triton's examples and load generators, send
every input that they find listed; so each way has a signature, and a name of its own (`api.oip.names`).
"""

from typing import NamedTuple

from api.oip.tensors import BYTES
from models.card import Card, ImageCard, is_detector, is_regressor
from preprocessing.row_spec import Feature

IMAGE, PIXELS, TENSOR, ROWS, COLUMNS = "image", "pixels", "tensor", "rows", "columns"
PROBABILITIES, LOGITS, LABEL = "probabilities", "logits", "label"
SCORE, IS_ANOMALY, CONTRIBUTIONS, VALUES = "score", "is_anomaly", "contributions", "values"
MAP, ATTRIBUTIONS = "map", "attributions"
EXPLANATIONS = (MAP, ATTRIBUTIONS)
"""The outputs that say why, of pictures and of rows; they come only where they are asked for."""
ANY = -1
"""A size that may vary, as the protocol writes it."""


class TensorSpec(NamedTuple):
    """A tensor's name, datatype and shape, the batch axis included.

    Attributes:
        name: the tensor's name.
        datatype: in the protocol's words.
        shape: with `ANY` for sizes that may vary.
        format: Triton's word for the order of a picture's axes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    format: str = "FORMAT_NONE"


class Signature(NamedTuple):
    """One way to ask a model: the inputs that it takes together, and the output that it lists.

    Attributes:
        suffix: stands behind the model's name and a dot; "" is the way of the name alone.
        inputs: a request brings all of them.
        output: a request may name the model's other outputs as well.
    """

    suffix: str
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec


def input_specs(card: Card) -> list[TensorSpec]:
    """Return the tensors that a request for the model's own name may bring.

    For a model of pictures these are three alternatives: encoded pictures, their pixels, or transformed pictures. For
    a model of rows they are two: all rows in one tensor, categories by their places, or one tensor for each feature.
    """
    if isinstance(card, ImageCard):
        return [
            TensorSpec(IMAGE, BYTES, (ANY,)),
            TensorSpec(PIXELS, "UINT8", (ANY, ANY, ANY, 3), "FORMAT_NHWC"),
            TensorSpec(TENSOR, "FP32", (ANY, *card.input.shape), f"FORMAT_{card.input.layout.upper()}"),
        ]
    features = card.input.features
    columns = [TensorSpec(feature.name, BYTES if _is_text(feature) else "FP32", (ANY,)) for feature in features]
    return [TensorSpec(ROWS, "FP32", (ANY, len(features))), *columns]


def output_specs(card: Card, *, is_explainable: bool) -> list[TensorSpec]:
    """Return the tensors that a response may bring, with that of the explanations where the model has them."""
    if is_detector(card):
        specs = [
            TensorSpec(SCORE, "FP32", (ANY,)),
            TensorSpec(IS_ANOMALY, "BOOL", (ANY,)),
            TensorSpec(CONTRIBUTIONS, "FP32", (ANY, len(card.input.features))),
        ]
    elif is_regressor(card):
        specs = [TensorSpec(VALUES, "FP32", (ANY, len(card.outputs)))]
    else:
        specs = [
            TensorSpec(PROBABILITIES, "FP32", (ANY, len(card.labels))),
            TensorSpec(LOGITS, "FP32", (ANY, len(card.labels))),
            TensorSpec(LABEL, BYTES, (ANY,)),
        ]
    if not is_explainable:
        return specs
    if isinstance(card, ImageCard):
        return [*specs, TensorSpec(MAP, "FP32", (ANY, ANY, ANY))]
    return [*specs, TensorSpec(ATTRIBUTIONS, "FP32", (ANY, len(card.input.features)))]


def signatures(card: Card) -> tuple[Signature, ...]:
    """Return the ways to ask a model, that of its name alone first.

    Pixels are listed in the size that the network takes, although other sizes are taken too and resized here: load
    generators refuse an input whose size may vary, and image clients resize to what is listed.
    """
    output = output_specs(card, is_explainable=False)[0]
    if isinstance(card, ImageCard):
        image, pixels, tensor = input_specs(card)
        pixels = pixels._replace(shape=(ANY, *card.input.size, 3))
        return (
            Signature("", (image,), output),
            Signature(PIXELS, (pixels,), output),
            Signature(TENSOR, (tensor,), output),
        )
    rows, *columns = input_specs(card)
    return Signature("", (rows,), output), Signature(COLUMNS, tuple(columns), output)


def _is_text(feature: Feature) -> bool:
    """Return whether the values of a feature are texts."""
    return feature.categories is not None and all(isinstance(category, str) for category in feature.categories)
