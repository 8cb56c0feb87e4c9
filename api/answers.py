"""What every prediction says, of a picture or a row."""

from collections.abc import Sequence
from typing import Any

from api.schemas import TopLabel
from postprocessing.interpret import Interpretation
from runners.runner import Answer
from serving.loaded_model import ServedModel


def about(model: ServedModel, answer: Answer[Any], warnings: Sequence[str], request_id: str) -> dict[str, Any]:
    """Where a prediction came from."""
    return {
        "model": model.name,
        "version": model.version or "",
        "warnings": list(warnings),
        "device": model.device or "",
        "inference_time_ms": round(answer.decode_ms + answer.infer_ms, 3),
        "request_id": request_id,
    }


def classified(said: Interpretation) -> dict[str, Any]:
    """What a classifier called."""
    return {
        "prediction": said.label,
        "predicted_class_id": said.class_id,
        "confidence": said.confidence,
        "probabilities": said.probabilities,
        "top": [TopLabel(label=each.label, probability=each.probability) for each in said.top],
        "threshold": said.threshold,
    }
