"""The changes of a card that usually explain why a model answers otherwise than its original did."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import tomlkit
from pydantic import ValidationError

from models.card import ASSUMED_HEAD_ACTIVATION, Card, HeadActivation, ImageCard
from preprocessing.spec import KERNELS, ImageInput

NORMALISATIONS: dict[str, dict[str, Any]] = {
    "ImageNet's mean and standard deviation": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "a mean and standard deviation of 0.5": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    "pixels from 0 to 1 without mean and standard deviation": {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)},
    "pixels from 0 to 255 without mean and standard deviation": {
        "scale": "0-255",
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
    },
    "ImageNet's mean without its standard deviation": {"mean": (0.485, 0.456, 0.406), "std": (1.0, 1.0, 1.0)},
    "ImageNet's mean of Caffe, 0 to 255": {
        "scale": "0-255",
        "mean": (123.675, 116.28, 103.53),
        "std": (1.0, 1.0, 1.0),
    },
    "CLIP's mean and standard deviation": {
        "mean": (0.48145466, 0.4578275, 0.40821073),
        "std": (0.26862954, 0.26130258, 0.27577711),
    },
    "CIFAR-10's mean and standard deviation": {
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
    },
    "another standard deviation for CIFAR-10": {
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
    },
}
CROP_SHARES = (0.875, 0.9, 0.95, 1.0)
"""How much of the resized picture's short side is cut out, by the usual evaluation transforms."""
CLAHES = ((2.0, "lab"), (2.0, "yuv"), (3.0, "lab"), (4.0, "lab"), (40.0, "lab"), (40.0, "yuv"))
"""Clip limits and colour spaces that are usual; 40 is OpenCV's own default."""
REMOVED = None
"""The value of a key whose line goes."""


@dataclass(frozen=True)
class Change:
    """One change of a card.

    Attributes:
        group: what it changes; two changes of a group exclude one another.
        cause: what the original does, as the rest of a sentence.
        values: the new value of each key of the card, with a dot between a section and its key; `REMOVED` for no line.
        order: the new order of the outputs, where it changes the labels.
        text: stands for the lines of a change that has too many of them.
    """

    group: str
    cause: str
    values: Mapping[str, Any]
    order: tuple[int, ...] = ()
    text: str = ""


def apply(card: Card, changes: Sequence[Change]) -> Card | None:
    """Return the card with some changes, None where they do not go together or change nothing."""
    content = card.model_dump()
    for change in changes:
        for key, value in change.values.items():
            *sections, name = key.split(".")
            table = content
            for section in sections:
                table = table[section]
            table[name] = value
    try:
        changed = type(card).model_validate(content)
    except ValidationError:
        return None
    return None if changed == card else changed


def card_lines(changes: Sequence[Change]) -> str:
    """Return changes as the lines of a card.toml; what is to be removed is a comment."""
    sections: dict[str, list[str]] = {}
    for change in changes:
        for key, value in {} if change.text else change.values.items():
            section, _, name = key.rpartition(".")
            line = f"# no line for {name}" if value is REMOVED else f"{name} = {_toml(value)}"
            sections.setdefault(section, []).append(line)
        if change.text:
            sections.setdefault("", []).append(f"# {change.text}")
    blocks = [[f"[{section}]"] * bool(section) + lines for section, lines in sorted(sections.items())]
    return "\n\n".join("\n".join(block) for block in blocks)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    return str(tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string())


def input_changes(card: Card) -> list[Change]:
    """Return the changes of how an input is transformed, each another card in effect, and none twice."""
    changes = _picture_changes(card) if isinstance(card, ImageCard) else _row_changes(card)
    kept, seen = [], [_in_effect(card)]
    for change in changes:
        changed = apply(card, [change])
        if changed is not None and (effect := _in_effect(changed)) not in seen:
            kept.append(change)
            seen.append(effect)
    return kept


def _in_effect(card: Card) -> Card:
    """Return a card that is equal to any other by which pictures are transformed the same."""
    if not isinstance(card, ImageCard):
        return card
    spec = card.input
    box = None if spec.resize == "none" or spec.box == spec.size else spec.box
    fill = spec.fill if spec.resize in ("letterbox", "none") else (0, 0, 0)
    return card.model_copy(update={"input": spec.model_copy(update={"resize_to": box, "crop_pct": None, "fill": fill})})


