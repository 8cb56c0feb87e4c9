"""The answers of rows as JSON: what all rows share is written once, by its schema; what differs is filled in by column.

A thousand answers that pydantic makes and writes one by one take five times as long.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic_core import to_json

from api.aliases import row_answer_schema, with_aliases
from api.schemas import RowBatchAnswer
from models.answer import Aliases, Answer, LabelForm, value_at
from models.card import RowCard
from postprocessing.anomaly import Anomalies
from postprocessing.classification import MOST_LISTED_LABELS, Classifications
from postprocessing.regression import Regressions
from preprocessing.rows import Row
from serving.predictions import RowResults

NUMBER = "%#.9g"
"""How numbers are written: float32, which computed them, holds no more digits, and `repr` takes twice the time."""
_NINE_DIGITS = (99_999_999, 1_000_000_000)
"""Between these a number ends in its point when it is written so, which is not JSON."""
_SLOT = re.compile(r'"\\u0000(\w+)"')
_PREDICTIONS = "predictions"

Columns = dict[str, Sequence[str]]
"""A field of the answers, or a part of one that has a further name, as the JSON of its value in each row."""
MOST_TEMPLATES = 256
"""So many templates are kept: a card has a few, and its next version other ones."""
_templates = dict[tuple[int, tuple[str, ...], tuple[str, ...]], tuple[RowCard, str, list[str]]]()
_json = json.JSONEncoder(ensure_ascii=False).encode


def row_answers(
    results: RowResults,
    rows: Sequence[Row],
    card: RowCard,
    common: Mapping[str, Any],
    form: LabelForm = "name",
    more: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Return the JSON of the answer of each row.

    Args:
        results: what the model makes of the rows.
        rows: the same rows, as they were sent.
        card: the model's card.
        common: the fields that are the same in all answers.
        form: whether `prediction` is a label's name or its index.
        more: further fields, by name the JSON for each row.
    """
    if not rows:
        return []
    fields: dict[str, Any]
    if isinstance(results, Classifications):
        columns, fields = _classification_columns(results, card, form), {"threshold": results.threshold}
    elif isinstance(results, Anomalies):
        columns, fields = _anomaly_columns(results, card), {"threshold": results.threshold}
    else:
        columns = _regression_columns(results, card)
        units = {output.name: output.unit for output in card.outputs if output.unit}
        fields = {"units": units} if units else {}
    for entry in card.input.identifiers:
        columns[entry.name] = [_json(row[entry.name]) for row in rows]
    columns |= more or {}
    fields = {**common, **fields}
    if not all(source in fields or source in columns for source in _sources(card.answer.also)):
        template, order = _filled_in(_template(card, fields, columns))
    else:  # nothing reads parts of the fields, so that they can be filled in as well
        plain, names = _plain_template(card, tuple(fields), tuple(columns))
        shared = {name: to_json(value, inf_nan_mode="null").decode() for name, value in fields.items()}
        template = plain % tuple(["%s" if name in columns else shared[name].replace("%", "%%") for name in names])
        order = [name for name in names if name in columns]
    return [template % row for row in zip(*(columns[name] for name in order), strict=True)]


def row_batch_json(empty: RowBatchAnswer, answers: Sequence[str], form: Answer) -> str:
    """Return the JSON of a batch as the card says: an object with further names, or the list of its entries.

    Args:
        empty: the answer, without its entries.
        answers: the JSON of each entry.
        form: the card's section about answers.
    """
    entries = f"[{','.join(answers)}]"
    if form.batch == "list":
        return entries
    are_parts_repeated = any(path.startswith(f"{_PREDICTIONS}.") for path in _sources(form.batch_also))
    parsed = {_PREDICTIONS: json.loads(entries) if are_parts_repeated else []}

    def read(batch: Any, source: str) -> Any:
        if source == _PREDICTIONS:
            return _slot(_PREDICTIONS)
        return value_at(parsed if source.startswith(f"{_PREDICTIONS}.") else batch, source)

    batch = empty.model_copy(update={_PREDICTIONS: _slot(_PREDICTIONS)})
    written = with_aliases(batch, form.batch_also, read).model_dump_json(warnings=False)
    return _SLOT.sub(lambda _: entries, written)


