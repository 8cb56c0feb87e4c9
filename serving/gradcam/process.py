"""What the Grad-CAM process owns: its models, and the calls that are under way."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

from errors import DeadlineExceeded, NotFound, VitrineError
from models.card import ImageCard
from models.package import StoredModel
from preprocessing.sandbox.process import DecodingProcess
from runners.awaiting import awaitable
from runners.memory import map_large_blocks
from runners.runner import Answer
from serving.gradcam.wire import Explanation, answer_to_fields, fields_to_json, request_from_fields
from serving.gradcam.worker import EXPLANATION
from serving.loading import preparing_slow
from serving.options import RunnerOptions
from serving.repository import ModelRepository

NICENESS = 10
"""How far explanations step back: a prediction that wants the same core gets nine tenths of it."""


class ExplanationProcess:
    """The models of the Grad-CAM process, from its start to its end.

    Args:
        stored: the versions that are served; those that cannot be explained are left out.
        options: what the operator set for every Runner.
    """

    def __init__(self, stored: Sequence[StoredModel], options: RunnerOptions) -> None:
        explainable = [model for model in stored if isinstance(model.card, ImageCard) and model.card.explain]
        self._decoding = DecodingProcess()
        role = preparing_slow(EXPLANATION, self._decoding.prepare)
        self._repository = ModelRepository(explainable, replace(options, workers=1), role=role)
        self._calls = dict[str, Future[Answer[Explanation]]]()

    def start(self) -> None:
        """Begin to load in the background."""
        map_large_blocks()
        self._decoding.start()
        self._repository.start()

    async def stop(self, timeout_s: float) -> None:
        """Finish what is under way, then release the models; what takes longer than `timeout_s` is given up."""
        await asyncio.to_thread(self._repository.close, timeout_s)
        self._decoding.close()

    async def explain(self, tag: str, fields: dict[str, Any], seconds: float, call: str) -> dict[str, Any]:
        """Explain one picture; the answer is JSON where the request was.

        Args:
            tag: `name:version` of the model.
            fields: the request, as `request_from_fields` reads it.
            seconds: how long the caller waits.
            call: a name for `cancel`.

        Returns:
            What `answer_to_fields` makes of the answer, or of the error in its place.
        """
        deadline = time.monotonic() + seconds
        try:
            name, _, version = tag.partition(":")
            model = self._repository.get(name, version)
            future = model.submit(request_from_fields(fields), deadline)
            self._calls[call] = future
            answer: Answer[Explanation] = await awaitable(future)
            reply = answer_to_fields(answer)
            return fields_to_json(reply) if isinstance(fields["data"], str) else reply
        except asyncio.CancelledError:
            return answer_to_fields(DeadlineExceeded("Nobody waits for this any more."))
        except NotFound:
            return answer_to_fields(NotFound(f"{tag} has no explanations."))
        except VitrineError as error:
            return answer_to_fields(error)
        finally:
            self._calls.pop(call, None)

    def cancel(self, call: str) -> None:
        """Give up a call that nobody waits for any more."""
        if call in self._calls:
            self._calls[call].cancel()

    def status(self) -> dict[str, Any]:
        """Return by tag the `state` and `detail` of every model and, once it runs, its `stats`."""
        return {
            model.tag: {
                "state": model.state,
                "detail": model.detail,
                "stats": asdict(stats) if (stats := model.own_stats()) else None,
            }
            for model in self._repository.every
        }

    def settled(self) -> bool:
        """Return whether no model is still loading; `status` says of one that failed why it did."""
        return all(model.state not in ("loading", "checking") for model in self._repository.every)
