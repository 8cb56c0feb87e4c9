"""A request of the Open Inference Protocol: into items, through the Runner, out as tensors; for HTTP and gRPC."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from api.images import AT_ONCE, Pictures, answered_by, beyond_limits, blurry, default_ask
from api.oip.items import pictures_in, rows_in
from api.oip.messages import InferAnswer, InferRequest, Wanted, check_names
from api.oip.signature import outputs_of
from api.oip.tensors import BYTES, Array, Tensor, as_bytes, texts
from api.parameters import threshold_range
from api.rows import FEW
from errors import InvalidInput, VitrineError
from models.card import Card, ImageCard, RowCard
from postprocessing.interpret import interpret, interpret_anomaly, softmax
from preprocessing.decode import check_size
from preprocessing.spec import ImageLimits
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.loaded_model import ServedModel
from serving.pipeline import Picture, Pixels, Ready

MAP, LABEL = "map", "label"
CLASSIFIED = ("probabilities", "logits")
"""Outputs that the classification extension applies to."""


class Inferred(NamedTuple):
    """An answer, and the Runner's of each item that it is made of."""

    answer: InferAnswer
    timed: Sequence[Answer[Any]]


class _Asked(NamedTuple):
    """What a request's parameters say."""

    threshold: float | None
    partial: bool


class Inference:
    """Answers requests for the models of one process.

    Args:
        pictures: knows the time limit and the Grad-CAM runner.
    """

    def __init__(self, pictures: Pictures) -> None:
        self._pictures = pictures

    def deadline(self, request: InferRequest, began: float, left_s: float | None = None) -> float:
        """When a request has to be answered, as `time.monotonic()` tells it.

        Args:
            request: its `timeout` is in microseconds; 0 means none.
            began: when it came.
            left_s: what the transport said was left then.
        """
        asked = request.parameters.get("timeout", 0)
        if isinstance(asked, str | bool) or not 0 <= asked < 1e15:
            raise InvalidInput(f"timeout must be a number of microseconds, 0 or more, not {asked!r:.40}.")
        at = self._pictures.deadline(asked / 1e3 or None, began)
        return at if left_s is None else min(at, began + left_s)

    async def infer(self, model: ServedModel, request: InferRequest, deadline: float) -> Inferred:
        """Answer a request; an item that is wrong fails the request, or with `partial` itself alone.

        Raises:
            InvalidInput: the message names the tensor and, of several items, the place of the first that is wrong.
            VitrineError: what the Runner says.
        """
        model.check_ready()
        wanted = wanted_of(model, request)
        asked = _asked(request, model.card)
        if isinstance(model.card, ImageCard):
            return await self._pictures_of(model, model.card, request, wanted, asked, deadline)
        return await _rows_of(model, model.card, request, wanted, asked, deadline)

    async def _pictures_of(
        self,
        model: ServedModel,
        card: ImageCard,
        request: InferRequest,
        wanted: Sequence[Wanted],
        asked: _Asked,
        deadline: float,
    ) -> Inferred:
        name, items = request.inputs[0].name, pictures_in(request.inputs[0])
        if any(each.name == MAP for each in wanted):
            done = await self._explained(model, card, items, asked, deadline)
        else:
            done = await _all(_submitted(model, items, deadline))
        good, failed = _sorted_out(done, name, partial=asked.partial)
        logits = np.stack([each.value.logits for each in good])
        outputs = _classified(card, logits, asked, wanted)
        if any(each.name == MAP for each in wanted):
            outputs[MAP] = Tensor(MAP, "FP32", np.stack([each.value.map for each in good]))
        warnings = list(card.warnings)
        warnings += filter(None, (blurry(card, each.value.sharpness) for each in good))
        by = list(filter(None, (answered_by(model, each.value) for each in good)))
        warnings += filter(None, (beyond_limits(card, each, asked.threshold) for each in by))
        return Inferred(_answer(model, wanted, outputs, warnings, failed, by), good)

    async def _explained(
        self, model: ServedModel, card: ImageCard, items: Sequence[Picture], asked: _Asked, deadline: float
    ) -> list[Answer[Any] | BaseException]:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(item: Picture) -> Answer[Any]:
            async with gate:
                if isinstance(item, Ready):
                    raise InvalidInput("There is no map of a tensor: send the picture itself, or its pixels.")
                data = item if isinstance(item, bytes) else await asyncio.to_thread(_png, item, card.limits)
                return await self._pictures.explain(
                    model, default_ask(card, data, asked.threshold, output="map"), deadline
                )

        return await _all([one(item) for item in items])


def wanted_of(model: ServedModel, request: InferRequest) -> Sequence[Wanted]:
    """The outputs that are asked for, or the usual ones.

    Raises:
        InvalidInput: an unknown one, one that stands twice, or classes of what has none.
    """
    specs = outputs_of(model.card, explained=not model.unexplained)
    known = [each.name for each in specs]
    if not request.outputs:
        return [Wanted(name, binary=request.binary) for name in known if name != MAP]
    check_names([each.name for each in request.outputs], "outputs")
    for each in request.outputs:
        if each.name not in known:
            why = f" There is no map: {model.unexplained}." if each.name == MAP else ""
            raise InvalidInput(f"{model.name} has no output {each.name!r:.80}; it has {', '.join(known)}.{why}")
        if each.classes and each.name not in CLASSIFIED:
            raise InvalidInput(f"{each.name} has no classes; classification is for {' and '.join(CLASSIFIED)}.")
    return request.outputs


