"""Pictures on the page: how they come in, what their answer looks like, and what becomes of them with another model."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.api.static.conftest import BRIGHT, DARK, SQUARE, TEXT, Open, Visit, pixel, upload
from tests.api.static.sites import LABELS
from tests.conftest import encode
from tests.tiny import bright_square, logits_of_plain


def probability(level: int) -> float:
    """Return the probability of bright that NumPy gives for a flat grey picture."""
    low, high = logits_of_plain(level).astype(float)
    return float(1 / (1 + 2.718281828459045 ** (low - high)))


def shown_percent(share: float) -> str:
    """Return a share as the page writes it."""
    return f"{100 * share:.1f} %"


DROP = """([name, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: kind }));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
  }
}"""
PASTE = """([name, kind, data]) => {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const clipboardData = new DataTransfer();
  clipboardData.items.add(new File([bytes], name, { type: kind }));
  document.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }));
}"""


def hand_over(visited: Visit, script: str, file: dict[str, Any]) -> None:
    """Drop or paste a file."""
    data = base64.b64encode(file["buffer"]).decode()
    visited.page.evaluate(script, [file["name"], file["mimeType"], data])


def test_a_chosen_picture_gets_its_label_its_bars_and_a_threshold_with_a_caption(visit: Open) -> None:
    visited = visit()
    visited.choose(BRIGHT)
    assert visited.text("#label").lower() == "bright"
    assert visited.text(".confidence") == shown_percent(probability(240))
    rows = visited.page.locator(".measures li").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == ["bright", "dark"]
    assert rows[1].endswith(shown_percent(1 - probability(240)))
    assert "Threshold: from 50.0 % on, the answer is bright. This one reaches it." in visited.text(".caption")
    assert visited.page.locator(".measures li").nth(0).locator(".mark").count() == 1
    assert visited.page.locator(".measures .mark").count() == 1
    assert "Only for tests." in visited.text("#answered .warnings")
    assert visited.text("#description") == "Averages channels."
    visited.wait_explained()
    stages = visited.page.locator(".stage-names li").all_inner_texts()
    assert [stage.split()[0] for stage in stages] == ["queue", "decode", "infer", "explain"]


@pytest.mark.parametrize("script", [DROP, PASTE], ids=["dropped", "pasted"])
def test_a_picture_is_dropped_or_pasted(visit: Open, script: str) -> None:
    visited = visit()
    visited.wait_text("#state", "ready")
    hand_over(visited, script, DARK)
    visited.wait_text("#label", "dark")
    assert visited.page.evaluate("document.body.classList.contains('dropping')") is False


def test_a_sample_is_one_click_away_and_so_is_the_camera(visit: Open) -> None:
    visited = visit()
    visited.page.click(".sample >> nth=0")
    visited.page.wait_for_selector("#label")
    visited.page.click("#sources [data-take]")
    visited.page.wait_for_selector("#camera[open] video")
    visited.page.click("#camera button[value=take]")
    visited.wait_command("camera.jpg")
    assert visited.page.evaluate("document.querySelector('#video').srcObject") is None  # the camera is off again


def test_another_model_is_asked_about_the_picture_that_is_shown(visit: Open) -> None:
    visited = visit()
    visited.choose(DARK)
    visited.wait_text("#label", "dark")
    hand_over(visited, DROP, SQUARE)
    visited.wait_command("square.png")
    visited.wait_explained()
    visited.page.select_option("#chooser", "things")
    visited.wait_text("#title", "Things")
    visited.wait_command("square.png", "models/things/predict")
    assert max(pixel(visited, 0.45, 0.6)) > 100  # the square, not an empty box
    visited.page.select_option("#chooser", "churn")
    visited.wait_text("#title", "Customer churn")
    assert visited.page.is_hidden("#pictures") and visited.page.is_hidden("#sources")
    visited.page.select_option("#chooser", "tiny")
    visited.wait_command("square.png", "models/tiny/")
    assert visited.page.is_visible("#stage canvas") and visited.page.is_hidden("#row")


def test_many_classes_are_sorted_with_a_bar_each_and_names_without_underscores(visit: Open) -> None:
    visited = visit()
    visited.page.select_option("#chooser", "things")
    visited.choose(BRIGHT)
    visited.page.wait_for_selector("#label")
    visited.page.click("text=Show all 12")
    rows = visited.page.locator(".measures li").all_inner_texts()
    shares = [float(row.split("\n")[-1].removesuffix(" %")) for row in rows]
    assert len(rows) == len(LABELS) and shares == sorted(shares, reverse=True) and shares[0] > shares[-1]
    assert visited.page.locator(".measures .bar").count() == 12 and visited.page.locator(".mark").count() == 0
    assert "fire truck" in " ".join(rows) and "_" not in " ".join(rows)


def test_an_error_is_told_in_the_apis_words_above_no_broken_picture(visit: Open) -> None:
    visited = visit(expect_complaints=True)
    visited.choose(BRIGHT)
    visited.wait_explained()
    visited.choose(TEXT)
    visited.wait_text(".problem", "Bad Request")
    assert "The file is not an image that can be read" in visited.text(".problem")
    assert "request " in visited.text(".problem .small")
    assert visited.page.is_hidden("#stage canvas") and visited.page.is_hidden("#result")
    assert visited.text("#unreadable") == "This browser cannot show notes.png."
    visited.choose(DARK)
    visited.wait_text("#label", "dark")
    assert visited.page.is_visible("#stage canvas") and visited.page.is_hidden("#unreadable")


def test_a_picture_that_the_browser_cannot_read_is_shown_by_the_server(visit: Open) -> None:
    visited = visit()
    visited.choose(upload("square.tiff", encode(bright_square(), "TIFF"), "image/tiff"))
    visited.wait_explained()
    assert visited.page.is_visible("#stage canvas") and visited.page.is_hidden("#unreadable")


def test_the_answer_and_its_picture_can_be_taken_along_and_the_request_repeated(visit: Open, tmp_path: Path) -> None:
    visited = visit()
    awkward = upload('it\'s "so".png', SQUARE["buffer"])
    visited.choose(awkward)
    visited.wait_explained()
    with visited.page.expect_download() as overlay:
        visited.page.click("#save-overlay")
    with visited.page.expect_download() as answer:
        visited.page.click("#save-json")
    overlay.value.save_as(tmp_path / "overlay.png")
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    assert '"prediction": "dark"' in answer.value.path().read_text()
    command = str(visited.page.text_content("#command"))
    assert command.startswith("curl -F 'file=@\"it'\\''s \\\"so\\\".png\"' 'http://127.0.0.1:")
    assert "/models/tiny/explain?method=layercam'" in command


def test_two_versions_stand_side_by_side_on_one_picture(visit: Open) -> None:
    visited = visit()
    visited.choose(upload("grey.png", encode(bright_square()[:, :, ::-1].copy() // 2 + 120)))
    visited.wait_explained()
    visited.page.click("#compare")
    visited.page.wait_for_selector(".version img >> nth=1")
    texts = visited.page.locator(".version").all_inner_texts()
    assert ["threshold 50.0 %" in texts[0], "threshold 99.0 %" in texts[1]] == [True, True]
    assert visited.page.locator(".version .mark").count() == 2
    visited.page.click("#close-versions")
    assert visited.page.is_hidden("#versions")


def test_a_file_that_is_gone_is_not_taken_for_a_server_that_is_gone(visit: Open, tmp_path: Path) -> None:
    visited = visit(alone=True, expect_complaints=True)
    path = tmp_path / "picture.png"
    path.write_bytes(SQUARE["buffer"])
    visited.choose(path)
    visited.wait_explained()
    path.unlink()
    visited.page.select_option("#chooser", "things")
    visited.wait_text("#answered .problem", "The file cannot be read")
    assert "picture.png" in visited.text("#answered .problem") and visited.page.is_hidden("#offline")


def test_two_clicks_open_one_camera_which_is_off_once_its_window_is_closed(visit: Open) -> None:
    visited = visit(alone=True)
    visited.wait_text("#state", "ready")
    visited.page.evaluate("""() => {
      const own = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      window.streams = [];
      navigator.mediaDevices.getUserMedia = async (what) => { streams.push(await own(what)); return streams.at(-1); };
    }""")
    visited.page.dblclick("#empty [data-take]")
    visited.page.wait_for_selector("#camera[open] video")
    visited.page.keyboard.press("Escape")
    visited.page.wait_for_selector("#camera", state="hidden")
    states = "streams.map((stream) => stream.getTracks()[0].readyState)"
    assert visited.page.evaluate(states) == ["ended"]
    assert not visited.asked("POST")
