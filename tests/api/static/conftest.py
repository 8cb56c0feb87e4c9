"""A real Chromium that looks at the page of real servers."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, sync_playwright

from tests.api.static.sites import Site, Sites, served_sites
from tests.conftest import encode
from tests.tiny import bright_square, plain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTH, HEIGHT = 1280, 900
PATIENCE_MS = 20_000
"""What a test waits for comes much sooner; later, it fails."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window; its first page is what visits without options share, one after the other."""
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        new_page(browser)
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

    def listeners(self) -> dict[str, Callable[[Any], None]]:
        """Return what listens to each kind of event of the page."""
        return {"console": self.note_message, "pageerror": self.note_error, "request": self.note_request}

    def note_message(self, message: ConsoleMessage) -> None:
        """Note what the browser wrote, but for advice about the pixels that these tests read."""
        if "willReadFrequently" not in message.text:
            self.complaints.append(message.text)

    def note_error(self, error: Error) -> None:
        """Note an error that no script caught."""
        self.complaints.append(str(error))

    def note_request(self, request: Request) -> None:
        """Note a request to another host."""
        if not request.url.startswith((self.site.url, "blob:", "data:")):
            self.others.append(request.url)

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


def new_page(browser: Browser, **options: Any) -> Page:
    """Open an empty page that shares nothing with others."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


@pytest.fixture
def visit(browser: Browser, sites: Sites) -> Iterator[Open]:
    """Open the page, as wide as is asked for; what the browser complains of fails the test at its end.

    A visit is `alone`, in a new browser context, where it changes more than the document: its clock, its connection or
    what is stored; and so it is with options of the context.
    """
    visits = list[tuple[Visit, bool]]()
    shared = browser.contexts[0].pages[0]

    def open_page(
        site: Site | None = None,
        width: int = WIDTH,
        *,
        alone: bool = False,
        expect_complaints: bool = False,
        **options: Any,
    ) -> Visit:
        site = site or sites.open
        site.asked.clear()
        site.refusals.clear()
        page = new_page(browser, **options) if alone or options else shared
        page.set_viewport_size({"width": width, "height": HEIGHT})
        visited = Visit(page, site)
        for event, listener in visited.listeners().items():
            page.on(event, listener)  # type: ignore[call-overload]
        visits.append((visited, expect_complaints))
        page.goto(site.url)
        return visited

    yield open_page
    for visited, _ in visits:
        if visited.page is not shared:
            visited.page.context.close()
            continue
        for event, listener in visited.listeners().items():
            shared.remove_listener(event, listener)
        shared.goto("about:blank")  # which ends what is under way
    complaints = [visited.complaints for visited, expect_complaints in visits if not expect_complaints]
    assert complaints == [[] for _ in complaints]
    assert [visited.others for visited, _ in visits] == [[] for _ in visits]


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
