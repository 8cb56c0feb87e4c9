"""The model card: what a model expects and returns, as data from closed sets."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, model_validator

from errors import CardError
from explain.base import MethodName
from preprocessing.spec import Frozen, ImageInput, ImageLimits

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=60)]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Explain(Frozen):
    """How the model explains itself.

    `layer` names the module of the network whose activations make the map; `method` is the default.
    """

    layer: str
    method: MethodName


class ModelCard(Frozen):
    """One model, as `models/<folder>/card.toml` describes it (folder: the name with `_` for `-`).

    `labels` are in the order of the model's outputs. With `positive_label` the answer is that label where its
    probability is at least `threshold`, else the most probable of the others; without it, the most probable label.
    `warnings` are repeated in every answer. `parameters` counts the network's trainable values.
    """

    name: Name
    title: str
    description: str
    task: Literal["image-classification"]
    architecture: Literal["efficientnet-b4-head"]
    parameters: PositiveInt
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    positive_label: str | None = None
    threshold: Probability | None = None
    licence: str
    data: str
    warnings: tuple[str, ...] = ()
    input: ImageInput
    limits: ImageLimits = ImageLimits()
    explain: Explain | None = None

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may stand only once")
        if self.positive_label is not None and self.positive_label not in self.labels:
            raise ValueError(
                f"positive_label {self.positive_label!r} is not one of the labels: {', '.join(self.labels)}"
            )
        if (self.positive_label is None) != (self.threshold is None):
            raise ValueError("positive_label and threshold go together: give both or neither")
        return self


def read_card(path: Path) -> ModelCard:
    """Read and check one card.toml.

    Raises:
        CardError: no such file, not TOML, an unknown key, or a value outside its closed set; the message names
            the file and the key, and lists what is allowed.
    """
    try:
        return parse_card(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror}); a model's folder needs a card.toml") from error


def parse_card(text: str, origin: str) -> ModelCard:
    """Parse a card from TOML text; `origin` names it in messages. Raises CardError as `read_card` does."""
    try:
        return ModelCard.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{origin}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise CardError("\n".join([f"{origin}: the card is not valid", *_reasons(error)])) from error


def _reasons(error: ValidationError) -> list[str]:
    reasons = []
    for detail in error.errors():
        where = ".".join(str(part) for part in detail["loc"]) or "card"
        if detail["type"] == "extra_forbidden":
            allowed = ", ".join(sorted(_fields_at(detail["loc"][:-1])))
            reasons.append(f"  {where}: unknown key; allowed here: {allowed}")
        else:
            reasons.append(f"  {where}: {detail['msg']} (got {detail['input']!r})")
    return reasons


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    sections: dict[tuple[int | str, ...], type[Frozen]] = {
        (): ModelCard,
        ("input",): ImageInput,
        ("limits",): ImageLimits,
        ("explain",): Explain,
    }
    return list(sections[location].model_fields) if location in sections else []
