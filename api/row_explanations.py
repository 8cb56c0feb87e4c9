"""Explanations of rows over HTTP: what can be asked of them, their JSON, and their picture."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic.json_schema import SkipJsonSchema

from api.parameters import DetectorQuery, RegressorQuery, RowQuery, Switch, checked_target, whole_number
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
    time_ms: float = Field(description="The time that explaining took, after the prediction.")


class _Asked(BaseModel):
    """What an explanation of a row can be asked."""

    format: Literal["json", "png"] = Field("json", description="json, or a plot of bars, of one row.")
    target: str | None = Field(
        None, description="The label or value to explain, by name or index; the label answered by default."
    )
    method: RowMethodName | None = Field(
        None, description="Exact Shapley values, the default of up to 12 features, or sampled ones with their error."
    )
    samples: Annotated[int, BeforeValidator(whole_number(LEAST_SAMPLES, MOST_SAMPLES))] = Field(
        DEFAULT_SAMPLES,
        ge=LEAST_SAMPLES,
        le=MOST_SAMPLES,
        description=f"Orders of the features that sampling draws, beside their reverses; {DEFAULT_SAMPLES} by default.",
    )
    include_explanation: SkipJsonSchema[Switch] = None
    include_gradcam: SkipJsonSchema[Switch] = None

    @field_validator("target")
    @classmethod
    def _is_a_target(cls, target: str | None, info: ValidationInfo) -> str | None:
        return checked_target(target, info)

    def request(self, card: RowCard) -> RowExplanationRequest:
        """Return how the core is to explain."""
        names, target = target_names(card), None
        if self.target is not None:
            target = names.index(self.target) if self.target in names else int(self.target)
        return RowExplanationRequest(target, self.method, self.samples)


class ClassifierExplanationQuery(_Asked, RowQuery):
    """What the explanation of a classifier's rows can be asked."""


class DetectorExplanationQuery(_Asked, DetectorQuery):
    """What the explanation of a detector's rows can be asked."""


class RegressorExplanationQuery(_Asked, RegressorQuery):
    """What the explanation of a regressor's rows can be asked."""


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
        attributions=_by_feature(attributions.values.tolist(), card),
        base_value=float(DIGITS % attributions.base_value),
        value=float(DIGITS % attributions.value),
        standard_errors=None if errors is None else _by_feature(errors.tolist(), card),
        background=explanation.background.data,
        background_rows=len(explanation.background.rows),
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
    of = f"{'probability of ' if card.labels and explanation.target_id is not None else ''}{explanation.target}"
    note = (
        f"{attributions.value - attributions.base_value:+.4g} from {attributions.base_value:.4g}, the mean of "
        f"{len(explanation.background.rows)} rows ({explanation.background.data}); {explanation.method}"
    )
    names = [_with_value(feature.name, row.get(feature.name), feature.unit) for feature in card.input.features]
    return png(draw_bars(attributions, BarText(f"{card.title}: {of} {attributions.value:.4g}", names, note)))


def _with_value(name: str, value: Any, unit: str) -> str:
    return f"{name} = {'missing' if value is None else value}{f' {unit}' if unit and value is not None else ''}"


def _by_feature(numbers: Sequence[float], card: RowCard) -> dict[str, float]:
    pairs = zip(card.input.features, numbers, strict=True)
    return {feature.name: float(DIGITS % number) for feature, number in pairs}
