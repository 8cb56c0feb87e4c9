"""The model card: what a model expects and returns, as data from closed sets."""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal, Self, TypeGuard

from pydantic import Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError, model_validator

from errors import CardError, InvalidInput
from explain.base import MethodName
from models.answer import Answer, ImageAnswer, OutputValue, check_answer
from models.assumed import Assumable
from models.card_problems import card_problems
from preprocessing.row_spec import RowInput, RowLimits
from preprocessing.spec import Frozen, ImageInput, ImageLimits

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$", max_length=60)]
Probability = Annotated[float, Field(ge=0, le=1)]
HeadActivation = Literal["gelu", "relu", "silu"]
ASSUMED_HEAD_ACTIVATION: Final = "gelu"
"""The activation of a head where the card names none."""


class Explain(Frozen):
    """How a model's heatmaps are made.

    Attributes:
        layer: the module of the network whose activations make the map; of a graph, the name of its feature map.
        method: the default method.
    """

    layer: str
    method: MethodName


class EarlyExit(Frozen):
    """Where the network stops early in the variant `early-exit` (`vitrine models import NAME --variant early-exit`).

    The head in `exit.safetensors` classifies the activations of a layer. Its answer counts if its probability of
    `positive_label` is below `clear_below`, or at least `clear_from`; otherwise the rest of the network is run.

    Attributes:
        layer: the module of the network whose activations the head gets.
        clear_below: a probability, at most the card's threshold.
        clear_from: a probability, at least the card's threshold.
    """

    layer: str
    clear_below: Probability
    clear_from: Probability


class ModelCard(Frozen):
    """What the cards of all models have in common; `ImageCard` and `RowCard` add the rest.

    Attributes:
        name: lower-case words with hyphens between them.
        title: a line for people.
        description: what the model answers.
        parameters: number of the network's trainable values, where it is known.
        labels: in the order of the model's outputs; a regressor has none.
        positive_label: the answer wherever its probability is at least `threshold`; elsewhere the answer is the most
            probable of the other labels. Without it the answer is the most probable label.
        threshold: goes with `positive_label`.
        temperature: what logits are divided by before softmax (Guo et al. 2017); None for 1.
        licence: of the weights.
        data: what the weights were trained on.
        warnings: repeated in every answer.
    """

    name: Name
    title: str
    description: str
    parameters: PositiveInt | None = None
    labels: tuple[str, ...] = ()
    positive_label: str | None = None
    threshold: PositiveFloat | None = None
    temperature: PositiveFloat | None = None
    licence: str
    data: str
    warnings: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _labels_fit(self) -> Self:
        needs_labels = getattr(self, "task", "") != "tabular-regression"
        if needs_labels and len(self.labels) < 2 and (self.labels or getattr(self, "architecture", "") != "onnx"):
            raise ValueError("labels: there must be two or more; a model that comes as a graph brings its own, so []")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels: each label may stand only once")
        if self.labels and self.positive_label is not None and self.positive_label not in self.labels:
            more = f" and {len(self.labels) - 20} more" if len(self.labels) > 20 else ""
            raise ValueError(
                f"positive_label {self.positive_label!r} is not one of the labels: {', '.join(self.labels[:20])}{more}"
            )
        if (self.positive_label is None) != (self.threshold is None):
            raise ValueError("positive_label and threshold go together: give both or neither")
        return self


class ImageCard(ModelCard):
    """The card of an image classifier: `models/<folder>/card.toml`, where the folder is the name with `_` for `-`.

    A model of the architecture `onnx` comes as a graph with a file of labels. PyTorch has no network of it, so it is
    explained only where `vitrine models add` could write an explain graph.

    Attributes:
        head_activation: in the head of `efficientnet-b4-head`; None for `ASSUMED_HEAD_ACTIVATION`.
        assumed: keys whose values are usual ones, which nobody has confirmed for this model.
    """

    task: Literal["image-classification"]
    architecture: Literal["efficientnet-b4-head", "pyramidnet-110", "onnx"]
    head_activation: HeadActivation | None = None
    input: ImageInput
    answer: ImageAnswer = ImageAnswer()
    limits: ImageLimits = ImageLimits()
    explain: Explain | None = None
    early_exit: EarlyExit | None = None
    assumed: tuple[Assumable, ...] = ()

    @model_validator(mode="after")
    def _network_fits(self) -> Self:
        if self.head_activation is not None and self.architecture != "efficientnet-b4-head":
            raise ValueError(f"head_activation: {self.architecture} has no head that could have another")
        if self.architecture != "onnx" and (self.input.channels == "grey" or self.input.layout == "nhwc"):
            raise ValueError(
                f'input: {self.architecture} takes three channels in the layout "nchw"; a graph may take others'
            )
        return self

    @model_validator(mode="after")
    def _answer_fits(self) -> Self:
        if self.answer.heatmap and self.explain is None:
            raise ValueError("answer.heatmap: it goes with a section `explain`, which names the layer of the heatmaps")
        check_answer(self.answer, self.task, self.labels, self.input, self.limits)
        return self

    @model_validator(mode="after")
    def _threshold_and_exit_fit(self) -> Self:
        _check_threshold_is_probability(self)
        if self.early_exit is not None:
            if self.threshold is None or len(self.labels) != 2:
                raise ValueError("early_exit: it goes with two labels, a positive_label and a threshold")
            if not self.early_exit.clear_below <= self.threshold <= self.early_exit.clear_from:
                raise ValueError("early_exit: the threshold must lie between clear_below and clear_from")
        return self


