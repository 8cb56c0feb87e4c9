"""The query parameters of predictions and explanations: one pydantic model a route, which checks and documents them."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from starlette.datastructures import QueryParams

from api.explained_classes import ExplainedClasses
from api.parameter_names import check_names
from api.parameter_types import Number, Switch, whole_number
from api.target import VersionQuery
from errors import InvalidInput
from explain.base import NO_CONTRAST
from explain.overlay import Output
from explain.rise import DEFAULT_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES, MapMethodName
from models.answer import LabelForm
from models.card import Card, ImageCard, ModelCard, is_detector, is_regressor
from serving.attributions import target_names
from serving.gradcam.requests import DEFAULT_ALPHA
from serving.gradcam.wire import ExplanationRequest
from serving.predictions import PredictionParameters

LONGEST_TIMEOUT_MS = 3_600_000


Asked = TypeVar("Asked", bound=BaseModel)


def _with_plus(text: str) -> str:
    """Return a word with the plus signs that an URL turned into spaces because they were not quoted."""
    return text.replace(" ", "+")


Threshold = Annotated[float | None, Field(description="Instead of the card's.", allow_inf_nan=False), Number]


@cache
def _unasked(query: type[Asked]) -> Asked:
    """Return the one query in which nothing is asked."""
    return query()


@cache
def _names_of(query: type[BaseModel]) -> tuple[str, ...]:
    """Return the names that a query may hold: its own parameters', and that of a model's version."""
    return (*query.model_fields, *VersionQuery.model_fields)


class Query(BaseModel):
    """What every prediction can be asked; names that are unlike all known ones are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    threshold: Threshold = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=1, description="How many of the most probable labels to list in `top`.")
    label: LabelForm | None = Field(None, description="Whether `prediction` is the label's name or its index.")
    timeout_ms: Annotated[float | None, Number] = Field(
        None, ge=1, le=LONGEST_TIMEOUT_MS, allow_inf_nan=False, description="Answer 504 rather than later than this."
    )

    @classmethod
    def read(cls, query: bytes, card: ModelCard) -> Self:
        """Check a query string, percent-encoded as it came, as the card allows.

        Raises:
            InvalidInput: the message names the parameter, its value and what is allowed; or the known name that an
                unknown one nearly is.
        """
        if not query:
            unasked: Self = _unasked(cls)
            return unasked
        try:
            context, given = {"labels": card.labels, "targets": target_names(card)}, QueryParams(query)
            check_names(given, _names_of(cls))
            repeated = {"target": given.getlist("target")} if "target" in given else {}
            return cls.model_validate({**given, **repeated}, context=context)
        except ValidationError as error:
            raise InvalidInput(_problem(error, cls)) from error

    @field_validator("top_k", mode="before")
    @classmethod
    def _is_a_number_of_labels(cls, text: str, info: ValidationInfo) -> int:
        labels = len(info.context["labels"]) if info.context else 0
        return whole_number(1, labels)(text)

    def parameters(self, card: Card, top_k: int | None = None) -> PredictionParameters:
        """Return what the core is asked for; `top_k` is what the operator set for requests that name none."""
        labels = len(card.labels)
        default = min(top_k or (1 if labels <= 2 else 3), labels)
        return PredictionParameters(self.threshold, self.top_k or default)

    def label_form(self, card: Card) -> LabelForm:
        """Return whether the answer names a label or its index."""
        return self.label or card.answer.label


class PredictionQuery(Query):
    """What the prediction of a classifier can be asked."""

    include_explanation: Switch = Field(
        None,
        description="Ask for a heatmap, or a row's attributions; `explanation_error` says why there are none.",
    )
    include_gradcam: Switch = Field(None, description="The same as `include_explanation`, which goes first.")

    def parameters(self, card: Card, top_k: int | None = None) -> PredictionParameters:
        """Return what the core is asked for, with a heatmap where the request or else the card asks for one."""
        parameters = super().parameters(card, top_k)
        by_default = isinstance(card, ImageCard) and card.answer.heatmap
        asked = self.include_gradcam if self.include_explanation is None else self.include_explanation
        with_heatmap = by_default if asked is None else asked
        return replace(parameters, with_heatmap=True) if with_heatmap else parameters


class RowQuery(PredictionQuery):
    """What the prediction of rows can be asked."""

    include_gradcam: SkipJsonSchema[Switch] = None