def activation_changes(card: Card) -> list[Change]:
    """Return the changes of the head's activation, of an architecture that has one."""
    if not isinstance(card, ImageCard) or card.architecture != "efficientnet-b4-head":
        return []
    return [
        Change("activation", f"its head was trained with {name}", {"head_activation": name})
        for name in get_args(HeadActivation)
        if name != (card.head_activation or ASSUMED_HEAD_ACTIVATION)
    ]


def _picture_changes(card: ImageCard) -> Iterator[Change]:
    spec = card.input
    for library, kernels in KERNELS.items():
        for kernel in kernels:
            name = {"opencv": "OpenCV", "pillow": "Pillow"}[library]
            values = {"input.library": library, "input.kernel": kernel}
            yield Change("filter", f"it resizes with {name}'s {kernel}", values)
    yield from _geometry(spec)
    without = {"input.clahe": REMOVED}
    yield Change("clahe", "it equalises no histogram (CLAHE)", without)
    for limit, space in CLAHES:
        clahe = {"clip_limit": limit, "tiles": (8, 8), "colour_space": space}
        cause = f"it equalises the histogram by CLAHE, on {space} with a clip limit of {limit:g}"
        yield Change("clahe", cause, {"input.clahe": clahe})
    if spec.channels != "grey":
        yield from _colours(spec)
    turned = "ignore" if spec.orientation == "apply" else "apply"
    cause = "takes photographs as they are stored" if turned == "ignore" else "turns photographs upright by EXIF"
    yield Change("orientation", f"it {cause}", {"input.orientation": turned})


def _geometry(spec: ImageInput) -> Iterator[Change]:
    plain = {"input.resize_to": REMOVED, "input.crop_pct": REMOVED}
    yield Change("geometry", "it stretches pictures to the size", {"input.resize": "stretch", **plain})
    for share in CROP_SHARES:
        cause = f"it resizes the short side and cuts out the middle, {share:g} of it"
        values = {"input.resize": "short_side", "input.crop_pct": share, "input.resize_to": REMOVED}
        yield Change("geometry", cause, values)
    if spec.size[0] == spec.size[1]:
        for side in (256, spec.size[0] + 8, spec.size[0] + 32):
            cause = f"it resizes the short side to {side} and cuts out the middle"
            values = {"input.resize": "short_side", "input.resize_to": side, "input.crop_pct": REMOVED}
            yield Change("geometry", cause, values)
    for level in (0, 114, 128):
        values = {"input.resize": "letterbox", "input.fill": (level, level, level), **plain}
        yield Change("geometry", f"it fits pictures into the size and pads them with {level}", values)
    yield Change("geometry", "it cuts out the middle without resizing", {"input.resize": "none", **plain})


def _colours(spec: ImageInput) -> Iterator[Change]:
    other = "bgr" if spec.channels == "rgb" else "rgb"
    turned = {"input.channels": other}
    yield Change("channels", f"its channels are {other.upper()}", turned)
    reversed_values = {"input.mean": spec.mean[::-1], "input.std": spec.std[::-1]}
    cause = f"its channels are {other.upper()}, and mean and standard deviation belong to them in the other order"
    yield Change("channels", cause, turned | reversed_values)
    for name, values in NORMALISATIONS.items():
        values = {"scale": "0-1", **values}
        if spec.channels == "bgr":
            values |= {"mean": values["mean"][::-1], "std": values["std"][::-1]}
        yield Change("normalisation", f"it takes {name}", {f"input.{key}": value for key, value in values.items()})


def _row_changes(card: Card) -> Iterator[Change]:
    """Yield changes of the steps of features: without those of one kind, and without any."""
    features = card.model_dump()["input"]["features"]
    kinds = sorted({step["kind"] for feature in features for step in feature["steps"]})
    for left_out in [[kind] for kind in kinds] + [kinds] * (len(kinds) > 1):
        changed = [
            feature | {"steps": tuple(step for step in feature["steps"] if step["kind"] not in left_out)}
            for feature in features
        ]
        words = " and ".join(left_out)
        text = f"no steps of the kind {words} under [[input.features]]"
        yield Change(
            "steps", f"its values are not transformed by {words}", {"input.features": tuple(changed)}, text=text
        )