async def _rows_of(
    model: ServedModel,
    card: RowCard,
    request: InferRequest,
    wanted: Sequence[Wanted],
    asked: _Asked,
    deadline: float,
) -> Inferred:
    values = rows_in(request.inputs, card)
    answer = await awaitable(model.submit_rows(values, deadline))
    problems = answer.value.problems
    if problems and (not asked.partial or len(problems) == len(values.values)):
        first = min(problems)
        raise InvalidInput(f"Row {first}: {problems[first]}")
    failed = {place: str(error) for place, error in problems.items()}
    work = card, answer.value.outputs, asked, wanted
    # A thousand rows take their time, which no other request should wait for.
    outputs = _row_outputs(*work) if len(values.values) <= FEW else await asyncio.to_thread(_row_outputs, *work)
    return Inferred(_answer(model, wanted, outputs, card.warnings, failed), [answer])


def _row_outputs(card: RowCard, rows: Array, asked: _Asked, wanted: Sequence[Wanted]) -> dict[str, Tensor]:
    if card.task != "anomaly-detection":
        return _classified(card, rows, asked, wanted)
    found = [interpret_anomaly(row, card, threshold=asked.threshold) for row in rows]
    return {
        "score": Tensor("score", "FP32", np.array([each.anomaly_score for each in found], np.float32)),
        "is_anomaly": Tensor("is_anomaly", "BOOL", np.array([each.is_anomaly for each in found], bool)),
        "contributions": Tensor("contributions", "FP32", rows),
    }


def _submitted(model: ServedModel, items: Sequence[Picture], deadline: float) -> list[Awaitable[Answer[Any]]]:
    """Every item in the queue; none of them if it does not take them all."""
    waiting = list[Any]()
    try:
        for item in items:
            waiting.append(model.submit(item, deadline))
    except VitrineError:
        for future in waiting:
            future.cancel()
        raise
    return [awaitable(future) for future in waiting]


async def _all(work: Sequence[Awaitable[Answer[Any]]]) -> list[Answer[Any] | BaseException]:
    return await asyncio.gather(*work, return_exceptions=True)


def _sorted_out(
    done: Sequence[Answer[Any] | BaseException], name: str, *, partial: bool
) -> tuple[list[Answer[Any]], dict[int, str]]:
    """The answers, and why the others have none; raises what is not an item's own fault, or the first that is."""
    failed = {place: each for place, each in enumerate(done) if isinstance(each, BaseException)}
    for error in failed.values():
        if not isinstance(error, InvalidInput):
            raise error
    good = [each for each in done if not isinstance(each, BaseException)]
    if failed and (not partial or not good):
        place, error = next(iter(failed.items()))
        raise type(error)(f"{name}[{place}]: {error}") from error
    return good, {place: str(error) for place, error in failed.items()}


def _classified(card: Card, logits: Array, asked: _Asked, wanted: Sequence[Wanted]) -> dict[str, Tensor]:
    probabilities = softmax(logits).astype(np.float32)
    numbers = {"probabilities": probabilities, "logits": logits}
    outputs = {name: Tensor(name, "FP32", array) for name, array in numbers.items()}
    for each in wanted:
        if each.classes:
            outputs[each.name] = top_classes(each.name, numbers[each.name], card.labels, each.classes)
    if any(each.name == LABEL for each in wanted):
        labels = [interpret(row, card, threshold=asked.threshold).label for row in logits]
        outputs[LABEL] = texts(LABEL, labels)
    return outputs


def top_classes(name: str, rows: Array, labels: Sequence[str], count: int) -> Tensor:
    """The classification extension: (N, K) numbers as BYTES (N, count), each `value:index:label`, the largest first."""
    count = min(count, len(labels))
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    said = [
        f"{row[index]:f}:{index}:{labels[index]}".encode()
        for row, best in zip(rows, order, strict=True)
        for index in best
    ]
    return Tensor(name, BYTES, as_bytes(name, (len(rows), count), said))


def _answer(
    model: ServedModel,
    wanted: Sequence[Wanted],
    outputs: dict[str, Tensor],
    warnings: Sequence[str],
    failed: dict[int, str],
    by: Sequence[str] = (),
) -> InferAnswer:
    parameters = dict[str, str | int | float | bool]()
    if warnings:
        parameters["warnings"] = " ".join(dict.fromkeys(warnings))
    if failed:
        parameters["failed"] = json.dumps(failed)
    if by:
        parameters["answered_by"] = ",".join(by)
    return InferAnswer(model.name, model.version or "", [outputs[each.name] for each in wanted], parameters)


def _asked(request: InferRequest, card: Card) -> _Asked:
    low, high = threshold_range(card)
    threshold, partial = request.parameters.get("threshold"), request.parameters.get("partial", False)
    if threshold is not None and (isinstance(threshold, bool | str) or not low <= threshold <= high):
        raise InvalidInput(f"threshold must be a number from {low:g} to {high:g}, not {threshold!r:.40}.")
    if not isinstance(partial, bool):
        raise InvalidInput(f"partial must be true or false, not {partial!r:.40}.")
    return _Asked(threshold, partial)


def _png(pixels: Pixels, limits: ImageLimits) -> bytes:
    height, width, _ = pixels.image.shape
    check_size(width, height, limits)
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return cv2.imencode(".png", cv2.cvtColor(pixels.image, cv2.COLOR_RGB2BGR), quick)[1].tobytes()