class DetectorQuery(RowQuery):
    """What the prediction of a detector can be asked; its threshold is a score above 0."""

    top_k: SkipJsonSchema[int | None] = Field(None, ge=1)
    label: SkipJsonSchema[LabelForm | None] = None

    threshold: Threshold = Field(None, ge=1e-9, le=1e9)


class RegressorQuery(RowQuery):
    """What the prediction of a regressor can be asked, which has no labels: no parameter about these counts."""

    top_k: SkipJsonSchema[int | None] = None
    threshold: SkipJsonSchema[float | None] = None
    label: SkipJsonSchema[LabelForm | None] = None

    @model_validator(mode="before")
    @classmethod
    def _has_no_labels(cls, query: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in query.items() if name not in ("top_k", "threshold", "label")}


class RankedQuery(Query):
    """What a request of TorchServe's clients can be asked; labels are named, never by their index."""

    label: SkipJsonSchema[LabelForm | None] = None


class InstancesQuery(RankedQuery):
    """What a request of KServe V1 can be asked; probabilities come for every label, so that there is no `top_k`."""

    top_k: SkipJsonSchema[int | None] = Field(None, ge=1)


class Drawing(BaseModel):
    """How an explanation can be drawn."""

    format: Literal["json", "png"] = Field("json", description="json, or the picture itself.")
    output: Output = Field("overlay", description="The heatmap over the picture, the bare heatmap, the numbers.")
    method: Annotated[MapMethodName | None, BeforeValidator(_with_plus)] = Field(
        None, description="Instead of the card's; rise takes many predictions and no gradient."
    )
    samples: Annotated[int, BeforeValidator(whole_number(LEAST_SAMPLES, MOST_SAMPLES))] = Field(
        DEFAULT_SAMPLES,
        ge=LEAST_SAMPLES,
        le=MOST_SAMPLES,
        description=f"How many masks rise draws, a prediction each; {DEFAULT_SAMPLES} by default.",
    )
    alpha: Annotated[float, Number] = Field(
        DEFAULT_ALPHA,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description=f"Opacity of the overlay at its peak; {DEFAULT_ALPHA} by default.",
    )
    size: Literal["original", "input"] = Field(
        "original", description="The size of the picture that is drawn: the upload's own, or the model's input."
    )


class ExplanationQuery(Query, ExplainedClasses, Drawing):
    """What an explanation can be asked: how it is drawn, and what its prediction can be asked."""

    include_gradcam: SkipJsonSchema[Switch] = None

    @field_validator("output")
    @classmethod
    def _is_no_picture_of_numbers(cls, output: Output, info: ValidationInfo) -> Output:
        if output == "map" and info.data.get("format") == "png":
            raise ValueError("a map is numbers, no PNG: ask for output=heatmap, or for format=json")
        return output

    def request(self, data: bytes, card: ModelCard, default_method: str) -> ExplanationRequest:
        """Return the request for one encoded picture, of all classes that are to be explained."""
        contrast = self.contrast_index(card.labels)
        return ExplanationRequest(
            data,
            self.targets(card.labels),
            self.method or default_method,
            self.output,
            self.alpha,
            at_input_size=self.size == "input",
            threshold=self.threshold,
            contrast=NO_CONTRAST if contrast is None else contrast,
            samples=self.samples,
            top=self.explain_top or 0,
        )


def prediction_query(card: Card) -> type[PredictionQuery]:
    """Return the model of the query of a card's predictions."""
    if is_detector(card):
        return DetectorQuery
    if is_regressor(card):
        return RegressorQuery
    return PredictionQuery if isinstance(card, ImageCard) else RowQuery


def threshold_limits(card: ModelCard) -> tuple[float, float]:
    """Return the lowest and the highest threshold: of a probability, or of a detector's score."""
    return (1e-9, 1e9) if is_detector(card) else (0.0, 1.0)


def _problem(error: ValidationError, query: type[BaseModel]) -> str:
    """Return what is wrong with the first parameter that is wrong, and what it must be."""
    detail = error.errors()[0]
    name = str(detail["loc"][0])
    if detail["type"] == "value_error":
        expected = str(detail["ctx"]["error"])
    else:
        expected = f"must be {_expectation(query.model_json_schema()['properties'][name])}"
    return f"{name}={detail['input']!r}: {expected}."


def _expectation(schema: Mapping[str, Any]) -> str:
    """Return the words for what a parameter's schema allows."""
    options = schema.get("anyOf", [schema])
    limits = next(option for option in options if option.get("type") != "null")
    if "enum" in limits:
        return f"one of {', '.join(limits['enum'])}"
    return f"a number from {limits['minimum']:g} to {limits['maximum']:,.10g}"
