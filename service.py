"""The two Bento services: wiring only. `bentoml serve` in this folder starts them."""

from serving.startup import is_serving, prepare_environment, prepare_supervisor, run_folder

prepare_environment()  # before BentoML and ONNX Runtime are imported

import gc

gc.disable()  # what is imported stays, and to look for garbage meanwhile took a twelfth of the time

import os
from typing import Any, cast

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.log import SERVER_LOGGING_CONFIG
from starlette.types import ASGIApp

from api.pickles import NoPickleFromAfar
from api.server import Server, check_serve_command
from models.package import StoredModel
from models.served_versions import followed_folders, served_versions
from models.store import open_packed
from models.store_folder import StoreFolder
from runners.metrics import write_all
from serving.gradcam.process import NICENESS, ExplanationProcess
from serving.heartbeat import Heartbeat
from serving.logs import write_log
from serving.options import RunnerOptions
from settings import load_settings

QUIET = {"access": {"enabled": False}}  # the access log is the middleware's
SETTINGS = load_settings()
if is_serving():
    write_log(SETTINGS.log_format, SETTINGS.log_level, also=[SERVER_LOGGING_CONFIG])
OWN = StoreFolder.own(SETTINGS.models_dir) if SETTINGS.models_dir is not None else None
SERVED = served_versions(SETTINGS.chosen_models, OWN)
FOLLOWED = followed_folders(SERVED, SETTINGS.chosen_models)
PACKED = {tag: bentoml.models.BentoModel(":".join(tag)) for tag in SERVED.packed}
"""The packed versions by name and version; as attributes of the service class they are what a build packs."""

prepare_supervisor(SETTINGS, SERVED.problems)
BentoMLContainer.prometheus_multiproc_dir.set(os.environ["PROMETHEUS_MULTIPROC_DIR"])


def served_models() -> list[StoredModel]:
    """Return every model that is served, packed or an operator's own."""
    return [*open_packed(PACKED.values()), *SERVED.open_own()]


class VitrineService(bentoml.Service[Any]):
    """A BentoML service whose requests reach our application first."""

    def inject_config(self) -> None:
        """Refuse to listen where that would open the service to anyone, and to serve two models of one name."""
        super().inject_config()
        check_serve_command(SETTINGS, SERVED, BentoMLContainer.http.host.get())

    def to_asgi(self, *args: Any, **kwargs: Any) -> ASGIApp:
        """Return our application, with BentoML's behind it; called in a worker only."""
        self.server = Server(SETTINGS, served_models(), FOLLOWED)
        return self.server.application(super().to_asgi(*args, **kwargs), ("/schema.json",))


# BentoML's client would close its connections every 100 calls while others are in flight, which fails those.
@bentoml.service(name="gradcam", workers=1, runner_connection={"max_requests": 10**9, "max_age": 1e9}, logging=QUIET)
class GradCam:
    """Explanations, in a process of their own; `serving.gradcam.wire` says what crosses."""

    def __init__(self) -> None:
        options = RunnerOptions.from_settings(SETTINGS.model_dump())
        self.process = ExplanationProcess(served_models(), options, FOLLOWED)

    @bentoml.on_startup
    async def start(self) -> None:
        """Step back behind predictions, and begin to load in the background."""
        os.nice(NICENESS)
        Heartbeat(run_folder(), [self.process.replace_stuck_lanes, write_all]).start()
        self.process.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Finish the explanations that are under way."""
        await self.process.stop(SETTINGS.drain_seconds / 2)

    @bentoml.api
    async def explain(
        self, model: str, asked: list[dict[str, Any]], seconds: float, call: str, client: str
    ) -> dict[str, Any]:
        """Explain the pictures of one request, all or none."""
        return await self.process.explain(model, asked, seconds, call, client)

    @bentoml.api
    async def cancel(self, call: str) -> None:
        """Give up a call that nobody waits for any more."""
        self.process.cancel(call)

    @bentoml.api
    async def status(self, tags: list[str] | None) -> dict[str, Any]:
        """Return the state of every model here, and begin to load what is not here yet of `tags`."""
        return self.process.status(tags)

    async def __is_ready__(self) -> bool:
        """Return whether no model is still loading, which is what BentoML's `/readyz` asks."""
        return self.process.settled()


cast("bentoml.Service[Any]", GradCam).add_asgi_middleware(NoPickleFromAfar)


class _Vitrine:
    gradcam: Any = None

    @bentoml.on_startup
    async def start(self) -> None:
        await Vitrine.server.start(self.gradcam.to_async if self.gradcam is not None else None)

    @bentoml.on_shutdown
    async def stop(self) -> None:
        await Vitrine.server.stop()

    @bentoml.api(route="/predict")
    async def predict(self, image: bytes, /) -> dict[str, Any]:
        """Predict one encoded picture with the default model: the schema that BentoML's client reads its calls from."""
        raise NotImplementedError("`api.routes` stands in front of BentoML and answers this route.")


GRADCAM = {"gradcam": bentoml.depends(GradCam, url=SETTINGS.explain_url or None)} if SETTINGS.explain else {}
MODELS = {f"model_{name.replace('-', '_')}_{version}": model for (name, version), model in PACKED.items()}

Vitrine: Any = bentoml.service(
    name="vitrine",
    workers=SETTINGS.workers,
    service_class=VitrineService,
    http={"host": SETTINGS.host, "port": SETTINGS.port},  # for a `bentoml serve` that is told no other
    runner_probe={"enabled": False},
    logging=QUIET,
    image=bentoml.images.Image(base_image="python:3.11-slim", distro=""),  # any other brings a compiler and git
)(type("Vitrine", (_Vitrine,), MODELS | GRADCAM))
gc.enable()
