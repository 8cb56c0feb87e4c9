"""A real Chromium that looks at the page of real servers."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.api.static.sites import Site, Sites, served_sites
from tests.conftest import encode
from tests.tiny import bright_square, plain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 20_000
"""What a test waits for comes much sooner; later, it fails."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window."""
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@dataclass
class Shared:
    """What all tests of this folder share: it starts with the first that needs it, and ends with the last.

    A fixture of the session would end with the whole suite, and Playwright keeps other tests of this thread from
    running an event loop of their own.
    """

    open: ExitStack = field(default_factory=ExitStack)
    parts: tuple[Sites, Browser] | None = None

    def start(self) -> tuple[Sites, Browser]:
        """Return the served sites and the browser; the sites come first, since their start needs an event loop."""
        if self.parts is None:
            self.parts = self.open.enter_context(served_sites()), self.open.enter_context(chromium())
        return self.parts

    def end(self) -> None:
        """Close the browser, and then the sites."""
        self.parts = None
        self.open.close()


SHARED = Shared()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """End what is shared after the last test of this folder."""
    if nextitem is None or nextitem.path.parent != item.path.parent:
        SHARED.end()


@pytest.fixture
def sites() -> Sites:
    """The served sites."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    return SHARED.start()[0]


@pytest.fixture
def browser(sites: Sites) -> Browser:
    """A browser to visit them with."""
    return SHARED.start()[1]


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

    def hold_time(self) -> None:
        """Stop the page's clock; it goes on by as much as `page.clock.run_for` is told."""
        self.page.clock.install()
        self.page.clock.pause_at(time.time() + 60)  # which is not past by the time that the browser hears it

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
