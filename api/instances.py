"""Pictures and rows as plain JSON values, as the routes of KServe V1, TensorFlow Serving and TorchServe bring them."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from api.grants import charge_items
from api.json_values import decode_base64
from api.row_explanations import explanation_facts
from api.rows import flat_row
from backends.base import Logits
from errors import InvalidInput
from models.card import Card, ImageCard, RowCard
from postprocessing.classification import Classification
from preprocessing.row_spec import Feature
from preprocessing.rows import Row, is_number
from runners.runner import Answer
from serving.attributions import RowExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import DecodedImage, ImagePayload, TransformedImage
from serving.predictions import ImagePrediction, PredictionParameters, RowPredictions, RowResults
from serving.predictor import Predictor
from serving.row_pipeline import RowPayload, RowValues
from serving.waiting import Caller

WRAPPERS = ("b64", "data", "body")
"""The names under which these protocols put a picture or a row in an object of its own."""


class Instances(NamedTuple):
    """The pictures or rows of one request.

    Attributes:
        values: a picture's bytes, or what JSON holds of a picture or row.
        are_listed: whether they came as a list, so that messages name an entry of it; else the only one is the body.
    """

    values: Sequence[Any]
    are_listed: bool = True

    def place(self, index: int) -> str:
        """Return the words for a value's place in the request."""
        return f"instances[{index}]" if self.are_listed else "The body"

    def error_at(self, index: int, error: InvalidInput) -> InvalidInput:
        """Return an error of a value as the error of its request: of the same kind, with the place if that helps."""
        return type(error)(f"{self.place(index)}: {error}") if self.are_listed else error


class Predicted(NamedTuple):
    """What the instances of one request were answered with, each in its place.

    Attributes:
        results: what a classifier makes of each picture, or the model of all rows.
        outputs: of each the network's outputs, shape (K,), float32: logits, squared errors, or a regressor's values.
        answers: the Runner's answers that the results come from, for their times.
        explanations: where the network looked in each picture, row by row at the size of its layer, or what each
            feature of a row counted for; empty if nobody asked.
    """

    results: Sequence[Classification] | RowResults
    outputs: Sequence[Logits]
    answers: Sequence[Answer[Any]]
    explanations: Sequence[Any] = ()


async def predict_instances(
    predictor: Predictor,
    model: LoadedModel,
    instances: Instances,
    parameters: PredictionParameters,
    deadline: float,
    caller: Caller,
) -> Predicted:
    """Predict pictures or rows; one that is wrong fails them all, as these protocols have no error for one alone.

    Raises:
        InvalidInput: a value is wrong; the message names it.
        VitrineError: as `Predictor.predict_images` and `Predictor.predict_rows`.
    """
    card = model.card
    _check_count(card, instances)
    await charge_items(len(instances.values))
    if isinstance(card, ImageCard):
        payloads = await asyncio.to_thread(image_payloads, instances, card)  # which may be megabytes
        settled = await predictor.predict_images(model, payloads, parameters, deadline, caller)
        return _predicted(settled, instances)
    rows = await predictor.predict_rows(model, row_payload(instances, card), parameters, deadline, caller)
    return _rows_predicted(rows, card, instances)


async def explain_instances(
    predictor: Predictor,
    model: LoadedModel,
    instances: Instances,
    parameters: PredictionParameters,
    deadline: float,
    caller: Caller,
) -> Predicted:
    """Predict pictures or rows, and give the map or the attributions of each; one that is wrong fails them all.

    Raises:
        InvalidInput: a value is wrong; the message names it.
        VitrineError: as `Predictor.explain_image` and `Predictor.explain_rows`.
    """
    card = model.card
    _check_count(card, instances)
    await charge_items(len(instances.values))
    if not isinstance(card, ImageCard):
        payload = row_payload(instances, card)
        request = RowExplanationRequest()
        rows = await predictor.explain_rows(model, payload, request, parameters, deadline, caller, all_or_none=True)
        return _rows_predicted(rows, card, instances)
    payloads = await asyncio.to_thread(image_payloads, instances, card)
    return _predicted(await predictor.map_images(model, payloads, parameters, deadline, caller), instances)


def image_payloads(instances: Instances, card: ImageCard) -> list[ImagePayload]:
    """Return pictures as the core takes them: encoded files, pixels, or transformed pictures.

    Raises:
        InvalidInput: a value is none of these; the message names it.
    """
    return [
        _image_payload(_unwrapped(value), card, instances.place(index)) for index, value in enumerate(instances.values)
    ]


