"""From a picture model, however it came, to its package: card, goldens, graph and the comparison of all with it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from errors import CardError, StoreError
from export.graph_explanation import add_explanation
from export.importers import Reference, from_onnx
from export.labels import read_labels
from export.operator_graph import Notify
from export.parity import ParityReport
from export.picture_examples import golden_pictures
from export.sources.names import waits_for_graph
from export.sources.picture_card import (
    USUAL,
    CardFacts,
    Input,
    PictureInput,
    card_input,
    card_labels,
    filled_card,
    new_card,
    picture_input,
)
from export.sources.request import AddRequest
from models.card import ImageCard, parse_card
from models.registry import package_folder
from preprocessing.decode import decode
from preprocessing.spec import UInt8Image
from preprocessing.transform import transform

MOST_SIDE = 4096
"""The longest side of an input, in pixels; a graph of any size would be tried with what memory does not hold."""
MOST_LEVELS = 1.0
"""The largest difference from a library's own transform, in levels of 0 to 255."""


@dataclass(frozen=True)
class PictureModel:
    """A picture model as its source describes it.

    Attributes:
        origin: the file or name, for people.
        input: keys of a card's section `input` that the source knows.
        outputs: the number of its classes, None where that is not known.
        labels: None where the source does not know them.
        is_doubted: whether the weights may have been trained with another preprocessing than the source knows.
        data: what a card says of the data; None for a line about an operator's own model.
        licence: of the weights; None where it is not known.
        reference: what the graph is compared with; None for itself, unoptimised.
        transform: the library's own, from (H, W, 3) uint8 RGB to (3, h, w) float32, where there is one.
        parameters: the number of trainable values, None where it is not known.
        sections: further sections of the card.
        architecture: what the card calls the network.
    """

    origin: str
    input: Input
    outputs: int | None
    labels: Sequence[str] | None = None
    is_doubted: bool = False
    data: str | None = None
    licence: str | None = None
    reference: Reference | None = None
    transform: Callable[[UInt8Image], npt.NDArray[np.float32]] | None = None
    parameters: int | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "onnx"


def package_from_graph(
    request: AddRequest,
    name: str,
    model: PictureModel,
    graph_of: Callable[[ImageCard], Path],
    package: Path,
    notify: Notify,
) -> ParityReport:
    """Write the package of a picture model that is served as a graph, which `graph_of` gives for its card.

    Where the graph has an exact gradient, its explain graph is part of the package.

    Raises:
        CardError: the operator's card is not valid, or names a layer at which the graph cannot be explained.
        StoreError: the model has no labels, or too large an input, or as `from_onnx`.
    """
    card_text = picture_card_text(request, name, model, notify)
    card = parse_card(card_text, str(request.card or "card.toml"))
    if not isinstance(card, ImageCard):
        raise CardError(f"{request.card}: {card.name} takes rows, and {model.origin} takes pictures.")
    if max(card.input.size) > MOST_SIDE:
        height, width = card.input.size
        raise StoreError(f"{model.origin}: an input of {height}x{width} is too large; {MOST_SIDE} a side is the most.")
    goldens = golden_pictures(request.examples)
    if model.transform is not None and request.card is None:
        check_transform(card, goldens, model.transform)
    report = from_onnx(card_text, graph_of(card), goldens, package, notify, model.reference)
    add_explanation(package, notify, is_own_card=request.card is not None)
    return report


def picture_card_text(request: AddRequest, name: str, model: PictureModel, notify: Notify) -> str:
    """Return the text of a picture model's card, and tell what was assumed for it.

    Raises:
        CardError: the operator's card has another name, or is not TOML.
        StoreError: nobody knows the labels, or there are others than the model has outputs.
    """
    own = request.card.read_text("utf-8") if request.card else None
    labels = _labels(request, model, own)
    if model.outputs is not None and len(labels) != model.outputs:
        raise StoreError(f"{model.origin}: gives {model.outputs} logits, but there are {len(labels)} labels.")
    facts = CardFacts(
        name=name,
        title=name.replace("-", " ").capitalize(),
        labels=labels,
        data=model.data or f"your own model ({model.origin})",
        licence=model.licence or "that of your model",
        architecture=model.architecture,
        parameters=model.parameters,
        sections=model.sections,
    )
    if own is not None:
        return filled_card(own, facts, None)
    bundled = (package_folder(name) / "card.toml").read_text("utf-8") if waits_for_graph(name) else None
    usual = card_input(bundled) if bundled else USUAL
    entry = picture_input(request.input, model.input, doubted=model.is_doubted, usual=usual)
    _tell(entry, model, len(labels), notify)
    return filled_card(bundled, facts, entry) if bundled else new_card(facts, entry)


def check_transform(
    card: ImageCard,
    goldens: Sequence[tuple[str, bytes]],
    theirs: Callable[[UInt8Image], npt.NDArray[np.float32]],
) -> None:
    """Compare what a card makes of pictures with what a library's own transform makes of them.

    Raises:
        StoreError: they differ by more than `MOST_LEVELS`.
    """
    std = np.array(card.input.std, np.float32)[:, None, None] * 255
    for golden, data in goldens:
        image = decode(data, card.limits, upright=card.input.orientation == "apply")
        levels = float(np.abs((transform(image, card.input).tensor - theirs(image)) * std).max())
        if not levels <= MOST_LEVELS:
            raise StoreError(
                f"{card.name}: of {golden} the card makes another input than the library's own transform, by "
                f"{levels:.1f} grey levels. Nothing was added; please report the model's name."
            )


def _labels(request: AddRequest, model: PictureModel, card: str | None) -> Sequence[str]:
    if request.labels is not None:
        return read_labels(request.labels)
    if card is not None and (labels := card_labels(card)):
        return labels
    if model.labels is not None:
        return model.labels
    count = f"the {model.outputs} outputs" if model.outputs else "the outputs"
    raise StoreError(
        f"{model.origin}: nothing says what {count} mean: bring --labels FILE, one label a line in their order."
    )


def _tell(entry: PictureInput, model: PictureModel, labels: int, notify: Notify) -> None:
    """Tell how pictures become the input, and which of it was assumed."""
    values = {key: value for key, value in entry.values.items() if key != "kind"}
    notify(f"{model.origin}: {labels:,} labels; input " + ", ".join(f"{key} {value}" for key, value in values.items()))
    if entry.assumed:
        keys = [key.removeprefix("input.") for key in entry.assumed]
        assumed = ", ".join(f"{key} {entry.values[key]}" for key in keys)
        why = "these weights may have been trained with others" if model.is_doubted else "the source does not say them"
        notify(
            f"ASSUMED: {assumed}. They are usual, but {why}. If training had others, the model answers wrongly: "
            "state them with --size, --resize, --mean and --std, or on a card of your own (--card). Until then the "
            "card lists them under `assumed`."
        )
