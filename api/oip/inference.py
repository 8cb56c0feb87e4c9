"""Inference requests of the Open Inference Protocol, translated to the core's payloads and back to tensors."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from api.grants import charge_items, check_scope
from api.oip.items import image_payloads, row_values
from api.oip.messages import InferRequest, InferResponse, RequestedOutput, check_unique
from api.oip.names import NamedModel
from api.oip.signature import (
    ATTRIBUTIONS,
    CONTRIBUTIONS,
    EXPLANATIONS,
    IS_ANOMALY,
    LABEL,
    LOGITS,
    MAP,
    PROBABILITIES,
    SCORE,
    VALUES,
    output_specs,
)
from api.oip.tensors import BYTES, Array, Tensor, bytes_array, text_tensor
from api.parameters import threshold_limits
from errors import InvalidInput
from models.card import Card, ImageCard, RowCard
from postprocessing.anomaly import Anomalies
from postprocessing.classification import card_probabilities
from postprocessing.regression import Regressions
from runners.runner import Answer
from serving.attributions import RowExplanation, RowExplanationRequest
from serving.predictions import ImagePrediction, PredictionParameters, RowPredictions
from serving.predictor import Predictor
from serving.waiting import Caller

CLASSIFIABLE = (PROBABILITIES, LOGITS)
"""The outputs that the classification extension applies to."""
MAX_TIMEOUT_US = 1e15


class Inference:
    """Answers inference requests for the models of one process.

    Args:
        predictor: the core.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def deadline(self, request: InferRequest, since: float, remaining_s: float | None = None) -> float:
        """Return when a request has to be answered, as a value of `time.monotonic()`.

        Args:
            request: its parameter `timeout` is in microseconds; 0 is the same as none.
            since: when the request began.
            remaining_s: the time that the transport allowed then.

        Raises:
            InvalidInput: `timeout` is no such number.
        """
        timeout_us = request.parameters.get("timeout", 0)
        if isinstance(timeout_us, str | bool) or not 0 <= timeout_us < MAX_TIMEOUT_US:
            raise InvalidInput(f"timeout must be a number of microseconds, 0 or more, not {timeout_us!r:.40}.")
        deadline = self._predictor.deadline(timeout_us / 1e3 or None, since)
        return deadline if remaining_s is None else min(deadline, since + remaining_s)

    async def infer(
        self, named: NamedModel, request: InferRequest, deadline: float, caller: Caller | None = None
    ) -> InferResponse:
        """Answer a request.

        An item that is wrong fails the request; with the parameter `partial`, it fails alone.

        Raises:
            InvalidInput: a parameter, an output or an item is wrong; the message names it.
            VitrineError: as `Predictor.predict_images` and `Predictor.predict_rows`.
        """
        model, outputs = named.model, requested_outputs(named, request)
        is_explained = any(output.name in EXPLANATIONS for output in outputs)
        check_scope(model.name, "explain" if is_explained else "predict")
        parameters, partial = _read_parameters(request, model.card)
        await charge_items(len(request.inputs[0].data))
        if isinstance(model.card, ImageCard):
            payloads = image_payloads(request.inputs[0])
            if is_explained:
                work = self._predictor.map_images(model, payloads, parameters, deadline, caller)
            else:
                work = self._predictor.predict_images(model, payloads, parameters, deadline, caller)
            predictions, failed = _separate(await work, request.inputs[0].name, partial=partial)
            return _image_response(named, model.card, outputs, predictions, failed)
        rows = row_values(request.inputs, model.card)
        if is_explained:
            reasons = RowExplanationRequest()
            predicted = await self._predictor.explain_rows(
                model, rows, reasons, parameters, deadline, caller, all_or_none=not partial
            )
        else:
            predicted = await self._predictor.predict_rows(model, rows, parameters, deadline, caller)
        problems = predicted.problems
        if problems and (not partial or len(problems) == len(rows.values)):
            first = min(problems)
            raise InvalidInput(f"Row {first}: {problems[first]}")
        return _row_response(named, model.card, outputs, predicted)


def requested_outputs(named: NamedModel, request: InferRequest) -> Sequence[RequestedOutput]:
    """Return the outputs that a request asks for.

    Without any, the model's own name answers with all of them but the explanations, as it did before there were other
    names; another name answers with the one that it lists.

    Raises:
        InvalidInput: an output is unknown, stands twice, or has no classes although some are asked for.
    """
    model, signature = named.model, named.signature
    names = [spec.name for spec in output_specs(model.card, is_explainable=not model.not_explainable_reason)]
    if not request.outputs:
        default = [signature.output.name] if signature.suffix else [name for name in names if name not in EXPLANATIONS]
        return [RequestedOutput(name, binary=request.binary) for name in default]
    check_unique([output.name for output in request.outputs], "outputs")
    for output in request.outputs:
        if output.name not in names:
            is_missing = output.name in EXPLANATIONS and model.not_explainable_reason
            reason = f" There is no {output.name}: {model.not_explainable_reason}." if is_missing else ""
            raise InvalidInput(f"{model.name} has no output {output.name!r:.80}; it has {', '.join(names)}.{reason}")
        if output.classes and output.name not in CLASSIFIABLE:
            raise InvalidInput(f"{output.name} has no classes; classification is for {' and '.join(CLASSIFIABLE)}.")
    return request.outputs


