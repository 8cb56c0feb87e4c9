"""The model card: what a model expects and returns, as data from closed sets."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator

from errors import CardError
from explain.base import MethodName
from preprocessing.spec import Frozen, ImageInput, ImageLimits, RowInput, RowLimits

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=60)]


class Explain(Frozen):
    """How the model explains itself.

    `layer` names the module of the network whose activations make the map; `method` is the default.
    """

    layer: str
    method: MethodName


class EarlyExit(Frozen):
    """Where a variant of the network may stop early (`vitrine models import NAME --variant early-exit`).

    The head in `exit.safetensors` looks at the activations of `layer`. What it says is the answer where the
    probability of `positive_label` is under `clear_below`, or at least `clear_from`.
    """

    layer: str
    clear_below: Annotated[float, Field(ge=0, le=1)]
    clear_from: Annotated[float, Field(ge=0, le=1)]


class ModelCard(Frozen):
    """What the cards of every kind of model say; see `ImageCard` and `RowCard`.

    `labels` are in the order of the model's outputs. With `positive_label` the answer is that label where its
    probability is at least `threshold`, else the most probable of the others; without it, the most probable label.
    `warnings` are repeated in every answer. `parameters` counts the network's trainable values, where they are known.
    """

    name: Name
    title: str
    description: str
    parameters: PositiveInt | None = None
    labels: tuple[str, ...]
    positive_label: str | None = None
    threshold: PositiveFloat | None = None
    licence: str
    data: str
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(self.labels) < 2 and (self.labels or getattr(self, "architecture", "") != "onnx"):
            raise ValueError("labels: there must be two or more; a model that comes as a graph brings its own, so []")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may stand only once")
        if self.positive_label is not None and self.positive_label not in self.labels:
            raise ValueError(
                f"positive_label {self.positive_label!r} is not one of the labels: {', '.join(self.labels)}"
            )
        if (self.positive_label is None) != (self.threshold is None):
            raise ValueError("positive_label and threshold go together: give both or neither")
        return self


class ImageCard(ModelCard):
    """An image classifier, as `models/<folder>/card.toml` describes it (folder: the name with `_` for `-`).

    An `onnx` model comes as a graph with a file of labels: PyTorch has no network of it, so it has no explanations.
    """

    task: Literal["image-classification"]
    architecture: Literal["efficientnet-b4-head", "pyramidnet-110", "onnx"]
    input: ImageInput
    limits: ImageLimits = ImageLimits()
    explain: Explain | None = None
    early_exit: EarlyExit | None = None

    @model_validator(mode="after")
    def _threshold_is_a_probability(self) -> Self:
        return _probability(self)

    @model_validator(mode="after")
    def _exit_fits(self) -> Self:
        if self.early_exit is not None:
            if self.threshold is None or len(self.labels) != 2:
                raise ValueError("early_exit: it goes with two labels, a positive_label and a threshold")
            if not self.early_exit.clear_below <= self.threshold <= self.early_exit.clear_from:
                raise ValueError("early_exit: the threshold must lie between clear_below and clear_from")
        return self


class RowCard(ModelCard):
    """A model of rows of numbers.

    `hidden` are the widths between input and output; an autoencoder's end at its code and are mirrored behind it.
    A detector calls `positive_label` where the mean of its squared errors is above `threshold`.
    """

    task: Literal["tabular-classification", "anomaly-detection"]
    architecture: Literal["mlp", "sensor-autoencoder"]
    hidden: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    input: RowInput
    limits: RowLimits = RowLimits()

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        detector = self.task == "anomaly-detection"
        if detector != (self.architecture == "sensor-autoencoder"):
            raise ValueError(f"architecture {self.architecture!r} does not do {self.task}")
        if detector and (len(self.labels) != 2 or self.positive_label != self.labels[1]):
            raise ValueError("a detector has two labels, the second of them its positive_label")
        return self if detector else _probability(self)


Card = ImageCard | RowCard
_CARD: TypeAdapter[Card] = TypeAdapter(Annotated[Card, Field(discriminator="task")])
Some = TypeVar("Some", bound=ModelCard)


def _probability(card: Some) -> Some:
    if card.threshold is not None and card.threshold > 1:
        raise ValueError(f"threshold {card.threshold} is no probability")
    return card


def read_card(path: Path) -> Card:
    """Read and check one card.toml.

    Raises:
        CardError: no such file, not TOML, an unknown key, or a value outside its closed set; the message names
            the file and the key, and lists what is allowed.
    """
    try:
        return parse_card(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror}); a model's folder needs a card.toml") from error


def read_image_card(path: Path) -> ImageCard:
    """`read_card` for what only pictures have; CardError where the model takes none."""
    card = read_card(path)
    if not isinstance(card, ImageCard):
        raise CardError(f"{path}: {card.name} takes no pictures")
    return card


def parse_card(text: str, origin: str) -> Card:
    """Parse a card from TOML text; `origin` names it in messages. Raises CardError as `read_card` does."""
    try:
        return _CARD.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{origin}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise CardError("\n".join([f"{origin}: the card is not valid", *_reasons(error)])) from error


def _reasons(error: ValidationError) -> list[str]:
    reasons = []
    for detail in error.errors():
        task, *location = detail["loc"] or ("card",)
        where = ".".join(str(part) for part in location) or "card"
        if detail["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(_fields_at(task, location[:-1])))
            reasons.append(f"  {where}: unknown key; allowed here: {allowed}")
        elif detail["type"].startswith("union_tag"):
            reasons.append(f"  task: must be one of {', '.join(TASKS)}")
            known = {*ImageCard.model_fields, *RowCard.model_fields}
            allowed = ", ".join(sorted(known))
            reasons += [f"  {key}: unknown key; allowed here: {allowed}" for key in detail["input"] if key not in known]
        else:
            reasons.append(f"  {where}: {detail['msg']} (got {detail['input']!r})")
    return reasons


TASKS = ("image-classification", "tabular-classification", "anomaly-detection")


def _fields_at(task: int | str, location: Sequence[int | str]) -> list[str]:
    """The keys of a section, found by following the card's own types; list positions count for nothing."""
    section: Any = ImageCard if task == TASKS[0] else RowCard
    for part in location:
        if isinstance(part, str) and part in getattr(section, "model_fields", ()):
            section = _section_of(section.model_fields[part].annotation)
    return list(getattr(section, "model_fields", ()))


def _section_of(annotation: Any) -> Any:
    """The section behind `Section | None`, `tuple[Section, ...]` and the like."""
    inner = [part for part in get_args(annotation) if part not in (type(None), Ellipsis)]
    return _section_of(inner[0]) if inner else annotation
