"""The card of a picture model, written from what its source knows, and from what is usual where that says nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import tomlkit
from tomlkit.exceptions import TOMLKitError

from errors import CardError
from export.card_text import replace_values
from models.assumed import Assumable

Input = Mapping[str, Any]
"""Keys of a card's section `input` and their values."""

USUAL: Input = {
    "size": [224, 224],
    "resize": "short_side",
    "crop_pct": 0.875,
    "kernel": "bilinear",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
"""How pictures of ImageNet are mostly evaluated: as by torchvision's reference transform, on pictures of Pillow."""
_RESIZING = ("resize", "resize_to", "crop_pct")
"""Keys that only have a meaning together."""
_ORDER = (
    *("kind", "size", "resize", "resize_to", "crop_pct", "fill", "library", "kernel", "channels", "scale"),
    *("mean", "std", "layout"),
)


@dataclass(frozen=True)
class PictureInput:
    """How pictures become a model's input, as its card will say.

    Attributes:
        values: keys of the section `input` and their values.
        assumed: the keys of the card whose values nobody stated.
    """

    values: Input
    assumed: Sequence[str]


@dataclass(frozen=True)
class CardFacts:
    """What a picture model's card says beside its input.

    Attributes:
        name: the model's name.
        title: a line for people.
        labels: in the order of the outputs.
        data: what the weights were trained on.
        licence: of the weights.
        architecture: the network; `onnx` for a graph.
        parameters: the number of trainable values, None where it is not known.
        sections: further sections.
    """

    name: str
    title: str
    labels: Sequence[str]
    data: str
    licence: str = "that of your model"
    architecture: str = "onnx"
    parameters: int | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)


def picture_input(stated: Input, known: Input, *, doubted: bool = False, usual: Input = USUAL) -> PictureInput:
    """Return how pictures become the input: as the operator states, else as the source knows, else as is usual.

    Args:
        stated: by the operator.
        known: by the source.
        doubted: whether what the source knows of resizing and normalising may not hold for these weights, such as for
            those that somebody trained on.
        usual: what is taken where neither of them says anything.
    """
    known = {key: value for key, value in known.items() if key not in _RESIZING or not stated.keys() & set(_RESIZING)}
    values = {"kind": "image", "library": "pillow"} | dict(known) | dict(stated)
    certain = set(stated) if doubted else {*known, *stated}
    if stated.keys() & set(_RESIZING):
        certain.add("resize")
        values.setdefault("resize", usual["resize"])
    elif "resize" not in values:
        values |= {key: usual[key] for key in _RESIZING if key in usual}
    for key in ("size", "kernel", "mean", "std"):
        values.setdefault(key, _usual(usual[key], key, values))
    assumed = [key for key in get_args(Assumable) if key.removeprefix("input.") not in certain]
    ordered = {key: values[key] for key in _ORDER if key in values}
    return PictureInput(ordered | values, assumed)


def _usual(usual: Any, key: str, values: Input) -> Any:
    """Return what is usual of a key, for one channel where the picture is grey, and on the scale of the pixels."""
    if key not in ("mean", "std"):
        return usual
    if values.get("scale") == "0-255":
        usual = [round(255 * value, 3) for value in usual]
    return [round(sum(usual) / 3, 3)] if values.get("channels") == "grey" else usual


def new_card(facts: CardFacts, entry: PictureInput) -> str:
    """Return the text of a new card."""
    document = tomlkit.document()
    count = len(facts.labels)
    document["name"] = facts.name
    document["title"] = facts.title
    document["description"] = f"Which of {count:,} labels a picture shows, the most probable first."
    document["task"] = "image-classification"
    document["architecture"] = facts.architecture
    if facts.parameters:
        document["parameters"] = facts.parameters
    document["labels"] = _array(facts.labels)
    if entry.assumed:
        document["assumed"] = list(entry.assumed)
    document["licence"] = facts.licence
    document["data"] = facts.data
    document["input"] = dict(entry.values)
    for key, value in facts.sections.items():
        document[key] = value
    return tomlkit.dumps(document)


def filled_card(text: str, facts: CardFacts, entry: PictureInput | None) -> str:
    """Return an existing card's text with a model's labels and, where it is given, its input.

    Raises:
        CardError: the text is not TOML.
    """
    text = replace_values(text, {}, {"labels": _array(facts.labels)})
    if entry is None:
        return text
    added = {f"input.{key}": value for key, value in entry.values.items()}
    return replace_values(text, {}, added | {"assumed": list(entry.assumed), "data": facts.data})


def card_labels(text: str) -> Sequence[str]:
    """Return the labels on a card, none where it has none yet.

    Raises:
        CardError: the text is not TOML.
    """
    return [str(label) for label in _parsed(text).get("labels", [])]


def card_input(text: str) -> Input:
    """Return the section `input` of a card.

    Raises:
        CardError: the text is not TOML.
    """
    return {"resize": "stretch"} | dict(_parsed(text).get("input", {}))


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        return tomlkit.parse(text).unwrap()
    except TOMLKitError as error:
        raise CardError(f"The card is not valid TOML: {error}") from error


def _array(labels: Sequence[str]) -> Any:
    """Return labels as an array of a card, one a line where there are many."""
    array = tomlkit.array()
    array.extend(labels)
    return array.multiline(len(labels) > 10)
