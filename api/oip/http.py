"""The Open Inference Protocol over HTTP: the routes under /v2."""

import asyncio
import json
import time
import zlib

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from api.body import LARGE, read_body
from api.oip.inference import Inference
from api.oip.items import checker
from api.oip.messages import HEADER, InferRequest, json_length_of, read_request, write_answer
from api.oip.metadata import index_of, model_config, model_facts, server_facts, statistics_of
from api.oip.signature import IMAGE, ROWS
from api.oip.tensors import BYTES, Declared, Tensor, as_bytes, from_binary
from api.waiting import race, timing_of
from errors import InvalidInput, TooLarge
from models.card import ImageCard
from serving.loaded_model import ServedModel
from serving.repository import ServedModels

SHORT = 1024
"""Bytes that the body of `repository/index` may have."""
WORTH_COMPRESSING = 1024
"""Bytes of an answer from which on it is compressed for a client that accepts it."""
_WINDOW = {"gzip": 31, "deflate": 15}


class OpenInference:
    """Answers under /v2 for the models of one process.

    Args:
        served: the models.
        inference: answers what is to be inferred.
        version: Vitrine's own.
        max_body_bytes: of a request once it is decompressed.
    """

    def __init__(self, served: ServedModels, inference: Inference, version: str, max_body_bytes: int) -> None:
        self._served, self._inference, self._version, self._limit = served, inference, version, max_body_bytes

    def routes(self) -> APIRouter:
        """Every route; those of a model with and without a version."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"])
        one = "/models/{name}", "/models/{name}/versions/{version}"
        table = (
            (self.server, "GET", ("",)),
            (self.live, "GET", ("/health/live",)),
            (self.ready, "GET", ("/health/ready",)),
            (self.models, "GET", ("/models",)),
            (self.all_statistics, "GET", ("/models/stats",)),
            (self.index, "POST", ("/repository/index",)),
            (self.load, "POST", ("/repository/models/{name}/load", "/repository/models/{name}/unload")),
            (self.model, "GET", one),
            (self.model_ready, "GET", tuple(f"{path}/ready" for path in one)),
            (self.config, "GET", tuple(f"{path}/config" for path in one)),
            (self.statistics, "GET", tuple(f"{path}/stats" for path in one)),
            (self.infer, "POST", tuple(f"{path}/infer" for path in one)),
        )
        for endpoint, method, paths in table:
            for index, path in enumerate(paths):
                router.add_api_route(path, endpoint, methods=[method], include_in_schema=index == 0)
        return router

    async def server(self) -> Response:
        """Name, version and extensions of the server."""
        return JSONResponse(server_facts(self._version))

    async def live(self) -> Response:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    async def ready(self) -> Response:
        """Whether the default model predicts and no other is still loading: 200, else 503."""
        await self._served.refresh(at_most_s=0.5)
        ready = self._served.ready
        return JSONResponse({"ready": ready, "live": True}, 200 if ready else 503)

    async def models(self) -> Response:
        """The names of the models."""
        return JSONResponse({"models": sorted(self._served.models)})

    async def model(self, name: str, version: str | None = None) -> Response:
        """A model's versions, inputs and outputs."""
        return JSONResponse(model_facts(self._served, self._served.get(name, version)))

    async def model_ready(self, name: str, version: str | None = None) -> Response:
        """Whether a model answers: 200, else 503."""
        model = self._served.get(name, version)
        ready = model.state == "ready"
        return JSONResponse({"name": model.name, "ready": ready}, 200 if ready else 503)

    async def config(self, name: str, version: str | None = None) -> Response:
        """A model's configuration in Triton's words."""
        return JSONResponse(model_config(self._served.get(name, version)))

    async def statistics(self, name: str, version: str | None = None) -> Response:
        """A model's counts and times in Triton's words."""
        await self._served.refresh()
        return JSONResponse(statistics_of(self._served, self._served.get(name, version)))

    async def all_statistics(self) -> Response:
        """The counts and times of every model."""
        await self._served.refresh()
        return JSONResponse(statistics_of(self._served, None))

    async def index(self, request: Request) -> Response:
        """Every version of every model with its state; `{"ready": true}` lists only those that answer."""
        sent = await read_body(request)
        try:
            body = json.loads(sent or b"{}") if len(sent) <= SHORT else None
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"The body is not JSON ({error}).") from error
        ready_only = body.get("ready", False) if isinstance(body, dict) else None
        if not isinstance(ready_only, bool):
            raise InvalidInput('Send nothing, or {"ready": true}.')
        return JSONResponse(index_of(self._served, ready_only=ready_only))

    async def load(self, name: str) -> Response:
        """Models are not loaded or unloaded by clients."""
        raise HTTPException(501, f"{name}: clients load no models here; `vitrine models import` does.")

    async def infer(self, request: Request, name: str, version: str | None = None) -> Response:
        """Infer tensors: JSON, binary tensors behind JSON, or the one tensor alone as the body."""
        began, model = time.monotonic(), self._served.get(name, version)
        model.check_ready()
        body, headers = await read_body(request), request.headers
        coding, header = headers.get("content-encoding", ""), headers.get(HEADER)

        def read() -> InferRequest:
            return read_infer(decompressed(body, coding, self._limit), header, model)

        # What is large takes its time, which no other request should wait for.
        asked = await asyncio.to_thread(read) if coding or len(body) > LARGE else read()
        deadline = self._inference.deadline(asked, began)
        found = await race(self._inference.infer(model, asked, deadline), request, deadline, "timeout (microseconds)")
        written, json_length = write_answer(found.answer, asked)
        said = timing_of(found.timed) | {"Vary": "Accept-Encoding"}
        if json_length is not None:
            said[HEADER] = str(json_length)
        if accepted := accepted_coding(headers.get("accept-encoding", ""), len(written)):
            said["Content-Encoding"] = accepted
            packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW[accepted])
            written = packer.compress(written) + packer.flush()
        kind = "application/json" if json_length is None else "application/octet-stream"
        return Response(written, 200, said, kind)


