"""Real servers of small models, whose page the tests of this folder look at."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import Authenticator
from api.keys import add_key
from api.problems import problem_response
from errors import VitrineError
from models.package import StoredModel
from tests.api.conftest import bundled, client_maker, keys_of
from tests.live.server import free_ports
from tests.local_gradcam import local_gradcam
from tests.tiny import WEIGHT, seal, tiny_package

LABELS = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "fire_truck", "tram", "taxi"]


@dataclass
class Site:
    """A served page.

    Attributes:
        url: of the page.
        refusals: errors that the next requests to predict or explain get, in place of their answers; first come first.
        asked: method and path, with its query, of every request since the test began.
        start: loads the models of a server that has not loaded them.
    """

    url: str
    refusals: list[VitrineError] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    start: Callable[[], None] = lambda: None


@contextmanager
def serve(app: ASGIApp) -> Iterator[Site]:
    """Serve an application on a port of the loopback until the block ends."""
    (port,) = free_ports(1)
    site = Site(f"http://127.0.0.1:{port}/")

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            query = scope["query_string"].decode()
            site.asked.append(f"{scope['method']} {scope['path']}{'?' if query else ''}{query}")
            if site.refusals and scope["method"] == "POST":
                await problem_response(site.refusals.pop(0), "0" * 32)(scope, receive, send)
                return
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(watched, port=port, log_level="warning", lifespan="off", loop="asyncio"))
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield site
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def two_versions(folder: Path) -> list[StoredModel]:
    """Return the explained tiny model, and a second version of it with another threshold."""
    first = tiny_package(folder / "first", explained=True)
    second = tiny_package(folder / "second", explained=True)
    card = (second / "card.toml").read_text().replace("threshold = 0.5", "threshold = 0.99")
    (second / "card.toml").write_text(card)
    return [seal(first), seal(second)]


def many_classes(folder: Path) -> StoredModel:
    """Return a model of twelve classes without a gradient: their logits are multiples of the picture's redness."""
    tiny_package(folder, "things")
    card = (folder / "card.toml").read_text().replace('["dark", "bright"]', json.dumps(LABELS))
    card = card.replace('title = "Tiny"', 'title = "Things"').replace(
        'positive_label = "bright"\nthreshold = 0.5\n', ""
    )
    (folder / "card.toml").write_text(card)
    weight = WEIGHT[:, :1] * -(1 + 0.1 * ((5 * (1 + np.arange(len(LABELS), dtype=np.float32))) % len(LABELS)))
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("MatMul", ["mean", "weight"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(LABELS)])
    constants = [numpy_helper.from_array(weight, "weight")]
    constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "axes"))
    graph = helper.make_graph(nodes, "things", [image], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "predict.onnx").write_bytes(model.SerializeToString())
    goldens = []
    for level in (10, 240):
        golden = [float(value) for value in ((level / 255 - 0.5) / 0.5 * weight.sum(0))]
        goldens.append({"file": f"{level}.png", "logits": golden})
    description = {"reference": "NumPy", "tolerance": 1e-3, "goldens": goldens}
    (folder / "goldens" / "goldens.json").write_text(json.dumps(description))
    return seal(folder)


@dataclass(frozen=True)
class Sites:
    """The same models behind three doors: open, with a key, and not loaded yet."""

    open: Site
    guarded: Site
    loading: Site
    key: str


@contextmanager
def served_sites() -> Iterator[Sites]:
    """Serve the page over two versions of the tiny model, a model of many classes and the bundled models of rows."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        key = add_key(folder / "keys.toml", "reader-7")
        tiny = two_versions(folder)
        stored = [*tiny, many_classes(folder / "things"), bundled(folder, "churn"), bundled(folder, "machine_anomaly")]
        explainer, _ = stack.enter_context(local_gradcam(*tiny))
        make = stack.enter_context(client_maker())
        clients = [
            make(*stored, explainer=explainer, cors_origins=""),
            make(tiny[0], authenticator=Authenticator(keys_of(folder / "keys.toml"), ("health",))),
            make(tiny[0], loaded=False),
        ]
        doors = [stack.enter_context(serve(client.app)) for client in clients]
        doors[2].start = clients[2].app_state["repository"].start
        yield Sites(doors[0], doors[1], doors[2], key)
