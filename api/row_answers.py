"""The answers of rows as JSON: what all rows share is written once, by its schema; what differs is filled in by column.

A thousand answers that pydantic makes and writes one by one take five times as long.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from api.schemas import AnomalyPrediction, Regression, RowPrediction
from models.card import RowCard
from postprocessing.anomaly import Anomalies
from postprocessing.classification import MOST_LISTED_LABELS, Classifications
from postprocessing.regression import Regressions
from preprocessing.rows import Row
from serving.predictions import RowResults

NUMBER = "%#.9g"
"""How numbers are written: float32, which computed them, holds no more digits, and `repr` takes twice the time."""
_SLOT = re.compile(r'"\\u0000(\w+)"')

Columns = dict[str, Sequence[str]]
"""A field of the answers, as the JSON of its value in each row."""
_text: Callable[[str], str] = encode_basestring


def row_answers(results: RowResults, rows: Sequence[Row], card: RowCard, common: Mapping[str, Any]) -> list[str]:
    """Return the JSON of the answer of each row.

    Args:
        results: what the model makes of the rows.
        rows: the same rows, as they were sent.
        card: the model's card.
        common: the fields that are the same in all answers.
    """
    if not rows:
        return []
    fields: dict[str, Any]
    schema: type[BaseModel]
    if isinstance(results, Classifications):
        schema, columns = RowPrediction, _classification_columns(results, card)
        fields = {"threshold": results.threshold}
    elif isinstance(results, Anomalies):
        schema, columns, fields = AnomalyPrediction, _anomaly_columns(results, card), {"threshold": results.threshold}
    else:
        units = {output.name: output.unit for output in card.outputs if output.unit}
        schema, columns, fields = Regression, _regression_columns(results, card), {"units": units}
    for entry in card.input.identifiers:
        columns[entry.name] = [_text(row[entry.name]) for row in rows]
    slots = {name: f"\0{name}" for name in columns}
    answer = schema.model_construct(**{**common, **fields, **slots})
    written = answer.model_dump_json(warnings=False).replace("%", "%%")
    template, order = _SLOT.sub("%s", written), _SLOT.findall(written)
    return [template % row for row in zip(*(columns[name] for name in order), strict=True)]


def _classification_columns(results: Classifications, card: RowCard) -> Columns:
    labels, count = [_text(label) for label in card.labels], len(card.labels)
    numbers: list[float] = results.probabilities.ravel().tolist()
    places = results.class_ids.tolist()
    starts = range(0, count * len(places), count)
    best = results.most_probable.tolist()

    def listed(start: int, chosen: Sequence[int], entry: str) -> str:
        return ",".join([entry % (labels[place], numbers[start + place]) for place in chosen])

    top = [f"[{listed(*row, _TOP)}]" for row in zip(starts, best, strict=True)]
    if count <= MOST_LISTED_LABELS:
        every = _object_template(labels)
        probabilities = [every % tuple(numbers[start : start + count]) for start in starts]
    else:
        pairs = zip(starts, best, strict=True)
        probabilities = [f"{{{listed(start, sorted(chosen), _ENTRY)}}}" for start, chosen in pairs]
    return {
        "prediction": [labels[place] for place in places],
        "predicted_class_id": list(map(str, places)),
        "confidence": [NUMBER % numbers[start + place] for start, place in zip(starts, places, strict=True)],
        "probabilities": probabilities,
        "top": top,
    }


_TOP = f'{{"label":%s,"probability":{NUMBER}}}'
_ENTRY = f"%s:{NUMBER}"


def _anomaly_columns(results: Anomalies, card: RowCard) -> Columns:
    return {
        "is_anomaly": ["true" if is_anomaly else "false" for is_anomaly in results.are_anomalies.tolist()],
        "anomaly_score": _number_texts(results.scores),
        "confidence": _number_texts(results.confidences),
        "contributions": _objects([feature.name for feature in card.input.features], results.contributions),
    }


def _regression_columns(results: Regressions, card: RowCard) -> Columns:
    columns: Columns = {"values": _objects([output.name for output in card.outputs], results.values)}
    return columns | ({"prediction": _number_texts(results.values)} if len(card.outputs) == 1 else {})


def _objects(names: Sequence[str], numbers: npt.NDArray[np.floating[Any]]) -> list[str]:
    """Return the JSON of an object for each row of numbers, shape (N, K), by K names."""
    template = _object_template([_text(name) for name in names])
    return [template % tuple(row) for row in numbers.tolist()]


def _object_template(names: Sequence[str]) -> str:
    """Return the template of a JSON object of numbers by its names, which are JSON already."""
    return f"{{{','.join(name.replace('%', '%%') + ':' + NUMBER for name in names)}}}"


def _number_texts(numbers: npt.NDArray[np.floating[Any]]) -> list[str]:
    return [NUMBER % number for number in numbers.ravel().tolist()]
