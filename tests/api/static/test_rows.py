"""Models of rows on the page: the form that a card makes, the sliders, and what each feature counted for."""

import re

import requests

from tests.api.static.conftest import Open, Visit


def of_rows(visit: Open, name: str) -> Visit:
    """Return the page with a model of rows, whose example is answered."""
    visited = visit()
    visited.page.select_option("#chooser", name)
    visited.page.wait_for_selector("#why:not([hidden])")
    return visited


def shown_probability(visited: Visit) -> float:
    """Return the probability of the positive label that is shown."""
    return float(
        visited.page.locator(".measures li", has_text="class 1").first.inner_text().split("\n")[-1].removesuffix(" %")
    )


def test_the_form_has_units_ranges_and_the_example_and_no_place_for_a_picture(visit: Open) -> None:
    visited = of_rows(visit, "machine-anomaly")
    assert visited.page.is_hidden("#pictures") and visited.page.is_hidden("#sources")
    assert "°C" in visited.text("label[for=value-temperature]")
    assert visited.text("#value-temperature-hint") == "-50 to 200"
    assert visited.page.input_value("#value-temperature") == "68"
    assert visited.page.get_attribute("#value-temperature", "aria-describedby") == "value-temperature-hint"
    assert "When it was read" in visited.text("#value-timestamp-hint")
    assert visited.text("#label").lower() == "anomaly"
    assert "Threshold: an anomaly is answered above 0.011" in visited.text(".caption")
    assert visited.page.locator("#answered .bar .mark").count() == 1
    visited.page.fill("#value-vibration", "2.6")
    visited.wait_text("#label", "normal")
    visited.page.click("#example")
    visited.wait_text("#label", "anomaly")


def test_a_slider_moves_the_answer_and_the_number_moves_the_slider(visit: Open) -> None:
    visited = of_rows(visit, "churn")
    before = shown_probability(visited)
    slider = visited.page.locator("[data-slides=days_since_last_purchase]")
    slider.focus()
    for _ in range(20):
        visited.page.keyboard.press("ArrowLeft")
    value = float(visited.page.input_value("#value-days_since_last_purchase"))
    assert 0 < value < 95
    visited.wait_command(f'"days_since_last_purchase":{value:g}')
    visited.page.wait_for_selector("#answer[aria-busy=false]")
    after = shown_probability(visited)
    address = f"{visited.site.url}models/churn/predict"
    expected = requests.post(address, json=visited_row(visited), timeout=20).json()
    assert after < before and abs(after - 100 * expected["probabilities"]["class_1"]) < 0.06
    visited.page.fill("#value-days_since_last_purchase", "0")
    assert slider.input_value() == "0"
    visited.page.fill("#value-days_since_last_purchase", "36500")
    assert slider.input_value() == "1000"


def visited_row(visited: Visit) -> dict[str, float]:
    """Return the numbers of the form."""
    fields = visited.page.locator("#values input[type=number]").all()
    return {str(entry.get_attribute("name")): float(entry.input_value()) for entry in fields}


def test_attributions_are_bars_that_add_up_with_the_sides_named(visit: Open) -> None:
    visited = of_rows(visit, "churn")
    rows = visited.page.locator("#why .measures li").all_inner_texts()
    shares = [float(row.split("\n")[-1].replace("−", "-")) for row in rows]
    assert [abs(share) for share in shares] == sorted((abs(share) for share in shares), reverse=True)
    caption = visited.text("#why .caption")
    value, base = (float(number) for number in re.findall(r"is (\d\.\d+) here, and (\d\.\d+)", caption)[0])
    assert abs(base + sum(shares) - value) < 0.005
    assert visited.page.locator("#why .raises").count() == sum(share >= 0 for share in shares)
    assert "lowers class 1" in visited.text("#why .sides") and "raises it" in visited.text("#why .sides")


def test_a_value_out_of_range_is_not_sent_until_it_is_right(visit: Open) -> None:
    visited = of_rows(visit, "churn")
    visited.site.asked.clear()
    visited.page.fill("#value-age", "7")
    visited.page.click("#row button.primary")
    assert not visited.asked("POST")
    assert visited.page.evaluate("document.querySelector('#value-age').validity.rangeUnderflow")
    visited.page.fill("#value-age", "70")
    visited.wait_command('"age":70,')
