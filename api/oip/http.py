"""The Open Inference Protocol over HTTP: the operations under /v2."""

import asyncio
import json
import math
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from api.body import LARGE_JSON_BYTES, json_job, read_body
from api.caller import HttpCaller, timing_headers
from api.control import ModelControl, key_name_of
from api.grants import check_scope
from api.oip import metadata
from api.oip.compression import accepted_encoding, compress, decompress
from api.oip.inference import Inference
from api.oip.items import header_check
from api.oip.messages import JSON_LENGTH_HEADER, InferRequest, read_json_length, read_request, write_response
from api.oip.names import NamedModel, named_model, names_of
from api.oip.tensors import BYTES, DTYPES, Tensor, TensorHeader, bytes_array, from_binary
from api.operation import Endpoint, Operation, at_paths
from api.target import VersionQuery
from errors import InvalidInput
from serving.predictor import Predictor
from serving.repository import ModelRepository

MAX_OPTIONS_BYTES = 1024
"""The most bytes that the body of a request about the repository may have."""


TAG = "open inference protocol"


class OpenInference:
    """Answers under /v2 for the models of one process.

    Args:
        repository: the models.
        predictor: the core.
        version: Vitrine's own.
        max_body_bytes: the limit of a request's body, also once it is decompressed.
        control: loads and unloads models for clients that may.
    """

    def __init__(
        self,
        repository: ModelRepository,
        predictor: Predictor,
        version: str,
        max_body_bytes: int,
        control: ModelControl,
    ) -> None:
        self._repository, self._inference, self._control = repository, Inference(predictor), control
        self._version, self._max_body_bytes = version, max_body_bytes

    def operations(self) -> list[Operation]:
        """Return every operation; where two paths match a request, the first one answers it."""
        return [
            *at_paths("GET", ["/v2"], self.server, tag=TAG),
            *at_paths("GET", ["/v2/health/live"], self.live, tag=TAG),
            *at_paths("GET", ["/v2/health/ready"], self.ready, tag=TAG),
            *at_paths("GET", ["/v2/models"], self.models, tag=TAG),
            *at_paths("GET", ["/v2/models/stats"], self.all_statistics, tag=TAG),
            *at_paths("POST", ["/v2/repository/index"], self.index, tag=TAG),
            *at_paths("POST", ["/v2/repository/models/{name}/load"], self.load, tag=TAG),
            *at_paths("POST", ["/v2/repository/models/{name}/unload"], self.unload, tag=TAG),
            *_model_operations("GET", "", self.model),
            *_model_operations("GET", "/ready", self.model_ready),
            *_model_operations("GET", "/config", self.config),
            *_model_operations("GET", "/stats", self.statistics),
            *_model_operations("POST", "/infer", self.infer),
        ]

    async def server(self, request: Request) -> Response:
        """Name, version and extensions of the server."""
        return JSONResponse(metadata.server_metadata(self._version))

    async def live(self, request: Request) -> Response:
        """Whether the process answers."""
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        """Whether the default model predicts and no other is still loading: 200, else 503."""
        await self._repository.refresh(max_age_s=metadata.READINESS_MAX_AGE_S)
        ready = self._repository.ready
        return JSONResponse({"ready": ready, "live": True}, 200 if ready else 503)

    async def models(self, request: Request) -> Response:
        """The names of the models, several for each."""
        models = self._repository.models.values()
        return JSONResponse({"models": sorted(named.name for model in models for named in names_of(model))})

    async def model(self, request: Request) -> Response:
        """A model's versions, inputs and outputs."""
        return JSONResponse(metadata.model_metadata(self._repository, self._named(request)))

    async def model_ready(self, request: Request) -> Response:
        """Whether a model answers: 200, else 503."""
        named = self._named(request)
        ready = named.model.state == "ready"
        return JSONResponse({"name": named.name, "ready": ready}, 200 if ready else 503)

    async def config(self, request: Request) -> Response:
        """A model's configuration in Triton's words."""
        return JSONResponse(metadata.model_config(self._named(request)))

    async def statistics(self, request: Request) -> Response:
        """A model's counts and times in Triton's words."""
        await self._repository.refresh()
        return JSONResponse(metadata.model_statistics(self._repository, self._named(request)))

    async def all_statistics(self, request: Request) -> Response:
        """The counts and times of every model."""
        await self._repository.refresh()
        return JSONResponse(metadata.model_statistics(self._repository))

    async def index(self, request: Request) -> Response:
        """Every version of every model with its state; `{"ready": true}` lists only those that answer."""
        ready_only = (await _read_options(request)).get("ready", False)
        if not isinstance(ready_only, bool):
            raise InvalidInput('Send nothing, or {"ready": true}.')
        return JSONResponse(metadata.repository_index(self._repository, ready_only=ready_only))

    async def load(self, request: Request) -> Response:
        """Serve a model in its newest version, and answer once every process does; for keys that may."""
        self._control.check_page(request)
        parameters = (await _read_options(request)).get("parameters")
        await self._control.load(request.path_params["name"], key_name_of(request), parameters)
        return JSONResponse({})

    async def unload(self, request: Request) -> Response:
        """Take a model out of service until it is loaded again; for keys that may."""
        self._control.check_page(request)
        await _read_options(request)
        await self._control.unload(request.path_params["name"], key_name_of(request))
        return JSONResponse({})

    async def infer(self, request: Request) -> Response:
        """Infer tensors: JSON, binary tensors behind JSON, or the one tensor alone as the body."""
        since, named = time.monotonic(), self._named(request)
        check_scope(named.model.name)
        named.check_room()
        body, headers = await read_body(request), request.headers
        if encoding := headers.get("content-encoding", ""):
            compressed_bytes = len(body)
            body = await asyncio.to_thread(decompress, body, encoding, self._max_body_bytes)
            request.state.body.hold(max(0, len(body) - compressed_bytes))

        def read() -> InferRequest:
            return read_infer_request(body, headers.get(JSON_LENGTH_HEADER), named)

        if JSON_LENGTH_HEADER not in headers:
            with json_job(named.model.large_json, body) as job:
                infer_request = await job.run(read)
        else:  # of binary tensors a copy is made, which takes a while where they are large
            infer_request = await asyncio.to_thread(read) if len(body) > LARGE_JSON_BYTES else read()
        deadline = self._inference.deadline(infer_request, since)
        response = await self._inference.infer(named, infer_request, deadline, HttpCaller(request))
        content, json_length = write_response(response, infer_request)
        response_headers = timing_headers(response.answers) | {"Vary": "Accept-Encoding"}
        if json_length is not None:
            response_headers[JSON_LENGTH_HEADER] = str(json_length)
        if accepted := accepted_encoding(headers.get("accept-encoding", ""), len(content)):
            response_headers["Content-Encoding"] = accepted
            content = compress(content, accepted)
        media_type = "application/json" if json_length is None else "application/octet-stream"
        return Response(content, 200, response_headers, media_type)

    def _named(self, request: Request) -> NamedModel:
        """Return the model that the path names; a version may stand in the path or in the query."""
        path = request.path_params
        version = path.get("version") or request.query_params.get("version")
        named = named_model(self._repository, path["name"], version)
        request.scope["state"]["model"] = named.model
        return named


