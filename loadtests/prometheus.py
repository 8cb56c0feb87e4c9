"""A real Prometheus beside a server of a measurement's own, with the rules of deploy/, and what the dashboard asks."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from loadtests.server import ROOT, free_port

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
RULES = [DEPLOY / "prometheus" / name for name in ("rules.yaml", "alerts.yaml")]
START_S = 60.0


class Prometheus:
    """A Prometheus that runs: what it is asked over its HTTP API.

    Args:
        url: where it listens.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives just now: `metric`, its labels, and `value`, time and text."""
        return list(self._get("query", query=expression)["result"])

    def query_range(self, expression: str, start: float, end: float, step_s: float) -> list[dict[str, Any]]:
        """Return the series of an expression over a time: `metric`, and `values`, a pair of time and text for each."""
        return list(self._get("query_range", query=expression, start=start, end=end, step=step_s)["result"])

    def targets(self) -> list[dict[str, Any]]:
        """Return whom it scrapes: among others `health` and `lastError`."""
        return list(self._get("targets")["activeTargets"])

    def _get(self, what: str, **parameters: object) -> Any:
        with urllib.request.urlopen(
            f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}", timeout=30
        ) as got:
            return json.loads(got.read())["data"]


@contextmanager
def scraping(folder: Path, target: str) -> Iterator[Prometheus]:
    """Run Prometheus until the block ends: it scrapes and evaluates every second.

    Args:
        folder: where it keeps its data and its log.
        target: the server's address, `host:port`.

    Raises:
        RuntimeError: it is not installed, or did not start; the message says why.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise RuntimeError("Prometheus is not installed. Debian and Ubuntu have it: `apt-get install prometheus`.")
    address = f"127.0.0.1:{free_port()}"
    config, log = folder / "prometheus.yaml", folder / "prometheus.log"
    scraped = {"job_name": "vitrine", "static_configs": [{"targets": [target]}]}
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    content = {"global": intervals, "rule_files": [str(path) for path in RULES], "scrape_configs": [scraped]}
    config.write_text(yaml.safe_dump(content))
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=file, stderr=file)
    try:
        _wait_ready(f"http://{address}", process, log)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


class Target(NamedTuple):
    """One expression of a panel, and how its series are called: a text with labels in double braces."""

    expression: str
    legend: str


def dashboard_panels(window: str) -> dict[str, list[Target]]:
    """Return the expressions of each panel of the dashboard by its title, for all models and rates over a window."""
    dashboard = json.loads(DASHBOARD.read_text("utf-8"))
    return {
        panel["title"]: [
            Target(target["expr"].replace("$__rate_interval", window).replace("$model", ".*"), target["legendFormat"])
            for target in panel["targets"]
        ]
        for panel in dashboard["panels"]
        if panel["type"] != "row"
    }


def _wait_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"Prometheus did not start: {log.read_text('utf-8')[-2000:]}")
