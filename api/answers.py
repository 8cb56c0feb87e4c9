"""The fields that the predictions of pictures and of rows have in common."""

from collections.abc import Sequence
from typing import Any

from api.schemas import TopLabel
from postprocessing.classification import Classification
from runners.runner import Answer
from serving.loaded_model import LoadedModel


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


def classification_fields(classification: Classification) -> dict[str, Any]:
    """Return the fields that say which label a classifier gives, and how sure it is."""
    return {
        "prediction": classification.label,
        "predicted_class_id": classification.class_id,
        "confidence": classification.confidence,
        "probabilities": classification.probabilities,
        "top": [TopLabel(label=ranked.label, probability=ranked.probability) for ranked in classification.top],
        "threshold": classification.threshold,
    }
