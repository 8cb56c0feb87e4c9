"""Rules, alerts and the dashboard: their files are right, each alert fires, and they name what the server exports."""

import json
import re
import shutil
import subprocess
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from loadtests.prometheus import DASHBOARD, DEPLOY, RULES
from tests.conftest import ROOT

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yaml"))


def promtool(*arguments: object) -> None:
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES[1].read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@needs_promtool
def test_the_rules_are_right() -> None:
    promtool("check", "rules", *RULES)


@needs_promtool
@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_each_alert_fires_where_it_should_and_no_other_does(file: Any) -> None:
    promtool("test", "rules", file)


def test_every_alert_is_tested_explained_and_leads_to_its_explanation() -> None:
    fired = set[str]()
    for file in TESTS:
        for case in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            fired |= {test["alertname"] for test in case.get("alert_rule_test", ()) if test["exp_alerts"]}
    assert {alert["alert"] for alert in alerts()} == fired
    headings = re.findall(r"^### (\w+)", (ROOT / "docs" / "monitoring.md").read_text("utf-8"), re.MULTILINE)
    for alert in alerts():
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/monitoring.md" and anchor in map(str.lower, headings)
        assert alert["alert"].startswith(tuple(headings)) and alert["labels"]["severity"] in ("page", "ticket")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(Strict):
    type: Literal["prometheus"]
    uid: Literal["${datasource}"]


class Target(Strict):
    refId: str = Field(pattern="^[A-Z]$")  # noqa: N815
    datasource: Source
    expr: str = Field(min_length=5)
    legendFormat: str  # noqa: N815
    instant: bool = False
    range: bool = True
    format: Literal["time_series", "table"] = "time_series"


class Place(Strict):
    h: int = Field(gt=0)
    w: int = Field(gt=0, le=24)
    x: int = Field(ge=0, lt=24)
    y: int = Field(ge=0)


class Defaults(Strict):
    unit: Literal["none", "s", "reqps", "percentunit"]
    mappings: list[dict[str, Any]] = []


class Fields(Strict):
    defaults: Defaults
    overrides: list[Any] = Field(max_length=0)


class Panel(Strict):
    id: int
    type: Literal["timeseries", "stat", "table"]
    title: str
    description: str = Field(min_length=5)
    datasource: Source
    gridPos: Place  # noqa: N815
    targets: list[Target] = Field(min_length=1)
    fieldConfig: Fields  # noqa: N815
    options: dict[str, Any]


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    assert dashboard["schemaVersion"] >= 36 and dashboard["uid"] == "vitrine" and "id" not in dashboard
    source, model = dashboard["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert (model["name"], model["type"], model["allValue"]) == ("model", "query", ".*")
    assert model["query"]["query"] == model["definition"] and model["datasource"]["uid"] == "${datasource}"
    rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    panels = [Panel.model_validate(panel) for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert rows and len(set(ids)) == len(ids)
    taken = set[tuple[int, int]]()
    for panel in panels:
        box = panel.gridPos
        cells = {(x, y) for x in range(box.x, box.x + box.w) for y in range(box.y, box.y + box.h)}
        assert box.x + box.w <= 24 and not cells & taken
        taken |= cells
        assert len({target.refId for target in panel.targets}) == len(panel.targets)


def test_rules_alerts_and_dashboard_ask_for_nothing_that_is_not_documented() -> None:
    """That the server exports what they ask for is seen in tests/live/test_prometheus.py."""
    documented = set(re.findall(r"`((?:vitrine|nv|http)_\w+)", (ROOT / "docs" / "monitoring.md").read_text("utf-8")))
    asked = set[str]()
    for file in (*RULES, DASHBOARD):
        asked |= set(re.findall(r"\b((?:vitrine|nv|http_server)_\w+)", file.read_text("utf-8")))
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) if name not in documented else name for name in asked}
    assert bare <= documented, bare - documented
    recorded = set(re.findall(r"record: (\S+)", RULES[0].read_text("utf-8")))
    used = {name for file in (RULES[1], DASHBOARD) for name in re.findall(r"vitrine:\w+:\w+", file.read_text("utf-8"))}
    assert used <= recorded
