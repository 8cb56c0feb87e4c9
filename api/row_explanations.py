"""Explanations of rows over HTTP: what can be asked of them, their JSON, and their picture."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.json_schema import SkipJsonSchema

from api.explained_classes import ExplainedClasses
from api.parameter_types import Switch, whole_number
from api.parameters import DetectorQuery, RegressorQuery, RowQuery
from api.schemas import Cost
from explain.bars import BarText, draw_bars
from explain.overlay import png
from explain.shapley import DEFAULT_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES, RowMethodName
from models.card import RowCard, is_detector, is_regressor
from serving.attributions import RowExplanation, RowExplanationRequest, target_names

DIGITS = "%.9g"
"""How attributions are written: float32, which computed the outputs, holds no more digits."""


class RowExplanationFacts(BaseModel):
    """Why a row was answered as it was; the attributions add up to `value` - `base_value`, but for rounding."""

    method: RowMethodName
    target: str = Field(description="The label whose probability is explained, the value, or a detector's score.")
    target_class_id: int | None = Field(
        None, description="The index of the label or of the value.", exclude_if=lambda target: target is None
    )
    contrast: str | None = Field(
        None,
        description="The label that the target was set against: the natural logarithm of the ratio of their "
        "probabilities is explained.",
        exclude_if=lambda label: label is None,
    )
    attributions: dict[str, float] = Field(
        description="By feature: how far it moved the output away from `base_value`; Shapley values."
    )
    base_value: float = Field(description="The mean output over the background.")
    value: float = Field(description="The output for this row.")
    standard_errors: dict[str, float] | None = Field(
        None, description="Of sampled attributions, by feature.", exclude_if=lambda errors: errors is None
    )
    background: str = Field(description="What the rows are that this one was compared with.")
    background_rows: int = Field(description="How many they are.")
    cost: Cost = Field("many predictions", description="What it takes; `evaluations` says how many.")
    evaluations: int = Field(description="How many rows the model computed for all explanations of this row.")
    time_ms: float = Field(description="The time that these took, after the prediction.")


class MaybeExplainedRow(BaseModel):
    """What the answer about a row holds beside the prediction, where its explanation was asked for."""

    explanation: RowExplanationFacts | None = Field(None, description="With include_explanation=true, and of /explain.")
    explanation_error: str | None = Field(None, description="Why there is no explanation though one was asked for.")


class _Asked(ExplainedClasses):
    """What an explanation of a row can be asked."""

    format: Literal["json", "png"] = Field("json", description="json, or a plot of bars, of one row.")
    method: RowMethodName | None = Field(
        None, description="Exact Shapley values, the default of up to 12 features, or sampled ones with their error."
    )
    samples: Annotated[int | None, BeforeValidator(whole_number(LEAST_SAMPLES, MOST_SAMPLES))] = Field(
        None,
        ge=LEAST_SAMPLES,
        le=MOST_SAMPLES,
        description=f"Orders of the features that sampling draws, beside their reverses; {DEFAULT_SAMPLES} by default.",
    )
    include_explanation: SkipJsonSchema[Switch] = None
    include_gradcam: SkipJsonSchema[Switch] = None

    def request(self, card: RowCard) -> RowExplanationRequest:
        """Return how the core is to explain."""
        names = target_names(card)
        return RowExplanationRequest(
            () if is_detector(card) else self.targets(names),
            self.explain_top or 0,
            self.contrast_index(names),
            self.method,
            self.samples,
        )


class ClassifierExplanationQuery(_Asked, RowQuery):
    """What the explanation of a classifier's rows can be asked."""


class DetectorExplanationQuery(_Asked, DetectorQuery):
    """What the explanation of a detector's rows can be asked, whose score is explained."""

    explain_top: SkipJsonSchema[int | None] = None
    contrast: SkipJsonSchema[str | None] = None


class RegressorExplanationQuery(_Asked, RegressorQuery):
    """What the explanation of a regressor's rows can be asked, whose values are no alternatives to each other."""

    explain_top: SkipJsonSchema[int | None] = None
    contrast: SkipJsonSchema[str | None] = None


RowExplanationQuery = ClassifierExplanationQuery | DetectorExplanationQuery | RegressorExplanationQuery


def row_explanation_query(card: RowCard) -> type[RowExplanationQuery]:
    """Return the model of the query of the explanations of a card's rows."""
    if is_detector(card):
        return DetectorExplanationQuery
    return RegressorExplanationQuery if is_regressor(card) else ClassifierExplanationQuery


def explanation_facts(explanation: RowExplanation, card: RowCard) -> dict[str, Any]:
    """Return an explanation as plain JSON values, as `RowExplanationFacts` describes them."""
    attributions, errors = explanation.attributions, explanation.attributions.standard_errors
    return RowExplanationFacts(
        method=explanation.method,
        target=explanation.target,
        target_class_id=explanation.target_id,
        contrast=explanation.contrast,
        attributions=_by_feature(attributions.values.tolist(), card),
        base_value=float(DIGITS % attributions.base_value),
        value=float(DIGITS % attributions.value),
        standard_errors=None if errors is None else _by_feature(errors.tolist(), card),
        background=explanation.background.data,
        background_rows=len(explanation.background.rows),
        evaluations=explanation.evaluations,
        time_ms=round(explanation.time_ms, 3),
    ).model_dump()


def explanation_png(explanation: RowExplanation, row: Mapping[str, Any], card: RowCard) -> bytes:
    """Return an explanation as a plot of bars, encoded as PNG.

    Args:
        explanation: of one row.
        row: the row as it was sent.
        card: the model's card.
    """
    attributions = explanation.attributions
    value = f"{explanation.target} {attributions.value:.4g}"
    if explanation.contrast is not None:
        value = f"ln P({explanation.target}) / P({explanation.contrast}) = {attributions.value:.4g}"
    elif card.labels and explanation.target_id is not None:
        value = f"probability of {value}"
    note = (
        f"{attributions.value - attributions.base_value:+.4g} from {attributions.base_value:.4g}, the mean of "
        f"{len(explanation.background.rows)} rows ({explanation.background.data}); {explanation.method}"
    )
    names = [_with_value(feature.name, row.get(feature.name), feature.unit) for feature in card.input.features]
    return png(draw_bars(attributions, BarText(f"{card.title}: {value}", names, note)))


def _with_value(name: str, value: Any, unit: str) -> str:
    return f"{name} = {'missing' if value is None else value}{f' {unit}' if unit and value is not None else ''}"


def _by_feature(numbers: Sequence[float], card: RowCard) -> dict[str, float]:
    pairs = zip(card.input.features, numbers, strict=True)
    return {feature.name: float(DIGITS % number) for feature, number in pairs}
