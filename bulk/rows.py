"""The rows of the output: what each column holds, and how a prediction becomes one."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from errors import BulkError
from models.card import Card, ImageCard, RowCard, is_detector, is_regressor
from models.package import EARLY_EXIT_VARIANT, StoredModel
from postprocessing.anomaly import Anomalies
from postprocessing.classification import MOST_LISTED_LABELS, Classifications
from postprocessing.regression import Regressions
from serving.predictions import ImagePrediction, PredictionParameters, RowPredictions, RowResults

Output = dict[str, Any]
"""One row of the output by the names of its columns."""
Kind = Literal["text", "number", "truth", "numbers", "texts"]


class Column(NamedTuple):
    """One column: its name, and what its cells hold: a text, a number, a truth value, numbers by name, or texts."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class Parameters:
    """What is asked of the model; the answers to the same input depend on nothing else but the model's version.

    Attributes:
        threshold: used instead of the card's.
        top_k: how many labels a model of many labels lists; None for as many as the service does.
        explain: whether overlays are drawn.
    """

    threshold: float | None = None
    top_k: int | None = None
    explain: bool = False

    def of(self, card: Card) -> PredictionParameters:
        """Return the same as the core takes it, with the service's own defaults."""
        labels = len(card.labels)
        return PredictionParameters(self.threshold, self.top_k or min(1 if labels <= 2 else 3, max(labels, 1)))

    def check(self, card: Card) -> None:
        """Return if a model can be asked so; BulkError otherwise."""
        if self.threshold is None:
            return
        if card.threshold is None:
            raise BulkError(f"--threshold: {card.name} has none that another could replace.")
        if self.threshold > 1 and not is_detector(card):
            raise BulkError(f"--threshold {self.threshold:g}: that of {card.name} is a probability, from 0 to 1.")

    def __str__(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def columns_of(stored: StoredModel, parameters: Parameters) -> tuple[Column, ...]:
    """Return the columns of a model's output, in their order."""
    card = stored.card
    columns = [Column("input", "text"), Column("sha256", "text")]
    if is_regressor(card):
        columns.append(Column("values", "numbers"))
    elif is_detector(card):
        columns += [Column("label", "text"), Column("is_anomaly", "truth"), Column("anomaly_score", "number")]
        columns += [Column("confidence", "number"), Column("contributions", "numbers")]
    else:
        columns += [Column("label", "text"), Column("confidence", "number"), Column("probabilities", "numbers")]
    columns.append(Column("warnings", "texts"))
    if stored.variant == EARLY_EXIT_VARIANT:
        columns.append(Column("answered_by", "text"))
    if parameters.explain:
        columns += [Column("overlay", "text"), Column("explanation_error", "text")]
    if isinstance(card, RowCard):
        columns += [Column(entry.name, "text") for entry in card.input.identifiers]
    return (*columns, Column("model", "text"), Column("error", "text"))


def overlay_name(version: str, digest: str) -> str:
    """Return where an overlay lies below the output's folder, by the model's version and the picture's sha256."""
    return f"overlays/{version}/{digest[:2]}/{digest}.png"


def of_picture(prediction: ImagePrediction, stored: StoredModel, parameters: Parameters, digest: str) -> Output:
    """Return what a prediction of a picture adds to its row."""
    classification = prediction.classification
    row: Output = {
        "label": classification.label,
        "confidence": classification.confidence,
        "probabilities": classification.probabilities,
        "warnings": prediction.warnings,
    }
    if stored.variant == EARLY_EXIT_VARIANT:
        row["answered_by"] = prediction.answered_by
    if parameters.explain:
        drawn = prediction.explanation is not None
        row["overlay"] = overlay_name(stored.version, digest) if drawn else None
        row["explanation_error"] = prediction.explanation_error
    return row


def of_rows(predictions: RowPredictions, rows: Sequence[Mapping[str, Any]], card: RowCard) -> list[Output]:
    """Return what the predictions of rows add to theirs, with numbers of nine digits, as the service writes them.

    Args:
        predictions: of the rows of one request.
        rows: all of them, those that are wrong included.
        card: the model's card.
    """
    answered = iter(_results(predictions.results, card))
    outputs = list[Output]()
    for place, row in enumerate(rows):
        problem = predictions.problems.get(place)
        output = {"error": str(problem)} if problem else next(answered) | {"warnings": list(predictions.warnings)}
        identifiers = {entry.name: row.get(entry.name) for entry in card.input.identifiers}
        outputs.append(output | {name: None if value is None else str(value) for name, value in identifiers.items()})
    return outputs


def _results(results: RowResults, card: RowCard) -> list[Output]:
    if isinstance(results, Regressions):
        names = [output.name for output in card.outputs]
        return [{"values": _named(names, values)} for values in results.values.tolist()]
    if isinstance(results, Anomalies):
        names = [feature.name for feature in card.input.features]
        return [
            {
                "label": card.labels[is_anomaly],
                "is_anomaly": bool(is_anomaly),
                "anomaly_score": _nine(score),
                "confidence": _nine(confidence),
                "contributions": _named(names, contributions),
            }
            for is_anomaly, score, confidence, contributions in zip(
                results.are_anomalies.astype(int).tolist(),
                results.scores.tolist(),
                results.confidences.tolist(),
                results.contributions.tolist(),
                strict=True,
            )
        ]
    return _classified(results, card)


def _classified(results: Classifications, card: RowCard) -> list[Output]:
    few = len(card.labels) <= MOST_LISTED_LABELS
    return [
        {
            "label": card.labels[class_id],
            "confidence": _nine(probabilities[class_id]),
            "probabilities": {
                card.labels[place]: _nine(probabilities[place])
                for place in (range(len(card.labels)) if few else sorted(best))
            },
        }
        for class_id, probabilities, best in zip(
            results.class_ids.tolist(), results.probabilities.tolist(), results.most_probable.tolist(), strict=True
        )
    ]


def _named(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    return {name: _nine(value) for name, value in zip(names, values, strict=True)}


def _nine(value: float) -> float:
    """Return a number with the nine digits that float32 holds at most."""
    return float(f"{value:.9g}")


def is_of_pictures(card: Card) -> bool:
    """Return whether a model takes pictures."""
    return isinstance(card, ImageCard)