class RowCard(ModelCard):
    """The card of a model that takes rows of numbers and categories.

    A detector answers `positive_label` if the mean of its squared errors is above `threshold`. A regressor answers the
    numbers in `outputs`. A model of the architecture `onnx` comes as a graph that takes rows (N, features) float32 and
    gives logits (N, labels), or values (N, outputs).

    Attributes:
        hidden: widths of the layers between input and output; an autoencoder's end at its code, and the layers behind
            the code mirror those before it. A graph has none.
        outputs: what a regressor answers, in the order of the graph's values.
    """

    task: Literal["tabular-classification", "tabular-regression", "anomaly-detection"]
    architecture: Literal["mlp", "sensor-autoencoder", "onnx"]
    hidden: tuple[PositiveInt, ...] = ()
    outputs: tuple[OutputValue, ...] = ()
    input: RowInput
    answer: Answer = Answer()
    limits: RowLimits = RowLimits()

    @property
    def columns(self) -> int:
        """The number of values that the network gives for a row."""
        if is_detector(self):
            return len(self.input.features)
        return len(self.outputs) if is_regressor(self) else len(self.labels)

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        detector = is_detector(self)
        if self.task != "tabular-classification" and self.temperature is not None:
            raise ValueError(f"temperature: {self.task} has no softmax that it could go with")
        architectures = {"tabular-classification": ("mlp", "onnx"), "tabular-regression": ("onnx",)}
        if self.architecture not in architectures.get(self.task, ("sensor-autoencoder",)):
            raise ValueError(f"architecture {self.architecture!r} does not do {self.task}")
        if detector and (len(self.labels) != 2 or self.positive_label != self.labels[1]):
            raise ValueError("a detector has two labels, the second of them its positive_label")
        if not detector:
            _check_threshold_is_probability(self)
        check_answer(self.answer, self.task, self.labels, self.input, self.limits, self.outputs)
        return self

    @model_validator(mode="after")
    def _outputs_fit(self) -> Self:
        if is_regressor(self) != bool(self.outputs):
            raise ValueError("outputs: a tabular-regression has one or more, no other task has any")
        if is_regressor(self) and self.labels:
            raise ValueError("labels: a regressor has none")
        if len({output.name for output in self.outputs}) != len(self.outputs):
            raise ValueError("outputs: each name may stand only once")
        return self

    @model_validator(mode="after")
    def _input_fits_the_network(self) -> Self:
        if (self.architecture == "onnx") == bool(self.hidden):
            raise ValueError("hidden: a network has one width or more, a graph none")
        if self.architecture != "onnx" and any(
            feature.categories or feature.missing for feature in self.input.features
        ):
            raise ValueError(f"features: {self.architecture} takes numbers alone, no categories and no missing values")
        return self


Card = ImageCard | RowCard
_CARD: TypeAdapter[Card] = TypeAdapter(Annotated[Card, Field(discriminator="task")])
_CARDS: dict[str, type[ModelCard]] = {
    "image-classification": ImageCard,
    "tabular-classification": RowCard,
    "tabular-regression": RowCard,
    "anomaly-detection": RowCard,
}


def _check_threshold_is_probability(card: ModelCard) -> None:
    if card.threshold is not None and card.threshold > 1:
        raise ValueError(f"threshold {card.threshold} is no probability")


def as_image_card(card: Card) -> ImageCard:
    """Return the card of a model of pictures.

    Raises:
        InvalidInput: the model takes rows.
    """
    if not isinstance(card, ImageCard):
        raise InvalidInput(f"{card.name} takes rows of numbers, not pictures.")
    return card


def as_row_card(card: Card) -> RowCard:
    """Return the card of a model of rows.

    Raises:
        InvalidInput: the model takes pictures.
    """
    if not isinstance(card, RowCard):
        raise InvalidInput(f"{card.name} takes pictures, not rows of numbers.")
    return card


def is_detector(card: ModelCard) -> TypeGuard[RowCard]:
    """Return whether the model detects anomalies, so that its outputs are squared errors and not logits."""
    return isinstance(card, RowCard) and card.task == "anomaly-detection"


def is_regressor(card: ModelCard) -> TypeGuard[RowCard]:
    """Return whether the model answers numbers, so that its outputs are values and not logits."""
    return isinstance(card, RowCard) and card.task == "tabular-regression"


def read_card(path: Path) -> Card:
    """Read and check a card.toml.

    Raises:
        CardError: there is no such file, it is not TOML, or it has an unknown key or a value outside its closed set;
            the message names the file and the key, and lists what is allowed.
    """
    try:
        return parse_card(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise CardError(f"{path}: cannot be read ({error.strerror}); a model's folder needs a card.toml") from error


def read_image_card(path: Path) -> ImageCard:
    """Read and check the card.toml of an image classifier.

    Raises:
        CardError: the card cannot be read, or the model takes no pictures.
    """
    card = read_card(path)
    if not isinstance(card, ImageCard):
        raise CardError(f"{path}: {card.name} takes no pictures")
    return card


def parse_card(text: str, origin: str) -> Card:
    """Parse and check a card.

    Args:
        text: TOML.
        origin: what messages call the card, such as its path.

    Raises:
        CardError: the text is not TOML or no valid card, as for `read_card`.
    """
    try:
        return _CARD.validate_python(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise CardError(f"{origin}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise CardError("\n".join([f"{origin}: the card is not valid", *card_problems(error, _CARDS)])) from error
