"""The protocol over HTTP and gRPC on loopback ports of this process, before models that load in a moment."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn

from api.app import build_app
from api.auth import authenticator_for
from api.bodies import Bodies
from api.limits import ReachedLimits
from api.oip.grpc_server import GrpcServer
from errors import VitrineError
from models.package import StoredModel
from preprocessing.decode import decode
from preprocessing.prepare import Prepare
from preprocessing.spec import ImageLimits
from runners.cores import CoreShare
from runners.runner import Answer
from serving.gradcam.client import ExplainerClient
from serving.gradcam.wire import ExplainedPicture, Explanation, ExplanationRequest
from serving.loading import PREDICTION, LoadedPipeline, load_prediction
from serving.options import RunnerOptions
from serving.predictor import Predictor
from serving.repository import ModelRepository
from settings import Settings
from tests.live.server import free_ports

VERSION = "1.2.3"
PATIENCE_S = 30.0
GRACE_S = 4 * PATIENCE_S
"""The time that calls in flight get when the server ends."""


class ChannelMeans(ExplainerClient):
    """Explains a picture by the mean of each of its channels, which a test can work out."""

    def __init__(self) -> None:
        super().__init__(timeout_ms=1000)

    async def explain(
        self, tag: str, requests: Sequence[ExplanationRequest], deadline: float
    ) -> "list[Answer[ExplainedPicture] | VitrineError]":
        """Return a map of shape (1, 3) for each picture, and the same numbers as logits."""
        return [self._explained(request) for request in requests]

    def _explained(self, request: ExplanationRequest) -> Answer[ExplainedPicture]:
        image = decode(request.data, ImageLimits(max_items=1))
        means = image.mean((0, 1), dtype=np.float32)
        explanation = Explanation(0, None, means[None], (image.shape[1], image.shape[0]))
        return Answer(ExplainedPicture(means[:2], None, (explanation,)), 0.0, 0.0, 0.0, 1)


class Brake:
    """Holds every inference back while it is pulled."""

    def __init__(self) -> None:
        self._released = threading.Event()
        self._released.set()

    @contextlib.contextmanager
    def pulled(self) -> Iterator[None]:
        self._released.clear()
        try:
            yield
        finally:
            self._released.set()

    def load(
        self, stored: StoredModel, options: RunnerOptions, share: CoreShare, prepare_slow: Prepare | None = None
    ) -> LoadedPipeline:
        """Load a model whose pipeline minds this brake."""
        loaded = load_prediction(stored, options, share, prepare_slow)
        infer = loaded.pipeline.infer

        def held_infer(batch: Sequence[Any]) -> Any:
            self._released.wait(PATIENCE_S)
            return infer(batch)

        loaded.pipeline.infer = held_infer  # type: ignore[method-assign]
        return loaded


@dataclass(frozen=True)
class Served:
    """Where the protocol is answered, and by what."""

    url: str
    grpc: str
    repository: ModelRepository
    brake: Brake
    stop: Callable[[], None]
    is_running: Callable[[], bool]

    @property
    def http(self) -> str:
        """The address of HTTP without a scheme, as Triton's client wants it."""
        return self.url.removeprefix("http://")


@contextlib.contextmanager
def serving(stored: Sequence[StoredModel], options: RunnerOptions | None = None, **settings: Any) -> Iterator[Served]:
    """Load the models, and answer for them until the block ends."""
    brake, (http_port, grpc_port) = Brake(), free_ports(2)
    repository = ModelRepository(
        stored, options or RunnerOptions(), role=PREDICTION._replace(load=brake.load), default=stored[0].card.name
    )
    repository.start()
    repository.wait_loaded(PATIENCE_S)
    chosen = Settings(_env_file=None, port=http_port, grpc_port=grpc_port, **settings)
    explainer = ChannelMeans()
    authenticator = authenticator_for(chosen)
    if authenticator is not None:
        authenticator.keys.reload()
    predictor = Predictor(chosen.timeout_ms, explainer)
    limits = ReachedLimits()
    bodies = Bodies.of_settings(chosen, limits)
    app = build_app(repository, predictor, chosen, VERSION, authenticator=authenticator, bodies=bodies)
    http_server = uvicorn.Server(uvicorn.Config(app, port=http_port, log_level="warning", lifespan="off"))
    loops, listening = list[asyncio.AbstractEventLoop](), threading.Event()

    async def answer() -> None:
        # It belongs to this loop.
        grpc_server = GrpcServer(repository, predictor, chosen, VERSION, bodies, limits, authenticator)
        await grpc_server.start()
        http = asyncio.create_task(http_server.serve())
        while not http_server.started:
            await asyncio.sleep(0.005)
        loops.append(asyncio.get_running_loop())
        listening.set()
        await ending.wait()
        await grpc_server.stop(GRACE_S)
        http_server.should_exit = True
        await http

    ending = asyncio.Event()
    thread = threading.Thread(target=asyncio.run, args=(answer(),), daemon=True)

    def stop() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loops[0].call_soon_threadsafe(ending.set)

    thread.start()
    assert listening.wait(PATIENCE_S)
    try:
        yield Served(
            f"http://127.0.0.1:{http_port}", f"127.0.0.1:{grpc_port}", repository, brake, stop, thread.is_alive
        )
    finally:
        stop()
        thread.join(PATIENCE_S)
        repository.close(PATIENCE_S)


def connect(triton: Any, http: str, grpc: str) -> Any:
    """Return a client of Triton's, whose library is given as a module, at the address of its protocol."""
    return triton.InferenceServerClient(grpc if triton.__name__.endswith("grpc") else http)


def tensor(client: Any, name: str, array: npt.NDArray[Any], datatype: str) -> Any:
    """Return an input for a client of Triton's, whose library is given as a module."""
    sent = client.InferInput(name, list(array.shape), datatype)
    sent.set_data_from_numpy(array)
    return sent


def images(client: Any, *pictures: bytes) -> Any:
    """Return encoded pictures as an input of Triton's client."""
    return tensor(client, "image", np.array(pictures, object), "BYTES")


def until(condition: Callable[[], bool]) -> None:
    """Return once a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
