"""The viewer: what is painted is held against the server's own pictures and OpenCV's colours."""

import io
import re

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import requests
from PIL import Image

from api.page import STATIC
from tests.api.static.conftest import Open, Visit, pixel, upload
from tests.conftest import encode
from tests.tiny import bright_square

LARGE = np.kron(bright_square(), np.ones((20, 20, 1), np.uint8))
"""The square in 320 x 320 pixels."""
PICTURE = upload("large.png", encode(LARGE))
SQUARE_AT = (0.36, 0.62)
"""A place on the green square, in shares of the picture's width and height."""
PICTURE_THERE = [20, 250, 20]


@pytest.fixture
def viewer(visit: Open) -> Visit:
    """The page with a picture whose heatmap is there."""
    visited = visit()
    visited.choose(PICTURE)
    visited.wait_explained()
    return visited


def on_stage(viewer: Visit, x: float, y: float) -> list[int]:
    """Return the viewer's colour where a place of a square picture is while it is shown whole."""
    width, height = viewer.page.evaluate(
        "(({ width, height }) => [width, height])(document.querySelector('#stage canvas'))"
    )
    side = min(width, height)
    return pixel(viewer, 0.5 + (x - 0.5) * side / width, 0.5 + (y - 0.5) * side / height)


def set_slider(viewer: Visit, selector: str, value: int) -> None:
    """Move a slider as a person would."""
    viewer.page.locator(selector).fill(str(value))


def test_the_colours_are_those_of_opencv() -> None:
    text = (STATIC / "colours.js").read_text()
    stops = "".join(re.findall(r'\+ "([0-9a-f]+)"', text))
    levels = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    assert bytes.fromhex(stops) == levels[:, 0, ::-1].tobytes()


def test_the_saved_overlay_is_the_one_that_the_server_draws(viewer: Visit) -> None:
    set_slider(viewer, "#opacity", 70)
    with viewer.page.expect_download() as download:
        viewer.page.click("#save-overlay")
    saved = read(download.value.path().read_bytes())
    address = f"{viewer.site.url}models/tiny/explain?format=png&alpha=0.7"
    drawn = read(requests.post(address, data=PICTURE["buffer"], timeout=20).content)
    difference = np.abs(saved.astype(int) - drawn)
    assert drawn.shape == saved.shape == LARGE.shape
    assert np.abs(LARGE.astype(int) - drawn).max() > 60  # the heatmap is seen
    assert difference.max() <= 4 and difference.mean() < 0.6


def read(data: bytes) -> npt.NDArray[np.uint8]:
    """Return a picture, RGB, shape (H, W, 3), uint8."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_the_opacity_the_divider_and_the_views_show_more_or_less_of_the_heatmap(viewer: Visit) -> None:
    heated = on_stage(viewer, *SQUARE_AT)
    assert heated != PICTURE_THERE
    set_slider(viewer, "#opacity", 0)
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE
    set_slider(viewer, "#opacity", 60)
    assert on_stage(viewer, *SQUARE_AT) == heated
    viewer.page.check("input[value=picture]", force=True)
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE and viewer.page.is_hidden("#opacity-field")
    viewer.page.check("input[value=swipe]", force=True)
    set_slider(viewer, "#divider", 100)
    assert on_stage(viewer, *SQUARE_AT) == heated
    set_slider(viewer, "#divider", 5)
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE
    viewer.page.check("input[value=side]", force=True)
    x, y = SQUARE_AT
    left, right = (pixel(viewer, half + x / 2, 0.5 + (y - 0.5) / 2 * ratio(viewer)) for half in (0, 0.5))
    assert left == PICTURE_THERE and right != PICTURE_THERE


def ratio(viewer: Visit) -> float:
    """Return the viewer's width over its height."""
    share: float = viewer.page.evaluate(
        "(({ width, height }) => width / height)(document.querySelector('#stage canvas'))"
    )
    return share


def test_the_divider_is_dragged(viewer: Visit) -> None:
    viewer.page.check("input[value=swipe]", force=True)
    box = viewer.page.locator("#stage canvas").bounding_box()
    assert box is not None
    viewer.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    viewer.page.mouse.down()
    viewer.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 40, steps=4)
    viewer.page.mouse.up()
    assert abs(int(viewer.page.input_value("#divider")) - 20) <= 1
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE


def test_it_zooms_and_pans_by_buttons_keys_and_mouse(viewer: Visit) -> None:
    viewer.page.check("input[value=picture]", force=True)
    viewer.page.focus("#stage canvas")
    for _ in range(4):
        viewer.page.keyboard.press("+")
    assert pixel(viewer, 0.2, 0.9) == PICTURE_THERE  # the square, whose corner is the middle
    for _ in range(30):
        viewer.page.keyboard.press("ArrowLeft")
        viewer.page.keyboard.press("ArrowUp")
    assert pixel(viewer, 0.3, 0.3) == [250, 20, 20]  # the red corner, enlarged
    viewer.page.keyboard.press("0")
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE and on_stage(viewer, 0.3, 0.3) != [250, 20, 20]
    for _ in range(4):
        viewer.page.click("#closer")
    box = viewer.page.locator("#stage canvas").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    viewer.page.mouse.move(*middle)
    viewer.page.mouse.down()
    viewer.page.mouse.move(middle[0] + 2000, middle[1] + 2000, steps=5)  # as far as the corner, and no further
    viewer.page.mouse.up()
    assert pixel(viewer, 0.02, 0.02) == [250, 20, 20]
    viewer.page.click("#whole")
    assert on_stage(viewer, *SQUARE_AT) == PICTURE_THERE


def test_the_class_and_the_method_are_chosen_and_rise_says_how_far_it_is(viewer: Visit) -> None:
    viewer.page.select_option("#target", "bright")
    viewer.wait_text("#explained", "Why bright: layercam, one pass")
    assert viewer.asked("POST /models/tiny/explain?output=heatmap&method=layercam&target=bright")
    viewer.page.select_option("#contrast", "dark")
    viewer.wait_text("#explained", "Why bright, and not dark")
    viewer.page.select_option("#method", "rise")
    viewer.wait_text("#explained", "many predictions")
    viewer.page.fill("#samples-count", "50")
    viewer.page.click("#explain")
    viewer.wait_text("#explained", "rise, 50 predictions")
    viewer.wait_command("method=rise&target=bright&contrast=dark&samples=50")
    assert "not the outline" in viewer.text("#legend")


def test_a_problem_of_an_explanation_leaves_the_answer_and_can_be_tried_again(visit: Open) -> None:
    visited = visit(expect_complaints=True)
    visited.choose(PICTURE)
    visited.wait_explained()
    label = visited.text("#label")
    visited.page.select_option("#contrast", "dark")  # which is the answer itself
    visited.wait_text("#explained .problem", "Bad Request")
    assert visited.text("#label") == label and on_stage(visited, *SQUARE_AT) == PICTURE_THERE
    visited.page.select_option("#contrast", "")
    visited.wait_text("#explained", "one pass")
    assert on_stage(visited, *SQUARE_AT) != PICTURE_THERE
