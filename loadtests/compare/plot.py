"""Draws the comparison: throughput in every regime beside raw, and the latency of a lone client."""

import math
from pathlib import Path
from typing import Any

from loadtests.compare.figures import DECIDES, OURS
from loadtests.compare.regimes import COMPUTE, OVERHEAD, REGIMES, ROWS
from loadtests.compare.report import Run
from loadtests.compare.servers import SERVERS
from loadtests.compare.turns import RAW

TITLES = {server.name: server.title for server in SERVERS}
INK, OWN, OTHER, LINE = "#7d8590", "#e8590c", "#8fa3b8", "#2f9e44"
"""Colours that are seen on white and on GitHub's dark background; the picture itself has no background."""


def plot(run: Run, file: Path) -> None:
    """Draw a panel of bars for each regime's throughput, and one for latency, into a PNG file."""
    from matplotlib.figure import Figure

    regimes = [regime for regime in REGIMES if any(turn.regime == regime for turn in run.turns)]
    figure = Figure(figsize=(5 * len(regimes) + 5, 4.2), layout="constrained")
    panels: list[Any] = list(figure.subplots(1, len(regimes) + 1))
    names = {COMPUTE: "kidney-stone", OVERHEAD: "cheapest model", ROWS: "one row"}
    for panel, regime in zip(panels, regimes, strict=False):
        clients = DECIDES[regime]
        rates = {row.name: row.loads[clients].rate for row in run.rows(regime)}
        _bars(panel, rates, f"{names[regime]}, {clients} clients: answers a second", ascending=False)
    times = {row.name: row.loads[1].p50_ms for row in run.rows(regimes[0])}
    _bars(panels[-1], times, f"{names[regimes[0]]}, 1 client: p50 in ms", ascending=True)
    figure.savefig(file, dpi=130, transparent=True)


def _bars(panel: Any, figures: dict[str, float], title: str, *, ascending: bool) -> None:
    """Draw the servers as bars, the best on top and those without a figure as missing, and raw as a line."""
    own = {name: value for name, value in figures.items() if name != RAW}
    measured = sorted((name for name in own if not math.isnan(own[name])), key=own.__getitem__, reverse=not ascending)
    order = [*measured, *(name for name in own if math.isnan(own[name]))]
    widths = [0.0 if math.isnan(own[name]) else own[name] for name in order]
    colours = [OWN if name == OURS else OTHER for name in order]
    bars = panel.barh(range(len(order)), widths, color=colours)
    labels = [f" {_number(own[name])}" if name in measured else " missing" for name in order]
    panel.bar_label(bars, labels, color=INK, fontsize=11)
    panel.set_yticks(range(len(order)), [TITLES[name] for name in order])
    panel.invert_yaxis()
    raw = figures.get(RAW, math.nan)
    if not math.isnan(raw):
        panel.axvline(raw, color=LINE, linewidth=2, linestyle="--")
        panel.text(raw, -0.75, f"raw {_number(raw)}", color=LINE, ha="center", va="bottom", fontsize=11)
    panel.set_xlim(0, 1.18 * max([*widths, 0.0 if math.isnan(raw) else raw, 1e-9]))
    panel.set_title(title, color=INK, fontsize=11, pad=24)
    panel.tick_params(colors=INK, length=0, labelsize=11)
    panel.set_xticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
