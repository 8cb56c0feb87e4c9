"""The Bento service: wiring only. `bentoml serve` in this folder starts it.

Our ASGI app stands in front of BentoML's: it answers our routes at once and passes `/schema.json` and `/metrics` on.
"""

import asyncio
import atexit
import logging
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # its official builds report to Microsoft unless this is set
os.environ.pop("BENTOML_CONTAINERIZED", None)  # the images that BentoML makes set it, and dead workers would stay dead

import bentoml
import click
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.models import BentoModel
from starlette.types import ASGIApp

from api.app import build_app
from api.auth import Gate, check_doors, gate_of
from api.header_limit import bound_heads
from api.images import Pictures
from api.keys import warnings_of as warnings_of_keys
from api.oip.grpc_server import GrpcServer, probe
from api.oip.inference import Inference
from api.pickles import NoPickleFromAfar
from errors import CardError, DeadlineExceeded, KeysError, StoreError, VitrineError
from models import registry
from models.card import ImageCard
from models.package import StoredModel, open_stored
from models.store import served_tags
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.cache import ResponseCache
from serving.gradcam.client import ClientProcess, RemoteExplainer, ask_of, reply_in_text, reply_of
from serving.gradcam.worker import Explained, ExplainedModels
from serving.loaded_model import RunnerOptions
from serving.repository import ServedModels
from serving.shutdown import end_within
from settings import load_settings, warnings_of

VERSION = "0.1.0"
SETTINGS = load_settings()
NICE = 10
"""How far explanations step back: a prediction that wants the same core gets nine tenths of it."""
PACKED = {tag: BentoModel(":".join(tag)) for tag in served_tags(SETTINGS.chosen_models)}
"""The versions that are served, by name and version; as attributes of the service class they are what a build packs."""

WORKERS = "_VITRINE_WORKERS"
"""Where the supervisor tells its workers which folder they meet in."""

logger = logging.getLogger("vitrine")

if "_VITRINE_SUPERVISED" not in os.environ:  # in the supervisor, whose processes inherit it
    os.environ["_VITRINE_SUPERVISED"] = "1"
    if SETTINGS.api_keys_file is not None:  # whose folder they do not share
        os.environ["VITRINE_API_KEYS_FILE"] = str(SETTINGS.api_keys_file)
    if SETTINGS.grpc_port and sys.argv[1:2] == ["serve"]:
        try:
            probe(SETTINGS.host, SETTINGS.grpc_port)
        except OSError as error:
            message = "gRPC is off: port %d of %s cannot be had (%s). Choose another with VITRINE_GRPC_PORT."
            logger.error(message, SETTINGS.grpc_port, SETTINGS.host, error.strerror)
            os.environ["VITRINE_GRPC_PORT"] = "0"