def _plain_template(card: RowCard, fields: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the template of the template of a card, whose further names repeat whole fields; it is made once.

    It has a slot for every field, and the names of its slots are in their order.
    """
    key = id(card), fields, columns
    if (kept := _templates.get(key)) is None or kept[0] is not card:
        if len(_templates) >= MOST_TEMPLATES:
            _templates.clear()
        slots: dict[str, Any] = {name: _slot(name) for name in (*fields, *columns)}
        answer = row_answer_schema(card).model_construct(**slots)
        with_aliases(answer, card.answer.also, lambda _, source: slots[source])
        template, order = _filled_in(answer.model_dump_json(warnings=False).replace("%", "%%"))
        kept = _templates[key] = card, template, order
    return kept[1], kept[2]


def _filled_in(template: str) -> tuple[str, list[str]]:
    """Return a template whose slots are `%s`, and the names of its slots in their order."""
    written = template.replace("%", "%%")
    return _SLOT.sub("%s", written), _SLOT.findall(written)


def _template(card: RowCard, fields: Mapping[str, Any], columns: Columns) -> str:
    """Return the JSON of an answer with a slot for each column, and add the columns of the parts that it repeats."""
    slots = {name: _slot(name) for name in columns}
    answer = row_answer_schema(card).model_construct(**{**fields, **slots})
    for path in _sources(card.answer.also):
        name, _, part = path.partition(".")
        if part and name in columns and path not in slots:
            number = str(len(columns))  # which no field is called
            slots[path] = _slot(number)
            values = json.loads(f"[{','.join(columns[name])}]")
            columns[number] = [_json(value_at(value, part)) for value in values]
    with_aliases(answer, card.answer.also, lambda answer, source: slots.get(source) or value_at(answer, source))
    return answer.model_dump_json(warnings=False)


def _slot(name: str) -> str:
    return f"\0{name}"


def _sources(aliases: Aliases) -> list[str]:
    """Return the fields, and parts of fields, that further names repeat."""
    return [path for source in aliases.values() for path in ([source] if isinstance(source, str) else source.values())]


def _classification_columns(results: Classifications, card: RowCard, form: LabelForm) -> Columns:
    labels, count = _label_texts(tuple(card.labels)), len(card.labels)
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
    class_ids = list(map(str, places))
    return {
        "prediction": class_ids if form == "index" else [labels[place] for place in places],
        "predicted_class_id": class_ids,
        "confidence": [NUMBER % numbers[start + place] for start, place in zip(starts, places, strict=True)],
        "probabilities": probabilities,
        "top": top,
    }


@lru_cache(MOST_TEMPLATES)
def _label_texts(labels: tuple[str, ...]) -> list[str]:
    """Return labels as JSON."""
    return [_json(label) for label in labels]


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
    template = _object_template([_json(name) for name in names], _number_format(numbers))
    return [template % tuple(row) for row in numbers.tolist()]


def _object_template(names: Sequence[str], number: str = NUMBER) -> str:
    """Return the template of a JSON object of numbers by its names, which are JSON already."""
    return f"{{{','.join(name.replace('%', '%%') + ':' + number for name in names)}}}"


def _number_format(numbers: npt.NDArray[np.floating[Any]]) -> str:
    sizes, (low, high) = np.abs(numbers), _NINE_DIGITS
    return "%r" if ((sizes >= low) & (sizes <= high)).any() else NUMBER


def _number_texts(numbers: npt.NDArray[np.floating[Any]]) -> list[str]:
    number_format = _number_format(numbers)
    return [number_format % number for number in numbers.ravel().tolist()]