def class_tensor(name: str, rows: Array, labels: Sequence[str], count: int) -> Tensor:
    """Return the most probable classes of each row, as the classification extension writes them.

    Args:
        name: the output's name.
        rows: shape (N, K), probabilities or logits.
        labels: K labels.
        count: how many classes of each row; at most all of them.

    Returns:
        BYTES of shape (N, count), each `value:index:label`, the largest value first.
    """
    count = min(count, len(labels))
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    classes = [
        f"{row[index]:f}:{index}:{labels[index]}".encode()
        for row, indices in zip(rows, order, strict=True)
        for index in indices
    ]
    return Tensor(name, BYTES, bytes_array(name, (len(rows), count), classes))


def _read_parameters(request: InferRequest, card: Card) -> tuple[PredictionParameters, bool]:
    """Return what is asked of the predictions, and whether items that are wrong are left out."""
    low, high = threshold_limits(card)
    threshold, partial = request.parameters.get("threshold"), request.parameters.get("partial", False)
    if threshold is not None and (isinstance(threshold, bool | str) or not low <= threshold <= high):
        raise InvalidInput(f"threshold must be a number from {low:g} to {high:g}, not {threshold!r:.40}.")
    if not isinstance(partial, bool):
        raise InvalidInput(f"partial must be true or false, not {partial!r:.40}.")
    return PredictionParameters(threshold), partial


def _separate(
    settled: Sequence[ImagePrediction | BaseException], name: str, *, partial: bool
) -> tuple[list[ImagePrediction], dict[int, str]]:
    """Return the predictions, and by its place what is wrong with each other item.

    Raises:
        BaseException: the first error that is not an item's own fault, else, if the request fails by it, the first.
    """
    errors = {place: item for place, item in enumerate(settled) if isinstance(item, BaseException)}
    for error in errors.values():
        if not isinstance(error, InvalidInput):
            raise error
    predictions = [item for item in settled if isinstance(item, ImagePrediction)]
    if errors and (not partial or not predictions):
        place, error = next(iter(errors.items()))
        raise type(error)(f"{name}[{place}]: {error}") from error
    return predictions, {place: str(error) for place, error in errors.items()}


def _image_response(
    named: NamedModel,
    card: ImageCard,
    outputs: Sequence[RequestedOutput],
    predictions: Sequence[ImagePrediction],
    failed: dict[int, str],
) -> InferResponse:
    logits = np.stack([prediction.logits for prediction in predictions])
    labels = [prediction.classification.label for prediction in predictions]
    tensors = _classification_tensors(card, logits, labels, outputs)
    maps = [prediction.explanation.map for prediction in predictions if prediction.explanation]
    if maps:
        tensors[MAP] = Tensor(MAP, "FP32", np.stack(maps))
    warnings = [warning for prediction in predictions for warning in prediction.warnings]
    answered_by = [prediction.answered_by for prediction in predictions if prediction.answered_by]
    answers = [prediction.answer for prediction in predictions]
    return _response(named, outputs, tensors, answers, warnings, failed, answered_by)


def _row_response(
    named: NamedModel, card: RowCard, outputs: Sequence[RequestedOutput], predicted: RowPredictions
) -> InferResponse:
    results, tensors = predicted.results, dict[str, Tensor]()
    if isinstance(results, Anomalies):
        tensors = {
            SCORE: Tensor(SCORE, "FP32", results.scores.astype(np.float32)),
            IS_ANOMALY: Tensor(IS_ANOMALY, "BOOL", results.are_anomalies),
            CONTRIBUTIONS: Tensor(CONTRIBUTIONS, "FP32", predicted.outputs),
        }
    elif isinstance(results, Regressions):
        tensors = {VALUES: Tensor(VALUES, "FP32", predicted.outputs)}
    else:
        labels = [card.labels[class_id] for class_id in results.class_ids]
        tensors = _classification_tensors(card, predicted.outputs, labels, outputs)
    explained = [of_row[0] for of_row in predicted.explanations]
    if explained:
        values = np.stack([explanation.attributions.values for explanation in explained]).astype(np.float32)
        tensors[ATTRIBUTIONS] = Tensor(ATTRIBUTIONS, "FP32", values)
    failed = {place: str(error) for place, error in predicted.problems.items()}
    return _response(named, outputs, tensors, [predicted.answer], predicted.warnings, failed, explained=explained)


def _classification_tensors(
    card: Card, logits: Array, labels: Sequence[str], outputs: Sequence[RequestedOutput]
) -> dict[str, Tensor]:
    arrays = {PROBABILITIES: card_probabilities(logits, card).astype(np.float32), LOGITS: logits}
    tensors = {name: Tensor(name, "FP32", array) for name, array in arrays.items()}
    for output in outputs:
        if output.classes:
            tensors[output.name] = class_tensor(output.name, arrays[output.name], card.labels, output.classes)
    return tensors | {LABEL: text_tensor(LABEL, labels)}


def _response(
    named: NamedModel,
    outputs: Sequence[RequestedOutput],
    tensors: dict[str, Tensor],
    answers: Sequence[Answer[Any]],
    warnings: Sequence[str],
    failed: dict[int, str],
    answered_by: Sequence[str] = (),
    explained: Sequence[RowExplanation] = (),
) -> InferResponse:
    parameters = dict[str, str | int | float | bool]()
    if warnings:
        parameters["warnings"] = " ".join(dict.fromkeys(warnings))
    if failed:
        parameters["failed"] = json.dumps(failed)
    if answered_by:
        parameters["answered_by"] = ",".join(answered_by)
    if explained:
        base_values = [explanation.attributions.base_value for explanation in explained]
        parameters["base_values"] = ",".join(f"{base_value:.9g}" for base_value in base_values)
        parameters["targets"] = json.dumps([explanation.target for explanation in explained], ensure_ascii=False)
    requested = [tensors[output.name] for output in outputs]
    return InferResponse(named.name, named.model.version or "", requested, parameters, answers)