if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    # BentoML keeps one folder for all servers of a store, and each that starts wipes the counters of the others.
    METRICS = tempfile.mkdtemp(prefix="vitrine-metrics-")
    atexit.register(shutil.rmtree, METRICS, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(METRICS)

if SETTINGS.workers > 1 and WORKERS not in os.environ:
    os.environ[WORKERS] = tempfile.mkdtemp(prefix="vitrine-workers-")
    atexit.register(shutil.rmtree, os.environ[WORKERS], ignore_errors=True)


def load_served(cache: ResponseCache) -> ServedModels:
    """What this process serves: the packed models that VITRINE_MODELS lets through, and what could be installed."""
    chosen = dict(SETTINGS.chosen_models)
    missing = {
        name: (card, f"not installed; install it with `{registry.how_to_import(name)}`")
        if not chosen.get(name)
        else (card, f"VITRINE_MODELS asks for version {chosen[name]}, which is not installed")
        for name, card in registry.bundled().items()
        if not isinstance(card, CardError) and (not chosen or name in chosen)
    }
    return ServedModels(installed(), missing, SETTINGS.default_model, options(), cache)


def options() -> RunnerOptions:
    """What the settings say of every Runner."""
    return RunnerOptions.of(SETTINGS.model_dump())


class Process:
    """What one worker process owns; filled by `Front.to_asgi`, in the worker only."""

    served: ServedModels
    explainer: RemoteExplainer | None = None
    gate: Gate | None = None
    grpc: GrpcServer | None = None


class Front(bentoml.Service[Any]):
    """A BentoML service whose requests reach our app first."""

    def inject_config(self) -> None:
        """As BentoML does; then, where a server is about to listen, refuse to if that would be open to anyone."""
        super().inject_config()
        context = click.get_current_context(silent=True)
        if context is None or "host" not in context.params:  # a build, or a worker
            return
        hosts = [context.params["host"] or BentoMLContainer.http.host.get()]
        hosts += [SETTINGS.host] if SETTINGS.grpc_port else []
        try:
            check_doors(SETTINGS, *hosts)
        except KeysError as error:
            raise click.ClickException(str(error)) from error

    def to_asgi(self, *args: Any, **kwargs: Any) -> ASGIApp:
        """Our app, with BentoML's behind it."""
        bound_heads()
        sys.set_int_max_str_digits(640)  # the least Python allows; long numbers in JSON take quadratic time
        cache = ResponseCache(SETTINGS.cache_mb * 2**20 // SETTINGS.workers)
        Process.served = load_served(cache)
        if SETTINGS.explain:
            Process.explainer = RemoteExplainer(SETTINGS.explain_timeout_ms, cache)
        Process.gate = gate_of(SETTINGS)
        theirs: ASGIApp = super().to_asgi(*args, **kwargs)
        paths = ("/schema.json", "/metrics")
        return build_app(Process.served, SETTINGS, VERSION, Process.explainer, theirs, paths, Process.gate)


def installed() -> list[StoredModel]:
    """The models that are served; a damaged one is logged and left out."""
    stored = list[StoredModel]()
    for model in PACKED.values():
        try:
            stored.append(open_stored(Path(model.resolve().path)))
        except StoreError as error:
            logger.error("%s", error)
    return stored


# BentoML's client would close its connections every 100 calls while others are in flight, which fails those.
@bentoml.service(
    name="gradcam",
    workers=1,
    runner_connection={"max_requests": 10**9, "max_age": 1e9},
    logging={"access": {"enabled": False}},
)
class GradCam:
    """Explanations, in a process of their own."""

    def __init__(self) -> None:
        self.models = ExplainedModels(
            [each for each in installed() if isinstance(each.card, ImageCard) and each.card.explain], options()
        )
        self.calls: dict[str, Future[Answer[Explained]]] = {}

    @bentoml.on_startup
    def start(self) -> None:
        """Step back behind predictions, and begin loading in the background."""
        _log_to_stdout()
        os.nice(NICE)
        self.models.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Drain."""
        await asyncio.to_thread(self.models.close, SETTINGS.drain_seconds / 2)

    @bentoml.api
    async def explain(self, model: str, ask: dict[str, Any], seconds: float, call: str) -> dict[str, Any]:
        """One picture; `serving.gradcam.client.reply_of` makes the answer, which is in text where the question was."""
        until = time.monotonic() + seconds
        try:
            future = self.models.get(model).submit(ask_of(ask), until)
            self.calls[call] = future
            answer: Answer[Explained] = await awaitable(future)
            return reply_in_text(reply_of(answer)) if isinstance(ask["data"], str) else reply_of(answer)
        except asyncio.CancelledError:
            return reply_of(DeadlineExceeded("Nobody waits for this any more."))
        except VitrineError as error:
            return reply_of(error)
        finally:
            self.calls.pop(call, None)

    @bentoml.api
    async def cancel(self, call: str) -> None:
        """Forget a call that nobody waits for."""
        if call in self.calls:
            self.calls[call].cancel()

    @bentoml.api
    async def status(self) -> dict[str, Any]:
        """The state of every model here."""
        return self.models.status()

    async def __is_ready__(self) -> bool:
        """What BentoML's `/readyz` asks: whether no model is still loading. One that failed says so in `status`."""
        return all(model["state"] not in ("loading", "checking") for model in self.models.status().values())


cast("bentoml.Service[Any]", GradCam).add_asgi_middleware(NoPickleFromAfar)


class _Vitrine:
    """Predictions of the models in the store."""

    gradcam: Any = None

    @bentoml.on_startup
    async def start(self) -> None:
        """Begin loading in the background, and see to it that a drain ends."""
        _log_to_stdout()
        for warning in warnings_of(SETTINGS) + warnings_of_keys(SETTINGS.api_keys_file):
            logger.warning("%s", warning)
        end_within(SETTINGS.drain_seconds, Process.served)
        Process.served.start()
        if SETTINGS.workers > 1:
            await Process.served.join(Path(os.environ[WORKERS]))
        if SETTINGS.grpc_port:
            inference = Inference(Pictures(SETTINGS.timeout_ms, Process.explainer))
            Process.grpc = GrpcServer(Process.served, inference, SETTINGS, VERSION, Process.gate)
            await Process.grpc.start()
        if Process.explainer is not None:
            process = ClientProcess(self.gradcam.to_async, as_text=bool(SETTINGS.explain_url))
            self.watching = asyncio.create_task(Process.explainer.watch(process, lambda: Process.served.closing))

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Drain; requests have been answered by now, so this is quick unless something is stuck."""
        if Process.grpc is not None:
            await Process.grpc.stop(SETTINGS.drain_seconds)  # `end_within` counts from the signal on
        if Process.explainer is not None:
            self.watching.cancel()
        await Process.served.leave()
        await asyncio.to_thread(Process.served.close, SETTINGS.drain_seconds)

    @bentoml.api(route="/predict")
    async def predict(self, image: bytes, /) -> dict[str, Any]:
        """Predict one encoded picture with the default model: the schema that BentoML's client reads its calls from."""
        raise NotImplementedError("`api.routes` stands in front of BentoML and answers this route.")


def _log_to_stdout() -> None:
    logger.setLevel(SETTINGS.log_level.upper())
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
        lines = logging.StreamHandler(sys.stdout)
        lines.setFormatter(logging.Formatter("%(message)s"))
        logging.getLogger("vitrine.access").addHandler(lines)
        logging.getLogger("vitrine.access").propagate = False
        logger.propagate = False


def _attributes() -> dict[str, Any]:
    """The models, which a build packs by this, and the Grad-CAM runner unless it is switched off."""
    models = {f"model_{name.replace('-', '_')}_{version}": model for (name, version), model in PACKED.items()}
    gradcam = {"gradcam": bentoml.depends(GradCam, url=SETTINGS.explain_url or None)}
    return models | (gradcam if SETTINGS.explain else {})


Vitrine: bentoml.Service[Any] = bentoml.service(
    name="vitrine",
    workers=SETTINGS.workers,
    service_class=Front,
    http={"host": SETTINGS.host, "port": SETTINGS.port},  # of `bentoml serve` that is told no other
    runner_probe={"enabled": False},
    logging={"access": {"enabled": False}},
    image=bentoml.images.Image(base_image="python:3.11-slim", distro=""),  # any other brings a compiler and git
)(type("Vitrine", (_Vitrine,), _attributes()))
