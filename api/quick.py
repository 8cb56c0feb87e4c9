"""Requests that came whole and ask a cheap model for one prediction: answered without a task, by a turn's callback.

The answer is what the application would give, byte for byte. Whatever else there is to a request, such as a query, a
key, a form, or a mistake that can be told before anything is computed, is left to the application.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from starlette.responses import Response
from starlette.types import Scope

from api import images, rows
from api.bodies import Bodies
from api.body import LARGE_JSON_BYTES
from api.middleware import ONLY_HEALTH, Exchange, Middleware
from api.parameters import prediction_query
from api.problems import problem_response
from errors import VitrineError
from models.answer import LabelForm
from models.card import ImageCard, as_row_card
from runners.runner import Answer
from serving.loaded_model import LoadedModel
from serving.predictions import PredictionParameters, image_prediction, row_predictions
from serving.predictor import Predictor
from serving.repository import ModelRepository

_DEFAULT_PATHS = ("/predict", "/infer")
Headers = list[tuple[bytes, bytes]]
Reply = Callable[[int, Headers, bytes], None]
"""Sends an answer: its status, its headers and its body."""


class _Ask(NamedTuple):
    """What is asked of a model where a request says nothing."""

    model: LoadedModel
    parameters: PredictionParameters
    form: LabelForm


class QuickRequests:
    """Answers the requests of one process that can be answered at once, and leaves all others to the application.

    Args:
        repository: the models.
        predictor: says what is asked where a request says nothing.
        middleware: records every request.
        bodies: the bodies of all requests.
        is_shared: whether pages of other origins may call, whose requests get further headers.
    """

    def __init__(
        self,
        repository: ModelRepository,
        predictor: Predictor,
        middleware: Middleware,
        bodies: Bodies,
        *,
        is_shared: bool,
    ) -> None:
        self._repository, self._predictor = repository, predictor
        self._middleware, self._bodies, self._is_shared = middleware, bodies, is_shared
        self._generation, self._names = -1, dict[str, str]()
        self._asks = dict[str, _Ask]()

    def takes(self, scope: Scope, body: bytes, reply: Reply) -> bool:
        """Answer a request, now or in the next turn of the event loop; return False if the application has to.

        Args:
            scope: of the request, as ASGI has it.
            body: all of it.
            reply: is called once with the answer.
        """
        if scope["method"] != "POST" or scope["query_string"] or ONLY_HEALTH in scope["state"] or not body:
            return False
        if (ask := self._ask(scope["path"])) is None:
            return False
        headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first one counts if a header came twice
        if b"x-forwarded-for" in headers or (self._is_shared and b"origin" in headers):
            return False
        exchange = Exchange.of(headers, "POST", scope["path"])
        payload = _payload(ask.model, headers.get(b"content-type", b""), body)
        if payload is None or (gathered := ask.model.gathered_for(payload)) is None:
            return False
        if not self._bodies.have_room(len(body)):
            return False
        self._bodies.hold(len(body))
        asking = _Asking(self, ask, payload, len(body), exchange, scope["client"], reply)
        try:
            gathered.submit_for(asking, payload, self._predictor.deadline())
        except VitrineError as error:
            asking.set_exception(error)
        return True

    def _ask(self, path: str) -> _Ask | None:
        """Return what a request to a path asks, None if it is none that is answered here."""
        repository = self._repository
        if self._generation != repository.generation:
            self._generation = repository.generation
            names = {f"/models/{name}/predict": name for name in repository.models}
            self._names = names | dict.fromkeys(_DEFAULT_PATHS, repository.default)
            self._asks.clear()
        if (name := self._names.get(path)) is None or (model := repository.models.get(name)) is None:
            return None
        ask = self._asks.get(name)
        if ask is None or ask.model is not model:
            card, query = model.card, prediction_query(model.card).read(b"", model.card)
            parameters = query.parameters(card, self._predictor.top_k)
            ask = self._asks[name] = _Ask(model, parameters, query.label_form(card))
        return None if ask.parameters.with_heatmap else ask

    def end(self, exchange: Exchange, held_bytes: int, client: Any, model: LoadedModel) -> None:
        """Record a request that was answered."""
        self._bodies.release(held_bytes)
        route = exchange.path if exchange.path in _DEFAULT_PATHS else "/models/{name}/predict"
        self._middleware.record(exchange, client, model, route)


@dataclass(slots=True, eq=False)
class _Asking:
    """A request that waits for its answer, which a `Gathered` gives it as it would a future.

    Attributes:
        requests: where it was taken.
        ask: what it asks.
        payload: what it asks that of: a picture, or the rows of an object.
        held_bytes: the size of its body.
        exchange: what is recorded of it.
        client: its address.
        reply: sends the answer.
        is_answered: whether it has been sent.
    """

    requests: QuickRequests
    ask: _Ask
    payload: Any
    held_bytes: int
    exchange: Exchange
    client: Any
    reply: Reply
    is_answered: bool = False

    def done(self) -> bool:
        """Return whether it was answered; a client that hangs up in the same turn is computed for nevertheless."""
        return self.is_answered

    def set_result(self, answer: Answer[Any]) -> None:
        """Send the answer."""
        try:
            response: Response = self._answered(answer)
        except Exception as error:
            response = self._problem(error)
        self._send(response)

    def set_exception(self, error: Exception) -> None:
        """Send what went wrong."""
        self._send(self._problem(error))

    def _problem(self, error: Exception) -> Response:
        self.exchange.error = type(error).__name__
        return problem_response(error, self.exchange.request_id)

    def _answered(self, answer: Answer[Any]) -> Response:
        (model, parameters, form), request_id = self.ask, self.exchange.request_id
        if isinstance(model.card, ImageCard):
            prediction = image_prediction(model, answer, parameters)
            self.exchange.answered = model, [prediction]
            return images.answered(model, prediction, parameters, request_id, form)
        predictions = row_predictions(model, answer, parameters)
        self.exchange.answered = model, predictions
        return rows.answered(model, rows.AskedRows(self.payload, are_many=False), predictions, request_id, form)

    def _send(self, response: Response) -> None:
        self.is_answered = True
        exchange, body = self.exchange, bytes(response.body)
        exchange.status, exchange.sent_bytes = response.status_code, len(body)
        try:
            self.reply(exchange.status, [*response.raw_headers, *exchange.headers()], body)
        finally:
            self.requests.end(exchange, self.held_bytes, self.client, self.ask.model)


def _payload(model: LoadedModel, content_type: bytes, body: bytes) -> Any:
    """Return what a body holds for a model, None if the application has to find out."""
    media_type = content_type.partition(b";")[0].strip().lower()
    card = model.card
    if media_type == b"multipart/form-data":
        return None
    if isinstance(card, ImageCard):
        return body if media_type != b"application/json" else None
    limit = card.limits.max_bytes
    if len(body) >= LARGE_JSON_BYTES or (limit is not None and len(body) > limit):
        return None
    try:
        asked = rows.asked_rows(json.loads(body), as_row_card(card), batch=False)
    except (ValueError, RecursionError, VitrineError):
        return None
    return None if asked.are_many else asked.rows
