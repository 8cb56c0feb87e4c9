"""Several pictures, and the rows of a file: a table with progress that sorts, exports, and opens what is in it."""

import csv
import io
import json
from typing import Any

import pytest

from errors import QueueFull, TooLarge
from tests.api.static.conftest import BRIGHT, DARK, SQUARE, TEXT, Open, Visit, upload
from tests.tiny import plain

LEVELS = (10, 240, 128, 60, 200, 90, 150, 30, 220, 110)
PICTURES = [upload(f"level-{level}.png", plain(level)) for level in LEVELS]
ROWS = "\n".join(
    (
        "age;income;tenure_days;num_purchases;avg_transaction_value;days_since_last_purchase;note",
        '42;52000;420;9;63.5;95;"one; with ""quotes"""',
        "30;40000;30;1;20;400;",
        "abc;1;1;1;1;1;",
    )
)


def names(visited: Visit) -> list[str]:
    """Return the first column of the table, as it is shown."""
    return visited.page.locator("#table-body th").all_inner_texts()


def finished(visited: Visit, text: str) -> None:
    """Return once the table is complete."""
    visited.page.wait_for_selector("#stop", state="hidden")
    visited.wait_text("#several-count", text)


def test_pictures_become_a_table_sorted_by_probability_with_thumbnails_and_progress(visit: Open) -> None:
    visited = visit()
    visited.choose(*PICTURES, TEXT)
    finished(visited, "10 answered, 1 with a problem")
    ordered = sorted(LEVELS, reverse=True)  # the brighter, the more probably bright
    assert names(visited)[:10] == [f"level-{level}.png" for level in ordered]
    assert "Bad Request: The file is not an image" in visited.text("tr.failed")
    assert len(visited.asked("POST /models/tiny/predict/batch")) == 3  # of four at most, as the card says
    bright = "(canvas) => canvas.getContext('2d').getImageData(32, 32, 1, 1).data[0]"
    assert [visited.page.locator("#table-body canvas").nth(place).evaluate(bright) for place in (0, 9)] == [240, 10]
    visited.page.click("[data-sort=name]")
    assert names(visited) == [*(f"level-{level}.png" for level in sorted(LEVELS)), "notes.png"]
    assert visited.page.get_attribute("th[data-column=name]", "aria-sort") == "ascending"
    visited.page.click("[data-sort=rank]")
    visited.page.click("[data-sort=rank]")
    assert names(visited)[1:] == [f"level-{level}.png" for level in sorted(LEVELS)]
    visited.page.click("text=level-240.png")
    visited.wait_text("#label", "bright")
    visited.wait_command("level-240.png")


def test_a_table_is_saved_as_csv_and_json(visit: Open) -> None:
    visited = visit()
    formula = upload("=2+3.png", plain(90))
    visited.choose(BRIGHT, DARK, formula, TEXT)
    finished(visited, "3 answered")
    with visited.page.expect_download() as download:
        visited.page.click("#several-csv")
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    assert [row["name"] for row in table] == ["bright.png", "'=2+3.png", "dark.png", "notes.png"]
    assert [row["prediction"] for row in table] == ["bright", "dark", "dark", ""]
    with visited.page.expect_download() as download:
        visited.page.click("#several-json")
    entries = json.loads(download.value.path().read_text())
    assert [float(row["p(bright)"]) for row in table[:3]] == [
        entry["answer"]["probabilities"]["bright"] for entry in entries[:3]
    ]
    assert entries[3]["error"]["status"] == 400 and entries[3]["error"]["detail"] == table[3]["problem"]


def test_a_full_queue_holds_a_table_up_for_as_long_as_the_server_says(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.site.refusals.append(QueueFull("Too much is waiting.", retry_after_s=30))
    visited.hold_time()
    visited.choose(BRIGHT, DARK)
    visited.wait_text("#several-problem", "Too much is waiting.")
    visited.wait_text("#several-problem .countdown", "Trying again in 30 s.")
    visited.page.clock.run_for(30_000)
    finished(visited, "2 answered")
    assert visited.page.locator("#several-problem .problem").count() == 0


def test_a_csv_becomes_a_table_of_predictions(visit: Open) -> None:
    visited = visit()
    visited.page.select_option("#chooser", "churn")
    visited.wait_text("#label", "class 1")
    visited.choose(upload("rows.csv", ROWS.encode(), "text/csv"), into="#csv")
    finished(visited, "2 answered, 1 with a problem")
    assert names(visited) == ["row 2", "row 1", "row 3"]
    assert "age" in visited.text("tr.failed")
    assert visited.text("#several-note") == "Left out, since the model takes no such value: note."
    with visited.page.expect_download() as download:
        visited.page.click("#several-csv")
    table = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"))))
    assert [row["days_since_last_purchase"] for row in table] == ["400", "95", "1"]
    visited.page.click("text=row 2")
    visited.page.wait_for_selector("#values input[name=age]")
    assert visited.page.input_value("#values input[name=age]") == "30"
    visited.wait_command('"age":30,')


def test_a_file_that_is_too_large_costs_the_others_of_its_table_nothing(visit: Open) -> None:
    visited = visit(expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.site.refusals += [TooLarge("Too much at once."), TooLarge("Too much alone.")]
    visited.choose(BRIGHT, DARK, SQUARE)
    finished(visited, "2 answered, 1 with a problem")
    assert sorted(names(visited)[:2]) == ["dark.png", "square.png"]
    assert "bright.png" in visited.text("tr.failed") and "Too much alone." in visited.text("tr.failed")
    assert len(visited.asked("POST")) == 4


def test_many_rows_are_all_saved_though_the_table_shows_the_first(visit: Open) -> None:
    visited = visit()
    visited.page.select_option("#chooser", "churn")
    visited.wait_text("#label", "class 1")
    header, row = ROWS.split("\n")[0].removesuffix(";note"), "42;52000;420;9;63.5;95"
    visited.choose(upload("rows.csv", "\n".join([header, *[row] * 600]).encode(), "text/csv"), into="#csv")
    finished(visited, "600 answered")
    assert visited.page.locator("#table-body tr").count() == 500
    assert visited.text("#several-rest") == "The first 500 are shown. What is saved holds all 600."
    with visited.page.expect_download() as download:
        visited.page.click("#several-csv")
    assert len(download.value.path().read_text("utf-8-sig").splitlines()) == 601


@pytest.mark.parametrize(
    "file",
    [upload("part.csv", b"age,income\n30,40000\n", "text/csv"), BRIGHT],
    ids=["without columns", "a picture"],
)
def test_a_file_without_the_columns_of_the_model_is_not_sent(visit: Open, file: dict[str, Any]) -> None:
    visited = visit()
    visited.page.select_option("#chooser", "churn")
    visited.wait_text("#label", "class 1")
    visited.site.asked.clear()
    visited.choose(file, into="#csv")
    visited.wait_text("#answered .problem", file["name"])
    assert "tenure_days" in visited.text("#answered .problem") or "has no line" in visited.text("#answered .problem")
    assert not visited.asked("POST") and visited.page.is_hidden("#several")
