"""Vitrine and its peers: how each is started and configured for this machine, and its requests and answers.

The rest of a peer's configuration is in its module in `loadtests.compare.peers`, with the advice that it follows.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.compare.regimes import COMPUTE, OVERHEAD, Regime
from loadtests.compare.wire import Read, body_to, form_to, json_to, read_plain, read_v2, read_vitrine, v2_to
from loadtests.server import ROOT, free_port
from settings import MOST_WORKERS

Settings = Mapping[str, Mapping[str, str]]
"""Environment variables by regime."""

VITRINE: Settings = {COMPUTE: {}, OVERHEAD: {"VITRINE_WORKERS": "{workers}"}}
"""Vitrine's settings in each regime; all others keep their defaults."""

STORE = ROOT / "runs" / "compare" / "bentoml"
"""The comparison's own model store: two servers must not share one, and the user's is left alone."""


@dataclass(frozen=True)
class Server:
    """How one server is run and asked.

    Words in braces in `command` and `settings` are filled in: `bin`, the folder of the environment's programs, `port`,
    the free ports `spare` and `other`, the number of `cores`, that of `workers` (as many, but no more than Vitrine
    allows), and the name of the `model`.

    Attributes:
        name: the name of its requirements and of its environment; `--only` takes it.
        title: its name in tables.
        package: the Python package whose version is shown.
        command: starts it.
        request: encodes a request as the server's own clients send it.
        read: decodes its answer.
        settings: environment variables, by regime.
        own: whether this repository's environment and folder run it.
    """

    name: str
    title: str
    package: str
    command: tuple[str, ...]
    request: Callable[[str, bytes], bytes]
    read: Read = read_plain
    settings: Settings = field(default_factory=dict)
    own: bool = False

    def start(self, python: Path, port: int, regime: Regime, cores: int) -> tuple[list[str], dict[str, str]]:
        """Return the command that starts it, and its environment variables."""
        words = {"bin": python.parent, "port": port, "spare": free_port(), "other": free_port(), "cores": cores}
        words |= {"model": regime.model, "workers": min(cores, MOST_WORKERS)}
        peers = PEERS | {"COMPARE_PACKAGE": str(regime.package), "COMPARE_BATCH": str(regime.batch)}
        common = OWN if self.own else peers
        settings = {**common, **self.settings.get(regime.name, {})}
        filled = {key: value.format(**words) for key, value in settings.items()}
        return [part.format(**words) for part in self.command], filled


OWN = {
    "BENTOML_DO_NOT_TRACK": "True",
    "BENTOML_HOME": str(STORE),
    "VITRINE_PORT": "{port}",
    "VITRINE_GRPC_PORT": "0",
    "VITRINE_MODELS": "{model}",
    "VITRINE_DEFAULT_MODEL": "{model}",
    "VITRINE_EXPLAIN": "false",  # no peer explains
    "VITRINE_ACCESS_LOG": "false",  # nor logs every request
    "VITRINE_CACHE_MB": "0",  # pictures are repeated, and every answer is to be computed
}
PEERS = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "COMPARE_PORT": "{port}",
    "COMPARE_WORKERS": "{cores}",
    "COMPARE_THREADS": "1",
}
"""One process a core with single-threaded runs, which is what each peer's documentation advises."""


def _both(**settings: str) -> Settings:
    return {COMPUTE: settings, OVERHEAD: settings}


_PEERS = "loadtests.compare.peers"


BENTOML = {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(STORE.with_name("bentoml-peer"))}
MLSERVER = {
    "MLSERVER_HOST": "127.0.0.1",
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{spare}",
    "MLSERVER_METRICS_PORT": "{other}",
    "MLSERVER_PARALLEL_WORKERS": "{cores}",
    "MLSERVER_MODEL_NAME": "classifier",
    "MLSERVER_MODEL_IMPLEMENTATION": "loadtests.compare.peers.mlserver_model.Classifier",
}
UVICORN = ("--port", "{port}", "--workers", "{cores}", "--no-access-log")
SERVE = ("--host", "127.0.0.1", "--port", "{port}")

SERVERS = (
    Server(
        "vitrine",
        "Vitrine",
        "vitrine",
        ("{bin}/bentoml", "serve", *SERVE),
        body_to("/models/{model}/predict"),
        read_vitrine,
        VITRINE,
        own=True,
    ),
    Server(
        "fastapi",
        "FastAPI, as its tutorial",
        "fastapi",
        ("{bin}/uvicorn", f"{_PEERS}.fastapi_tutorial:app", *UVICORN),
        form_to("/predict"),
    ),
    Server(
        "bentoml",
        "BentoML's own batching",
        "bentoml",
        ("{bin}/bentoml", "serve", f"{_PEERS}.bentoml_batching:Api", *SERVE),
        body_to("/predict"),
        settings={COMPUTE: BENTOML | {"COMPARE_BATCH": "8"}, OVERHEAD: BENTOML},  # batching is what it is here for
    ),
    Server("litserve", "LitServe", "litserve", ("{bin}/python", "-m", f"{_PEERS}.litserve_app"), json_to("/predict")),
    Server(
        "mosec",
        "Mosec",
        "mosec",
        ("{bin}/python", "-m", f"{_PEERS}.mosec_app", "--address", "127.0.0.1", "--port", "{port}"),
        body_to("/inference"),
    ),
    Server(
        "ray",
        "Ray Serve",
        "ray",
        ("{bin}/python", "-m", f"{_PEERS}.ray_serve"),
        body_to("/"),
        settings=_both(RAY_SERVE_ENABLE_HA_PROXY="1", RAY_SERVE_THROUGHPUT_OPTIMIZED="1", RAY_USAGE_STATS_ENABLED="0"),
    ),
    Server(
        "mlserver",
        "MLServer",
        "mlserver",
        ("{bin}/mlserver", "start", "."),
        v2_to("classifier"),
        read_v2,
        settings=_both(**MLSERVER),
    ),
)
