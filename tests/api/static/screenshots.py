"""The pictures of the web page in the README: two screenshots and a short flow, all of them with phantoms.

Run with `python -m tests.api.static.screenshots`, which starts a server of its own unless one is named.
"""

import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.api.static.conftest import CHROMIUM
from tests.live.server import serving, vitrine

OUT = Path("docs")
SIZE = (1200, 880)
FRAME_WIDTH = 840
"""The width of the moving picture, in pixels."""
SETTLED_MS = 400
"""Every move of the page is over after this."""


@contextmanager
def served(url: str) -> Iterator[str]:
    """Give the address of a server: the one that is named, or one of its own with kidney-stone and churn."""
    if url:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("kidney-stone", "churn", "machine-anomaly"):
            vitrine(Path(folder), "models", "import", name)
        with serving(Path(folder), Path(folder) / "server.log") as server:
            server.wait_ready()
            server.wait_explaining("kidney-stone")
            yield server.url


def picture_of(page: Page) -> Image.Image:
    """Return what is seen of the page, RGB."""
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(SETTLED_MS)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Write a screenshot with 256 colours."""
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3).save(path, optimize=True)
    click.echo(f"{path}: {path.stat().st_size:,} bytes")


def answered(page: Page, sample: int) -> None:
    """Pick a sample, and wait for its answer and its heatmap."""
    page.click(f".sample >> nth={sample}")
    page.wait_for_selector("#save-overlay:not([hidden])")


def flow(page: Page) -> list[tuple[Image.Image, int]]:
    """Go through the page as a reviewer would; return what is seen, and for how many milliseconds."""
    frames = [(picture_of(page), 1200)]
    page.hover(".sample >> nth=0")
    answered(page, 0)
    page.mouse.move(0, 0)
    frames.append((picture_of(page), 1800))
    page.check("input[value=swipe]", force=True)
    for place in [*range(50, 0, -5), *range(0, 66, 5)]:
        page.locator("#divider").fill(str(place))
        frames.append((picture_of(page), 90))
    page.check("input[value=side]", force=True)
    frames.append((picture_of(page), 1500))
    page.check("input[value=overlay]", force=True)
    for _ in range(2):
        page.keyboard.press("Escape")
        page.locator("#stage canvas").press("+")
        frames.append((picture_of(page), 250))
    page.click("#whole")
    page.click(".sample >> nth=1")
    page.locator("#label").filter(has_text="no stone").wait_for()
    page.wait_for_selector("#save-overlay:not([hidden])")
    frames.append((picture_of(page), 2200))
    return frames


@click.command()
@click.option("--url", default="", help="The address of a running server with the shipped models.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True, help="The folder to write to.")
def main(url: str, out: Path) -> None:
    """Take the pictures of the web page for the README."""
    if CHROMIUM is None:
        raise click.ClickException("Chromium is not installed: apt-get install chromium")
    with served(url) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def opened(scheme: Literal["light", "dark"]) -> Page:
            context = browser.new_context(
                viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            page = context.new_page()
            page.goto(address)
            page.wait_for_selector(".sample")
            return page

        page = opened("light")
        answered(page, 0)
        page.mouse.move(0, 0)
        save(picture_of(page), out / "page-picture.png")
        page = opened("dark")
        page.select_option("#chooser", "churn")
        page.wait_for_selector("#why:not([hidden])")
        save(picture_of(page), out / "page-rows.png")
        frames = flow(opened("light"))
        browser.close()
    height = round(FRAME_WIDTH * SIZE[1] / SIZE[0])
    pictures = [frame.resize((FRAME_WIDTH, height), Image.Resampling.LANCZOS) for frame, _ in frames]
    durations = [duration for _, duration in frames]
    path = out / "page.webp"
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=durations,
        loop=0,
        quality=70,
        method=6,
        minimize_size=True,
    )
    click.echo(f"{path}: {path.stat().st_size:,} bytes, {len(frames)} frames")


if __name__ == "__main__":
    main()
