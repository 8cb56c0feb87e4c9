"""What the page shows while it waits, without a connection, without a key, and when the server has no room."""

import time

from playwright.sync_api import Route

from errors import QueueFull, Unavailable
from tests.api.static.conftest import BRIGHT, DARK, Open
from tests.api.static.sites import Sites


def test_a_model_that_loads_is_told_and_the_page_goes_on_by_itself(visit: Open, sites: Sites) -> None:
    visited = visit(sites.loading, alone=True, expect_complaints=True)
    visited.wait_text("#state", "loading")
    visited.choose(BRIGHT)
    visited.wait_text("#answered", "not ready yet")
    assert visited.page.is_visible("#stage canvas") or visited.page.is_visible("#empty")
    assert not visited.asked("POST")
    sites.loading.start()
    visited.wait_text("#state", "ready")
    visited.wait_text("#label", "bright")
    visited.wait_text("#explained .problem", "Service Unavailable")  # this server was started without explanations
    assert visited.text("#label").lower() == "bright"


def test_a_key_is_asked_for_in_place_of_all_else_and_kept_until_the_tab_closes(visit: Open, sites: Sites) -> None:
    visited = visit(sites.guarded, alone=True, expect_complaints=True)
    visited.wait_text("#door", "This service asks for a key")
    assert [visited.page.is_visible(part) for part in ("#bench", "#stage", "#row", "#links", "#several")] == [False] * 5
    visited.page.fill("#key", "vtr_wrong")
    visited.page.click("#door button")
    visited.wait_text("#door-problem", "This key is not known here.")
    visited.page.fill("#key", sites.key)
    visited.page.keyboard.press("Enter")
    visited.wait_text("#state", "ready")
    assert visited.page.is_hidden("#door") and visited.page.is_hidden("#links")
    visited.choose(BRIGHT)
    visited.wait_text("#label", "bright")
    command = str(visited.page.text_content("#command"))
    assert '-H "X-API-Key: $VITRINE_API_KEY"' in command and sites.key not in visited.page.content()
    visited.page.reload()
    visited.wait_text("#state", "ready")
    assert visited.page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_a_full_queue_counts_down_and_asks_again(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.site.refusals.append(QueueFull("Too much is waiting; come back in 90 s.", retry_after_s=90))
    visited.hold_time()
    visited.choose(BRIGHT)
    visited.wait_text("#answered .problem", "Too Many Requests")
    assert "Too much is waiting; come back in 90 s." in visited.text("#answered .problem")
    visited.wait_text(".countdown", "Trying again in 90 s.")
    visited.page.clock.run_for(89_000)
    visited.wait_text(".countdown", "Trying again in 1 s.")
    assert len(visited.asked("POST")) == 1
    visited.page.clock.run_for(1000)
    visited.wait_text("#label", "bright")


def test_a_countdown_can_be_cut_short_or_stopped(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.site.refusals += [Unavailable("Draining.", retry_after_s=600), QueueFull("Full.", retry_after_s=600)]
    visited.choose(BRIGHT)
    visited.wait_text(".countdown", "600 s")
    visited.page.click("text=Try now")
    visited.wait_text("#answered .problem", "Full.")
    visited.page.click("text=Stop")
    visited.page.wait_for_selector(".countdown", state="detached")
    assert "Full." in visited.text("#answered .problem")
    visited.page.click("text=Try again")
    visited.wait_text("#label", "bright")


def test_a_picture_that_comes_while_another_waits_takes_its_place(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.site.refusals.append(QueueFull("Full.", retry_after_s=600))
    visited.choose(BRIGHT)
    visited.page.wait_for_selector(".countdown")
    visited.choose(DARK)
    visited.wait_text("#label", "dark")
    visited.wait_command("dark.png")


def test_without_a_connection_the_page_says_so_and_goes_on_when_it_is_back(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.page.context.set_offline(True)
    visited.hold_time()
    visited.choose(BRIGHT)
    visited.wait_text("#offline", "cannot be reached")
    visited.wait_text("#answered .problem", "No connection")
    visited.page.context.set_offline(False)
    visited.page.clock.run_for(2000)
    visited.wait_text("#label", "bright")
    assert visited.page.is_hidden("#offline")


def test_the_live_panel_reads_the_statistics_while_it_is_open_and_seen(visit: Open) -> None:
    visited = visit(alone=True)
    visited.wait_text("#state", "ready")
    assert not visited.asked("GET /health")
    visited.page.clock.install()
    visited.page.click("#live summary")
    visited.wait_text("#live-models", "things")
    row = "#live-models tr:has-text('tiny') >> nth=0"
    before = int(visited.page.locator(row).locator(".number").first.inner_text())
    visited.choose(BRIGHT)
    visited.wait_text(f"{row} >> .number >> nth=0", str(before + 1))
    visited.wait_text("#live-latency .value", "ms")
    assert visited.asked("GET /health/stats") and visited.asked("GET /models/churn/stats")
    visited.wait_text(f"{row} >> .chip", "ready")
    visited.page.clock.pause_at(time.time() + 60)
    visited.page.evaluate(
        "Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    visited.page.wait_for_timeout(300)  # what was under way ends
    visited.site.asked.clear()
    visited.page.clock.run_for(10_000)
    assert not visited.asked("GET")
    visited.page.evaluate("delete document.visibilityState; document.dispatchEvent(new Event('visibilitychange'))")
    for count in (1, 2):  # at once, and two seconds later
        deadline = time.monotonic() + 20
        while len(visited.asked("GET /health/stats")) < count:
            assert time.monotonic() < deadline
            visited.page.wait_for_timeout(20)
            visited.page.clock.run_for(500)
    assert int(visited.page.locator(row).locator(".number").first.inner_text()) == before + 1


def test_a_model_that_was_taken_out_of_service_is_told_and_another_can_be_chosen(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.wait_text("#state", "ready")
    visited.page.select_option("#chooser", "things")
    out_of_service = "a client took it out of service"

    def without_things(route: Route) -> None:
        answer = route.fetch().json()
        for model in answer["models"]:
            if model["name"] == "things":
                model.update(state="missing", version=None, detail=out_of_service)
        route.fulfill(json=answer)

    visited.page.route("**/models", without_things)
    visited.site.refusals.append(Unavailable(f"things is missing: {out_of_service}", retry_after_s=600))
    visited.choose(BRIGHT)
    visited.wait_text("#answered", f"The model is not ready yet: {out_of_service}.")
    visited.wait_text("#state", f"missing: {out_of_service}")
    visited.page.select_option("#chooser", "tiny")
    visited.wait_text("#label", "bright")


def test_a_sample_that_does_not_come_is_told(visit: Open) -> None:
    visited = visit(alone=True, expect_complaints=True)
    visited.page.wait_for_selector(".sample")
    visited.page.context.set_offline(True)
    visited.page.click(".sample >> nth=0")
    visited.wait_text("#taking", "The sample did not come: The server could not be reached.")
    assert not any("Uncaught" in complaint for complaint in visited.complaints)
