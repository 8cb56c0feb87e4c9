"""Scoring slices with a model in this process: its loaded model, Runner and pipeline are those of the service."""

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import cv2

from bulk.items import Item, Slice, digest_of
from bulk.rows import Parameters, of_picture, of_rows
from bulk.work import Claim, Scored, Waiting, Work, read_ahead
from errors import BulkError, DeadlineExceeded, NoExplanation, QueueFull, Unavailable, VitrineError
from explain.rise import RISE
from models.card import RowCard, as_row_card
from models.package import StoredModel
from preprocessing.sandbox.process import DecodingProcess
from runners.cores import CoreShare
from runners.runner import Answer
from serving.gradcam.requests import DEFAULT_ALPHA
from serving.gradcam.wire import ExplanationRequest
from serving.gradcam.worker import EXPLANATION
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION, Role, preparing_slow
from serving.options import RunnerOptions
from serving.predictions import ImagePrediction, image_prediction, row_predictions
from serving.rise import RiseExplainer

MOST_ATTEMPTS = 6
"""How often an item is given to the model whose error is about the machine's load and not about the item."""
CLOSE_S = 20.0


class Scorer:
    """A model in the memory of this process.

    Args:
        stored: the model.
        parameters: what is asked of it.
        options: what the operator set for every Runner.
        cores: how many lanes a model of pictures gets on a CPU, with one narrow session for all.
        most_bytes: the size of the largest picture that is read.

    Raises:
        BulkError: the model cannot be loaded, its self-check fails, or it cannot be explained.
    """

    def __init__(
        self, stored: StoredModel, parameters: Parameters, options: RunnerOptions, cores: int, most_bytes: int
    ) -> None:
        cv2.setNumThreads(1)  # lanes are the parallelism
        self._stored, self._parameters, self._most_bytes = stored, parameters, most_bytes
        self._decoding, self._share = DecodingProcess(), CoreShare(cores)
        self._most_waiting, self._masking = 4 * max(cores, 8), threading.Lock()
        self._is_stopped = False
        self._model = self._loaded(PREDICTION, options)
        self._explainer: LoadedModel | None = None
        if parameters.explain and self._model.has_gradient:
            self._explainer = self._loaded(EXPLANATION, options)

    def score(self, part: int, items: Slice, claim: Claim) -> Scored:
        """Score one slice, computing what is the same once; several threads may do so at once.

        Args:
            part: the number of the slice.
            items: the slice.
            claim: says which inputs are to be computed here.
        """
        work = Work(part)
        chunks = read_ahead(items.chunks(self._most_bytes))
        for chunk in chunks:
            fresh = self._begin(work, chunk, claim)
            if isinstance(self._stored.card, RowCard):
                self._compute_rows(work, fresh)
            else:
                self._compute_pictures(work, fresh)
        while work.waiting:
            self._settle(work)
        return work.scored(self._stored.tag)

    def stop(self) -> None:
        """Have what is being scored end with a BulkError as soon as it can."""
        self._is_stopped = True

    def close(self) -> None:
        """Release the model and its processes."""
        for model in (self._model, self._explainer):
            if model is not None:
                model.close(CLOSE_S)
        self._decoding.close()

    def _loaded(self, role: Role, options: RunnerOptions) -> LoadedModel:
        model = LoadedModel(self._stored.card, self._stored, preparing_slow(role, self._decoding.prepare))
        model.load(options, self._share)
        if model.state != "ready":
            self._decoding.close()
            raise BulkError(f"{self._stored.tag} cannot be used: {model.detail}")
        return model

    def _begin(self, work: "Work", chunk: Sequence[Item], claim: Claim) -> list[tuple[str, Any]]:
        """Note every item of a chunk; return sha256 and payload of what is to be computed here."""
        fresh = dict[str, Any]()
        for item in chunk:
            if item.payload is None:
                work.add(item.input, None, {"error": item.error})
                continue
            digest = digest_of(item.payload)
            work.add(item.input, digest)
            if digest not in work.answers and digest not in work.owners:
                fresh.setdefault(digest, item.payload)
        for digest, claimed in zip(fresh, claim(work.part, list(fresh)), strict=True):
            if claimed.row is not None:
                work.answers[digest] = claimed.row
            elif claimed.part is not None:
                work.owners[digest] = claimed.part
            else:
                work.answers[digest] = {}  # on its way
        here = [(digest, fresh[digest]) for digest in fresh if work.answers.get(digest) == {}]
        work.computed += len(here)
        return here

    def _compute_rows(self, work: "Work", fresh: Sequence[tuple[str, Any]]) -> None:
        if not fresh:
            return
        rows = [payload for _, payload in fresh]
        while len(work.waiting) > 1:
            self._settle(work)

        def finish(answer: Answer[Any]) -> None:
            predictions = row_predictions(self._model, answer, self._parameters.of(self._stored.card))
            outputs = of_rows(predictions, rows, as_row_card(self._stored.card))
            work.answers.update(zip([digest for digest, _ in fresh], outputs, strict=True))

        def fail(error: VitrineError) -> None:
            if len(fresh) == 1:
                work.answers[fresh[0][0]] = {"error": str(error)}
            else:  # one of them may be to blame
                for pair in fresh:
                    self._compute_rows(work, [pair])

        work.waiting.append(Waiting(lambda: self._model.submit(rows, is_admitted=True), finish, fail))

    def _compute_pictures(self, work: "Work", fresh: Sequence[tuple[str, bytes]]) -> None:
        for digest, data in fresh:
            while len(work.waiting) >= self._most_waiting:
                self._settle(work)
            work.waiting.append(self._picture(work, digest, data))

    def _picture(self, work: "Work", digest: str, data: bytes) -> "Waiting":
        """Give one picture to the model, or to what explains it."""
        model, explainer, parameters = self._model, self._explainer, self._parameters
        asked, reasons = parameters.of(model.card), list[str]()

        def finish(answer: Answer[Any]) -> None:
            explanations = answer.value.explanations if explainer is not None and not reasons else ()
            prediction = image_prediction(model, answer, asked, explanations)
            self._answer(work, digest, prediction._replace(explanation_error="".join(reasons) or None))

        def fail(error: VitrineError) -> None:
            if isinstance(error, NoExplanation) and not reasons:  # it is predicted all the same, as the service does
                reasons.append(str(error))
                work.waiting.append(Waiting(lambda: model.submit(data, is_admitted=True), finish, fail))
            else:
                work.answers[digest] = {"error": str(error)}

        if explainer is not None:
            request = self._request(data)
            return Waiting(lambda: explainer.submit(request, is_admitted=True), finish, fail)
        if parameters.explain:
            return Waiting(lambda: self._by_masks(work, digest, data), lambda done: None, fail)
        return Waiting(lambda: model.submit(data, is_admitted=True), finish, fail)

    def _request(self, data: bytes) -> ExplanationRequest:
        method, threshold = self._model.map_method, self._parameters.threshold
        return ExplanationRequest(data, (), method, "overlay", DEFAULT_ALPHA, at_input_size=False, threshold=threshold)

    def _by_masks(self, work: "Work", digest: str, data: bytes) -> "Future[Any]":
        """Explain one picture by RISE, as the service does where there is no gradient."""
        assert self._model.map_method == RISE
        asked = self._parameters.of(self._model.card)
        explained = RiseExplainer().explain(self._model, self._request(data), asked, math.inf)
        done = Future[Any]()
        try:
            with self._masking:
                self._answer(work, digest, asyncio.run(explained))
            done.set_result(None)
        except VitrineError as error:
            done.set_exception(error)
        return done

    def _answer(self, work: "Work", digest: str, prediction: ImagePrediction) -> None:
        work.answers[digest] = of_picture(prediction, self._stored, self._parameters, digest)
        if prediction.explanation is not None and prediction.explanation.picture is not None:
            work.overlays[digest] = prediction.explanation.picture

    def _settle(self, work: "Work") -> None:
        """Wait for what was submitted first."""
        if self._is_stopped:
            raise BulkError("The run was stopped.")
        waiting = work.waiting.popleft()
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                waiting.finish(waiting.future.result())
                return
            except (QueueFull, Unavailable, DeadlineExceeded) as error:  # about this machine, not about the item
                if attempt == MOST_ATTEMPTS:
                    waiting.fail(error)
                    return
                time.sleep(0.2 * attempt)
                waiting.begin()
            except VitrineError as error:
                waiting.fail(error)
                return