def read_infer(body: bytes, header: str | None, model: ServedModel) -> InferRequest:
    """A request's tensors: JSON, binary ones behind it, or one bare tensor as the whole body.

    Raises:
        InvalidInput: nothing of the kind; see `api.oip.messages.read_request` and `api.oip.items.checker`.
    """
    check, length = checker(model.card, model.queue_size), json_length_of(header, len(body))
    if header is None or length:
        return read_request(body, length, check)
    if not body:
        raise InvalidInput(f"{HEADER} is 0, so the body should be the tensor itself; it is empty.")
    if isinstance(model.card, ImageCard):
        return InferRequest([Tensor(IMAGE, BYTES, as_bytes(IMAGE, (1,), [body]))])
    width = len(model.card.input.features)
    said = Declared(ROWS, "FP32", (len(body) // (4 * width), width))
    check([said])
    return InferRequest([Tensor(ROWS, "FP32", from_binary(said, body))])


def decompressed(body: bytes, coding: str, limit: int) -> bytes:
    """A request's body as it was before its Content-Encoding.

    Raises:
        InvalidInput: an encoding other than gzip and deflate, or damaged.
        TooLarge: more than `limit` bytes come out.
    """
    coding = coding.strip().lower()
    if coding in ("", "identity"):
        return body
    if coding not in _WINDOW:
        raise InvalidInput(f"Content-Encoding {coding!r:.40} is not known here; send gzip, deflate or neither.")
    unpacker = zlib.decompressobj(_WINDOW[coding])
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"The body is not {coding} ({error}).") from error
    if len(data) > limit:
        raise TooLarge(f"The body unpacks to more than {limit:,} bytes, the limit here. Send less at a time.")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidInput(f"The body is not one whole {coding} stream.")
    return data


def accepted_coding(accepted: str, size: int) -> str | None:
    """What to compress with: gzip or deflate, where the client accepts it and the answer is worth it."""
    if size < WORTH_COMPRESSING:
        return None
    named = {part.partition(";")[0].strip().lower(): part.partition(";")[2].strip() for part in accepted.split(",")}
    return next((each for each in _WINDOW if named.get(each, "q=0") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")), None)
