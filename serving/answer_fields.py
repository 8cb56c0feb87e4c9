"""What the log tells of an answer: no pixel, no value of a row, no name of a file."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

from postprocessing.anomaly import Anomalies
from postprocessing.classification import Classifications
from runners.runner import Answer
from serving.loaded_model import LoadedModel
from serving.logs import quoted
from serving.predictions import ImagePrediction, RowPredictions
from serving.request_record import REQUEST, RequestRecord

Predictions = list[ImagePrediction | BaseException] | RowPredictions
Answered = tuple[LoadedModel, Predictions]


def note_answer(model: LoadedModel, predictions: Predictions) -> None:
    """Note what a model has answered in the record of the current request, if there is one."""
    if (record := REQUEST.get()) is not None:
        record.answered = model, predictions


def log_fields(record: RequestRecord) -> str:
    """Return what the log tells of a request beside its id, as the members of a JSON object, each after a comma.

    It is written without a dictionary, since it is written for every request.
    """
    fields = f',"trace_id":"{record.trace_id}"' if record.trace_id else ""
    if record.error:
        fields += f',"error":"{record.error}"'
    if record.answered is not None:
        model, predictions = record.answered
        fields += f',"tag":{quoted(model.tag)}'
        if isinstance(predictions, list):
            fields += _fields_of_pictures(predictions)
        else:
            fields += _fields_of_rows(model, predictions)
    return fields


def total_times_ms(answers: Sequence[Answer[Any]]) -> tuple[float, float, float]:
    """Return the longest wait of some answers, and the sums of their decoding and inference, in milliseconds."""
    if len(answers) == 1:
        return answers[0].queue_ms, answers[0].decode_ms, answers[0].infer_ms
    queue = max((answer.queue_ms for answer in answers), default=0.0)
    return queue, sum(answer.decode_ms for answer in answers), sum(answer.infer_ms for answer in answers)


def _fields_of_pictures(predictions: list[ImagePrediction | BaseException]) -> str:
    if len(predictions) == 1:
        only = predictions[0]
        if isinstance(only, BaseException):
            return ""
        return _fields_of_one(only.classification.label, only.classification.confidence, only.answer)
    answers = [prediction.answer for prediction in predictions if isinstance(prediction, ImagePrediction)]
    return _fields_of_many(len(predictions), len(predictions) - len(answers), answers)


def _fields_of_rows(model: LoadedModel, predictions: RowPredictions) -> str:
    right, wrong = len(predictions.outputs), len(predictions.problems)
    answer, results = predictions.answer, predictions.results
    if right != 1 or wrong:
        return _fields_of_many(right + wrong, wrong, [answer])
    if isinstance(results, Classifications):
        class_id = results.class_ids.item(0)
        return _fields_of_one(model.card.labels[class_id], results.probabilities.item(0, class_id), answer)
    if isinstance(results, Anomalies):
        label = "anomaly" if results.are_anomalies[0] else "normal"
        return _fields_of_one(label, results.confidences.item(0), answer)
    return _times([answer])


def _fields_of_one(label: str, confidence: float, answer: Answer[Any]) -> str:
    sure = f"{confidence:.4f}" if isfinite(confidence) else "null"
    return f',"label":{quoted(label)},"confidence":{sure}{_times([answer])}'


def _fields_of_many(items: int, wrong: int, answers: Sequence[Answer[Any]]) -> str:
    return f',"items":{items},"errors":{wrong}{_times(answers)}'


def _times(answers: Sequence[Answer[Any]]) -> str:
    """Return the times of some answers, in milliseconds, and whether the cache gave all of them."""
    if not answers:
        return ""
    queue, decode, infer = total_times_ms(answers)
    times = f',"queue_ms":{queue:.2f},"decode_ms":{decode:.2f},"infer_ms":{infer:.2f}'
    return times + ',"cached":true' if all(answer.cached for answer in answers) else times
