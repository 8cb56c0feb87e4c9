"""What an answer says of an explanation: how it was made, its heatmap, and the map itself where that was asked for."""

import base64
from typing import Any

from api.schemas import ExplanationFacts
from explain.base import NO_CONTRAST
from models.card import ImageCard
from preprocessing.geometry import place
from runners.runner import Answer
from serving.gradcam.wire import Explanation, ExplanationRequest


def heatmap_base64(explanation: Explanation | None) -> str | None:
    """Return the drawn heatmap; None where there is no explanation, or the numbers were asked for."""
    picture = explanation.picture if explanation is not None else None
    return base64.b64encode(picture).decode() if picture is not None else None


def explanation_details(
    card: ImageCard, explanation: Explanation, answer: Answer[Any], request: ExplanationRequest
) -> ExplanationFacts:
    """Return what was explained and how, and the map itself where that was asked for; the time is that of all."""
    as_map, sampling = request.output == "map", explanation.sampling
    layer = card.explain.layer if card.explain else None
    return ExplanationFacts(
        method=request.method,
        target=card.labels[explanation.target],
        target_class_id=explanation.target,
        contrast=None if request.contrast == NO_CONTRAST else card.labels[request.contrast],
        layer=None if sampling else layer,
        output=request.output,
        alpha=request.alpha if request.output == "overlay" else None,
        size=list(explanation.size),
        input_box=None if request.at_input_size else _input_box(card, explanation.size),
        map=[[float(f"{value:.6g}") for value in row] for row in explanation.map] if as_map else None,
        peak=float(f"{explanation.map.max():.6g}") if sampling else None,
        standard_error=float(f"{sampling.standard_error:.6g}") if sampling else None,
        cost="many predictions" if sampling else "one pass",
        evaluations=sampling.evaluations if sampling else None,
        time_ms=round(answer.decode_ms + answer.infer_ms, 3),
    )


def _input_box(card: ImageCard, size: tuple[int, int]) -> list[float] | None:
    """Return what of a picture of this width and height the network's input is; None where it is the whole picture."""
    placement = place((size[1], size[0]), card.input)
    return None if placement.is_whole else [round(edge, 2) for edge in placement.input_box()]
