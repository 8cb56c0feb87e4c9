"""What may be asked of a prediction, and what it says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import WHOLE_NETWORK, AnsweredBy, Logits
from errors import InvalidInput
from models.card import RowCard, as_image_card, as_row_card, is_detector, is_regressor
from postprocessing.anomaly import Anomalies, detect_rows
from postprocessing.caution import image_warnings
from postprocessing.classification import Classification, Classifications, classify, classify_rows
from postprocessing.regression import Regressions
from runners.runner import Answer
from serving.attributions import RowExplanation, RowExplanationRequest, Targets
from serving.gradcam.wire import Explanation
from serving.loaded_model import LoadedModel
from serving.row_pipeline import RowOutputs


@dataclass(frozen=True)
class PredictionParameters:
    """What a caller may ask of a prediction.

    Attributes:
        threshold: used instead of the card's; None for the card's.
        top_k: how many of the most probable labels to list.
        with_heatmap: whether a prediction comes with an explanation, if there can be one.
    """

    threshold: float | None = None
    top_k: int = 1
    with_heatmap: bool = False


class ImagePrediction(NamedTuple):
    """The prediction of one picture.

    Attributes:
        classification: label, probabilities and threshold.
        logits: shape (K,), float32.
        warnings: what to bear in mind about this answer.
        answered_by: the part of the network that answered; None for a model without an early exit.
        answer: the Runner's answer, with its times.
        explanations: where the network looked for each class; empty where nobody asked or there are none.
        explanation_error: why there is no explanation although one was asked for.
    """

    classification: Classification
    logits: Logits
    warnings: list[str]
    answered_by: AnsweredBy | None
    answer: Answer[Any]
    explanations: Sequence[Explanation] = ()
    explanation_error: str | None = None

    @property
    def explanation(self) -> Explanation | None:
        """That of the first class; None where there is none."""
        return self.explanations[0] if self.explanations else None


RowResults = Classifications | Anomalies | Regressions
"""What a classifier, a detector or a regressor makes of rows."""


class RowPredictions(NamedTuple):
    """The predictions of the rows of one request.

    Attributes:
        results: for each row that is right, in order, what the model makes of it.
        outputs: shape (n, K), float32, of the same rows: logits, squared errors, or values.
        problems: what is wrong with each of the other rows, by its place in the request.
        warnings: what to bear in mind about these answers.
        answer: the Runner's answer, with its times.
        explanations: why each of the same rows was answered so, by target; empty where nobody asked or there are none.
        explanation_error: why there are no explanations although they were asked for.
    """

    results: RowResults
    outputs: Logits
    problems: dict[int, InvalidInput]
    warnings: Sequence[str]
    answer: Answer[RowOutputs]
    explanations: Sequence[Sequence[RowExplanation]] = ()
    explanation_error: str | None = None


def image_prediction(
    model: LoadedModel,
    answer: Answer[Any],
    parameters: PredictionParameters,
    explanations: Sequence[Explanation] = (),
) -> ImagePrediction:
    """Return what the answer for one picture means, as the card and the parameters say, and count its label."""
    card, outputs = as_image_card(model.card), answer.value
    if explanations:
        answered_by: AnsweredBy | None = WHOLE_NETWORK if model.has_early_exit else None
    else:
        answered_by = outputs.answered_by
    classification = classify(outputs.logits, card, threshold=parameters.threshold, top_k=parameters.top_k)
    model.meters.answered(classification.class_id, classification.confidence)
    return ImagePrediction(
        classification,
        outputs.logits,
        image_warnings(card, outputs.sharpness, answered_by, parameters.threshold),
        answered_by,
        answer,
        explanations,
    )


def row_predictions(model: LoadedModel, answer: Answer[RowOutputs], parameters: PredictionParameters) -> RowPredictions:
    """Return what the answer for the rows of one request means, as card and parameters say; count the labels."""
    card, (outputs, problems, _) = as_row_card(model.card), answer.value
    results = row_results(card, outputs, parameters)
    if isinstance(results, Classifications):
        model.meters.answered_rows(results.class_ids, results.probabilities)
    elif isinstance(results, Anomalies):
        model.meters.answered_rows(results.are_anomalies, results.confidences)
    return RowPredictions(results, outputs, problems, card.warnings, answer)


def row_results(card: RowCard, outputs: Logits, parameters: PredictionParameters) -> RowResults:
    """Return what rows of outputs mean, as the card and the parameters say."""
    if is_detector(card):
        return detect_rows(outputs, card, threshold=parameters.threshold)
    if is_regressor(card):
        return Regressions(outputs)
    return classify_rows(outputs, card, threshold=parameters.threshold, top_k=parameters.top_k)


def explained_targets(results: RowResults, request: RowExplanationRequest) -> Sequence[Targets]:
    """Return what is explained of each row.

    Args:
        results: what the model makes of the rows.
        request: without targets, the label of each answer is explained, or the first value.
    """
    if isinstance(results, Anomalies):
        return [[None]] * len(results.scores)
    if isinstance(results, Regressions):
        return [request.targets or (0,)] * len(results.values)
    if request.top:
        return [most_probable(of_row, request.top, request.contrast) for of_row in results.probabilities]
    return [request.targets or (class_id,) for class_id in results.class_ids.tolist()]


def most_probable(scores: npt.NDArray[Any], count: int, contrast: int | None) -> list[int]:
    """Return the indices of the most probable labels, the first first, without the one that they are set against.

    Args:
        scores: logits or probabilities, shape (K,).
        count: how many; fewer come where the model has no more.
        contrast: the index of the label that is left out; None or below 0 for none.
    """
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return [label for label in order if label != contrast][:count]
