"""Where predictions come from, and what the answers about pictures hold."""

from collections.abc import Sequence
from typing import Any

from pydantic import RootModel
from pydantic_core import to_json

from api.aliases import with_aliases
from api.schemas import BatchAnswer, TopLabel, timestamp
from models.answer import Answer as AnswerForm
from models.answer import LabelForm
from postprocessing.classification import Classification
from runners.runner import Answer
from serving.loaded_model import LoadedModel
from serving.predictions import ImagePrediction


def origin_fields(model: LoadedModel, answer: Answer[Any], warnings: Sequence[str], request_id: str) -> dict[str, Any]:
    """Return the fields that say where a prediction came from."""
    return {
        "model": model.name,
        "version": model.version or "",
        "warnings": list(warnings),
        "device": model.device or "",
        "inference_time_ms": round(answer.decode_ms + answer.infer_ms, 3),
        "request_id": request_id,
    }


def classification_fields(classification: Classification, form: LabelForm) -> dict[str, Any]:
    """Return the fields that say which label a classifier gives, by its name or its index, and how sure it is."""
    return {
        "prediction": classification.label if form == "name" else classification.class_id,
        "predicted_class_id": classification.class_id,
        "confidence": classification.confidence,
        "probabilities": classification.probabilities,
        "top": [TopLabel(label=ranked.label, probability=ranked.probability) for ranked in classification.top],
        "threshold": classification.threshold,
    }


def prediction_json(
    model: LoadedModel, prediction: ImagePrediction, request_id: str, form: LabelForm, filename: str | None = None
) -> bytes:
    """Return the JSON of `schemas.Prediction` for a picture that is not explained, of a card without further names.

    The schema itself takes three times as long, to check what is right here.
    """
    classification, answer = prediction.classification, prediction.answer
    fields = {
        "model": model.name,
        "version": model.version or "",
        "prediction": classification.label if form == "name" else classification.class_id,
        "predicted_class_id": classification.class_id,
        "confidence": classification.confidence,
        "probabilities": classification.probabilities,
        "top": [{"label": label, "probability": probability} for label, probability in classification.top],
        "threshold": classification.threshold,
        "warnings": prediction.warnings,
        "device": model.device or "",
        "inference_time_ms": round(answer.decode_ms + answer.infer_ms, 3),
        "request_id": request_id,
        "timestamp": timestamp(),
        "gradcam_heatmap": None,
    }
    if prediction.answered_by is not None:
        fields["answered_by"] = prediction.answered_by
    if filename is not None:
        fields["filename"] = filename
    return to_json(fields, inf_nan_mode="null")


def batch_json(batch: BatchAnswer, form: AnswerForm, left_out: set[str] | None = None) -> str:
    """Return the JSON of several pictures as the card says: an object with further names, or the list of its entries.

    Args:
        batch: the answer.
        form: the card's section about answers.
        left_out: the fields that no entry shows.
    """
    entries = {"__all__": left_out} if left_out else None
    if form.batch == "list":
        return RootModel[list[Any]](batch.predictions).model_dump_json(exclude=entries)
    named = with_aliases(batch, form.batch_also)
    return named.model_dump_json(exclude={"predictions": entries} if entries else None)
