"""What the Grad-CAM process owns: its models, and the calls that are under way."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

from errors import DeadlineExceeded, NotFound, VitrineError
from models.card import ImageCard
from models.followed import FollowedFolders
from models.package import StoredModel
from preprocessing.sandbox.process import DecodingProcess
from runners.admission import asked_by
from runners.awaiting import awaitable
from runners.memory import map_large_blocks
from runners.metrics import write_all
from runners.runner import Answer
from serving.explainable import no_gradient_reason
from serving.gradcam.wire import (
    ExplainedPicture,
    answer_to_fields,
    answers_to_fields,
    fields_to_json,
    request_from_fields,
)
from serving.gradcam.worker import EXPLANATION
from serving.loading import preparing_slow
from serving.options import RunnerOptions
from serving.repository import ModelRepository

RELEASE_AFTER_S = 10.0
"""A version that no server has named for so long is released, in seconds."""
IN_TIME = 0.95
"""Of the time for several pictures, the part after which those that are done are answered, and the others are late."""
NICENESS = 10
"""How far explanations step back: a prediction that wants the same core gets nine tenths of it."""


class ExplanationProcess:
    """The models of the Grad-CAM process, from its start to its end.

    Args:
        stored: the versions that are served; those that cannot be explained are left out.
        options: what the operator set for every Runner.
        followed: where further versions lie that a server may ask for.
    """

    def __init__(
        self, stored: Sequence[StoredModel], options: RunnerOptions, followed: FollowedFolders | None = None
    ) -> None:
        self._stored = {model.tag: model for model in stored}
        self._followed = followed or FollowedFolders(())
        explainable = [model for model in stored if _has_gradient(model)]
        self._decoding = DecodingProcess()
        role = preparing_slow(EXPLANATION, self._decoding.prepare)
        self._repository = ModelRepository(explainable, replace(options, workers=1), role=role)
        self._asked_for_at = dict[str, float]()
        self._calls = dict[str, Sequence[Future[Answer[ExplainedPicture]]]]()

    def start(self) -> None:
        """Begin to load in the background."""
        map_large_blocks()
        self._decoding.start()
        self._repository.start()

    async def stop(self, timeout_s: float) -> None:
        """Finish what is under way, then release the models; what takes longer than `timeout_s` is given up."""
        await asyncio.to_thread(self._repository.close, timeout_s)
        write_all()
        self._decoding.close()

    async def explain(
        self, tag: str, requests: Sequence[dict[str, Any]], seconds: float, call: str, client: str = ""
    ) -> dict[str, Any]:
        """Explain the pictures of one request, all or none; the answers are JSON where the requests were.

        Args:
            tag: `name:version` of the model.
            requests: one for each picture, as `request_from_fields` reads it.
            seconds: how long the caller waits.
            call: a name for `cancel`.
            client: who asks, as far as clients can be told apart; else empty.

        Returns:
            What `answers_to_fields` makes of the answers, or `answer_to_fields` of the error in place of all of them.
        """
        deadline = time.monotonic() + seconds
        asked_by.set(client or None)
        try:
            name, _, version = tag.partition(":")
            model = self._repository.get(name, version)
            self._calls[call] = futures = model.submit_all([*map(request_from_fields, requests)], deadline)
            reply = answers_to_fields(await _answers(futures, IN_TIME * seconds if len(futures) > 1 else None))
            is_json = any(isinstance(request["data"], str) for request in requests)
            return {"answers": [*map(fields_to_json, reply["answers"])]} if is_json else reply
        except NotFound:
            return answer_to_fields(NotFound(f"{tag} has no explanations."))
        except VitrineError as error:
            return answer_to_fields(error)
        finally:
            self._calls.pop(call, None)

    def cancel(self, call: str) -> None:
        """Give up a call that nobody waits for any more."""
        for future in self._calls.get(call, ()):
            future.cancel()

    def status(self, tags: Sequence[str] | None = None) -> dict[str, Any]:
        """Return by tag the `state` and `detail` of every model, its `gauges` and, once it runs, its `stats`.

        Versions that are not here yet begin to be loaded; those that no server has named for a while are released.

        Args:
            tags: the versions that the server that asks serves, or will; None if it does not say.
        """
        missing = self._follow(tags) if tags is not None else {}
        return missing | {
            model.tag: {
                "state": model.state,
                "detail": model.detail or model.stuck_reason,
                "stats": asdict(stats) if (stats := model.own_stats()) else None,
                "gauges": model.gauges(),
            }
            for model in self._repository.every
        }

    def replace_stuck_lanes(self) -> None:
        """Start new lanes where one hangs, as `ModelRepository.replace_stuck_lanes`."""
        self._repository.replace_stuck_lanes()

    def settled(self) -> bool:
        """Return whether no model is still loading; `status` says of one that failed why it did."""
        return all(model.state not in ("loading", "checking") for model in self._repository.every)

    def _follow(self, tags: Sequence[str]) -> dict[str, Any]:
        """Load the versions that are not here yet, and release those that nobody needs; return what cannot be had."""
        now, here = time.monotonic(), {model.tag: model for model in self._repository.every}
        self._asked_for_at |= dict.fromkeys(tags, now)
        missing = dict[str, Any]()
        for tag in tags:
            if tag not in here:
                name, _, version = tag.partition(":")
                stored = self._stored.get(tag) or self._followed.open(name, version)
                if isinstance(stored, StoredModel) and _has_gradient(stored):
                    model = self._repository.model_of(stored)
                    others = self._repository.versions.get(model.name, {}).values()
                    self._repository.put(model.name, [model, *others])
                    threading.Thread(target=self._repository.load, args=(model,), daemon=True).start()
                else:
                    missing[tag] = {
                        "state": "missing",
                        "detail": f"{tag} is not installed here",
                        "stats": None,
                        "gauges": {},
                    }
        for tag, model in here.items() if self._repository.loaded else ():
            kept_s = 0.0 if model.state == "failed" else RELEASE_AFTER_S  # one that failed may be asked for anew
            if now > self._asked_for_at.setdefault(tag, now) + kept_s:
                others = self._repository.versions[model.name].values()
                self._repository.put(model.name, [other for other in others if other is not model])
                threading.Thread(target=model.close, args=(RELEASE_AFTER_S,), daemon=True).start()
        self._asked_for_at = {
            tag: at for tag, at in self._asked_for_at.items() if tag in here or now <= at + RELEASE_AFTER_S
        }
        return missing


async def _answers(
    futures: "Sequence[Future[Answer[ExplainedPicture]]]", timeout_s: float | None
) -> "list[Answer[ExplainedPicture] | VitrineError]":
    """Return the answer of each future, or the error in its place; what is not there after the timeout is cancelled."""
    waiting = [awaitable(future) for future in futures]
    gathered = asyncio.gather(*waiting, return_exceptions=True)
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=timeout_s)
    finally:
        for waiter in waiting:
            waiter.cancel()  # which does nothing to one that is done
    return [_answer_of(ended) for ended in await gathered]


def _answer_of(ended: "Answer[ExplainedPicture] | BaseException") -> "Answer[ExplainedPicture] | VitrineError":
    if isinstance(ended, asyncio.CancelledError):
        return DeadlineExceeded("This was not there before the deadline, or nobody waits for it any more.")
    if isinstance(ended, BaseException) and not isinstance(ended, VitrineError):
        raise ended
    return ended


def _has_gradient(model: StoredModel) -> bool:
    return isinstance(model.card, ImageCard) and not no_gradient_reason(model.card, model)