def read_infer_request(body: bytes, json_length: str | None, named: NamedModel) -> InferRequest:
    """Read the tensors of a request: JSON, binary tensors behind JSON, or one bare tensor as the whole body.

    Args:
        body: the body, decompressed.
        json_length: the value of the header `JSON_LENGTH_HEADER`, if the request has it.
        named: the model that is to infer; a bare tensor is the one input that its name lists.

    Raises:
        InvalidInput: the body is none of these, or the model does not take such tensors.
    """
    check, length = header_check(named), read_json_length(json_length, len(body))
    if json_length is None or length:
        return read_request(body, length, check)
    if not body:
        raise InvalidInput(f"{JSON_LENGTH_HEADER} is 0, so the body should be the tensor itself; it is empty.")
    name, datatype, shape, _ = named.signature.inputs[0]
    if len(named.signature.inputs) > 1:
        raise InvalidInput(f"{named.name} takes {len(named.signature.inputs)} inputs; a bare body can be one only.")
    if datatype == BYTES:
        return InferRequest([Tensor(name, BYTES, bytes_array(name, (1,), [body]))])
    item_bytes = math.prod(shape[1:]) * DTYPES[datatype].itemsize
    header = TensorHeader(name, datatype, (len(body) // item_bytes, *shape[1:]))
    check([header])
    return InferRequest([Tensor(name, datatype, from_binary(header, body))])


async def _read_options(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request about the repository may have for its body.

    Raises:
        InvalidInput: it is something else, or too long.
    """
    body = await read_body(request)
    if len(body) > MAX_OPTIONS_BYTES:
        raise InvalidInput(f"The body has more than {MAX_OPTIONS_BYTES} bytes. Models come from this server's folders.")
    try:
        options = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"The body is not JSON ({error}).") from error
    if not isinstance(options, dict):
        raise InvalidInput("Send nothing, or a JSON object.")
    return options


def _model_operations(method: str, action: str, endpoint: Endpoint) -> list[Operation]:
    """Return an operation on a model, and the same on one version of it."""
    paths = [f"/v2/models/{{name}}{action}", f"/v2/models/{{name}}/versions/{{version}}{action}"]
    return at_paths(method, paths, endpoint, tag=TAG, query=VersionQuery)
