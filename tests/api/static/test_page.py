"""The page as a whole: its size, how soon it is there, what it may load, its card, and who can use it."""

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image

from api.page import POLICY, STATIC
from tests.api.static.conftest import BRIGHT, DARK, Open, Visit
from training.page_samples import PHANTOMS, pictures

MOST_BYTES = 150_000
WIDTHS = (360, 768, 1280)
SHIFTS = """new Promise((resolve) => {
  let sum = 0;
  const observer = new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
  });
  observer.observe({ type: "layout-shift", buffered: true });
  setTimeout(() => resolve(sum), 300);
})"""


def test_all_files_together_are_small_and_the_page_names_every_module() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    page = (STATIC / "page.html").read_text()
    named = set(re.findall(r'"/static/([^"]+)"', page))
    assert {path.name for path in STATIC.iterdir() if path.is_file()} == named | {"page.html"}
    assert not re.search(r"https?://", page) and not re.search(r"<script>|<style|style=|onclick", page)
    assert "unsafe" not in POLICY and "default-src 'none'" in POLICY


def test_the_samples_are_what_their_command_draws_and_the_page_offers_them_all() -> None:
    drawn = pictures()
    files = {path.stem: path for path in (STATIC / "samples").iterdir()}
    assert set(files) == set(drawn) and set(PHANTOMS) < set(files)
    for name, picture in drawn.items():
        shipped = np.asarray(Image.open(io.BytesIO(files[name].read_bytes())).convert("RGB"), np.int16)
        assert np.abs(shipped - np.asarray(picture)).mean() < 6, name
    offered = set(re.findall(r'"([\w-]+)\.webp"', (STATIC / "intake.js").read_text()))
    assert offered == set(drawn)


def test_it_is_painted_soon_and_loads_nothing_from_elsewhere(visit: Open) -> None:
    visited = visit(alone=True)
    visited.wait_text("#state", "ready")
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    blocking = """performance.getEntriesByType("resource")
      .filter((entry) => entry.renderBlockingStatus === "blocking").map((entry) => new URL(entry.name).pathname)"""
    assert visited.page.evaluate(paint) > 0
    assert sorted(visited.page.evaluate(blocking)) == [
        "/static/page.css",
        "/static/parts.css",
    ]  # no script is waited for


def test_the_card_says_what_the_model_was_trained_on_and_what_was_measured(visit: Open) -> None:
    visited = visit()
    visited.page.select_option("#chooser", "churn")
    visited.wait_text("#title", "Customer churn")
    visited.page.click("#about")
    card = visited.text("#card[open]")
    for text in (
        "0.891",
        "0.886 to 0.895",
        "synthetic customers (training/churn/data.py)",
        "1,000 rows",
        "20,000",
        "4,738 parameters",
        "Apache-2.0",
    ):
        assert text in card
    assert visited.page.locator("#card svg .interval").count() == 1
    visited.page.keyboard.press("Escape")
    assert visited.page.is_hidden("#card")
    assert visited.page.evaluate("document.activeElement.id") == "about"


def test_what_is_hidden_is_not_shown_whatever_its_style_says(visit: Open) -> None:
    visited = visit()
    visited.wait_text("#state", "ready")
    hidden = """[...document.querySelectorAll("[hidden]")]
      .filter((part) => getComputedStyle(part).display !== "none").map((part) => part.id)"""
    assert visited.page.evaluate(hidden) == []
    visited.page.select_option("#chooser", "churn")
    visited.page.wait_for_selector("#why:not([hidden])")
    assert visited.page.evaluate(hidden) == [] and visited.page.is_hidden("#stage")


def empty(visited: Visit) -> None:
    visited.wait_text("#state", "ready")


def with_picture(visited: Visit) -> None:
    visited.choose(BRIGHT)
    visited.wait_explained()


def with_table(visited: Visit) -> None:
    visited.choose(BRIGHT, DARK)
    visited.wait_text("#several-count", "answered")
    visited.page.click("#live summary")
    visited.wait_text("#live-models", "tiny")


def with_rows(visited: Visit) -> None:
    visited.page.select_option("#chooser", "machine-anomaly")
    visited.page.wait_for_selector("#why:not([hidden])")


def with_card(visited: Visit) -> None:
    visited.page.select_option("#chooser", "churn")
    visited.page.wait_for_selector("#why:not([hidden])")
    visited.page.click("#about")


@pytest.mark.parametrize("state", [empty, with_picture, with_table, with_rows, with_card])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(visit: Open, state: Callable[[Visit], None]) -> None:
    visited = visit(color_scheme="light")
    state(visited)
    for width in WIDTHS:
        visited.page.set_viewport_size({"width": width, "height": 900})
        for direction in ("rtl", "ltr"):
            visited.page.evaluate("(direction) => { document.documentElement.dir = direction; }", direction)
            over = visited.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert over <= 0, (width, direction)
        if width != WIDTHS[1]:
            assert violations(visited, {"type": "tag", "values": TAGS}) == []
    light = visited.page.evaluate(PAPER)
    visited.page.emulate_media(color_scheme="dark")
    assert visited.page.evaluate(PAPER) != light
    assert violations(visited, {"type": "rule", "values": ["color-contrast"]}) == []  # all else is as it was


TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PAPER = "getComputedStyle(document.body).backgroundColor"


def violations(visited: Visit, rules: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Return what axe finds: a rule, and an element that breaks it."""
    response = Axe().run(visited.page, options={"resultTypes": ["violations"], "runOnly": rules}).response
    return [(violation["id"], violation["nodes"][0]["target"]) for violation in response["violations"]]


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_jumps_while_the_page_and_its_answers_come(visit: Open, width: int) -> None:
    visited = visit(width=width, alone=True)
    visited.wait_text("#state", "ready")
    visited.page.wait_for_selector(".sample")
    assert visited.page.evaluate(SHIFTS) < 0.02
    for sample in (0, 1):
        visited.page.click(f".sample >> nth={sample}")
        visited.wait_explained()
        assert visited.page.evaluate(SHIFTS) < 0.02


def test_a_picture_is_asked_about_with_the_keyboard_alone_and_the_answer_is_spoken(visit: Open) -> None:
    visited = visit()
    visited.page.wait_for_selector(".sample")
    visited.page.keyboard.press("Tab")
    assert visited.page.evaluate("document.activeElement.className") == "skip"
    for _ in range(40):
        visited.page.keyboard.press("Tab")
        if visited.page.evaluate("document.activeElement.className") == "sample":
            break
    visited.page.keyboard.press("Enter")
    visited.page.wait_for_selector("#label")
    visited.page.locator("#announcer").filter(has_text="heatmap").wait_for(state="attached")
    assert visited.page.get_attribute("#announcer", "aria-live") == "polite"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert visited.page.evaluate(outline) == "solid"


def test_it_moves_only_where_motion_is_welcome() -> None:
    styles = (STATIC / "page.css").read_text() + (STATIC / "parts.css").read_text()
    outside = re.sub(r"@media \(prefers-reduced-motion: no-preference\) \{(?:[^{}]*\{[^{}]*\})*\s*\}", "", styles)
    assert outside != styles and not re.search(r"transition|animation|smooth", outside)
    assert not re.search(
        r"[\s;{](?:margin|padding|border)-(?:left|right)|[\s;{](?:left|right):|text-align: (?:left|right)", styles
    )
