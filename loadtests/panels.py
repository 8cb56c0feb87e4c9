"""`make panels`: two panels of the dashboard after a minute of load, drawn from a real Prometheus for the docs."""

import math
import re
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import requests
from matplotlib.figure import Figure

from loadtests.prometheus import DASHBOARD, Prometheus, dashboard_panels, scraping
from loadtests.server import ROOT, free_port, serving
from models.registry import package_folder
from runners.machine import conditions

MODEL, CLIENTS, WINDOW, STEP_S = "kidney-stone", (1, 4, 16), "10s", 1.0
PANELS = {"Latency of single predictions": "monitoring-latency.png", "Wait for a lane": "monitoring-queue.png"}
"""The title of each panel that is drawn, and its file."""
INK, COLOURS = "#7d8590", ("#e8590c", "#2f9e44", "#1c7ed6", "#9c36b5")


class Phase(NamedTuple):
    """A time in which so many clients asked."""

    clients: int
    started: float


def load(url: str, pictures: Sequence[bytes], clients: int, seconds: float) -> None:
    """Have so many clients ask for predictions, one of them for every tenth picture for an explanation."""
    ends = time.monotonic() + seconds

    def client(index: int) -> None:
        with requests.Session() as session:
            place = index
            while time.monotonic() < ends:
                action = "predict" if index or place % 10 else "explain"
                address = f"{url}/models/{MODEL}/{action}"
                response = session.post(address, data=pictures[place % len(pictures)], timeout=60)
                if response.status_code == 429:  # as a polite client does
                    time.sleep(float(response.headers["Retry-After"]))
                else:
                    response.raise_for_status()
                place += 1

    threads = [threading.Thread(target=client, args=(index,)) for index in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def draw(prometheus: Prometheus, title: str, phases: Sequence[Phase], ended: float, file: Path) -> None:
    """Draw one panel of the dashboard over the time of the load.

    Raises:
        RuntimeError: Prometheus has no data for it.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panel: Any = figure.subplots()
    began, colours = phases[0].started, iter(COLOURS * 8)
    for target in dashboard_panels(WINDOW)[title]:
        for series in prometheus.query_range(target.expression, began, ended, STEP_S):
            points = [(float(at) - began, float(value)) for at, value in series["values"]]
            points = [(at, value * 1e3) for at, value in points if math.isfinite(value)]
            if points and series["metric"].get("model") == MODEL:
                panel.plot(
                    *zip(*points, strict=True),
                    label=_legend(target.legend, series["metric"]),
                    color=next(colours),
                    linewidth=1.6,
                )
    if not panel.lines:
        raise RuntimeError(f"Prometheus has no data of the panel {title!r}")
    for phase in phases:
        panel.axvline(phase.started - began, color=INK, linewidth=0.8, linestyle=":")
        name = f" {phase.clients} client{'s' if phase.clients > 1 else ''}"
        panel.text(phase.started - began, 1.01, name, color=INK, fontsize=10, transform=panel.get_xaxis_transform())
    panel.set_ylim(bottom=0)
    panel.set_xlabel("seconds", color=INK)
    panel.set_ylabel("ms", color=INK)
    panel.set_title(title, color=INK, fontsize=11, loc="right")
    panel.tick_params(colors=INK, length=0)
    panel.legend(frameon=False, labelcolor=INK, fontsize=10)
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.grid(color=INK, alpha=0.2)
    figure.savefig(file, dpi=110, transparent=True)


def _legend(text: str, labels: Mapping[str, str]) -> str:
    """Return what a series is called: the text with its labels in the place of their names."""
    return re.sub(r"{{(\w+)}}", lambda match: labels.get(match[1], ""), text)


@click.command()
@click.option("--seconds", default=20.0, show_default=True, help="Length of the load with each number of clients.")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs", help="Where the pictures go.")
def main(seconds: float, out: Path) -> None:
    """Serve kidney-stone, scrape it every second under load, and draw two panels of the dashboard."""
    goldens = sorted((package_folder(MODEL) / "goldens").glob("*.png"))
    pictures, port, phases = [path.read_bytes() for path in goldens], free_port(), list[Phase]()
    out.mkdir(parents=True, exist_ok=True)
    with serving(port), tempfile.TemporaryDirectory() as folder:
        with scraping(Path(folder), f"127.0.0.1:{port}") as prometheus:
            for clients in CLIENTS:
                phases.append(Phase(clients, time.time()))
                load(f"http://127.0.0.1:{port}", pictures, clients, seconds)
            time.sleep(2 * STEP_S)  # until the last second has been scraped
            for title, name in PANELS.items():
                draw(prometheus, title, phases, time.time(), out / name)
                click.echo(f"{DASHBOARD.name}: {title} → {out / name}")
    click.echo(conditions())


if __name__ == "__main__":
    main()