def row_payload(instances: Instances, card: RowCard) -> RowPayload:
    """Return rows as the core takes them: all of them objects of named values, or all lists in the card's order.

    A list holds numbers: a category by its place, and null where the card lets a value be missing.

    Raises:
        InvalidInput: they are of both kinds, or a list does not have a number for each feature.
    """
    values = [_unwrapped(value) for value in instances.values]
    if not any(isinstance(value, list) for value in values):
        rows: list[Row] = [flat_row(value) for value in values]
        return rows
    features, names = card.input.features, [feature.name for feature in card.input.features]
    numbers = list[list[Any]]()
    for index, value in enumerate(values):
        fits = isinstance(value, list) and len(value) == len(names)
        listed = list(map(_number, value, features)) if fits else [None]
        if None in listed:
            raise InvalidInput(f"{instances.place(index)} must be a list of {len(names)} numbers: {', '.join(names)}.")
        numbers.append(listed)
    try:
        return RowValues(np.array(numbers, np.float64))
    except OverflowError as error:
        raise InvalidInput("A number is too large for any feature.") from error


def _check_count(card: Card, instances: Instances) -> None:
    count, most = len(instances.values), card.limits.max_items
    if not 1 <= count <= most:
        raise InvalidInput(f"{card.name} takes 1 to {most:,} instances in one request, not {count:,}.")


def _rows_predicted(rows: RowPredictions, card: RowCard, instances: Instances) -> Predicted:
    """Return what all rows were answered with, or raise the first error."""
    if rows.problems:
        first = min(rows.problems)
        raise instances.error_at(first, rows.problems[first])
    explanations = [explanation_facts(of_row[0], card) for of_row in rows.explanations]
    return Predicted(rows.results, list(rows.outputs), [rows.answer], explanations)


def _predicted(settled: Sequence[ImagePrediction | BaseException], instances: Instances) -> Predicted:
    """Return what all pictures were answered with, or raise the first error."""
    predictions = list[ImagePrediction]()
    for index, item in enumerate(settled):
        if isinstance(item, InvalidInput):
            raise instances.error_at(index, item)
        if isinstance(item, BaseException):
            raise item
        predictions.append(item)
    return Predicted(
        [prediction.classification for prediction in predictions],
        [prediction.logits for prediction in predictions],
        [prediction.answer for prediction in predictions],
        [_rounded(prediction.explanation.map) for prediction in predictions if prediction.explanation],
    )


def _rounded(rows: npt.NDArray[np.float32]) -> list[list[float]]:
    return [[float(f"{value:.6g}") for value in row] for row in rows]


def _unwrapped(value: Any) -> Any:
    """Return what an object of a single field holds, if it is one that these protocols wrap values in."""
    while isinstance(value, Mapping) and len(value) == 1:
        [(name, inner)] = value.items()
        if name not in WRAPPERS or not isinstance(inner, str | list | Mapping):
            break
        value = inner
    return value


def _image_payload(value: Any, card: ImageCard, place: str) -> ImagePayload:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return decode_base64(value, place)
    shape = card.input.shape
    array = _array(value) if isinstance(value, list) else None
    if array is not None:
        are_integers = array.dtype.kind in "iu"
        are_pixels = are_integers and array.shape[-1] == 3 and array.min() >= 0 and array.max() <= 255
        if array.shape == shape and not (are_pixels and card.input.layout == "nhwc"):
            with np.errstate(over="ignore"):  # what becomes infinite is refused later
                return TransformedImage(array.astype(np.float32))
        if are_pixels:
            return DecodedImage(array.astype(np.uint8))
    raise InvalidInput(
        f'{place} must be {{"b64": "…"}} with an encoded picture; or its pixels, whole numbers from 0 to 255 nested as '
        f"height, width, 3; or what the network gets, numbers nested as {', '.join(map(str, shape))}."
    )


def _array(value: list[Any]) -> npt.NDArray[Any] | None:
    """Return three levels of lists of numbers as an array; None if they are anything else, or nothing.

    NumPy alone would pad a list of texts to the longest of them, which may be more than the memory has.
    """
    level, shape = value, list[int]()
    for depth in range(3):
        if depth and not all(type(entry) is list for entry in level):
            return None
        lengths = {len(entry) for entry in level} if depth else {len(level)}
        if len(lengths) != 1 or 0 in lengths:
            return None
        shape += lengths
        level = list(chain.from_iterable(level)) if depth else level
    if not set(map(type, level)) <= {int, float}:
        return None
    try:
        array = np.array(level)
    except OverflowError:  # an integer that no float holds, beside floats
        return None
    return array.reshape(shape) if array.dtype.kind in "iuf" else None


def _number(value: Any, feature: Feature) -> float | int | None:
    """Return a number, which may be written as a text, NaN for null where it may be missing, or None for all else."""
    if isinstance(value, str):
        return float(value) if is_number(value) else None
    if value is None and feature.missing:
        return math.nan
    return value if type(value) in (int, float) else None
