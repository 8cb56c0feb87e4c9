"""A real server of small models, and a real Chromium that looks at its page."""

import asyncio
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import Authenticator
from api.keys import add_key
from api.problems import problem_response
from errors import VitrineError
from models.package import StoredModel
from tests.api.conftest import bundled, client_maker, keys_of
from tests.conftest import encode
from tests.live.server import free_ports
from tests.local_gradcam import local_gradcam
from tests.tiny import WEIGHT, bright_square, plain, seal, tiny_package

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 20_000
"""What a test waits for comes much sooner; later, it fails."""
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


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    """The page over two versions of the tiny model, a model of many classes and the bundled models of rows."""
    folder = tmp_path_factory.mktemp("page")
    key = add_key(folder / "keys.toml", "reader-7")
    tiny = two_versions(folder)
    stored = [*tiny, many_classes(folder / "things"), bundled(folder, "churn"), bundled(folder, "machine_anomaly")]
    with ExitStack() as stack:
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


@pytest.fixture(scope="module")
def browser(sites: Sites) -> Iterator[Browser]:
    """Chromium without a window; it comes after the server, whose start needs an event loop of this thread."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """One visitor's page.

    Attributes:
        page: Playwright's.
        site: what is visited.
        complaints: what the browser wrote to its console, and errors that no script caught.
        others: the addresses of requests to other hosts.
    """

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """Return the text of an element as it is shown, once that is there."""
        self.page.wait_for_selector(selector, timeout=PATIENCE_MS)
        return self.page.inner_text(selector)

    def wait_text(self, selector: str, text: str) -> None:
        """Return once an element shows a text."""
        self.page.locator(selector).filter(has_text=text).first.wait_for(timeout=PATIENCE_MS)

    def wait_command(self, *texts: str) -> None:
        """Return once the command that repeats the request holds these texts."""
        command = self.page.locator("#command")
        for text in texts:
            command = command.filter(has_text=text)
        command.wait_for(state="attached", timeout=PATIENCE_MS)

    def wait_explained(self) -> None:
        """Return once the heatmap is there."""
        self.page.wait_for_selector("#save-overlay:not([hidden])")

    def choose(self, *files: Path | str | dict[str, Any], into: str = "#file") -> None:
        """Choose files as with a button."""
        self.page.set_input_files(into, list(files))  # type: ignore[arg-type]

    def asked(self, beginning: str) -> list[str]:
        """Return the requests that began so."""
        return [line for line in self.site.asked if line.startswith(beginning)]


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, sites: Sites) -> Iterator[Open]:
    """Open the page, as wide as is asked for; what the browser complains of fails the test at its end."""
    contexts = list[BrowserContext]()
    visits = list[Visit]()

    def open_page(
        site: Site | None = None, width: int = 1280, *, expect_complaints: bool = False, **options: Any
    ) -> Visit:
        site = site or sites.open
        site.asked.clear()
        site.refusals.clear()
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        visited = Visit(page, site)
        page.on("console", lambda message: note_complaint(visited, message.text))
        page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        page.on("request", lambda request: note(visited, request.url))
        page.goto(site.url)
        if not expect_complaints:
            visits.append(visited)
        return visited

    yield open_page
    for context in contexts:
        context.close()
    assert [visited.complaints for visited in visits] == [[] for _ in visits]
    assert [visited.others for visited in visits] == [[] for _ in visits]


def note_complaint(visited: Visit, text: str) -> None:
    """Note what the browser wrote, but for advice about the pixels that these tests read."""
    if "willReadFrequently" not in text:
        visited.complaints.append(text)


def note(visited: Visit, address: str) -> None:
    """Note a request to another host."""
    if not address.startswith((visited.site.url, "blob:", "data:")):
        visited.others.append(address)


def upload(name: str, data: bytes, kind: str = "image/png") -> dict[str, Any]:
    """Return a file as Playwright chooses it."""
    return {"name": name, "mimeType": kind, "buffer": data}


def pixel(visited: Visit, x: float, y: float) -> list[int]:
    """Return red, green and blue of the viewer at a place that is given in shares of its width and height."""
    script = """([x, y]) => { const canvas = document.querySelector("#stage canvas");
      const place = [Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1];
      return [...canvas.getContext("2d").getImageData(...place).data].slice(0, 3); }"""
    levels: list[int] = visited.page.evaluate(script, [x, y])
    return levels


DARK = upload("dark.png", plain(10))
BRIGHT = upload("bright.png", plain(240))
SQUARE = upload("square.png", encode(bright_square()))
TEXT = upload("notes.png", b"no picture at all")
